"""What a run goes on with by itself, and what it leaves to a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.memory.footprint import Footprint
from engine.memory.ways_out.after_oom import Shortage
from engine.memory.ways_out.failing import ALL, Failure
from engine.memory.ways_out.remedies import Remedy
from engine.runs.events import EventWriter, read_events
from engine.runs.retry import first_that_fits, record_ways_out
from engine.runs.store import RunStatus, create_run
from tests.engine.memory.runs_to_price import question

BATCH = "training.per_device_train_batch_size"


def remedy(id: str, *, changes: dict[str, tuple[object, object]], verdict: str = "fits", **values: object) -> Remedy:
    made = Remedy(
        id=id,
        changes=changes,
        predicted_peak_bytes=100,
        saves_bytes=1,
        fits=verdict != "does not fit",
        verdict=verdict,  # type: ignore[arg-type]
        effective_batch_size=16,
        changes_training=False,
        slowdown=None,
        slowdown_source="",
        note="",
        tier="formula",
    )
    return replace(made, **values)  # type: ignore[arg-type]


ROWS = remedy("batch-2", changes={BATCH: (4, 2), "training.gradient_accumulation_steps": (4, 8)})
ONE_ROW = remedy("batch-1", changes={BATCH: (4, 1), "training.gradient_accumulation_steps": (4, 16)})
PAGED = remedy("optimizer-paged", changes={"training.optim": ("adamw_torch", "paged_adamw_32bit")}, continues=False)
CHECKPOINTING = remedy("checkpointing", changes={"training.activation_checkpointing": (False, True)})
NOT_BY_ITSELF = [
    remedy("memory-limit", changes={"hardware.memory_limit": ("8GiB", "9GiB")}),
    remedy("rank-8", changes={"lora.r": (16, 8)}, changes_training=True, continues=False),
    remedy("stop-process-4711", changes={}),
    remedy("larger-card", changes={}),
    remedy("no-workers", changes={"training.dataloader_num_workers": (2, 0)}, verdict="fits"),
]


@pytest.fixture
def short() -> Shortage:
    asked = question(24, training__activation_checkpointing=False)
    return Shortage(
        create_run("m"), asked, 24 * 2**30, {"type": "oom"}, Path("checkpoint-3"), 0, Failure(ALL, 24 * 2**30)
    )


def test_the_first_that_fits_and_leaves_training_the_same_is_taken(short: Shortage) -> None:
    misses = replace(CHECKPOINTING, fits=False, verdict="does not fit")
    assert first_that_fits(short, [misses, *NOT_BY_ITSELF[:4], ROWS, ONE_ROW], None) == (ROWS,)
    tight = replace(ROWS, verdict="tight")
    assert first_that_fits(short, [tight], None) == (tight,)


def test_nothing_is_taken_that_a_person_has_to_decide(short: Shortage) -> None:
    unpriced = replace(NOT_BY_ITSELF[4], verdict=None, fits=None)
    assert first_that_fits(short, [*NOT_BY_ITSELF[:4], unpriced], None) == ()


def test_what_a_checkpoint_cannot_be_continued_from_with_is_taken_only_where_there_is_none(short: Shortage) -> None:
    assert first_that_fits(short, [PAGED, ROWS], None) == (ROWS,)
    assert first_that_fits(replace(short, checkpoint=None), [PAGED, ROWS], None) == (PAGED,)


def test_where_none_fits_alone_the_fewest_that_do_together_are_taken(short: Shortage) -> None:
    def missing(remedy: Remedy, peak: int) -> Remedy:
        return replace(remedy, fits=False, verdict="does not fit", predicted_peak_bytes=peak)

    from engine.memory.ways_out.after_oom import price_of

    found = [missing(ROWS, 300), missing(ONE_ROW, 200), missing(CHECKPOINTING, 250)]
    both: Footprint = price_of(short, [ONE_ROW, CHECKPOINTING], None)
    alone = min(price_of(short, [one], None).device_bytes for one in (ONE_ROW, CHECKPOINTING))
    assert both.device_bytes < alone
    wall = replace(short, failure=Failure(ALL, both.device_bytes + 1))
    assert [remedy.id for remedy in first_that_fits(wall, found, None)] == ["batch-1", "checkpointing"]
    none = replace(short, failure=Failure(ALL, both.device_bytes - 1))
    assert first_that_fits(none, found, None) == ()


def test_what_cannot_be_worked_out_is_a_warning_and_never_keeps_a_run_from_ending() -> None:
    run = create_run("m")
    run.write_status(RunStatus(state="training"))
    log = EventWriter(run.supervisor_events_path)
    record_ways_out(run, log, None)
    run.spec_path.write_bytes(b"\x00")
    record_ways_out(run, log, {"type": "oom", "phase": "load"})
    assert [(event["type"], event["code"]) for event in read_events(run.supervisor_events_path)] == [
        ("warning", "no-remedies"),
        ("warning", "no-remedies"),
    ]
