"""Ways out of a run that does not fit: what is offered, what it is priced at, and in which order."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checks import InvalidSpec
from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.footprint import Footprint
from engine.memory.known_cards import GIB, KNOWN_CARDS
from engine.memory.lengths import Lengths
from engine.memory.predict import Question, by_formula, predict
from engine.memory.ways_out import remedies as module
from engine.memory.ways_out.candidate import ALLOCATOR, batches, halved
from engine.memory.ways_out.keeping_training import keeping_training
from engine.memory.ways_out.pricing import price, verdict_on
from engine.memory.ways_out.remedies import Remedy, combined, next_remedies, remedies, with_choices
from tests.engine.memory.runs_to_price import LENGTHS, question, spec, tiny


def offered(*args: Any, **changes: Any) -> dict[str, Remedy]:
    """By id, for the 8B model and by the formula."""
    return {remedy.id: remedy for remedy in remedies(question(*args, **changes), None)}


# ---- what is offered


def test_what_is_on_already_is_not_offered() -> None:
    off = offered()
    assert {"checkpointing", "offloading", "optimizer-8bit", "batch-1"} <= set(off)
    on = offered(
        training__activation_checkpointing=True,
        training__activation_offloading=True,
        training__optim="paged_adamw_8bit",
        training__per_device_train_batch_size=1,
    )
    assert not {"checkpointing", "offloading", "optimizer-8bit", "optimizer-paged"} & set(on)
    assert not [id for id in on if id.startswith(("batch-", "load-", "attention-", "eval-"))]


def test_everything_that_is_priced_saves_something() -> None:
    priced = [remedy for remedy in remedies(question(), None) if remedy.predicted_peak_bytes is not None]
    assert all(remedy.saves_bytes and remedy.saves_bytes > 0 for remedy in priced)


@pytest.mark.parametrize(
    ("rows", "passes", "offered_rows"), [(4, 4, [2, 1]), (6, 4, [3, 1]), (5, 2, [2, 1]), (7, 3, [3, 1])]
)
def test_the_effective_batch_stays_exactly(rows: int, passes: int, offered_rows: list[int]) -> None:
    run = spec(training__per_device_train_batch_size=rows, training__gradient_accumulation_steps=passes)
    assert list(halved(run)) == offered_rows
    for remedy in offered(
        training__per_device_train_batch_size=rows, training__gradient_accumulation_steps=passes
    ).values():
        assert remedy.effective_batch_size == rows * passes
        assert remedy.apply(run).effective_batch_size == rows * passes


def test_the_rows_of_all_processes_stay_together() -> None:
    several: dict[str, Any] = {
        "training__per_device_train_batch_size": 4,
        "training__gradient_accumulation_steps": 2,
        "hardware__num_processes": 3,
    }
    run = spec(**several)
    assert run.effective_batch_size == 24
    assert list(halved(run)) == [2, 1]
    remedy = offered(**several)["batch-2"]
    assert remedy.changes["training.gradient_accumulation_steps"] == (2, 4)
    assert remedy.effective_batch_size == remedy.apply(run).effective_batch_size == 24


def test_batches_are_the_divisors() -> None:
    assert batches(12) == [1, 2, 3, 4, 6, 12]


def test_eager_attention_is_offered_another_kernel_unless_only_eager_caps_scores() -> None:
    eager = question(model__attn_implementation="eager")
    assert "attention-sdpa" in {remedy.id for remedy in remedies(eager, None)}
    capped = replace(eager.architecture, config={**eager.architecture.config, "attn_logit_softcapping": 50.0})
    assert "attention-sdpa" not in {remedy.id for remedy in remedies(replace(eager, architecture=capped), None)}


def test_unquantized_weights_are_offered_fewer_bits() -> None:
    found = offered(quantization__load_in="none")
    assert found["load-8bit"].saves_bytes < found["load-4bit"].saves_bytes  # type: ignore[operator]
    assert found["load-4bit"].changes_training
    assert "load-4bit" in offered(quantization__load_in="8bit")


def test_weights_that_are_trained_in_full_are_not_offered_to_be_quantized() -> None:
    in_full = {"lora__target_modules": ["q_proj", "k_proj"], "lora__modules_to_save": ["o_proj"]}
    assert "load-4bit" not in offered(quantization__load_in="none", **in_full)


def test_float32_is_offered_to_be_halved() -> None:
    wide = offered(quantization__load_in="none", model__dtype="float32")["half-precision"]
    assert wide.changes == {"model.dtype": ("float32", "bfloat16")}
    assert wide.changes_training


def test_float16_on_a_card_with_bfloat16_keeps_adapters_in_32_bits() -> None:
    types = {"model__dtype": "float16", "quantization__bnb_4bit_compute_dtype": "float16"}
    found = offered(training__fp16=True, training__bf16=False, **types)["bf16"]
    after = found.apply(spec(training__fp16=True, training__bf16=False, **types))
    assert (after.training.bf16, after.training.fp16) == (True, False)
    assert (after.model.dtype, after.quantization.bnb_4bit_compute_dtype) == ("bfloat16", "bfloat16")


def test_fewer_targets_are_narrower_than_those_of_now() -> None:
    assert {"targets-attention", "targets-qv"} <= set(offered())
    assert "targets-attention" not in offered(lora__target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    assert not [id for id in offered(lora__target_modules=["q_proj", "v_proj"]) if id.startswith("targets-")]


def test_half_the_rank_keeps_the_size_of_updates() -> None:
    changes = offered(lora__r=16, lora__lora_alpha=32)["rank-8"].changes
    assert changes == {"lora.r": (16, 8), "lora.lora_alpha": (32, 16)}
    stabilized = offered(lora__r=16, lora__lora_alpha=32, lora__use_rslora=True)["rank-8"].changes
    assert stabilized["lora.lora_alpha"] == (32, 23)  # over the square root of r


def test_flash_attention_is_offered_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    keep = module.changed

    def changed(about: Question, values: Any) -> Question:
        asked.append(dict(values))
        return keep(about, values)

    monkeypatch.setattr(module, "changed", changed)
    for installed in (None, "a spec"):
        asked.clear()
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=installed: found)
        remedies(question(), None)
        flash = [values for values in asked if values.get("model.attn_implementation") == "flash_attention_2"]
        assert bool(flash) == (installed is not None)


def test_evaluation_takes_fewer_rows_where_it_sets_the_peak() -> None:
    run = question(data__eval_fraction=0.1, training__per_device_eval_batch_size=32)
    now = by_formula(run)
    high = replace(now, phases={**now.phases, "evaluation": 2 * now.allocated_bytes})
    assert [candidate.id for candidate in keeping_training(run, high)][:2] == ["eval-batch-16", "eval-batch-1"]
    low = replace(now, phases={"backward": 1})
    assert not [candidate for candidate in keeping_training(run, low) if candidate.id.startswith("eval-")]


# ---- cutting rows


def test_shorter_rows_come_with_the_share_that_is_cut() -> None:
    found = offered()
    assert found["max-length-768"].changes == {"data.max_length": (1024, 768)}
    assert found["max-length-768"].note == "Cuts 33.2 % of rows, 7.6 % now."  # 332 rows above 768, 76 above 1,024
    assert found["max-length-512"].note == "Cuts 58.8 % of rows, 7.6 % now."


def test_what_would_be_cut_is_not_known_before_the_data_is_read() -> None:
    assert "not known" in offered(lengths=None)["max-length-768"].note


def test_a_share_of_a_sample_says_so() -> None:
    sample = Lengths(LENGTHS.tokens, 50_000)
    assert "(of 1,000 rows looked at)" in offered(lengths=sample)["max-length-768"].note


def test_rows_are_not_offered_to_be_cut_to_nothing() -> None:
    run = question()
    assert "max-length-512" not in {remedy.id for remedy in remedies(run, None, least_tokens=600)}


# ---- prices


def test_the_price_is_what_is_predicted_after_the_change() -> None:
    run = question()
    before = by_formula(run).device_bytes
    for remedy in remedies(run, None):
        if remedy.predicted_peak_bytes is None:
            continue
        after = price(replace(run, spec=remedy.apply(run.spec)), None).device_bytes
        assert remedy.predicted_peak_bytes == after
        if remedy.id != "optimizer-paged":  # its state is on the card until that is full
            assert remedy.saves_bytes == before - after


def test_savings_do_not_add_up() -> None:
    run = question()
    found = offered()
    chosen = [found["checkpointing"], found["batch-1"]]
    saved = by_formula(run).device_bytes - combined(run, chosen, None).device_bytes
    assert saved < sum(remedy.saves_bytes or 0 for remedy in chosen)
    beyond = {remedy.id: remedy for remedy in next_remedies(run, [found["checkpointing"]], None)}
    assert "checkpointing" not in beyond
    assert (beyond["batch-1"].saves_bytes or 0) < (found["batch-1"].saves_bytes or 0)
    assert beyond["batch-1"].predicted_peak_bytes == combined(run, chosen, None).device_bytes


def test_of_two_choices_for_one_field_the_later_counts() -> None:
    run, found = question(), offered()
    assert with_choices(run, [found["batch-1"], found["batch-2"]]).spec == found["batch-2"].apply(run.spec)


def test_offloading_never_takes_off_more_than_waits_for_backward() -> None:
    for checkpointing in (False, True):
        run = question(training__activation_checkpointing=checkpointing)
        now = by_formula(run)
        then = price(
            replace(
                run, spec=spec(training__activation_checkpointing=checkpointing, training__activation_offloading=True)
            ),
            None,
        )
        assert now.device_bytes - now.categories["activations"] < then.device_bytes < now.device_bytes
        assert sum(then.categories.values()) == then.device_bytes
        assert then.tier == "formula"


def test_paged_state_that_can_leave_the_card_makes_it_tight_not_impossible() -> None:
    footprint = Footprint("shallow", {}, {}, 900, 1000, paged_bytes=100)
    assert [verdict_on(footprint, free) for free in (2000, 950, 899)] == ["fits", "tight", "does not fit"]


# ---- order and words


def test_what_leaves_training_the_same_and_fits_comes_first_and_a_larger_card_last() -> None:
    found = remedies(question(12), None)
    assert found[-1].id == "larger-card"
    priced = found[:-2]
    order = [(r.changes_training, ("fits", "tight", "does not fit").index(r.verdict)) for r in priced if r.verdict]
    assert order == sorted(order)
    assert found[0].fits
    assert not found[0].changes_training
    misses = [r.predicted_peak_bytes or 0 for r in priced if not r.fits and not r.changes_training]
    assert misses == sorted(misses)


def test_only_what_is_as_learnt_before_is_said_to_keep_training() -> None:
    found = offered(quantization__load_in="none", training__optim="paged_adamw_32bit")
    keeping = {id for id, remedy in found.items() if not remedy.changes_training}
    assert keeping == {"batch-2", "batch-1", "checkpointing", "offloading", "larger-card"}


def test_checkpoints_cannot_be_continued_from_with_other_shapes() -> None:
    found = offered()
    assert {id for id, r in found.items() if r.continues} >= {"batch-1", "checkpointing", "max-length-768"}
    assert not any(found[id].continues for id in ("rank-8", "targets-qv", "optimizer-8bit"))


def test_a_slowdown_has_a_source_or_is_not_known() -> None:
    for remedy in offered().values():
        assert remedy.slowdown_source
        assert remedy.slowdown is None or remedy.slowdown >= 1
    assert offered()["batch-1"].slowdown is None
    assert "2022" in offered()["checkpointing"].slowdown_source


def test_the_smallest_larger_cards_are_named() -> None:
    larger = offered(12)["larger-card"]
    needed = by_formula(question(12)).needed_bytes
    sizes = [card.size_gb for card in KNOWN_CARDS if card.name in larger.cards]
    assert sizes
    assert min(sizes) * GIB >= needed
    assert f"a card of {min(sizes)} GB, such as {larger.cards[0]}" in larger.note
    assert "rented" in larger.note


def test_a_run_that_failed_although_it_was_predicted_to_fit_gets_a_larger_card_all_the_same() -> None:
    larger = {remedy.id: remedy for remedy in remedies(question(), None, capacity_bytes=45 * GIB)}["larger-card"]
    assert "may need more than the 45.0 GiB" in larger.note
    assert all(card.total_bytes > 45 * GIB for card in KNOWN_CARDS if card.name in larger.cards)


def test_capacity_counts_instead_of_what_is_free() -> None:
    assert not any(r.fits for r in remedies(question(80), None, capacity_bytes=GIB) if r.predicted_peak_bytes)


def test_on_a_cpu_nothing_is_offered_that_needs_a_gpu() -> None:
    host = Card("host memory", 16 * GIB, on_cpu=True, total_bytes=16 * GIB)
    run = replace(question(hardware__device="cpu"), card=host)
    found = {remedy.id: remedy for remedy in remedies(run, None)}
    assert not {"offloading", "optimizer-paged", "expandable-segments", "attention-flash"} & set(found)
    assert not found["larger-card"].cards
    for remedy in found.values():
        remedy.apply(run.spec)


def test_where_nobody_knows_what_is_free_it_says_so() -> None:
    with pytest.raises(ValueError, match="how much memory is free"):
        remedies(replace(question(), card=Card("no cuda:3 here", None)), None)


def test_a_remedy_that_does_not_go_with_a_spec_is_refused() -> None:
    four_bits = offered(quantization__load_in="none")["load-4bit"]
    with pytest.raises(InvalidSpec):
        four_bits.apply(spec(quantization__load_in="none", lora__init_lora_weights="pissa"))
    assert "load-4bit" not in offered(quantization__load_in="none", lora__init_lora_weights="pissa")


def test_it_is_written_as_the_event_has_it() -> None:
    raw = json.loads(json.dumps([remedy.to_json() for remedy in remedies(question(), None)]))
    batch = next(remedy for remedy in raw if remedy["id"] == "batch-1")
    assert batch["changes"]["training.per_device_train_batch_size"] == [4, 1]
    assert batch["changes"]["training.gradient_accumulation_steps"] == [4, 16]
    needed = {
        "id",
        "changes",
        "predicted_peak_bytes",
        "saves_bytes",
        "fits",
        "effective_batch_size",
        "changes_training",
    }
    assert needed | {"note"} <= set(batch)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    remedies(question(), None, progress=lambda *news: told.append(news))
    assert told[0][0] == "the run as it is"
    assert all(done < total for _, done, total in told)


# ---- traced


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Question, Inspector]]:
    with tiny(tmp_path_factory.mktemp("tiny")) as pair:
        yield pair


def test_traced_prices_are_those_that_a_prediction_gives(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    found = {remedy.id: remedy for remedy in remedies(run, inspector, most_traced=6)}
    before = predict(run, "shallow", inspector)
    checkpointing, batch = found["checkpointing"], found["batch-1"]
    for remedy in (checkpointing, batch):
        after = predict(replace(run, spec=remedy.apply(run.spec)), "shallow", inspector)
        assert remedy.tier == after.tier == "shallow"
        assert remedy.predicted_peak_bytes == after.device_bytes
        assert remedy.saves_bytes == before.device_bytes - after.device_bytes
    both = combined(run, [checkpointing, batch], inspector)
    assert both.tier == "shallow"
    assert both.device_bytes <= min(checkpointing.predicted_peak_bytes or 0, batch.predicted_peak_bytes or 0)
    assert ALLOCATOR not in {field for remedy in found.values() for field in remedy.changes} or (
        found["expandable-segments"].apply(run.spec) == run.spec
    )


def test_no_more_is_traced_than_allowed(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    tiers = [remedy.tier for remedy in remedies(run, inspector, most_traced=2) if remedy.tier]
    assert tiers.count("shallow") <= 1
    assert "formula" in tiers


def test_a_run_that_cannot_be_traced_is_priced_by_the_formula(
    traced: tuple[Question, Inspector], tmp_path: Path
) -> None:
    run, inspector = traced
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    found = remedies(replace(run, config_folder=tmp_path), inspector)
    assert {remedy.tier for remedy in found if remedy.predicted_peak_bytes} == {"formula"}


def test_int8_is_compared_with_the_formula_not_with_a_trace(traced: tuple[Question, Inspector]) -> None:
    run, inspector = traced
    plain = replace(run, spec=spec(quantization__load_in="none", model__name_or_path=run.spec.model.name_or_path))
    eight = next(remedy for remedy in remedies(plain, inspector, most_traced=2) if remedy.id == "load-8bit")
    assert eight.tier == "formula"
    then = by_formula(replace(plain, spec=eight.apply(plain.spec)))
    assert eight.saves_bytes == by_formula(plain).device_bytes - then.device_bytes
