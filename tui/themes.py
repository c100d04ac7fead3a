"""Themes: one YAML file each, in `themes/` beside the package in a checkout and inside it when installed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from textual.color import Color, ColorParseError
from textual.theme import Theme

DEFAULT_THEME = "loradeck-dark"

COLOURS = (
    "primary",
    "secondary",
    "warning",
    "error",
    "success",
    "accent",
    "foreground",
    "background",
    "surface",
    "panel",
    "boost",
)
FIELDS = tuple(field.name for field in fields(Theme) if field.name not in ("name", "ansi"))


class BadTheme(ValueError):
    """A theme file that cannot be used; the message names the file, the field and what to write."""


def themes_folder() -> Path:
    """Where the themes that come with Loradeck are."""
    installed = Path(__file__).parent / "themes"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "themes"


def load_themes(folder: Path | None = None) -> list[Theme]:
    """Every theme of `folder` (by default, Loradeck's own). Raises BadTheme."""
    return [read_theme(path) for path in sorted((folder or themes_folder()).glob("*.yaml"))]


def read_theme(path: Path) -> Theme:
    """The theme in the file at `path`, called `loradeck-<file name>`. Raises BadTheme."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadTheme(f"{path.name}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadTheme(f"{path.name}: a theme is a list of `name: colour` lines.")
    problems = list(_problems(values))
    if problems:
        raise BadTheme("\n".join(f"{path.name}: {problem}" for problem in problems))
    return Theme(name=f"loradeck-{path.stem}", **values)


def _problems(values: dict[Any, Any]) -> list[str]:
    problems = []
    if "primary" not in values:
        problems.append("primary: missing; every theme needs it.")
    for name, value in values.items():
        if name in COLOURS:
            problems += _colour_problem(name, value)
        elif name == "dark":
            if not isinstance(value, bool):
                problems.append(f"dark: {value!r} is neither true nor false.")
        elif name in ("luminosity_spread", "text_alpha"):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                problems.append(f"{name}: {value!r} is no number from 0 to 1.")
        elif name == "variables":
            if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
                problems.append('variables: write `name: "value"` lines below it, as text.')
        else:
            problems.append(f"{name}: unknown; a theme has {', '.join(FIELDS)}.")
    return problems


def _colour_problem(name: str, value: object) -> list[str]:
    try:
        Color.parse(str(value))
    except ColorParseError:
        return [f'{name}: {value!r} is no colour; write "#rrggbb" (with the quotes) or a CSS name.']
    return []
