"""What a training says of its rows before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from tests.engine.worker.training import events_of, fit, new_run

MakeSpec = Callable[..., RunSpec]


def test_rows_that_are_cut_and_turns_that_are_not_learnt_are_told(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d" * 100},
    ]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    data = {"train": str(tmp_path / "talk.jsonl"), "max_length": 100}
    run = new_run(tmp_path / "run", tiny_spec(data=data, training={"max_steps": 1}))
    assert fit(run)
    assert {event["code"] for event in events_of(run, "warning")} == {"rows-cut", "turns-left-out"}


def test_rows_of_which_nothing_is_left_to_learn_are_refused(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", tiny_spec(data={"max_length": 4}))
    with pytest.raises(BadSpec, match="max_length 4"):
        fit(run)
