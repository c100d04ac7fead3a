"""The spec as YAML in the person's own editor, and back."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import yaml
from textual.app import App, SuspendNotSupported

from engine.checks import InvalidSpec, Problem, typed_spec, write_spec
from tui.planning.draft import Draft
from tui.planning.spec_fields import spec_fields, value_in

EDITORS = ("VISUAL", "EDITOR")
"""Variables that name the editor; without them it is vi, as POSIX has it."""
NOTE = "#! "
"""Begins the lines that say what is wrong, at the top of a text that is edited again."""

_unfinished: WeakKeyDictionary[Draft, Path] = WeakKeyDictionary()
"""Texts that were no spec, by the draft that they were to become."""


def edit_in_editor(app: App[Any], draft: Draft) -> list[Problem]:
    """Let the person edit `draft` as YAML, with the app out of the way; returns what kept it from being taken over.

    The edit is one step to undo. A text that is no spec changes nothing, is kept in the file that the first problem
    names, and comes back in the editor the next time, with the problems on top.
    """
    path = _unfinished.get(draft) or _new_file(draft)
    before = path.read_text(encoding="utf-8")
    command = editor_command()
    try:
        with app.suspend():
            done = subprocess.run([*command, str(path)], check=False)
    except SuspendNotSupported:
        return _given_up(draft, path, "this terminal cannot be handed to an editor")
    except OSError as error:
        return _given_up(draft, path, f"{command[0]} cannot be started: {error.strerror}")
    if done.returncode != 0:
        return _kept(
            draft, path, [Problem(command[0], f"ended with {done.returncode}, so its text was not taken over")]
        )
    try:
        text = path.read_text(encoding="utf-8")
        problems = [] if text == before and draft not in _unfinished else take_over(draft, text)
    except (OSError, UnicodeDecodeError) as error:
        problems = [Problem(str(path), f"cannot be read: {error}")]
    if problems:
        return _kept(draft, path, problems)
    _forget(draft, path)
    return []


def take_over(draft: Draft, text: str) -> list[Problem]:
    """Give `draft` every setting that the YAML `text` says, as one edit; returns what is wrong with it."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        what = error.problem if isinstance(error, yaml.MarkedYAMLError) else "it may hold control characters"
        return [Problem(f"line {mark.line + 1}" if mark else "the text", f"is not YAML: {what}")]
    if not isinstance(raw, dict):
        return [Problem("the text", "holds no settings", "leave the file as it was to change nothing")]
    try:
        spec = typed_spec(raw)
    except InvalidSpec as error:
        return error.problems
    values = spec.model_dump()
    return draft.change_all({name: value_in(values, name) for name in spec_fields()})


def editor_command() -> list[str]:
    """The person's editor as a command line without the file."""
    words = next((value for name in EDITORS if (value := os.environ.get(name, "").strip())), "vi")
    try:
        return shlex.split(words)
    except ValueError:  # a quote that is not closed
        return [words]


def _new_file(draft: Draft) -> Path:
    fd, name = tempfile.mkstemp(prefix=f"{draft.path.stem if draft.path else 'run'}-", suffix=".yaml")
    with open(fd, "w", encoding="utf-8") as file:
        file.write(write_spec(draft.spec))
    return Path(name)


def _kept(draft: Draft, path: Path, problems: list[Problem]) -> list[Problem]:
    """Keep the text for the next time, the problems noted on top of it."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    notes = [f"{NOTE}{line}\n" for problem in problems for line in str(problem).splitlines()]
    text = "".join([*notes, *(line for line in lines if not line.startswith(NOTE))])
    path.write_text(text, encoding="utf-8")
    _unfinished[draft] = path
    return [Problem(str(path), "holds your text, which is no spec yet", "edit again to go on with it"), *problems]


def _given_up(draft: Draft, path: Path, reason: str) -> list[Problem]:
    if draft not in _unfinished:
        path.unlink(missing_ok=True)
    return [Problem("editor", reason, f"set {' or '.join(EDITORS)} to an editor of this machine")]


def _forget(draft: Draft, path: Path) -> None:
    _unfinished.pop(draft, None)
    path.unlink(missing_ok=True)
