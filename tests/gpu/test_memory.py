"""Predicted against measured memory of real runs on a GPU. Skipped where there is none.

Each run is a process of its own: the peaks of PyTorch's allocator and the CUDA context belong to one run.
`python -m tests.gpu.test_memory` prints the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.hardware import visible_gpus
from engine.inspector import Inspector
from engine.memory.card import chosen_card
from engine.memory.predict import Question, predict
from tests.gpu.runs import ONE_BILLION, SETTINGS, model_folder, spec_for

GPUS = visible_gpus()
pytestmark = pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU on this machine")

ALLOCATED_SHARE, RESERVED_SHARE, DEVICE_SHARE = 0.03, 0.12, 0.12


@pytest.fixture(scope="module")
def inspector() -> Any:
    with Inspector() as running:
        yield running


def outcome(model: str, settings: str, inspector: Inspector, folder: Path) -> dict[str, Any]:
    """Bytes predicted, and those measured by a real run of three steps and an evaluation."""
    config_folder = model_folder(model, folder)
    spec = spec_for(config_folder, settings, folder)
    question = Question(
        spec, inspector.architecture(str(config_folder)), chosen_card("cuda:0"), config_folder=config_folder
    )
    predicted = predict(question, "full", inspector)
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.runs", str(config_folder), settings, str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    return {"model": model, "settings": settings, "predicted": predicted, "measured": measured}


@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("model", ["demo", ONE_BILLION])
def test_a_real_run_takes_what_was_predicted(model: str, settings: str, inspector: Inspector, tmp_path: Path) -> None:
    told = outcome(model, settings, inspector, tmp_path)
    predicted, measured = told["predicted"], told["measured"]
    assert predicted.allocated_bytes == pytest.approx(measured["allocated_bytes"], rel=ALLOCATED_SHARE)
    assert predicted.reserved_bytes == pytest.approx(measured["reserved_bytes"], rel=RESERVED_SHARE)
    if measured["device_bytes"] is not None:
        assert predicted.device_bytes == pytest.approx(measured["device_bytes"], rel=DEVICE_SHARE)


def test_the_least_memory_brackets_a_real_out_of_memory(inspector: Inspector, tmp_path: Path) -> None:
    config_folder = model_folder(ONE_BILLION, tmp_path)
    spec = spec_for(config_folder, "nf4", tmp_path)
    question = Question(
        spec, inspector.architecture(str(config_folder)), chosen_card("cuda:0"), config_folder=config_folder
    )
    predicted = predict(question, "full", inspector)
    assert predicted.least_bytes is not None
    least = predicted.least_bytes - predicted.categories["context"]  # PyTorch's limit counts only what it reserves
    for share, works in ((1.06, True), (0.90, False)):
        done = subprocess.run(
            [sys.executable, "-m", "tests.gpu.runs", str(config_folder), "nf4", str(tmp_path), str(int(least * share))],
            capture_output=True,
            text=True,
            timeout=600,
        )
        ran_out = "OutOfMemoryError" in done.stderr
        assert (done.returncode == 0, ran_out) == (works, not works), done.stderr[-3000:]


def table(rows: list[dict[str, Any]]) -> str:
    """The table that the README shows."""
    lines = ["| model | settings | allocated | reserved | nvidia-smi |", "|---|---|---|---|---|"]
    for row in rows:
        cells = []
        for name in ("allocated_bytes", "reserved_bytes", "device_bytes"):
            predicted, measured = getattr(row["predicted"], name), row["measured"][name]
            error = "" if measured is None else f" ({predicted / measured - 1:+.1%})"
            cells.append(
                f"{predicted / 2**20:,.0f} of {'-' if measured is None else f'{measured / 2**20:,.0f}'}{error}"
            )
        lines.append(f"| {row['model']} | {row['settings']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name, Inspector() as running:
        told = [
            outcome(model, settings, running, Path(name) / f"{model}-{settings}")
            for model in ("demo", ONE_BILLION)
            for settings in SETTINGS
        ]
    print(GPUS[0].name)
    print(table(told))
