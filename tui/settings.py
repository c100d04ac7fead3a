"""The person's settings file: keys, theme, and what the terminal can do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FILE_NAME = "settings.yaml"


@dataclass(frozen=True)
class Settings:
    """What the settings file may hold. Every line is optional."""

    theme: str | None = None
    """A theme's name: `dark`, `light`, `terminal16`, `contrast`, or a file of the config folder's `themes/`."""
    ascii: bool = False
    """Draw with ASCII only."""
    mouse: bool = True
    """Let the mouse move the cursor; off leaves it to the terminal, which can then select text."""
    keymap: Mapping[str, str] = field(default_factory=dict)
    """Other keys: a binding's id -> a key or several with commas, such as `plan.start: f6`. F1 lists the ids."""


def config_folder() -> Path:
    """Where the settings and a person's own themes are: `$LORADECK_CONFIG`, or `loradeck` in the XDG config folder."""
    if chosen := os.environ.get("LORADECK_CONFIG"):
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("loradeck")


def read_settings(folder: Path | None = None) -> tuple[Settings, list[str]]:
    """The settings in `folder` (by default, the config folder) and what is wrong with them, for a person.

    What is wrong is left at its default; the rest counts.
    """
    path = (folder or config_folder()) / FILE_NAME
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings(), []
    except (OSError, UnicodeDecodeError) as error:
        return Settings(), [f"{path} cannot be read: {error}"]
    except yaml.YAMLError as error:
        return Settings(), [f"{path} is not YAML: {_where(error)}"]
    if values is None:
        return Settings(), []
    if not isinstance(values, dict):
        return Settings(), [f"{path}: write `name: value` lines, such as `theme: light`."]
    problems: list[str] = []
    good: dict[str, Any] = {}
    for name, value in values.items():
        if problem := _problem(str(name), value):
            problems.append(f"{FILE_NAME}: {problem}")
        else:
            good[str(name)] = value
    return Settings(**good), problems


def suggestion(name: str, names: list[str]) -> str:
    """`did you mean plan.start?`, or the names there are."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(names[:12])}."


def _problem(name: str, value: Any) -> str:
    if name in ("ascii", "mouse"):
        return "" if isinstance(value, bool) else f"{name}: {value!r} is neither true nor false."
    if name == "theme":
        return "" if isinstance(value, str) else f"theme: {value!r} is no name of a theme."
    if name == "keymap":
        if not isinstance(value, dict):
            return "keymap: write `plan.start: f6` lines below it."
        bad = [f"{key}: {keys!r}" for key, keys in value.items() if not isinstance(keys, str) or not keys.strip()]
        return f"keymap: {', '.join(bad)}: write a key's name, such as f6 or ctrl+t." if bad else ""
    return f"{name}: unknown; {suggestion(name, list(Settings.__dataclass_fields__))}"


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return "it may hold control characters."
