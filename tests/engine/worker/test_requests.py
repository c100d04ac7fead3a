"""Requests to a trainer: each is answered where it can be, and waits until then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.requests import Requests, StopRequested
from tests.engine.worker.training import events_of, fit, new_run, steps_of

MakeSpec = Callable[..., RunSpec]


def asked(run: Run) -> list[str]:
    return [event["request"] for event in events_of(run, "control")]


def test_where_only_a_stop_can_be_answered_other_requests_wait(tmp_path: Path) -> None:
    run = Run(tmp_path)
    requests = Requests(run, EventWriter(run.events_path))
    for request in ("save", "evaluate", "pause"):
        control.send(run.control_folder, request)
    requests.stop_if_asked()
    assert asked(run) == []
    control.send(run.control_folder, "stop")
    with pytest.raises(StopRequested):
        requests.stop_if_asked()
    assert asked(run) == ["stop"]
    assert requests.poll() == ["save", "evaluate", "pause"]
    assert control.pending(run.control_folder) == []


def test_requests_of_a_pause_are_answered_after_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    requests = Requests(run, EventWriter(run.events_path))
    for request in ("evaluate", "pause", "resume"):
        control.send(run.control_folder, request)
    requests.wait_while_paused()
    assert requests.poll() == ["evaluate"]


def test_an_evaluation_that_is_asked_for_comes_after_the_step_and_the_run_goes_on(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    def spec() -> RunSpec:
        return tiny_spec(data={"eval_fraction": 0.2}, training={"max_steps": 3, "save_strategy": "no"})

    plain, run = (new_run(tmp_path / name, spec()) for name in ("plain", "asked"))
    control.send(run.control_folder, "evaluate")
    assert fit(plain)
    assert fit(run)
    assert asked(run) == ["evaluate"]
    assert [event["step"] for event in events_of(run, "eval")] == [1, 3]
    assert [event["step"] for event in events_of(plain, "eval")] == [3]
    assert steps_of(run) == steps_of(plain), "training depends on whether it was asked"
