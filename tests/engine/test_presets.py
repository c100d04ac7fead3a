"""Presets: each a valid edit, with a reason for every value."""

from __future__ import annotations

import pytest

from engine.checks import impossible_combinations, parse_spec
from engine.presets import CARDS, GOALS, PRESETS, Preset, differences
from engine.spec import RunSpec
from tui.planning.draft import Draft

BY_NAME = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)


def spec() -> RunSpec:
    return parse_spec({"model": {"name_or_path": "some/model"}, "data": {"train": "rows.jsonl"}})


def applied(draft: Draft, preset: Preset) -> None:
    assert draft.change_all({setting.field: setting.value for setting in preset.settings}) == []


@BY_NAME
def test_a_preset_is_one_valid_edit(preset: Preset) -> None:
    draft = Draft(spec())
    draft.change_all({"lora.r": 1, "training.per_device_train_batch_size": 64, "training.warmup_steps": 0.1})
    before = draft.spec
    applied(draft, preset)
    assert list(differences(preset, draft.spec)) == []
    assert list(impossible_combinations(draft.spec)) == []
    assert draft.spec.training.warmup_steps == 0.1
    assert draft.undo()
    assert draft.spec == before


@BY_NAME
def test_every_value_has_a_reason_of_one_sentence(preset: Preset) -> None:
    fields = [setting.field for setting in preset.settings]
    assert len(set(fields)) == len(fields)
    for setting in preset.settings:
        assert setting.reason.endswith(".")
        assert "\n" not in setting.reason


@pytest.mark.parametrize("card", CARDS, ids=lambda preset: preset.name)
def test_a_card_keeps_the_effective_batch_of_the_guide(card: Preset) -> None:
    draft = Draft(spec())
    applied(draft, card)
    assert draft.spec.effective_batch_size == 16


@pytest.mark.parametrize("goal", GOALS, ids=lambda preset: preset.name)
@pytest.mark.parametrize("card", CARDS, ids=lambda preset: preset.name)
def test_a_goal_and_a_card_go_together(goal: Preset, card: Preset) -> None:
    draft = Draft(spec())
    applied(draft, goal)
    applied(draft, card)
    assert list(impossible_combinations(draft.spec)) == []


def test_standard_qlora_is_what_a_new_spec_has() -> None:
    standard = next(preset for preset in GOALS if preset.name == "standard QLoRA")
    assert list(differences(standard, spec())) == []


def test_all_linear_takes_the_place_of_a_choice_of_layers() -> None:
    draft = Draft(spec())
    draft.change_all({"lora.layers_to_transform": [0, 1], "lora.rank_pattern": {"q_proj": 4}})
    applied(draft, next(preset for preset in GOALS if preset.name == "all-linear"))
    assert draft.spec.lora.layers_to_transform is None
    assert draft.problems() == []
