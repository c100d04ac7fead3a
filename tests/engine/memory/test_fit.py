"""Settings that fit a card: which are chosen, why, and what is said where none do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.known_cards import GIB, KNOWN_CARDS
from engine.memory.lengths import Lengths
from engine.memory.predict import Question, by_formula, predict
from engine.memory.ways_out.candidate import changed
from engine.memory.ways_out.fit import MOST_FULL, MOST_SHALLOW, Fit, fit
from engine.memory.ways_out.pricing import price
from engine.memory.ways_out.ways import BUSY_TOKENS, leanest, ways
from tests.engine.memory.runs_to_price import LENGTHS, question, tiny

CHECKPOINTING = "training.activation_checkpointing"
BATCH = "training.per_device_train_batch_size"


def fitted(free_gib: float, lengths: Lengths | None = LENGTHS, **changes: Any) -> Fit:
    return fit(question(free_gib, lengths, **changes), None)


@pytest.mark.parametrize("free_gib", [7, 8, 10, 12, 16, 24, 48])
def test_it_fits_and_the_effective_batch_stays(free_gib: int) -> None:
    found = fitted(free_gib)
    assert found.fits
    assert found.footprint.device_bytes <= free_gib * GIB
    assert found.spec.effective_batch_size == 16
    assert found.room_bytes == free_gib * GIB
    assert not found.changes_training
    assert found.needed_bytes is None


def test_what_is_given_is_what_is_predicted_for_the_spec() -> None:
    run = question(12)
    found = fit(run, None)
    assert found.footprint == price(replace(run, spec=found.spec), None)


def test_every_change_has_a_reason_and_so_has_what_matters_and_stays() -> None:
    for free_gib in (6.3, 8, 24, 80):
        found = fitted(free_gib)
        assert set(found.changes) <= set(found.reasons)
        assert {BATCH, CHECKPOINTING, "data.max_length", "quantization.load_in"} <= set(found.reasons)
        for field, (old, new) in found.changes.items():
            section, name = field.split(".")
            assert old != new
            assert getattr(getattr(found.spec, section), name) == new


def test_with_much_room_nothing_is_computed_twice() -> None:
    roomy = fitted(80, training__activation_checkpointing=True)
    assert roomy.changes[CHECKPOINTING] == (True, False)
    assert "nothing is computed twice" in roomy.reasons[CHECKPOINTING]


def test_with_room_passes_get_larger_and_fewer() -> None:
    one_by_one = {"training__per_device_train_batch_size": 1, "training__gradient_accumulation_steps": 16}
    found = fitted(24, training__activation_checkpointing=True, **one_by_one)
    assert found.spec.training.per_device_train_batch_size > 1
    assert found.spec.effective_batch_size == 16


def test_less_memory_never_gets_a_faster_way() -> None:
    places = []
    for free_gib in (40, 24, 16, 12, 10, 8, 7):
        run = question(free_gib)
        chosen = {field: new for field, (_, new) in fit(run, None).changes.items()}
        places.append(ways(run, {}).index(chosen))
    assert places == sorted(places)
    assert len(set(places)) > 3


def test_batches_larger_than_now_stop_where_a_card_is_busy() -> None:
    rows = [values.get(BATCH, 4) for values in ways(question(), {})]
    assert max(rows) * 1024 == BUSY_TOKENS
    large = ways(question(training__per_device_train_batch_size=16, training__gradient_accumulation_steps=1), {})
    assert any(BATCH not in values for values in large)  # what a person wrote is always looked at


def test_max_length_comes_down_to_the_longest_row_for_nothing() -> None:
    found = fitted(24, Lengths((100, 200, 300), 3))
    assert found.changes["data.max_length"] == (1024, 300)
    assert found.reasons["data.max_length"] == "The longest row has 300 tokens: nothing is cut."
    assert not found.changes_training


@pytest.mark.parametrize("lengths", [None, Lengths((100, 200, 300), 5000), LENGTHS])
def test_max_length_stays_where_longer_rows_may_be(lengths: Lengths | None) -> None:
    assert "data.max_length" not in fitted(24, lengths).changes


def test_weights_are_quantized_only_where_nothing_else_fits() -> None:
    run = question(quantization__load_in="none")
    assert "quantization.load_in" not in fit(run, None, capacity_bytes=40 * GIB).changes

    def least_with(load_in: str) -> int:
        return price(changed(run, leanest(run, {"quantization.load_in": load_in})), None).device_bytes

    for load_in in ("8bit", "4bit"):
        found = fit(run, None, capacity_bytes=least_with(load_in))
        assert found.changes["quantization.load_in"] == ("none", load_in)
        assert found.changes_training
        assert "More bits do not fit" in found.reasons["quantization.load_in"]


def test_targets_go_before_rows_are_cut_and_rows_last() -> None:
    run = question(lora__r=256)
    fields = {"training.optim": "optimizer", "lora.target_modules": "targets", "data.max_length": "cut"}
    steps = []
    for tenths in range(140, 40, -1):
        found = fit(run, None, capacity_bytes=tenths * GIB // 10)
        if not found.fits:
            break
        given_up = [name for field, name in fields.items() if field in found.changes]
        steps.append(given_up[-1] if given_up else "nothing")
    order = ["nothing", "optimizer", "targets", "cut"]
    assert steps == sorted(steps, key=order.index)
    assert {"nothing", "targets", "cut"} <= set(steps)


def test_eager_attention_is_replaced_first() -> None:
    found = fitted(24, model__attn_implementation="eager")
    assert found.changes["model.attn_implementation"] == ("eager", "sdpa")
    assert found.reasons["model.attn_implementation"]


def test_where_nothing_fits_it_says_what_would() -> None:
    found = fitted(4)
    assert not found.fits
    assert found.verdict == "does not fit"
    assert found.needed_bytes is not None
    assert found.needed_bytes > 4 * GIB
    assert found.summary.startswith("nothing fits in 4.0 GiB; the smallest that works needs ")
    named = [card for card in KNOWN_CARDS if card.name in found.smallest_cards]
    assert named
    assert all(card.total_bytes > found.needed_bytes for card in named)
    assert f"a card of {named[0].size_gb} GB, such as {named[0].name}" in found.summary
    assert found.spec.effective_batch_size == 16
    assert fit(question(4), None, capacity_bytes=found.needed_bytes).fits


def test_on_a_cpu_nothing_is_moved_to_the_host() -> None:
    host = Card("host memory", 8 * GIB, on_cpu=True, total_bytes=8 * GIB)
    found = fit(replace(question(hardware__device="cpu"), card=host), None)
    assert not found.spec.training.activation_offloading
    assert not found.smallest_cards


def test_it_is_written_as_json() -> None:
    raw = json.loads(json.dumps(fitted(8).to_json()))
    assert raw["fits"] is True
    assert raw["changes"][CHECKPOINTING] == [False, True]
    assert raw["spec"]["training"]["activation_checkpointing"] is True
    assert raw["effective_batch_size"] == 16


# ---- traced


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Question, Inspector]]:
    with tiny(tmp_path_factory.mktemp("tiny")) as pair:
        yield pair


def test_the_winner_is_traced_in_full_and_few_others_are(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    told: list[tuple[str, int, int]] = []
    found = fit(run, inspector, progress=lambda *news: told.append(news))
    assert found.footprint.tier == "full"
    assert found.footprint == replace(
        predict(replace(run, spec=found.spec), "full", inspector), seconds=found.footprint.seconds
    )
    assert len(told) <= MOST_SHALLOW + MOST_FULL
    assert all(made < most for _, made, most in told)


def test_a_trace_overrules_the_formula(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    formula, full = by_formula(run), predict(run, "full", inspector)
    between = (formula.device_bytes + full.device_bytes) // 2
    found = fit(run, inspector, capacity_bytes=between)
    assert found.verdict == found.footprint.verdict(between)
    assert found.fits == (found.footprint.device_bytes <= between or found.verdict == "tight")


def test_where_nothing_can_be_traced_the_formula_stands(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    found = fit(replace(run, config_folder=None), inspector)
    assert found.footprint.tier == "formula"
    assert found.fits
