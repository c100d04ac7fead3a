"""Peak memory of real steps of Loradeck's trainer on this CPU, counted from PyTorch's allocator to the byte.

    python tests/benchmarks/real_steps.py [--cases 'llama-*'] [--json FILE]

The profiler reports every allocation and release of PyTorch's CPU allocator, raw and in order. What was there before
it started (the model) is counted from its tensors; the sum is all that tensors take at any moment. Not in it: the
interpreter, libraries, and what they allocate past PyTorch.

Each row of the JSON also holds the run's spec and the model's config, so that a prediction can be made of the same.
`scratch` is memory that an operation of PyTorch takes and gives back before it returns, such as a workspace: it
depends on the CPU, and no trace of tensors can show it. Models run on one thread.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import logging
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from bitsandbytes import MatmulLtState
from bitsandbytes.functional import QuantState
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from engine.architecture import installed_versions
from engine.runs.events import EventWriter
from engine.runs.store import Run
from engine.worker.data.run_data import load_data
from engine.worker.train import Training
from engine.worker.trainer import DeckTrainer
from tests.benchmarks.trace_cases import STEPS, Case, all_cases, model_folder, new_folder, spec_of

MARK = "loradeck: "
"""Begins the names of our own events in the profile."""
STEP_END = f"{MARK}step end"
PHASE = f"{MARK}phase "
LOSS = "ChunkedLogProbFunction"
"""TRL's loss: the name of its forward in the profile."""
LOSS_SUFFIX = ", loss"
SHOWN_AT_PEAK = 12
MOST_LOOP_BYTES = 2**16
"""More than the batches of one step, the one fetched ahead, and the loss so far."""


# What there is before the profile begins.


def held_bytes(*roots: Any) -> int:
    """Bytes of all tensors that `roots` hold, memory that several share counted once."""
    spans = sorted({_span(tensor) for tensor in _tensors(roots)})
    total = end = 0
    for start, stop in spans:
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Its own part of its storage: weights can be views of a mapped file."""
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def _tensors(roots: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Every tensor below: parameters, buffers, gradients, plain attributes, and the scales of quantized weights."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
            waiting += [*vars(value).values(), *([value.grad] if value.is_leaf else [])]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, (nn.Module, QuantState, MatmulLtState)):
            waiting.append(vars(value))
        elif isinstance(value, torch.optim.Optimizer):
            waiting += [value.state, value.param_groups]


# What the profile holds.


@dataclass(frozen=True)
class Block:
    """Memory from its allocation to its release. Times are the profiler's nanoseconds."""

    bytes: int
    born: int
    freed: int | None
    path: tuple[str, ...]
    """Names of the events that it was allocated in, innermost first."""
    kernel_end: int | None
    """When the operation that allocated it returned, as far as a trace of tensors sees operations."""

    @property
    def is_scratch(self) -> bool:
        return self.freed is not None and self.kernel_end is not None and self.freed <= self.kernel_end


