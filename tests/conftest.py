"""Shared parts: a tiny real model, rows, specs for it, and a run folder of each test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.checks import parse_spec
from engine.runs.ranks import read_record
from engine.runs.store import ENDED, Run, RunStatus, list_runs
from engine.spec import RunSpec

MAKE_TINY_MODEL = Path(__file__).parent / "tiny_model.py"
MOST_RANKS = 4
"""Processes of one run in any test."""
START_TIMEOUT_S = 120.0
"""A trainer imports torch, transformers, peft and trl first: 5 s on 2 idle cores, far more on a busy machine."""


@pytest.fixture(autouse=True)
def deck_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run folders of this test only."""
    home = tmp_path / "home"
    monkeypatch.setenv("LORADECK_HOME", str(home))
    # Tiny models gain nothing from more threads, and lose much when threads of several processes wait for each other.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return home


@pytest.fixture
def no_run_outlives(deck_home: Path) -> Iterator[None]:
    """What a test has started is gone after it."""
    yield
    for run in list_runs():
        wait_until(lambda run=run: not _kill(run), f"{run.id} is gone", 60)  # type: ignore[misc]


def _kill(run: Run) -> bool:
    """Kill what is known of a run's processes; returns whether one still lives."""
    if not run.is_alive():
        return False
    status, records = run.read_status(), [read_record(run, rank) for rank in range(MOST_RANKS)]
    for pid in (status.supervisor_pid, status.trainer_pid, *(record.pid for record in records if record is not None)):
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return True


@pytest.fixture
def printing_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that is started prints, before it runs what it was started for."""
    (tmp_path / "sitecustomize.py").write_text("print('[hello] from the site'); print()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a byte tokenizer and a chat template, made in a process of its own."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    subprocess.run([sys.executable, str(MAKE_TINY_MODEL), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 short conversations."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"double {number}"},
                {"role": "assistant", "content": f"it is {2 * number}"},
            ]
        }
        for number in range(64)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tiny_spec(tiny_model: Path, rows_file: Path) -> Callable[..., RunSpec]:
    """Makes a resolved CPU spec for the tiny model; keyword arguments are sections that change it."""

    def make(**sections: dict[str, Any]) -> RunSpec:
        raw: dict[str, dict[str, Any]] = {
            "model": {"name_or_path": str(tiny_model), "dtype": "bfloat16"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "lora": {},
            "data": {"train": str(rows_file), "max_length": 64},
            "training": {"bf16": True, "fp16": False, "optim": "adamw_torch", "gradient_accumulation_steps": 1},
            "hardware": {"device": "cpu"},
        }
        for section, values in sections.items():
            raw[section].update(values)
        return parse_spec(raw)

    return make


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = START_TIMEOUT_S) -> Any:
    """The first true value of `condition`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"not within {timeout_s:.0f} s: {what}")


def wait_for_end(run: Run, timeout_s: float = START_TIMEOUT_S) -> RunStatus:
    """The run's final status."""

    def ended() -> RunStatus | None:
        status = run.read_status()
        return status if status.state in ENDED else None

    try:
        status: RunStatus = wait_until(ended, f"{run.id} ends", timeout_s)
    except BaseException:
        print(run.log_path.read_text() if run.log_path.exists() else "no trainer.log")
        raise
    return status


def wait_for_step(run: Run, step: int) -> None:
    """Returns once the trainer has reported `step` and is still going."""
    from engine.runs.events import read_events

    def reached() -> bool:
        assert run.read_status().state not in ENDED, (run.read_status(), run.log_path.read_text())
        return any(event["type"] == "step" and event["step"] >= step for event in read_events(run.events_path))

    wait_until(reached, f"step {step} of {run.id}")


def losses(run: Run) -> dict[int, float]:
    """Step -> loss; of a step that was trained twice, the later."""
    from engine.runs.events import read_events

    return {event["step"]: event["loss"] for event in read_events(run.events_path) if event["type"] == "step"}


def loradeck(*arguments: str, timeout_s: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the `loradeck` command as a person's shell would, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "tui", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **options.pop("env", {})},
        **options,
    )
