"""Ways out as a `remedies` event holds them. The file may hold anything."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from engine.memory.ways_out.remedies import Remedy


def remedy_from(raw: Any) -> Remedy | None:
    """What `Remedy.to_json` wrote; None for another shape."""
    names = {field.name for field in fields(Remedy)}
    try:
        changes = {str(field): (old, new) for field, (old, new) in raw["changes"].items()}
        known = {name: value for name, value in raw.items() if name in names}
        return Remedy(**{**known, "changes": changes, "cards": tuple(map(str, raw.get("cards") or ()))})
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def first_to_set(listed: Any) -> tuple[int, Remedy] | None:
    """The first way out of a `remedies` event that is a setting, with its number; None where there is none."""
    for number, raw in enumerate(listed if isinstance(listed, list) else [], start=1):
        remedy = remedy_from(raw)
        if remedy is not None and remedy.changes:
            return number, remedy
    return None