@dataclass
class Timeline:
    """Allocations in order, and when what happened."""

    blocks: list[Block] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    """When, and what: the names of our own events."""
    losses: list[tuple[int, int]] = field(default_factory=list)
    """From when to when the loss was computed, forward or backward."""
    unknown_frees: int = 0
    """Bytes of releases without an allocation before them: of what was there before."""

    @classmethod
    def of(cls, profiler: Any) -> Timeline:
        """Read what `torch.profiler.profile` recorded."""
        timeline = cls()
        changes = []
        waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
        while waiting:
            event = waiting.pop()
            waiting += event.children
            if event.tag == _EventType.Allocation:
                changes.append((event.start_time_ns, event))
            elif event.name.startswith(MARK):
                timeline.marks.append((event.start_time_ns, event.name))
            elif event.name in (LOSS, f"{LOSS}Backward"):
                timeline.losses.append((event.start_time_ns, event.end_time_ns))
        timeline.marks.sort()
        changes.sort(key=lambda change: change[0])
        live: dict[int, tuple[int, int, tuple[str, ...], int | None]] = {}
        for when, event in changes:
            _, allocation = event.typed
            assert allocation.device.type == "cpu"
            if allocation.alloc_size > 0:
                path, kernel_end = _where(event)
                live[allocation.ptr] = (allocation.alloc_size, when, path, kernel_end)
            elif allocation.ptr in live:
                size, born, path, kernel_end = live.pop(allocation.ptr)
                timeline.blocks.append(Block(size, born, when, path, kernel_end))
            else:
                timeline.unknown_frees -= allocation.alloc_size
        timeline.blocks += [Block(size, born, None, path, end) for size, born, path, end in live.values()]
        return timeline

    @cached_property
    def _all(self) -> tuple[list[int], list[int]]:
        return _running_sums(self.blocks)

    @cached_property
    def _without_scratch(self) -> tuple[list[int], list[int]]:
        return _running_sums(block for block in self.blocks if not block.is_scratch)

    def at(self, when: int) -> int:
        """Bytes allocated since the profile began and not released."""
        times, sums = self._all
        place = bisect_right(times, when)
        return sums[place - 1] if place else 0

    def peak(self, start: int, stop: int, with_scratch: bool = True) -> tuple[int, int]:
        """The most of these bytes between two times, and when that was."""
        times, sums = self._all if with_scratch else self._without_scratch
        first, last = max(bisect_right(times, start) - 1, 0), bisect_left(times, stop)
        highest = max(range(first, last), key=sums.__getitem__)
        return sums[highest], times[highest]

    def phase_at(self, when: int) -> str:
        """The trainer's phase then, and whether the loss was being computed."""
        phases = [name for start, name in self.marks if name.startswith(PHASE) and start <= when]
        in_loss = any(start <= when <= stop for start, stop in self.losses)
        return phases[-1].removeprefix(PHASE) + (LOSS_SUFFIX if in_loss else "")

    def groups_at(self, when: int) -> list[dict[str, Any]]:
        """What is held then, by the operation that allocated it, the largest first."""
        groups: Counter[tuple[str, bool]] = Counter()
        counts: Counter[tuple[str, bool]] = Counter()
        for block in self.blocks:
            if block.born <= when and (block.freed is None or block.freed > when):
                key = " < ".join(block.path[:4]), block.is_scratch
                groups[key] += block.bytes
                counts[key] += 1
        return [
            {"bytes": total, "tensors": counts[key], "made_in": key[0], "scratch": key[1]}
            for key, total in groups.most_common(SHOWN_AT_PEAK)
        ]


def _running_sums(blocks: Iterable[Block]) -> tuple[list[int], list[int]]:
    """Times of changes, and the sum after each."""
    changes = []
    for block in blocks:
        changes.append((block.born, block.bytes))
        if block.freed is not None:
            changes.append((block.freed, -block.bytes))
    changes.sort(key=lambda change: change[0])
    times, sums, total = [], [], 0
    for when, change in changes:
        total += change
        times.append(when)
        sums.append(total)
    return times, sums


def _where(allocation: Any) -> tuple[tuple[str, ...], int | None]:
    """The events around an allocation, innermost first, and the end of the outermost one that is a kernel's."""
    path, kernel_end, in_operations = [], None, True
    event = allocation.parent
    while event is not None:
        path.append(event.name)
        in_operations = in_operations and event.name in _operations()
        if in_operations and not _operations()[event.name]:
            kernel_end = event.end_time_ns
        event = event.parent
    return tuple(path), kernel_end


@cache
def _operations() -> dict[str, bool]:
    """PyTorch's own operations, and whether each is only a composition of others, which are seen by themselves.

    Those of bitsandbytes are left out: their CPU kernels are Python, and the tensors in them are like any other.
    """
    composite: dict[str, bool] = {}
    for full_name in torch._C._dispatch_get_all_op_names():
        name = full_name.partition(".")[0]
        if name.startswith("aten::"):
            is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(full_name, "CompositeImplicitAutograd")
            composite[name] = composite.get(name, False) or is_composite
    return composite


# The run.


