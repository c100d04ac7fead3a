"""Predicted against real steps on this CPU: `python tests/benchmarks/trace_accuracy.py [--measured FILE]`.

`real_steps.py` measures: every allocation of real steps of the trainer, by PyTorch's own allocator events. The same
runs are then traced, and the peaks compared. Measuring all cases takes nine minutes; `--measured` takes a file that
real_steps.py wrote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.checks import typed_spec
from engine.inspector import Inspector
from engine.memory.predict import NotPredicted, library_versions, traced
from engine.memory.request import Batch, TraceRequest

BAR = 0.005
TRAINING = ("forward", "backward", "optimizer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, help="what real_steps.py --json wrote; else it is run")
    parser.add_argument("--cases", default="*", help="a pattern of case ids for real_steps.py")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Inspector() as inspector:
        measured = options.measured or measure(options.cases, Path(folder) / "measured.json")
        rows = json.loads(measured.read_text(encoding="utf-8"))["rows"]
        compared = []
        for number, row in enumerate(rows):
            compared.append(compare(row, Path(folder) / str(number), inspector))
            if not options.json:
                print(line(compared[-1]), flush=True)
    summary = {
        name: {"mean": statistics.mean(errors), "worst": max(errors), "over": sum(error > BAR for error in errors)}
        for name in ("train_error", "train_error_without_scratch", "eval_error", "eval_error_without_scratch")
        if (errors := [abs(row[name]) for row in compared if name in row])
    }
    if options.json:
        json.dump({"versions": library_versions(), "rows": compared, "summary": summary}, sys.stdout, indent=1)
        print()
    else:
        for name, part in summary.items():
            over = f"{part['over']} of {len(compared)} over {BAR:.1%}"
            print(f"{name:30} mean {part['mean']:.3%}, worst {part['worst']:.3%}, {over}")
    return 0


def measure(cases: str, file: Path) -> Path:
    script = Path(__file__).with_name("real_steps.py")
    subprocess.run([sys.executable, script, "--cases", cases, "--json", file], check=True, stdout=sys.stderr)
    return file


def compare(row: dict[str, Any], folder: Path, inspector: Inspector) -> dict[str, Any]:
    """The row's id and the signed errors of the traced peaks: with the scratch memory of kernels, and without."""
    outcome: dict[str, Any] = {"id": row["id"]}
    if "error" in row:
        return {**outcome, "not_measured": row["error"]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(row["config"]))
    rows, tokens = row["batch_rows"], row["batch_tokens"]
    batch = Batch(rows, tokens, padded=row["padded"], labelled_share=row["labelled_positions"] / (rows * tokens))
    try:
        trace = traced(TraceRequest(typed_spec(row["spec"]), str(folder), batch, evaluation=batch), inspector)
    except NotPredicted as reason:
        return {**outcome, "not_predicted": str(reason)}
    train, evaluation = max(trace["phases"][phase] for phase in TRAINING), trace["phases"]["evaluation"]
    return {
        **outcome,
        "train_error": train / row["train_peak_bytes"] - 1,
        "train_error_without_scratch": train / row["train_peak_without_scratch_bytes"] - 1,
        "eval_error": evaluation / row["eval_peak_bytes"] - 1,
        "eval_error_without_scratch": evaluation / row["eval_peak_without_scratch_bytes"] - 1,
    }


def line(row: dict[str, Any]) -> str:
    if "train_error" not in row:
        return f"{row['id']:40} {row.get('not_measured') or row['not_predicted']}"
    both = f"step {row['train_error']:+.3%} ({row['train_error_without_scratch']:+.3%} without scratch)"
    return f"{row['id']:40} {both}  evaluation {row['eval_error']:+.3%}"


if __name__ == "__main__":
    sys.exit(main())
