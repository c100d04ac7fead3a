from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.models import llama
from tui.planning.draft import Draft

MODEL = llama(layers=2, hidden=64, keys=32, mlp=128, heads=4, vocabulary=512)


@pytest.fixture
def draft() -> Draft:
    draft = Draft()
    draft.change_all({"model.name_or_path": "m", "data.train": "rows.jsonl"})
    draft.architecture = MODEL
    return draft


def test_an_empty_draft_says_what_it_lacks_and_takes_every_other_edit() -> None:
    draft = Draft()
    assert [problem.field for problem in draft.problems()] == ["model.name_or_path", "data.train"]
    assert draft.change("lora.r", 8) == []
    assert draft.spec.lora.r == 8
    assert draft.spec.model.name_or_path == ""
    assert draft.change("model.name_or_path", "demo") == []
    assert [problem.field for problem in draft.problems()] == ["data.train"]


def test_a_value_that_is_none_changes_nothing(draft: Draft) -> None:
    before = draft.spec
    problems = draft.change_all({"lora.r": 0, "lora.lora_alpha": 8})
    assert [problem.field for problem in problems] == ["lora.r"]
    assert draft.spec is before


def test_undo_and_redo_go_through_the_edits(draft: Draft) -> None:
    draft.change("lora.r", 8)
    draft.select(["model.layers.0.mlp.up_proj"], True)
    assert draft.undo()
    assert draft.spec.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert draft.spec.lora.r == 8
    assert draft.undo()
    assert draft.spec.lora.r == 16
    assert draft.redo()
    assert draft.redo()
    assert not draft.redo()
    assert "model.layers.0.mlp.up_proj" in draft.selection.targets


def test_totals_follow_rows_and_batch(draft: Draft) -> None:
    draft.train_rows = 100
    assert (draft.totals().steps_per_epoch, draft.totals().total_steps) == (7, 21)
    draft.change("training.max_steps", 5)
    assert draft.totals().total_steps == 5
    draft.change_all({"training.max_steps": -1, "data.packing": True})
    assert draft.totals().steps_per_epoch is None


def test_a_model_that_the_formula_does_not_know_has_no_prediction_and_keeps_its_counts(draft: Draft) -> None:
    from dataclasses import replace

    draft.architecture = replace(MODEL, config={})
    assert draft.footprint is None
    assert draft.totals().trainable_parameters == 2 * 16 * (128 + 96 + 96 + 128)


def test_ranks_of_what_is_no_longer_chosen_are_forgotten(draft: Draft) -> None:
    draft.set_rank(["model.layers.0.self_attn.q_proj"], 64)
    assert draft.selection.ranks == {"model.layers.0.self_attn.q_proj": 64}
    draft.select(["model.layers.0.self_attn.q_proj"], False)
    draft.select(["model.layers.0.self_attn.q_proj"], True)
    assert draft.selection.ranks == {}


def test_saved_and_opened_it_is_the_same(draft: Draft, tmp_path: Path) -> None:
    assert draft.is_unsaved
    draft.save(tmp_path / "run.yaml")
    assert not draft.is_unsaved
    assert Draft.open(tmp_path / "run.yaml").spec == draft.spec
    draft.change("lora.r", 8)
    assert draft.is_unsaved
    draft.undo()
    assert not draft.is_unsaved
