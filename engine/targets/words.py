"""What a person types about a model: ranges of layers, and filters."""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.architecture import Architecture
from engine.targets.index import index_of

RANGE = re.compile(r"(?P<first>-?\d+)(?:-(?P<last>\d+))?$|(?P<start>-?\d+)?:(?P<stop>-?\d+)?$")


class BadPattern(ValueError):
    """A filter that is no regular expression; the message is for a person."""


def parse_layers(text: str, count: int) -> list[int]:
    """The layers that `text` names, of a model that has `count`, in order.

    `3`, `0-15` (both included), `-8:` (the last eight), `:4` (the first four), `4:8` (as Python slices), and lists of
    these with commas. Raises ValueError with a message for a person.
    """
    layers: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        match = RANGE.match(part)
        if match is None:
            raise ValueError(f"{part!r} is no range of layers; write such as 0-15, -8: or 3,5,7")
        if ":" in part:
            start, stop = (int(bound) if bound else None for bound in match.group("start", "stop"))
            chosen = range(count)[start:stop]
        else:
            first = int(match["first"])
            first = count + first if first < 0 else first
            last = first if match["last"] is None else int(match["last"])
            if max(first, last) >= count or first < 0:
                raise ValueError(f"{part!r} is out of range: this model has layers 0 to {count - 1}")
            chosen = range(first, last + 1)
        if not chosen:
            raise ValueError(f"{part!r} holds no layer: this model has layers 0 to {count - 1}")
        layers.update(chosen)
    return sorted(layers)


def layer_count(architecture: Architecture) -> int:
    """Layers of the language model, 0 if it numbers none."""
    layers = index_of(architecture).layer_of
    return max((layer + 1 for name, layer in layers.items() if not architecture.is_vision(name)), default=0)


def layer_of(name: str, architecture: Architecture) -> int | None:
    """Index of the layer that a module or target is in, as `layers_to_transform` counts."""
    return index_of(architecture).layer_of.get(name)


def matching(architecture: Architecture, pattern: str) -> list[str]:
    """Modules and fused parameters whose name holds `pattern`, in the model's order; case does not matter.

    Plain text is looked for as it is; with any of `* + ? | ( ) [ ] { } ^ $ \\` it is a regular expression. Raises
    BadPattern if that is malformed.
    """
    names = dict.fromkeys(name for m in architecture.modules for name in (m.name, *(t.name for t in m.targets)))
    if re.fullmatch(r"[^*+?|()\[\]{}^$\\]*", pattern):
        wanted = pattern.lower()
        return [name for name in names if wanted in name.lower()]
    try:
        search = re.compile(pattern, re.IGNORECASE).search
    except re.error as error:
        raise BadPattern(f"{pattern!r} is no regular expression: {error}") from None
    return [name for name in names if search(name)]


def listed(names: Collection[str], most: int = 3) -> str:
    """`a, b, c and 29 more`."""
    shown = ", ".join(list(names)[:most])
    more = len(names) - most
    return f"{shown} and {more:,} more" if more > 0 else shown
