"""Keys that can be remapped: every binding of the app has an id, to which a settings file may give other keys."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping

from textual.binding import Binding

from tui.settings import suggestion

TOGETHER = (
    ("app", "plan", "tree"),
    ("app", "plan", "settings"),
    ("app", "monitor"),
    ("app", "runs"),
    ("app", "oom", "remedies"),
    ("app", "compare"),
    ("app", "data", "tokens"),
    ("app", "chat", "question"),
    ("app", "evaluation", "changed"),
    ("app", "evaluation", "answers"),
)
"""Parts of the app whose keys can be pressed at the same time, as binding ids begin."""


def all_bindings() -> dict[str, Binding]:
    """Every binding with an id, by its id. Imports all screens and widgets: not for the way to the first paint."""
    return {binding.id: binding for binding in every_binding() if binding.id is not None}


def problems_with(keymap: Mapping[str, str]) -> list[str]:
    """What is wrong with a keymap, for a person: ids that no binding has, and keys that already mean something."""
    known = all_bindings()
    problems = [
        f"keymap: {name} is no key's name here; {suggestion(name, sorted(known))}"
        for name in keymap
        if name not in known
    ]
    clashes = (clash for together in TOGETHER for clash in _clashes(keymap, known, together))
    return [*problems, *dict.fromkeys(clashes)]


def _clashes(keymap: Mapping[str, str], known: Mapping[str, Binding], together: tuple[str, ...]) -> Iterator[str]:
    taken: dict[str, str] = {}
    for binding_id, binding in known.items():
        if binding_id.partition(".")[0] not in together:
            continue
        for key in keymap.get(binding_id, binding.key).split(","):
            other = taken.setdefault(key.strip(), binding_id)
            if other != binding_id and (binding_id in keymap or other in keymap):
                yield f"keymap: {key.strip()} is both {' and '.join(sorted((other, binding_id)))}."


def every_binding() -> Iterator[Binding]:
    """Every binding that a class of the app declares."""
    for package in ("tui.screens", "tui.widgets"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    importlib.import_module("tui.app")
    seen: set[type] = set()
    for name in sorted(name for name in sys.modules if name.startswith("tui.")):
        for _, part in inspect.getmembers(sys.modules[name], inspect.isclass):
            if part in seen or not part.__module__.startswith("tui."):
                continue
            seen.add(part)
            yield from (binding for binding in vars(part).get("BINDINGS", ()) if isinstance(binding, Binding))
