"""Ways out of memory: which are marked, which exclude each other, and what they are called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.memory.ways_out.remedies import Remedy, remedies
from tests.engine.memory.runs_to_price import question
from tui.glyphs import ASCII, UNICODE
from tui.out_of_memory.choice_words import NONE_FITS_ALONE, NOTHING_CHOSEN, NOTHING_TO_CHOOSE, nothing_chosen
from tui.out_of_memory.remedy_choice import RemedyChoice, effective_batch_size
from tui.out_of_memory.remedy_words import details, speed, what_changes

RUN = question(12, training__activation_checkpointing=True, training__per_device_train_batch_size=8)
BEST_FIRST = remedies(RUN, None)
LORA = RUN.spec.lora


@pytest.fixture
def choice() -> RemedyChoice:
    choice = RemedyChoice()
    choice.offer(BEST_FIRST)
    return choice


def by_id(choice: RemedyChoice) -> dict[str, Remedy]:
    return {remedy.id: remedy for remedy in choice.remedies}


def test_the_first_that_fits_and_leaves_training_the_same_is_marked_from_the_beginning(choice: RemedyChoice) -> None:
    first = next(remedy for remedy in BEST_FIRST if remedy.fits and remedy.changes and not remedy.changes_training)
    assert choice.marked == [first.id]


def test_nothing_is_marked_where_nothing_fits_as_it_is_learnt() -> None:
    choice = RemedyChoice()
    choice.offer([replace(remedy, fits=remedy.changes_training) for remedy in BEST_FIRST])
    assert choice.marked == []
    assert choice.values == {}


def test_two_that_set_the_same_exclude_each_other(choice: RemedyChoice) -> None:
    choice.marked = []
    assert choice.toggle("batch-1") == []
    assert choice.toggle("offloading") == []
    assert [remedy.id for remedy in choice.toggle("batch-2")] == ["batch-1"]
    assert choice.marked == ["offloading", "batch-2"]
    assert choice.values["training.per_device_train_batch_size"] == 2
    assert choice.toggle("offloading") == []
    assert choice.marked == ["batch-2"]


def test_what_is_nothing_to_set_cannot_be_marked(choice: RemedyChoice) -> None:
    before = list(choice.marked)
    assert choice.toggle("larger-card") == []
    assert choice.marked == before


def test_later_prices_come_in_place_and_keep_the_marks(choice: RemedyChoice) -> None:
    order, marked = [remedy.id for remedy in choice.remedies], list(choice.marked)
    traced = [replace(remedy, tier="shallow") for remedy in reversed(BEST_FIRST) if remedy.id != "rank-8"]
    choice.offer([replace(traced[0], id="new"), *traced])
    assert [remedy.id for remedy in choice.remedies] == [*order, "new"]
    assert choice.marked == marked
    found = by_id(choice)
    assert found["batch-1"].tier == "shallow"
    assert found["rank-8"].tier == "formula", "there is no trace of it"
    assert "could not be traced" in found["rank-8"].note


def test_the_effective_batch_is_kept_unless_the_person_says_otherwise(choice: RemedyChoice) -> None:
    choice.marked = ["batch-2"]
    now = RUN.spec.effective_batch_size
    assert choice.values["training.gradient_accumulation_steps"] == 16
    assert effective_batch_size(choice.chosen, now) == now == 32
    assert not choice.changes_training
    choice.keeps_batch = False
    assert choice.values == {"training.per_device_train_batch_size": 2}
    assert effective_batch_size(choice.chosen, now) == 8
    assert choice.changes_training
    assert "learns from 8 rows instead of 32" in choice.chosen[0].note
    assert what_changes(choice.chosen[0], LORA, UNICODE) == "batch 8 → 2"


def test_a_run_that_is_to_help_itself_the_next_time_says_so_in_its_settings(choice: RemedyChoice) -> None:
    choice.retries = True
    assert choice.values["on_oom"] == "retry"


def test_one_that_begins_anew_makes_all_of_them_do(choice: RemedyChoice) -> None:
    choice.marked = ["batch-1"]
    assert choice.continues
    choice.toggle("rank-8")
    assert not choice.continues
    assert choice.changes_training


def test_changes_are_said_in_a_few_words() -> None:
    words = {remedy.id: what_changes(remedy, LORA, UNICODE) for remedy in BEST_FIRST}
    assert words["batch-1"] == "batch 8 → 1, accumulation 4 → 32"
    assert words["offloading"] == "activation offloading on"
    assert words["optimizer-8bit"] == "optim adamw_torch → adamw_8bit"
    assert words["max-length-768"] == "max_length 1024 → 768 (cuts 33.2 % of rows, 7.6 % now)"
    assert words["targets-attention"] == "targets all-linear → attention"
    assert words["rank-8"] == "r 16 → 8, lora_alpha 32 → 16"
    assert words["smaller-model"] == "a smaller model of the same family"
    assert words["larger-card"].startswith("a larger card: T4, ")
    assert all(
        what_changes(remedy, LORA, ASCII) == words[remedy.id].replace("→", "->")
        for remedy in BEST_FIRST
        if remedy.id != "larger-card"
    )


def test_speed_is_of_tokens_a_second() -> None:
    assert [speed(slowdown) for slowdown in (1.24, 1.0, 1.33, 0.92, None)] == ["-19 %", "0 %", "-25 %", "+9 %", "?"]


def test_details_say_what_the_columns_cannot() -> None:
    found = {remedy.id: remedy for remedy in BEST_FIRST}
    batch = " ".join(details(found["batch-1"], "checkpoint-30"))
    assert "Predicted by the formula, saves" in batch
    assert "Continues from checkpoint-30." in batch
    assert "Speed not measured: short passes" in batch
    assert "Begins anew" in " ".join(details(found["rank-8"], "checkpoint-30"))
    assert "cannot be chosen" in details(found["larger-card"], None)[-1]


def test_where_nothing_is_marked_it_says_what_to_do(choice: RemedyChoice) -> None:
    choice.marked = []
    assert nothing_chosen(choice) == NOTHING_CHOSEN
    none_fits, nothing_to_set = RemedyChoice(), RemedyChoice()
    none_fits.offer([replace(remedy, fits=False) for remedy in BEST_FIRST])
    assert nothing_chosen(none_fits) == NONE_FITS_ALONE
    nothing_to_set.offer([remedy for remedy in BEST_FIRST if not remedy.changes])
    assert nothing_chosen(nothing_to_set) == NOTHING_TO_CHOOSE
