"""How long a person waits for the module tree of a model with the shape of Llama-3.1-405B (126 layers).

    python tests/benchmarks/tree_405b.py [--rounds 5]

From the request to the folded tree in this process: cold (the inspector's start included), warm (the inspector runs,
the config was never seen), and cached (no inspector). The aims are 3.5 s cold and 0.5 s warm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from engine.inspector import Inspector
from engine.tree import fold

LLAMA_405B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 16_384,
    "intermediate_size": 53_248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
}
PARAMETERS = 405_853_388_800
AIMS_S = {"cold": 3.5, "warm": 0.5}
WARM_UP_TIMEOUT_S = 300.0


def tree_s(inspector: Inspector, folder: Path) -> float:
    """Seconds from the request to the folded tree."""
    began = time.perf_counter()
    root = fold(inspector.architecture(str(folder)))
    taken_s = time.perf_counter() - began
    assert root.parameter_count == PARAMETERS
    return taken_s


def write_config(folder: Path, round_number: int) -> None:
    """A config that no earlier round has cached: its rope differs, its shape does not."""
    (folder / "config.json").write_text(json.dumps({**LLAMA_405B, "rope_theta": 500_000.0 + round_number}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times_s: dict[str, list[float]] = {"cold": [], "warm": [], "cached": []}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LORADECK_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch) / "llama-405b"
        folder.mkdir()
        with Inspector() as inspector:
            inspector.request("ping", WARM_UP_TIMEOUT_S)  # byte-code and disk cache are warm from here on
        for number in range(rounds):
            write_config(folder, 2 * number)
            with Inspector() as inspector:
                times_s["cold"].append(tree_s(inspector, folder))
                write_config(folder, 2 * number + 1)
                times_s["warm"].append(tree_s(inspector, folder))
            with Inspector() as inspector:
                times_s["cached"].append(tree_s(inspector, folder))
    print(f"tree of 405B   median      min      max      aim   ({rounds} rounds)")
    for name, taken_s in times_s.items():
        aim = f"{AIMS_S[name]:.3f} s" if name in AIMS_S else "-"
        print(f"{name:<13}  {statistics.median(taken_s):.3f} s  {min(taken_s):.3f} s  {max(taken_s):.3f} s  {aim}")


if __name__ == "__main__":
    main()