class MarkedTrainer(DeckTrainer):
    """Writes each change of phase into the profile. It makes no tensors for that."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "phase":
            _mark(f"{PHASE}{value}")


class StepEnds(TrainerCallback):  # type: ignore[misc]
    """Marks ends of steps, and counts what model, optimizer and gradients hold then."""

    def __init__(self, trainer: DeckTrainer) -> None:
        self.trainer = trainer
        self.static: list[int] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.static.append(held_bytes(self.trainer.model, self.trainer.optimizer.optimizer))
        _mark(STEP_END)


def _mark(name: str) -> None:
    with record_function(name):
        pass


def measure(case: Case) -> dict[str, Any]:
    """Train, evaluate, and count: one row of the report. On more than one thread scratch is counted in part only.

    Raises AssertionError where the count does not add up, and whatever the libraries raise.
    """
    began = time.perf_counter()
    spec = spec_of(case)
    run = Run(new_folder())
    run.control_folder.mkdir()
    events = EventWriter(run.events_path)
    training = Training(run, events)
    trainer = training.trainer = training.set_up(spec, load_data(spec))
    trainer.__class__ = MarkedTrainer
    steps = StepEnds(trainer)
    trainer.add_callback(steps)
    gc.collect()
    model_bytes = held_bytes(trainer.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train()
            _mark(f"{MARK}eval begin")
            trainer.evaluate()
            _mark(f"{MARK}eval end")
    timeline = Timeline.of(profiler)
    row = {
        "id": case.id,
        "family": case.family,
        "load_in": case.load_in,
        "activation_checkpointing": case.checkpointing,
        **_batch(trainer, case),
        **_memory(timeline, model_bytes, steps.static),
        "seconds": round(time.perf_counter() - began, 2),
        "spec": spec.model_dump(),
        "config": json.loads((model_folder(case.family) / "config.json").read_text()),
    }
    events.close()
    del trainer, training, steps, profiler, timeline
    gc.collect()
    return row


def _batch(trainer: DeckTrainer, case: Case) -> dict[str, Any]:
    """What the batches are like; they are all alike."""
    rows = [trainer.train_dataset[number] for number in range(case.batch)]
    batch = trainer.data_collator(rows)
    assert list(batch["input_ids"].shape) == trainer.batch_shape
    return {
        "batch_rows": batch["input_ids"].shape[0],
        "batch_tokens": batch["input_ids"].shape[1],
        "padded": not bool(batch["attention_mask"].all()),
        "labelled_positions": int((batch["labels"][:, 1:] != -100).sum()),
    }


def _memory(timeline: Timeline, model_bytes: int, static: list[int]) -> dict[str, Any]:
    """The peaks: the model's tensors, and the allocator's sum since the profile began.

    `static_bytes` is model, optimizer state and gradients between steps; `loop_bytes`, which the peaks hold too, is the
    batches that the training loop keeps and fetches ahead.
    """
    ends = [when for when, name in timeline.marks if name == STEP_END]
    assert len(ends) == STEPS
    assert not timeline.unknown_frees, "what was there before the profile was released in it"
    windows = {str(step + 2): window for step, window in enumerate(pairwise(ends))}
    # Each step gives back what it took, and what the trainer keeps from step to step is the optimizer's state and a
    # few batches: else something is missing from the count.
    assert len({timeline.at(end) for end in ends}) == 1, "a step keeps memory"
    assert len(set(static)) == 1, "the model or the optimizer's state grows"
    loop = model_bytes + timeline.at(ends[0]) - static[0]
    assert 0 <= loop < MOST_LOOP_BYTES, f"{loop:,} bytes between steps are nobody's"
    peaks = {step: timeline.peak(*window) for step, window in windows.items()}
    highest, when = max(peaks.values())
    net = max(timeline.peak(*window, with_scratch=False) for window in windows.values())[0]

    (eval_begin,) = (when for when, name in timeline.marks if name == f"{MARK}eval begin")
    (eval_end,) = (when for when, name in timeline.marks if name == f"{MARK}eval end")
    assert timeline.at(eval_begin) == timeline.at(eval_end), "an evaluation keeps memory"
    eval_highest, eval_when = timeline.peak(eval_begin, eval_end)
    return {
        "static_bytes": static[0],
        "model_bytes": model_bytes,
        "loop_bytes": loop,
        "train_peak_bytes": model_bytes + highest,
        "train_peak_without_scratch_bytes": model_bytes + net,
        "step_peak_bytes": {step: model_bytes + peak for step, (peak, _) in peaks.items()},
        "phase_peaks": _by_phase(timeline, model_bytes, ends),
        "peak_phase": timeline.phase_at(when),
        "eval_peak_bytes": model_bytes + eval_highest,
        "eval_peak_without_scratch_bytes": model_bytes + timeline.peak(eval_begin, eval_end, with_scratch=False)[0],
        "at_peak": timeline.groups_at(when),
        "at_eval_peak": timeline.groups_at(eval_when),
    }


def _by_phase(timeline: Timeline, model_bytes: int, ends: list[int]) -> dict[str, dict[str, int]]:
    """Phase -> its peak in the steps after the first; the loss, forward and backward, is told apart from the layers."""
    changes = [(when, name) for when, name in timeline.marks if name.startswith(PHASE) or name == STEP_END]
    for start, stop in timeline.losses:
        changes += [(start, ""), (stop, "")]
    changes = sorted(change for change in changes if ends[0] <= change[0] <= ends[-1])
    peaks: dict[str, dict[str, int]] = {}
    for (start, _), (stop, _) in pairwise(changes):
        peak = peaks.setdefault(timeline.phase_at((start + stop) // 2), {"bytes": 0, "without_scratch_bytes": 0})
        for key, with_scratch in (("bytes", True), ("without_scratch_bytes", False)):
            peak[key] = max(peak[key], model_bytes + timeline.peak(start, stop, with_scratch)[0])
    return peaks


# The report.


def _start() -> None:
    """In a process that measures."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no part of the table
    # The profiler sees the allocations of the thread that it was started in, and not those of a kernel's helpers.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def measure_all(cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    """Rows as they come, from a process of its own. A case that fails gives a row with `id` and `error`."""
    waiting = deque(cases)
    while waiting:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start) as pool:
            while waiting:
                case = waiting.popleft()
                try:
                    yield pool.submit(measure, case).result()
                except BrokenProcessPool:
                    yield {"id": case.id, "error": "the process ended"}
                    break  # the others get a new one
                except Exception as error:
                    yield {"id": case.id, "error": f"{type(error).__name__}: {error}"}


