"""Themes: one YAML file each. Ours are in `themes/` beside the package in a checkout and inside it when installed; a
person's own are in the config folder's `themes/`, where one of the same name takes our theme's place.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from textual.color import Color, ColorParseError
from textual.theme import BUILTIN_THEMES, Theme

DEFAULT_THEME = "dark"

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
FIELDS = tuple(field.name for field in fields(Theme) if field.name != "name")
FLAGS = ("dark", "ansi")


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
    """The theme in the file at `path`, called as the file is. Raises BadTheme."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadTheme(f"{path.name}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadTheme(f"{path.name}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise BadTheme(f"{path.name}: a theme is a list of `name: colour` lines.")
    problems = list(_problems(values))
    if problems:
        raise BadTheme("\n".join(f"{path.name}: {problem}" for problem in problems))
    if values.get("ansi"):
        # Textual's own style sheets name variables that only its own such themes have.
        base = BUILTIN_THEMES["ansi-dark" if values.get("dark", True) else "ansi-light"]
        values["variables"] = {**base.variables, **values.get("variables", {})}
    return Theme(name=path.stem, **values)


class ThemeFolder:
    """A person's own themes: which files changed since the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written_ns: dict[Path, int] = {}

    def changed(self) -> tuple[list[Theme], list[str]]:
        """Themes that are new or were written since the last call, and what is wrong with files. Touches the disk."""
        themes, problems = [], []
        for path in sorted(self.folder.glob("*.yaml")):
            try:
                written_ns = path.stat().st_mtime_ns
            except OSError:  # it was removed meanwhile
                continue
            if self._written_ns.get(path) == written_ns:
                continue
            self._written_ns[path] = written_ns
            try:
                themes.append(read_theme(path))
            except BadTheme as error:
                problems.append(str(error))
        return themes, problems


def _problems(values: dict[Any, Any]) -> list[str]:
    problems = []
    if "primary" not in values:
        problems.append("primary: missing; every theme needs it.")
    for name, value in values.items():
        if name in COLOURS:
            problems += _colour_problem(name, value)
        elif name in FLAGS:
            if not isinstance(value, bool):
                problems.append(f"{name}: {value!r} is neither true nor false.")
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
