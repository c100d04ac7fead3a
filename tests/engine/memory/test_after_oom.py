"""Ways out for runs that have run out of memory: of the phase that failed, into the room that they really had."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import architecture_cache
from engine.checks import parse_spec, write_spec
from engine.memory.known_cards import GIB
from engine.memory.predict import by_formula
from engine.memory.ways_out.after_oom import NoWayOut, Shortage, price_of, remedies_event, shortage, ways_out
from engine.memory.ways_out.remedies import Remedy
from engine.runs.events import EventWriter
from engine.runs.store import Run, RunStatus, create_run
from engine.spec import RunSpec
from tests.engine.memory.runs_to_price import llama_8b, spec

FailedRun = Callable[..., Run]

MIB = 2**20


@pytest.fixture
def failed_run(tmp_path: Path) -> FailedRun:
    """A run of the 8B model that failed, as its folder tells; keyword arguments are fields of its `oom` event."""

    def make(run_spec: RunSpec, state: RunStatus | None = None, **oom: Any) -> Run:
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
        architecture_cache.write(architecture_cache.key(model / "config.json"), llama_8b())
        raw = run_spec.model_dump()
        raw["model"]["name_or_path"] = str(model)
        run = create_run("model")
        run.spec_path.write_text(write_spec(parse_spec(raw)))
        run.write_status(state or RunStatus(state="failed", cause="oom", step=7))
        fields = {
            "phase": "backward",
            "step": 7,
            "batch_shape": [4, 1024],
            "held_bytes": 23 * GIB,
            "requested_bytes": GIB,
            "capacity_bytes": 24 * GIB,
            "other_processes_bytes": 0,
            "others": [],
            "raised_by": "torch",
        }
        EventWriter(run.events_path).write("oom", **{**fields, **oom})
        return run

    return make


def priced(found: list[Remedy]) -> list[Remedy]:
    return [remedy for remedy in found if remedy.predicted_peak_bytes is not None and remedy.changes]


def first_setting(found: list[Remedy]) -> Remedy:
    return priced(found)[0]


def ids(found: list[Remedy]) -> list[str]:
    return [remedy.id for remedy in found]


# ---- the room


def test_the_room_is_the_cards_less_what_others_hold_and_never_above_the_runs_own_limit(failed_run: FailedRun) -> None:
    run = failed_run(spec(), capacity_bytes=24 * GIB, other_processes_bytes=3 * GIB)
    assert shortage(run).failure.wall_bytes == 21 * GIB
    limited = spec(hardware__memory_limit="12GiB")
    run = failed_run(limited, capacity_bytes=12 * GIB, held_bytes=11 * GIB, requested_bytes=2 * GIB)
    assert shortage(run).failure.wall_bytes == 12 * GIB
    on_a_small_card = failed_run(limited, capacity_bytes=8 * GIB, held_bytes=8 * GIB, requested_bytes=2 * GIB)
    assert shortage(on_a_small_card).failure.wall_bytes == 8 * GIB


def test_a_run_that_failed_below_its_room_had_no_more_than_it_had_just_asked_for(failed_run: FailedRun) -> None:
    run = failed_run(spec(), held_bytes=18 * GIB, requested_bytes=2 * GIB)
    assert shortage(run).failure.wall_bytes == 20 * GIB
    unknown = failed_run(spec(), held_bytes=18 * GIB, requested_bytes=None)
    assert shortage(unknown).failure.wall_bytes == 24 * GIB


def test_what_the_prediction_fell_short_by_is_taken_off_the_room(failed_run: FailedRun) -> None:
    run_spec = spec(training__activation_checkpointing=True)
    predicted = by_formula(shortage(failed_run(run_spec)).question).device_bytes
    assert predicted < 20 * GIB, "it was predicted to fit, or this test shows nothing"
    short = shortage(failed_run(run_spec, held_bytes=23 * GIB, requested_bytes=3 * GIB))
    assert short.room_bytes == 24 * GIB - (26 * GIB - predicted)
    foreseen = shortage(failed_run(spec(training__activation_checkpointing=False, data__max_length=4096)))
    assert foreseen.room_bytes == foreseen.failure.wall_bytes, "its prediction was not short"


def test_a_prediction_is_judged_by_the_batch_that_failed_which_may_be_smaller_than_the_largest(
    failed_run: FailedRun,
) -> None:
    whole = shortage(failed_run(spec(), batch_shape=[4, 1024]))
    smaller = shortage(failed_run(spec(), batch_shape=[4, 256]))
    assert smaller.room_bytes < whole.room_bytes, "the small batch needed as much: more is short of the large one"


def test_what_fits_beats_what_was_seen_and_what_does_so_only_in_proportion_is_tight(failed_run: FailedRun) -> None:
    run_spec = spec(training__activation_checkpointing=True, training__per_device_train_batch_size=32)
    predicted = by_formula(shortage(failed_run(run_spec, batch_shape=[32, 1024])).question)
    run = failed_run(
        run_spec,
        batch_shape=[32, 1024],
        held_bytes=predicted.device_bytes,
        requested_bytes=predicted.device_bytes // 2,
        capacity_bytes=predicted.device_bytes + 1,
    )
    short = shortage(run)
    verdicts = {remedy.id: remedy.verdict for remedy in priced(ways_out(short, None))}
    assert (verdicts["batch-16"], verdicts["batch-1"]) == ("tight", "fits")
    for remedy in priced(ways_out(short, None)):
        assert remedy.verdict != "fits" or (remedy.predicted_peak_bytes or 0) <= short.room_bytes


# ---- what helps in which phase


def test_fewer_rows_do_not_help_a_model_that_could_not_be_loaded(failed_run: FailedRun) -> None:
    run = failed_run(
        spec(quantization__load_in="none", training__activation_checkpointing=True),
        phase="load",
        batch_shape=None,
        held_bytes=11 * GIB,
        capacity_bytes=12 * GIB,
        requested_bytes=2 * GIB,
    )
    found = ways_out(shortage(run), None)
    assert first_setting(found).id == "load-4bit"
    assert not [id for id in ids(found) if id.startswith(("batch-", "eval-", "max-length", "checkpointing"))]
    assert ids(found)[-2:] == ["smaller-model", "larger-card"]


def test_a_model_that_loads_and_then_cannot_be_trained_is_no_way_out(failed_run: FailedRun) -> None:
    run_spec = spec(quantization__load_in="none", training__per_device_train_batch_size=64, data__max_length=4096)
    run = failed_run(
        run_spec, phase="load", batch_shape=None, held_bytes=11 * GIB, capacity_bytes=12 * GIB, requested_bytes=2 * GIB
    )
    four_bits = next(remedy for remedy in ways_out(shortage(run), None) if remedy.id == "load-4bit")
    assert four_bits.verdict == "does not fit"


def test_an_evaluation_that_failed_takes_fewer_rows_though_training_needs_more(failed_run: FailedRun) -> None:
    run_spec = spec(data__eval_fraction=0.1, training__per_device_eval_batch_size=8)
    run = failed_run(run_spec, phase="eval", batch_shape=[8, 1024], held_bytes=20 * GIB, requested_bytes=5 * GIB)
    short = shortage(run)
    before = by_formula(short.question)
    assert before.phases["evaluation"] < before.phases["backward"]
    found = ways_out(short, None)
    assert first_setting(found).id == "eval-batch-4"
    assert first_setting(found).effective_batch_size == 16
    assert "batch-1" not in ids(found)
    assert first_setting(found).fits


def test_a_step_that_failed_is_not_helped_by_evaluation_with_fewer_rows(failed_run: FailedRun) -> None:
    run_spec = spec(
        data__eval_fraction=0.1,
        training__per_device_eval_batch_size=256,
        training__activation_checkpointing=True,
        training__per_device_train_batch_size=4,
    )
    run = failed_run(run_spec, phase="backward")
    found = ways_out(shortage(run), None)
    assert not [id for id in ids(found) if id.startswith("eval-")]
    assert first_setting(found).id == "batch-2"


def test_no_setting_helps_a_save(failed_run: FailedRun) -> None:
    found = ways_out(shortage(failed_run(spec(), phase="save")), None)
    assert ids(found) == ["larger-card"]


def test_the_cpus_optimizer_is_not_helped_by_fewer_rows(failed_run: FailedRun) -> None:
    run = failed_run(
        spec(hardware__device="cpu"), phase="optimizer", held_bytes=5 * GIB, capacity_bytes=6 * GIB, batch_shape=[4, 64]
    )
    assert not [id for id in ids(ways_out(shortage(run), None)) if id.startswith("batch-")]


def test_a_gpu_run_that_exhausts_the_host_is_told_what_it_holds_there(failed_run: FailedRun) -> None:
    run_spec = spec(training__activation_offloading=True, training__dataloader_num_workers=2)
    run = failed_run(run_spec, raised_by="kernel", batch_shape=None, held_bytes=15 * GIB, capacity_bytes=16 * GIB)
    short = shortage(run)
    assert short.of_host
    found = ways_out(short, None)
    assert ids(found) == ["no-offloading", "no-workers", "larger-card"]
    assert found[0].changes == {"training.activation_offloading": (True, False)}
    assert all(remedy.fits is None for remedy in found), "nothing of the host's memory is predicted"


# ---- room that others hold


def test_a_limit_that_was_the_wall_can_be_raised_to_what_suffices(failed_run: FailedRun) -> None:
    run_spec = spec(hardware__device="cpu", hardware__memory_limit="6GiB", training__activation_checkpointing=True)
    run = failed_run(run_spec, capacity_bytes=6 * GIB, held_bytes=6 * GIB, requested_bytes=GIB, batch_shape=[4, 64])
    short = shortage(run)
    assert short.machine_bytes is not None
    short = replace(short, machine_bytes=64 * GIB)
    limit = next(remedy for remedy in ways_out(short, None) if remedy.id == "memory-limit")
    old, _ = limit.changes["hardware.memory_limit"]
    assert old == "6GiB"
    raised = limit.apply(short.question.spec).hardware.memory_limit_bytes
    assert raised is not None
    assert raised > 6 * GIB
    assert limit.fits
    needed = (limit.predicted_peak_bytes or 0) + short.failure.by_formula.size_bytes
    assert needed < raised < 1.2 * needed, "the least that suffices"
    assert not limit.changes_training
    small = replace(short, machine_bytes=6 * GIB + 1)
    assert "memory-limit" not in ids(ways_out(small, None)), "the machine has no more"


def test_a_limit_that_was_not_the_wall_is_not_offered_to_be_raised(failed_run: FailedRun) -> None:
    assert "memory-limit" not in ids(ways_out(shortage(failed_run(spec())), None))


def test_where_the_runs_own_limit_was_the_wall_nobody_else_has_to_give_way(failed_run: FailedRun) -> None:
    others = [{"pid": 4711, "user": "anna", "name": "python", "used_bytes": 6 * GIB}]
    run_spec = spec(hardware__memory_limit="12GiB")
    run = failed_run(run_spec, capacity_bytes=12 * GIB, held_bytes=12 * GIB, others=others)
    assert not [id for id in ids(ways_out(shortage(run), None)) if id.startswith("stop-process")]


def test_another_process_that_holds_much_is_named_with_what_it_would_free(failed_run: FailedRun) -> None:
    others = [
        {"pid": 4711, "user": "anna", "name": "python", "used_bytes": 6 * GIB},
        {"pid": 12, "user": None, "name": None, "used_bytes": 4 * MIB},
        {"pid": 13, "user": "b", "name": "x", "used_bytes": None},
        "no process",
    ]
    run = failed_run(
        spec(training__activation_checkpointing=True),
        held_bytes=17 * GIB,
        requested_bytes=GIB,
        other_processes_bytes=6 * GIB,
        others=others,
    )
    (stop,) = (remedy for remedy in ways_out(shortage(run), None) if remedy.id.startswith("stop-process"))
    assert stop.id == "stop-process-4711"
    assert stop.saves_bytes == 6 * GIB
    assert stop.changes == {}
    for words in ("python (pid 4711, user anna) holds 6.0 GiB", "its owner decides"):
        assert words in stop.note


def test_settings_that_keep_training_and_fit_come_before_what_others_must_give(failed_run: FailedRun) -> None:
    others = [{"pid": 4711, "user": "anna", "name": "python", "used_bytes": 6 * GIB}]
    run = failed_run(spec(), other_processes_bytes=6 * GIB, others=others, held_bytes=17 * GIB)
    found = ways_out(shortage(run), None)
    place = ids(found).index("stop-process-4711")
    assert place > 0
    assert all(remedy.fits and not remedy.changes_training for remedy in found[:place])
    assert not any(remedy.fits and not remedy.changes_training and remedy.changes for remedy in found[place:])


# ---- from where it goes on, and what is chosen together


def test_what_has_to_be_trained_again_is_counted_from_the_newest_checkpoint(failed_run: FailedRun) -> None:
    run = failed_run(spec())
    assert (shortage(run).checkpoint, shortage(run).steps_to_repeat) == (None, 6), "the seventh was under way"
    (run.checkpoints_folder / "checkpoint-5").mkdir(parents=True)
    short = shortage(run)
    assert short.checkpoint == run.checkpoints_folder / "checkpoint-5"
    assert short.steps_to_repeat == 1
    fields = remedies_event(short, ways_out(short, None))
    assert (fields["checkpoint"], fields["steps_to_repeat"], fields["tier"]) == ("checkpoint-5", 1, "formula")
    assert fields["room_bytes"] + fields["short_bytes"] == short.failure.wall_bytes
    json.dumps(fields)


def test_what_is_chosen_together_is_priced_together_for_the_phase_that_failed(failed_run: FailedRun) -> None:
    run_spec = spec(data__eval_fraction=0.1, training__per_device_eval_batch_size=8, data__max_length=2048)
    run = failed_run(run_spec, phase="eval", batch_shape=[8, 2048], held_bytes=22 * GIB, requested_bytes=5 * GIB)
    short = shortage(run)
    by_id = {remedy.id: remedy for remedy in ways_out(short, None)}
    rows, shorter = by_id["eval-batch-4"], by_id["max-length-1024"]
    alone, both = price_of(short, [rows], None), price_of(short, [rows, shorter], None)
    assert alone.device_bytes == rows.predicted_peak_bytes
    assert both.device_bytes < alone.device_bytes
    assert sum(both.categories.values()) == both.device_bytes
    verdict = short.failure.verdict
    assert verdict(alone) == rows.verdict
    assert verdict(both) != "does not fit"


def test_the_formula_answers_in_milliseconds(failed_run: FailedRun) -> None:
    run = failed_run(spec(lora__target_modules="all-linear"))
    ways_out(shortage(run), None)  # imports, and the architecture's index
    began = time.perf_counter()
    found = ways_out(shortage(run), None)
    assert time.perf_counter() - began < 0.5
    assert len(found) > 5


# ---- what cannot be answered


def test_a_run_that_did_not_run_out_of_memory_has_no_ways_out(failed_run: FailedRun) -> None:
    run = failed_run(spec(), state=RunStatus(state="failed", cause="nan-loss"))
    with pytest.raises(NoWayOut, match="did not run out of memory"):
        shortage(run)
    with pytest.raises(NoWayOut, match="did not run out of memory"):
        shortage(create_run("m"))


def test_a_model_that_nobody_has_looked_at_is_named(failed_run: FailedRun) -> None:
    run = failed_run(spec())
    (run.folder.parents[2] / "model" / "config.json").write_text("{}")
    with pytest.raises(NoWayOut, match="is not known here"):
        shortage(run)


@pytest.mark.parametrize(
    "fields",
    [
        {"held_bytes": None, "requested_bytes": None},
        {"held_bytes": "many", "capacity_bytes": 24 * GIB, "others": {"pid": 1}},
        {"batch_shape": [0, "x"], "step": None, "other_processes_bytes": True},
        {"phase": "somewhere else"},
    ],
)
def test_events_of_any_content_are_answered_as_far_as_they_go(failed_run: FailedRun, fields: dict[str, Any]) -> None:
    short: Shortage = shortage(failed_run(spec(), **fields))
    assert ways_out(short, None)


def test_without_any_size_of_the_card_nothing_can_be_said(failed_run: FailedRun) -> None:
    with pytest.raises(NoWayOut, match="How much memory there was"):
        shortage(failed_run(spec(), capacity_bytes=None))
