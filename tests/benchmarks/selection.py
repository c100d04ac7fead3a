"""What a keystroke on the tree costs: reading a LoraConfig, writing one, counting, checking.

    python -m tests.benchmarks.selection

Prints a table in milliseconds, the median of 9, for a Llama-3.1-405B's tree and for one of 10,000 modules. The first
row is paid once a model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets import (
    Selection,
    layer_count,
    matching,
    preset,
    problems_with,
    selected,
    to_lora,
    trainable_parameters,
)
from engine.targets.index import ModuleIndex, index_of
from tests.engine.synthetic import llama


def milliseconds(action: Callable[[], object], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main() -> None:
    tables = {layers: timings(llama(layers, hidden=64)) for layers in (126, 830)}
    first, *_ = tables.values()
    print(f"{'':<30}" + "".join(f"{f'{len(llama(layers).modules):,} modules':>16}" for layers in tables))
    for label in first:
        print(f"{label:<30}" + "".join(f"{table[label]:>13.2f} ms" for table in tables.values()))


def timings(architecture: Architecture) -> dict[str, float]:
    """What is done -> milliseconds."""
    everything = preset("attention+mlp", architecture)
    scattered = frozenset(name for place, name in enumerate(architecture.targets) if place % 3 == 0) - {"lm_head"}
    layer_of = index_of(architecture).layer_of
    upper = frozenset(name for name in everything if layer_of[name] > layer_count(architecture) // 2)
    ranks = {name: 64 for name in everything if name.endswith("down_proj")}
    base = LoraSection(target_modules=[])
    names = LoraSection(target_modules=["q_proj", "v_proj", "down_proj"], layers_to_transform=list(range(64)))
    serial = count()  # what was asked before is answered from memory
    return {
        "index of a model": milliseconds(lambda: _indexed(architecture)),
        "selected: names in layers": milliseconds(lambda: selected(names, architecture)),
        "selected: a new regex": milliseconds(lambda: selected(_regex(next(serial)), architecture)),
        "selected: a new rank key": milliseconds(lambda: selected(_rank(next(serial)), architecture)),
        "to_lora: select all": milliseconds(lambda: to_lora(Selection(everything), architecture, base)),
        "to_lora: upper layers": milliseconds(lambda: to_lora(Selection(upper), architecture, base)),
        "to_lora: ranks": milliseconds(lambda: to_lora(Selection(everything, ranks=ranks), architecture, base)),
        "to_lora: every third module": milliseconds(lambda: to_lora(Selection(scattered), architecture, base)),
        "trainable_parameters": milliseconds(lambda: trainable_parameters(names, architecture)),
        "problems_with": milliseconds(lambda: problems_with(names, architecture)),
        "preset": milliseconds(lambda: preset("attention", architecture)),
        "matching: text": milliseconds(lambda: matching(architecture, "1.mlp")),
    }


def _indexed(architecture: Architecture) -> ModuleIndex:
    index = ModuleIndex(architecture)
    _ = (index.layers, index.parameters, index.linear)
    return index


def _regex(serial: int) -> LoraSection:
    return LoraSection(target_modules=rf".*\.(?:q_proj|v_proj|x{serial})")


def _rank(serial: int) -> LoraSection:
    return LoraSection(rank_pattern={rf"layers\.[0-9]\..*|x{serial}": 8})


if __name__ == "__main__":
    main()