def machine() -> dict[str, Any]:
    """What the scratch memory depends on."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return {
        "cpu": found[1] if found else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """What the number of tensors depends on."""
    return {"python": platform.python_version(), **installed_versions(), "trl": version("trl")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="*", help="which, by their ids: a pattern with * and ?")
    parser.add_argument("--json", type=Path, help="a file for everything that was measured")
    options = parser.parse_args()
    cases = [case for case in all_cases() if fnmatch.fnmatchcase(case.id, options.cases)]
    if not cases:
        sys.exit(f"no case is called {options.cases}; one is {next(all_cases()).id}")
    heads = ("case", "static", "train", "no scratch", "eval", "at", "s")
    print(f"{heads[0]:<32}" + "".join(f"{head:>15}" for head in heads[1:5]) + f"  {heads[5]:<16}{heads[6]:>6}")
    rows = []
    for row in measure_all(cases):
        rows.append(row)
        if "error" in row:
            print(f"{row['id']:<32}  {row['error']}", flush=True)
            continue
        names = ("static_bytes", "train_peak_bytes", "train_peak_without_scratch_bytes", "eval_peak_bytes")
        numbers = "".join(f"{row[name]:>15,}" for name in names)
        print(f"{row['id']:<32}{numbers}  {row['peak_phase']:<16}{row['seconds']:>6.1f}", flush=True)
    good = [row for row in rows if "error" not in row]
    if good:
        shares = [1 - row["train_peak_without_scratch_bytes"] / row["train_peak_bytes"] for row in good]
        print(
            f"\n{len(good)} of {len(rows)} cases in {sum(row['seconds'] for row in good):.0f} s; "
            f"scratch adds {statistics.median(shares):.2%} to a peak in the middle, {max(shares):.2%} at most"
        )
    if options.json is not None:
        document = {"machine": machine(), "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
