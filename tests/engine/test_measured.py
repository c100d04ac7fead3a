"""Memory that runs needed, against what was predicted: recorded by a real run, and read from many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checks import write_spec
from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.footprint import Footprint, Tier
from engine.memory.outcomes.at_launch import at_launch
from engine.memory.outcomes.comparison import compared
from engine.memory.outcomes.history import EDGE_BYTES, errors_by, facts, history, learnt, outcome_of, with_experience
from engine.runs.events import EventWriter, read_events
from engine.runs.prediction import Prediction, read, read_prediction, write_prediction
from engine.runs.store import Run, create_run, find_run, home, runs_folder
from engine.spec import RunSpec
from tests.conftest import loradeck

MakeSpec = Callable[..., RunSpec]

GIB = 2**30
CARD = "RTX 3060"


def footprint(predicted: float, tier: Tier = "full", reserved: float | None = None) -> Footprint:
    return Footprint(
        tier=tier,
        categories={"weights": int(predicted * GIB)},
        phases={"load": GIB},
        allocated_bytes=GIB,
        device_bytes=int(predicted * GIB),
        reserved_bytes=None if reserved is None else int(reserved * GIB),
        batch={"rows": 4, "tokens": 1000},
    )


def measured_run(
    name: str,
    predicted: Footprint | None,
    end: float | None,
    first: float = 1.0,
    batch: tuple[int, int] = (4, 1000),
    card: str = CARD,
    reserved: float | None = None,
) -> Run:
    """A run folder with `memory` events; sizes are GiB."""
    run = Run(runs_folder() / name)
    run.folder.mkdir(parents=True)
    if predicted is not None:
        write_prediction(run, Prediction(predicted, card, False))
    events = EventWriter(run.events_path)
    events.write("plan", total_steps=10)
    measure(events, "first step", 1, predicted, first, batch, reserved and reserved / 2)
    events.write("step", step=1, loss=1.0)
    if end is not None:
        measure(events, "end", 10, predicted, end, batch, reserved)
    events.close()
    return run


def measure(
    events: EventWriter,
    when: str,
    step: int,
    predicted: Footprint | None,
    device: float,
    batch: tuple[int, int],
    reserved: float | None = None,
) -> None:
    events.write(
        "memory",
        when=when,
        step=step,
        allocated_bytes=None,
        reserved_bytes=None if reserved is None else int(reserved * GIB),
        device_bytes=int(device * GIB),
        predicted_allocated_bytes=None if predicted is None else predicted.allocated_bytes,
        predicted_reserved_bytes=None if predicted is None else predicted.reserved_bytes,
        predicted_device_bytes=None if predicted is None else predicted.device_bytes,
        tier=None if predicted is None else predicted.tier,
        rows=batch[0],
        tokens=batch[1],
    )


# ---- a real run


def test_a_run_records_and_tells_what_it_needed_beside_its_prediction(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    spec = tiny_spec(
        data={"max_length": 32, "eval_fraction": 0.2, "samples": 1, "samples_max_new_tokens": 2},
        training={"max_steps": 3},
    )
    assert at_launch(spec) is None, "nobody has looked at the model yet"
    with Inspector() as inspector:
        inspector.architecture(spec.model.name_or_path)
    (tmp_path / "spec.yaml").write_text(write_spec(spec))

    done = loradeck("train", str(tmp_path / "spec.yaml"), env={"COLUMNS": "160"})

    assert done.returncode == 0, done.stderr
    run = find_run("last")
    predicted = read(run)
    assert predicted is not None
    assert (predicted.tier, predicted.batch["rows"], predicted.batch["tokens"]) == ("formula", 4, 32)
    events = read_events(run.events_path)
    plan = next(event for event in events if event["type"] == "plan")
    assert plan["predicted_peak_bytes"] == predicted.device_bytes
    first, end = (event for event in events if event["type"] == "memory")
    assert (first["when"], first["step"], end["when"], end["step"]) == ("first step", 1, "end", 3)
    for event in (first, end):
        assert event["allocated_bytes"] is event["reserved_bytes"] is event["predicted_reserved_bytes"] is None
        assert event["predicted_device_bytes"] == predicted.device_bytes
        assert event["tier"] == "formula"
        assert (event["rows"], event["tokens"]) == (4, 32)
        # The libraries alone take 0.4 GiB; a model of 0.1 million parameters adds little.
        assert 0.3 * GIB < event["device_bytes"] < 1.5 * GIB
    assert end["device_bytes"] >= first["device_bytes"]
    kinds = [event["type"] for event in events]
    assert len(kinds) - kinds[::-1].index("memory") < kinds.index("sample"), "the answers are in no prediction"
    assert kinds.index("eval") < len(kinds) - 1 - kinds[::-1].index("memory")

    (outcome,) = history()
    assert (outcome.run_id, outcome.card, outcome.on_cpu, outcome.measure) == (run.id, "host memory", True, "device")
    assert outcome.end_bytes == end["device_bytes"]
    assert outcome.counts
    later = at_launch(spec)
    assert later is not None
    assert (later.device_bytes, later.notes[-1]) == (predicted.device_bytes, learnt("host memory", "formula"))
    words = f"predicted {predicted.device_bytes / GIB:.2f}"
    assert f"memory: {words}" in done.stdout
    assert f"memory after the first step: {first['device_bytes'] / GIB:.2f} GiB, {words}" in done.stdout
    told = json.loads(loradeck("show", run.id, "--json").stdout)["memory"]
    assert (told["predicted_bytes"], told["end_bytes"]) == (predicted.device_bytes, end["device_bytes"])
    assert told["error"] == pytest.approx(end["device_bytes"] / predicted.device_bytes - 1, abs=1e-4)


# ---- what many runs say


def test_runs_on_a_card_tell_how_far_a_prediction_of_the_same_kind_came_out() -> None:
    measured_run("20260101-000001-a", footprint(10), end=9.88)
    measured_run("20260101-000002-b", footprint(10), end=10.3)
    measured_run("20260101-000003-c", footprint(10, "formula"), end=12)
    measured_run("20260101-000004-d", footprint(10), end=5, card="another card")

    assert errors_by(CARD, "full") == pytest.approx([0.03, -0.012], abs=1e-3)
    assert learnt(CARD, "full") == "2 runs here came out 1.2 % below to 3.0 % above the traced prediction"
    assert learnt(CARD, "formula") == "1 run here came out 20.0 % above the formula's prediction"
    assert learnt(CARD, "shallow") is None


def test_a_prediction_says_what_was_learnt_on_its_card() -> None:
    before = footprint(8)
    assert with_experience(before, Card(CARD, None)) is before
    measured_run("20260101-000001-a", footprint(10), end=9)

    assert with_experience(before, Card(CARD, None)).notes == (
        "1 run here came out 10.0 % below the traced prediction",
    )
    assert with_experience(before, Card("another card", None)).notes == ()


def test_runs_of_another_batch_or_without_an_end_are_told_and_do_not_count() -> None:
    measured_run("20260101-000001-short-rows", footprint(10), end=6, batch=(4, 300))
    measured_run("20260101-000002-in-training", footprint(10), end=None)
    measured_run("20260101-000003-nearly-the-same-batch", footprint(10), end=9, batch=(4, 960))

    assert [(outcome.run_id[-5:], outcome.counts) for outcome in history()] == [
        ("batch", True),
        ("ining", False),
        ("-rows", False),
    ]
    assert errors_by(CARD, "full") == pytest.approx([-0.1])


def test_a_preflight_of_the_predicted_batch_teaches_before_the_run_has_ended() -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=None, batch=(4, 300), first=6)
    measure(EventWriter(run.events_path), "preflight", 0, footprint(10), 10.5, (4, 1000))

    (outcome,) = history()
    assert (outcome.preflight_bytes, outcome.end_bytes) == (int(10.5 * GIB), None)
    assert errors_by(CARD, "full") == pytest.approx([0.05])


def test_reserved_memory_is_compared_where_both_sides_know_it() -> None:
    measured_run("20260101-000001-a", footprint(10, reserved=8), end=11, reserved=8.4)

    (outcome,) = history()
    assert (outcome.measure, outcome.predicted_bytes) == ("reserved", 8 * GIB)
    assert outcome.error == pytest.approx(0.05)


def test_a_run_without_a_prediction_is_measured_all_the_same_and_teaches_nothing() -> None:
    run = measured_run("20260101-000001-a", None, end=9)

    assert (outcome_of(run), history()) == (None, [])
    told = facts(run)
    assert told is not None
    assert (told["predicted_bytes"], told["error"], told["end_bytes"]) == (None, None, 9 * GIB)
    assert facts(create_run("not-measured")) is None
    comparison = compared(read_events(run.events_path)[-1])
    assert comparison is not None
    assert comparison.words == "9.00 GiB"


def test_the_history_grows_with_a_run() -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=None, first=4)
    assert [outcome.end_bytes for outcome in history()] == [None]

    measure(EventWriter(run.events_path), "end", 9, footprint(10), 9, (4, 1000))

    assert [(outcome.first_step_bytes, outcome.end_bytes) for outcome in history()] == [(4 * GIB, 9 * GIB)]


def test_of_a_long_run_only_the_two_ends_are_read() -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=None, first=4)
    events = EventWriter(run.events_path)
    while run.events_path.stat().st_size < 3 * EDGE_BYTES:
        events.write("step", step=2, loss=1.0, padding="x" * 1000)
    measure(events, "end", 9, footprint(10), 9, (4, 1000))
    events.write("sample", completion="y" * 1000)

    (outcome,) = history()
    assert (outcome.first_step_bytes, outcome.end_bytes) == (4 * GIB, 9 * GIB)


# ---- files of any content

FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "torn": b'{"footprint": {"tier": "full", "categ',
    "no object": b"[1, 2]",
    "null": b'{"footprint": null, "card": "x", "on_cpu": false}',
    "another shape": b'{"footprint": {"tier": "full"}, "card": "x", "on_cpu": false}',
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_prediction_that_is_torn_or_somebody_elses_is_none(content: bytes) -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=9)
    run.prediction_path.write_bytes(content)
    measured_run("20260101-000002-b", footprint(10), end=11)

    assert read_prediction(run) is None
    assert [outcome.run_id for outcome in history()] == ["20260101-000002-b"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("tier", "guess"), ("device_bytes", "many"), ("device_bytes", -1), ("reserved_bytes", 1.5), ("batch", [4])],
)
def test_a_prediction_with_a_field_of_another_kind_is_none(field: str, value: Any) -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=9)
    raw = json.loads(run.prediction_path.read_text())
    raw["footprint"][field] = value
    run.prediction_path.write_text(json.dumps(raw))

    assert read_prediction(run) is None


def test_memory_events_that_are_torn_or_hold_no_sizes_are_passed_over() -> None:
    run = measured_run("20260101-000001-a", footprint(10), end=9)
    with run.events_path.open("ab") as events:
        events.write(b'{"type": "memory", "when": "end", "device_bytes": "x", "predicted_device_bytes": 5}\n')
        events.write(b'{"type": "memory", "when": ["end"], "device_bytes": 5, "predicted_device_bytes": 5}\n')
        events.write(b'{"type": "memory", "when": "end", "device_bytes": 99999999999999, "predicted_dev')

    (outcome,) = history()
    assert (outcome.end_bytes, outcome.largest_batch) == (9 * GIB, (4, 1000))


def test_a_prediction_comes_back_as_it_was_written() -> None:
    run = create_run("m")
    assert read_prediction(run) is None
    prediction = Prediction(footprint(10), CARD, False)
    write_prediction(run, prediction)

    assert read_prediction(run) == prediction


# ---- doctor --memory


def test_doctor_tells_how_far_off_this_machines_runs_came_out() -> None:
    measured_run("20260101-000001-a", footprint(10), end=9.88)
    measured_run("20260101-000002-b", footprint(10), end=10.3)
    measured_run("20260101-000003-c", footprint(10, "formula"), end=6, batch=(4, 300))

    done = loradeck("doctor", "--memory", env={"COLUMNS": "140"})
    assert done.returncode == 0, done.stderr
    assert "20260101-000001-a" in done.stdout
    assert "1.2 % below" in done.stdout
    assert "batch 4 x 300, predicted for 4 x 1,000" in done.stdout
    assert "RTX 3060, traced: 2 runs, 2.1 % away on average, the worst 3.0 % above." in done.stdout

    document = json.loads(loradeck("doctor", "--memory", "--json").stdout)
    assert [(run["run_id"][-1], run["error"], run["counts"]) for run in document["runs"]] == [
        ("c", -0.4, False),
        ("b", 0.03, True),
        ("a", -0.012, True),
    ]
    assert document["summary"] == {CARD: {"full": {"runs": 2, "mean_distance": 0.021, "worst_error": 0.03}}}


def test_doctor_says_plainly_that_nothing_was_measured_yet() -> None:
    done = loradeck("doctor", "--memory")
    assert done.returncode == 0
    assert done.stdout.startswith("No run here has been measured against a prediction yet.")
    assert json.loads(loradeck("doctor", "--memory", "--json").stdout) == {"runs": [], "summary": {}}
    assert not home().exists()
