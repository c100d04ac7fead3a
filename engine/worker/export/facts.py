"""What a run's script has to do with its rows, told from the rows themselves."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.report import Side
from engine.data.shapes import Example, Shape, is_conversation
from engine.data.sources import Source, sources_of
from engine.spec import RunSpec
from engine.worker.data.run_data import RunData
from engine.worker.data.shards import read_index
from engine.worker.data.store import RowView
from engine.worker.export.data_parts import SPECIAL_KEYS
from engine.worker.failures import BadSpec

HINT = "Write what is learnt into a file of its own, one conversation a line, and train on that to have a script."


@dataclass(frozen=True)
class Facts:
    """What decides which code a script needs."""

    train: list[Source]
    held_out: list[Source]
    """Of their own; empty where rows are held out by a share, or none."""
    shape: Shape
    names: tuple[str, ...]
    """The shape's columns, as they are called in the data."""
    conversations: bool
    special: tuple[str, ...]
    """Keys of SPECIAL_KEYS that turns have."""
    extras: frozenset[str]
    """`system`, `tools` and `chat_template_kwargs`, where rows have them."""
    delimiter: str
    """Of CSV."""


def facts_of(spec: RunSpec, data: RunData) -> Facts:
    """Raises BadSpec where a script of a page would not learn from the same rows."""
    report = data.report
    sides: list[Side] = [side for side in (report.train, report.eval) if side is not None]
    if bad := sum(side.bad_count for side in sides):
        raise cannot(f"{bad:,} rows were left out as bad ones (data.on_bad_row: skip)")
    for sequences in (data.train, data.held_out):
        if sequences is not None and (refused := sequences.store.about.refused):
            raise cannot(f"{refused:,} rows were left out because the chat template does not take them")
    shape = read_index(Path(report.train.folder)).shape
    train, held_out = sources_of(spec.data)
    special, extras = _what_rows_have(data)
    conversations = is_conversation(data.rows.train[0])
    if conversations and shape.format != "alpaca" and any(map(_has_system_column, _views(data))):
        extras.add("system")
    return Facts(
        train=train,
        held_out=held_out,
        shape=shape,
        names=tuple(spec.data.columns.get(name, name) for name in shape.columns),
        conversations=conversations,
        special=tuple(key for key in SPECIAL_KEYS if key in special),
        extras=frozenset(extras),
        delimiter=_delimiter(train[0]),
    )


def cannot(why: str) -> BadSpec:
    """The refusal to write a script that would not be right."""
    return BadSpec(f"A script of this run would not learn from the same rows: {why}.", HINT)


def _what_rows_have(data: RunData) -> tuple[set[str], set[str]]:
    special: set[str] = set()
    extras: set[str] = set()
    for example in _examples(data):
        extras.update(name for name in ("tools", "chat_template_kwargs") if name in example)
        turns: list[dict[str, Any]] = example.get("messages", [])
        for turn in turns:
            special.update(key for key in SPECIAL_KEYS if key in turn)
            if turn.get("train") is False:
                raise cannot("some turns of the rows are marked not to be learnt (train: false or weight: 0)")
    return special, extras


def _views(data: RunData) -> tuple[RowView, RowView]:
    return data.rows.train, data.rows.held_out


def _examples(data: RunData) -> Iterator[Example]:
    for view in _views(data):
        yield from view


def _has_system_column(view: RowView) -> bool:
    return any(view.raw(index).get("system") for index in range(len(view)))


def _delimiter(source: Source) -> str:
    """As the reader takes it: the most frequent of comma, semicolon and tab in the first line."""
    if source.format != "csv" or source.compression == "zstd":
        return ","
    with gzip.open(source.name, "rt") if source.compression == "gzip" else open(source.name) as file:
        header = next((line for line in file if line.strip()), "")
    return max(",;\t", key=header.count)
