"""Fields of events. The files may hold anything: what is not of the right kind is treated as missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from engine.runs.events import Event

LARGEST = sys.float_info.max


def number(value: object) -> float | None:
    """A finite number."""
    # NaN is in no range, and a whole number that is too large for a float is compared without one.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST:
        return float(value)
    return None


def whole(value: object) -> int | None:
    """A finite number without its fraction: steps and bytes."""
    finite = number(value)
    return None if finite is None else int(finite)


def text(event: Event, name: str) -> str:
    """A text field of an event; empty where it is missing."""
    value = event.get(name)
    return value if isinstance(value, str) else ""


def objects(value: object) -> Iterable[dict[str, Any]]:
    """The JSON objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
