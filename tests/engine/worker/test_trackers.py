"""`report_to`: the numbers of a run in the trackers that people have, and a run that outlives them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event as Written
from transformers import TrainerCallback

import engine.checks
from engine.checks import InvalidSpec, missing_trackers
from engine.spec import RunSpec
from engine.worker.trackers import Trackers
from engine.worker.train import Training
from tests.engine.worker.training import events_of, fit, new_run, steps_of

MakeSpec = Callable[..., RunSpec]
FOUR_STEPS: dict[str, Any] = {
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "no",
}


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of the event files that TensorBoard reads: records of a length, its checksum, an event,
    and a checksum."""
    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            written = Written.FromString(content[at + 12 : at + 12 + length])
            for value in written.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[written.step] = value.simple_value
            at += length + 16
    return found


def test_tensorboard_gets_the_numbers_that_the_events_hold(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    run = new_run(
        tmp_path / "run",
        tiny_spec(data={"eval_fraction": 0.2}, training={**FOUR_STEPS, "report_to": ["tensorboard", "tensorboard"]}),
    )
    assert fit(run)
    numbers = scalars(run.folder / "tracking" / "tensorboard")
    assert numbers["train/loss"] == pytest.approx({step: values["loss"] for step, values in steps_of(run).items()})
    held_out = {event["step"]: event["eval_loss"] for event in events_of(run, "eval")}
    assert numbers["eval/loss"] == pytest.approx(held_out)
    assert list(held_out) == [2, 4]
    assert not events_of(run, "warning")


def test_a_tracker_that_fails_costs_its_numbers_and_not_the_run(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(TrainerCallback):  # type: ignore[misc]
        told = 0

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            self.told += 1
            raise ConnectionError("[red]no network")

    failing = Failing()
    monkeypatch.setattr(
        "engine.worker.train.trackers_of", lambda spec, run, events: Trackers({"wandb": lambda: failing}, events)
    )
    run = new_run(tmp_path / "run", tiny_spec(training={**FOUR_STEPS, "eval_strategy": "no"}))
    assert fit(run)
    assert len(steps_of(run)) == 4
    (told,) = events_of(run, "warning")
    assert told["code"] == "tracker-failed"
    assert "wandb" in told["message"]
    assert "[red]no network" in told["message"]
    assert failing.told == 1, "it is left alone afterwards"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.checks, "LIBRARIES_OF", {"wandb": ("no_such_library",)})


@pytest.mark.usefixtures("nothing_installed")
def test_a_tracker_that_is_not_installed_is_told_with_what_to_do(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    (problem,) = missing_trackers(["wandb", "wandb"])
    assert problem.field == "training.report_to"
    assert "pip install no_such_library" in problem.hint

    run = new_run(tmp_path / "run", tiny_spec(training={"report_to": ["wandb"]}))
    with pytest.raises(InvalidSpec, match="wandb is not installed"):
        fit(run)
    assert not events_of(run, "data"), "it is told before anything is read"


@pytest.mark.usefixtures("nothing_installed")
def test_a_folder_of_its_name_is_no_installed_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_mere_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(engine.checks.LIBRARIES_OF, "trackio", ("a_mere_folder",))
    assert list(missing_trackers(["trackio"]))


def test_the_name_of_a_run_is_its_id_in_trackers(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "20260101-000000-tiny-abcd", tiny_spec(training={"max_steps": 1, "save_strategy": "no"}))
    seen: list[str] = []
    announce = Training.announce

    def look(self: Training, *args: Any) -> None:
        assert self.trainer is not None
        seen.append(self.trainer.args.run_name)
        announce(self, *args)

    monkeypatch.setattr(Training, "announce", look)
    assert fit(run)
    assert seen == [run.id]
