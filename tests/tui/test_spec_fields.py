"""Settings as text: what is shown can be typed, and what is typed is that value or a problem."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.checks import parse_spec
from engine.spec import TOP_SETTINGS, RunSpec
from tui.planning.draft import Draft
from tui.planning.spec_fields import Unreadable, number_text, sections, spec_fields, value_in


def draft(**values: dict[str, Any]) -> Draft:
    least: dict[str, dict[str, Any]] = {"model": {"name_or_path": "some/model"}, "data": {"train": "rows.jsonl"}}
    return Draft(parse_spec({**least, **{section: {**least.get(section, {}), **v} for section, v in values.items()}}))


def typed(edited: Draft, field: str, text: str) -> bool:
    """Type `text` into a setting; whether it was taken."""
    try:
        value = spec_fields()[field].parsed(text)
    except Unreadable:
        return False
    return not edited.change(field, value)


def on_one_line(text: str) -> bool:
    return not any(unicodedata.category(character) == "Cc" for character in text)


def test_every_setting_of_the_spec_is_there_the_common_ones_first() -> None:
    everything = {f"{section}.{name}" for section, model in sections().items() for name in model.model_fields}
    assert set(spec_fields()) == everything | set(TOP_SETTINGS)
    assert set(sections()) == set(RunSpec.model_fields) - {"version", "parent", *TOP_SETTINGS}
    mains = [field.main for field in spec_fields().values() if field.section == "training"]
    assert mains == sorted(mains, reverse=True)


def test_a_setting_outside_the_sections_is_listed_under_hardware_and_edited_like_the_others() -> None:
    field = spec_fields()["on_oom"]
    assert (field.section, field.name, field.kind, field.default, field.main) == (
        "hardware",
        "on_oom",
        "choice",
        "ask",
        True,
    )
    edited = draft()
    assert typed(edited, "on_oom", "retry")
    assert edited.spec.on_oom == edited.value("on_oom") == value_in(edited.spec.model_dump(), "on_oom") == "retry"
    assert not typed(edited, "on_oom", "again")
    assert edited.undo()
    assert edited.value("on_oom") == "ask"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("lora.r", " 32 ", 32),
        ("training.learning_rate", "2e-4", 2e-4),
        ("data.max_length", "", None),
        ("data.max_length", "-", None),
        ("model.revision", "", None),
        ("model.revision", "123", "123"),
        ("lora.target_modules", "all-linear", "all-linear"),
        ("lora.target_modules", "q_proj", "q_proj"),
        ("lora.target_modules", "[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("lora.target_modules", r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
        ("lora.target_modules", "'[qv]_proj'", "[qv]_proj"),
        ("lora.modules_to_save", "embed_tokens, lm_head", ["embed_tokens", "lm_head"]),
        ("lora.layers_to_transform", "3", 3),
        ("lora.layers_to_transform", "1, 2", [1, 2]),
        ("lora.rank_pattern", "down_proj: 32", {"down_proj": 32}),
        ("lora.rank_pattern", "{down_proj: 32, 'up.*': 8}", {"down_proj": 32, "up.*": 8}),
        ("lora.init_lora_weights", "true", True),
        ("lora.init_lora_weights", "gaussian", "gaussian"),
        ("training.bf16", "no", False),
        ("data.train", "my rows #1: all.jsonl", "my rows #1: all.jsonl"),
        ("data.train", "[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
    ],
)
def test_text_means_what_a_person_expects(field: str, text: str, value: Any) -> None:
    edited = draft()
    assert typed(edited, field, text)
    assert edited.value(field) == value
    assert type(edited.value(field)) is type(value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("lora.r", "0"),
        ("lora.r", "many"),
        ("lora.r", ""),
        ("lora.target_modules", "[q_proj, k_proj"),
        ("training.num_train_epochs", "inf"),
        ("training.learning_rate", "nan"),
        ("training.optim", "adam"),
        ("model.name_or_path", ""),
        ("lora.layers_to_transform", "[" * 10_000),
        ("training.seed", "-1"),
    ],
)
def test_what_is_no_value_changes_nothing(field: str, text: str) -> None:
    edited = draft()
    before = edited.spec
    assert not typed(edited, field, text)
    assert edited.spec == before


@settings(deadline=None, max_examples=400)
@given(field=st.sampled_from(sorted(spec_fields())), text=st.text())
@example("lora.rank_pattern", "? [a]: 1")
@example("data.columns", "2001-99-99")
@example("lora.modules_to_save", "\x00")
@example("lora.r", "9" * 5000)
def test_any_text_is_a_value_or_a_problem(field: str, text: str) -> None:
    edited = draft()
    before = edited.spec
    if typed(edited, field, text):
        shown = spec_fields()[field].shown(edited.value(field))
        again = draft()
        assert typed(again, field, "" if edited.value(field) is None else shown)
        assert again.value(field) == edited.value(field)
        assert on_one_line(shown)
    else:
        assert edited.spec == before


names = st.text(min_size=1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model.name_or_path": names,
    "model.revision": st.none() | st.text(),
    "lora.target_modules": names | st.lists(names, min_size=1),
    "lora.exclude_modules": st.none() | st.text() | st.lists(st.text()),
    "lora.modules_to_save": st.none() | st.lists(st.text()),
    "lora.layers_to_transform": st.none() | st.integers() | st.lists(st.integers()),
    "lora.rank_pattern": st.dictionaries(st.text(), st.integers(1, 99)),
    "data.train": st.text() | st.lists(st.text()),
    "data.columns": st.dictionaries(st.text(), st.text()),
    "training.learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
}


@settings(deadline=None, max_examples=400)
@given(data=st.data(), field=st.sampled_from(sorted(VALUES)))
def test_what_is_shown_can_be_typed(data: st.DataObject, field: str) -> None:
    value = data.draw(VALUES[field])
    edited = draft()
    if edited.change(field, value):
        return
    shown = spec_fields()[field].shown(value)
    assert on_one_line(shown)
    again = draft()
    assert typed(again, field, "" if value is None else shown), shown
    assert again.value(field) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_never_rounded(value: float) -> None:
    assert float(number_text(value)) == value


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [number_text(value) for value in (2e-4, 0.05, 3.0, 1e-8, 0.0)] == ["2e-4", "0.05", "3", "1e-8", "0"]
