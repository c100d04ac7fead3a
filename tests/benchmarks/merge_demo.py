"""Merging the demo model: how long, how much memory against what was predicted, and how close to the adapter.

    python tests/benchmarks/merge_demo.py [--run RUN] [--steps 30] [--base auto]

Without RUN it trains one first, the demo's own for so many steps. Printed are the merge's report and, as the system
counts them, the worker's seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from engine.checks import parse_spec
from engine.demo import demo_spec
from engine.jobs.subject import subject_of
from engine.merging.client import merge
from engine.merging.report import MergeReport
from engine.merging.words import rows_of, summary
from engine.prepare import prepare
from engine.runs.launch import launch
from engine.runs.store import Run, find_run
from engine.units import amount
from tests.conftest import wait_for_end


def trained(steps: int) -> Run:
    """The demo's run for `steps` steps on the CPU."""
    raw = demo_spec().model_dump(mode="json", exclude={"parent"})
    raw["training"] |= {"max_steps": steps, "eval_on_start": False}
    raw["data"]["samples"] = 0
    raw["hardware"]["device"] = "cpu"
    run = launch(prepare(parse_spec(raw), Path.cwd()))
    status = wait_for_end(run, timeout_s=1800)
    assert status.state == "finished", status
    return run


def told(report: MergeReport, seconds: float) -> None:
    for label, *values in rows_of(report):
        print(f"{label:28}", *(f"{value:>24}" for value in values))
    print(*summary(report), sep="\n")
    predicted, measured = report.needs.peak_bytes, report.measured_peak_bytes
    print(
        f"memory: {amount(measured)} measured, {amount(predicted)} predicted ({predicted / measured - 1:+.0%}); stages "
        f"predicted: {', '.join(f'{name} {amount(size)}' for name, size in report.needs.stages.items())}"
    )
    parts = ", ".join(f"{name} {part:.1f} s" for name, part in report.seconds.items())
    print(f"seconds: {seconds:.1f} in all, with the worker's start; {parts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--base", choices=["auto", "16bit", "dequantized"], default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.run is None:
            os.environ["LORADECK_HOME"] = f"{scratch}/home"
            run = trained(arguments.steps)
        else:
            run = find_run(arguments.run)
        began = time.monotonic()
        report = merge(subject_of(run), Path(scratch) / "merged", arguments.base, keep_anyway=True)
        seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        told(report, seconds)


if __name__ == "__main__":
    main()
