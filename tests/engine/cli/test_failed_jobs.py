"""How a command ends whose job has failed."""

from __future__ import annotations

import json

import pytest
import typer

from engine.cli.watch import fail_of_job
from engine.jobs.process import JobFailed
from engine.runs.store import Cause


@pytest.mark.parametrize(("cause", "code"), [("oom", 3), ("bad-spec", 2), ("disk-full", 1), ("killed", 1)])
def test_the_exit_code_is_that_of_the_cause(cause: Cause, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail_of_job(JobFailed("It ended.", "Try again.", cause), as_json=True)
    assert ended.value.exit_code == code
    assert json.loads(capsys.readouterr().out) == {"error": "It ended.", "hint": "Try again.", "cause": cause}


def test_what_to_do_stands_below_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail_of_job(JobFailed("Out of memory \x1b[31m.", "", "oom"), as_json=False, advice="Try --batch-size 1.")
    told = capsys.readouterr()
    assert told.out == ""
    assert "\x1b" not in told.err
    assert told.err.splitlines()[1] == "  -> Try --batch-size 1."
