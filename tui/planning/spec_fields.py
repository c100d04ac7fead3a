"""The settings of a RunSpec as a form shows them: kinds, choices, and their values as one line of text and back.

Everything here is read from `engine.spec`: a field that is added there appears in the form by itself.
"""

from __future__ import annotations

import json
import types
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.checks import Problem
from engine.spec import TOP_SETTINGS, RunSpec, Section
from engine.starter import MAIN_SETTINGS

TITLES = {"lora": "LoRA"}
"""Sections whose heading is not their name with a capital."""

SECTION_OF_TOP_SETTINGS = "hardware"
"""Heading under which settings that are in no section are listed."""

UNSET = "-"
"""How None is shown, and one way to type it; the other is to leave the text empty."""

Kind = Literal["toggle", "choice", "number", "text"]


@dataclass(frozen=True)
class SpecField:
    """One setting."""

    full_name: str
    """Such as `lora.r`, or `on_oom`, which is in no section."""
    section: str
    """Under whose heading it is listed."""
    kind: Kind
    """`toggle` is yes or no (or unset); `choice` one of `choices`; `number` one number; `text` all else."""
    choices: tuple[Any, ...]
    """The values of a toggle or choice, in their order; None is among them where it may be unset."""
    may_be: frozenset[str]
    """The types that its text can mean: `str`, `int`, `float`, `list`, `dict`, `None`."""
    default: Any
    """PydanticUndefined where every run has to say it."""
    main: bool
    """Whether it is one of the common settings, shown first."""
    help: str
    """What it does and why one would change it: the field's docstring, on one line."""

    @property
    def name(self) -> str:
        """Its own name, as the library calls it."""
        return self.full_name.rpartition(".")[2]

    @property
    def has_default(self) -> bool:
        return self.default is not PydanticUndefined

    def is_changed(self, value: Any) -> bool:
        """Whether `value` differs from the default. What every run has to say never does."""
        return self.has_default and bool(value != self.default)

    def shown(self, value: Any) -> str:
        """`value` as text on one line; `parsed` turns it back."""
        if value is None:
            return UNSET
        if isinstance(value, bool):
            words = ("no", "yes") if self.kind == "toggle" else ("false", "true")
            return words[value]
        if isinstance(value, float):
            return number_text(value)
        if isinstance(value, str):
            return value if self.kind == "choice" or self._reads_as_itself(value) else _quoted(value)
        return _inline_yaml(value)

    def parsed(self, text: str) -> Any:
        """The value that a person means by `text`, to be validated by the spec. Raises Unreadable."""
        text = text.strip()
        if "None" in self.may_be and text in ("", UNSET):
            return None
        if self.kind in ("toggle", "choice"):
            return next((choice for choice in self.choices if self.shown(choice) == text), text)
        if "dict" in self.may_be:
            return self._yaml(text if text.startswith("{") else f"{{{text}}}")
        if self.kind == "number":
            return text
        if text.startswith(("'", '"')) or ("list" in self.may_be and text.startswith("[")):
            return self._yaml(text)
        if "str" in self.may_be:
            return text
        whole_number = "int" in self.may_be and text.lstrip("+-").isdigit()
        return self._yaml(text if whole_number else f"[{text}]")

    def _reads_as_itself(self, value: str) -> bool:
        try:
            return value.isprintable() and bool(self.parsed(value) == value)
        except Unreadable:
            return False

    def _yaml(self, text: str) -> Any:
        try:
            return yaml.safe_load(text)
        # Besides its own errors it lets through those of dates that do not exist and of too many brackets.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            what = error.problem if isinstance(error, yaml.MarkedYAMLError) and error.problem else "not YAML"
            hint = "put text that holds brackets, braces, colons or quotes between single quotes"
            raise Unreadable(Problem(self.full_name, f"cannot be read: {what}", hint)) from None


class Unreadable(ValueError):
    """Text that is no value at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@cache
def spec_fields() -> Mapping[str, SpecField]:
    """Every setting by its full name: the spec's sections in their order, in each the common settings first."""
    fields: dict[str, SpecField] = {}
    for section, model in sections().items():
        main = MAIN_SETTINGS[section]
        listed = [_spec_field(section, f"{section}.{name}", info) for name, info in model.model_fields.items()]
        if section == SECTION_OF_TOP_SETTINGS:
            listed += [_spec_field(section, name, RunSpec.model_fields[name]) for name in TOP_SETTINGS]
        listed.sort(key=lambda field: main.index(field.name) if field.name in main else len(main) + (not field.main))
        fields |= {field.full_name: field for field in listed}
    return fields


@cache
def sections() -> Mapping[str, type[Section]]:
    """The groups of settings, by their name in the spec."""
    return {
        name: info.annotation
        for name, info in RunSpec.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
    }


def value_in(settings: Mapping[str, Any], full_name: str) -> Any:
    """A setting's value in what `RunSpec.model_dump` returns."""
    section, _, name = full_name.rpartition(".")
    return settings[section][name] if section else settings[name]


def title(section: str) -> str:
    """A section's heading."""
    return TITLES.get(section, section.capitalize())


def number_text(value: float) -> str:
    """A number as a person writes it: `0.05`, `3`, `2e-4`; never rounded."""
    short = f"{value:.6g}"
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.5e}".partition("e")
        digits = mantissa.rstrip("0").removesuffix(".")
        short = f"{digits}e{int(exponent)}"
    return short if float(short) == value else repr(value)


def _spec_field(section: str, full_name: str, info: FieldInfo) -> SpecField:
    choices, may_be = _alternatives(info.annotation)
    if set(choices) == {True, False}:
        kind: Kind = "toggle"
    elif choices:
        kind = "choice"
    else:
        kind = "number" if may_be <= {"int", "float", "None"} else "text"
    if choices and "None" in may_be:
        choices = (None, *choices)
    return SpecField(
        full_name=full_name,
        section=section,
        kind=kind,
        choices=choices,
        may_be=may_be,
        default=info.get_default(call_default_factory=True),
        main=full_name in TOP_SETTINGS or full_name.rpartition(".")[2] in MAIN_SETTINGS[section],
        help=" ".join((info.description or "").split()),
    )


def _alternatives(annotation: Any) -> tuple[tuple[Any, ...], frozenset[str]]:
    """The choices that a type allows, if it allows only choices, and the names of the types that it allows."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_alternatives(part) for part in get_args(annotation)]
        return tuple(c for choices, _ in parts for c in choices), frozenset().union(*(names for _, names in parts))
    if get_origin(annotation) is Literal:
        return get_args(annotation), frozenset()
    if annotation is bool:
        return (True, False), frozenset()
    if annotation is type(None):
        return (), frozenset({"None"})
    base = get_origin(annotation) or annotation
    if hasattr(annotation, "__metadata__"):  # Annotated[int, Field(ge=1)]
        return _alternatives(annotation.__origin__)
    assert base in (str, int, float, list, dict), f"the form knows no way to edit {annotation}"
    return (), frozenset({base.__name__})


def _inline_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    if not any(map(_is_control, text)):
        return text
    # It breaks lines at some control characters. JSON is YAML too, once those that JSON lets pass are escaped.
    text = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(f"\\x{ord(character):02x}" if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _quoted(value: str) -> str:
    text: str = yaml.safe_dump(value, default_style='"', width=10**9)
    return text.strip()
