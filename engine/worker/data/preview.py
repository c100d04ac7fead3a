"""The inspector's task `data_preview`: one row as it is, and as the model sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from engine.checks import InvalidSpec
from engine.data import client
from engine.data.faults import shortened
from engine.data.shapes import Example, NotRecognised, Shape, is_conversation, recognise, to_example
from engine.data.sources import Source, sources_of
from engine.spec import DataSection, RunSpec
from engine.worker.data.encode import IGNORED, Encoder, RowRefused, load_tokenizer
from engine.worker.data.shown import end_ids, is_end_learnt, pieces_of, special_ids
from engine.worker.data.store import open_rows
from engine.worker.data.tables import Piece, SourceError, rows_of
from engine.worker.data.template import choose_template
from engine.worker.failures import BadSpec

HEAD_ROWS = 200
"""Rows that are looked at of data which nobody has scanned."""
HEAD_BYTES = 8 * 2**20
"""Where rows are long, only as many as take about so much."""
TOKENIZER_FILES = "*token*", "vocab*", "merges.txt", "*.jinja", "*.model", "config.json"

Side = Literal["train", "held_out"]


class TokenizerUnreadable(Exception):
    """There is no tokenizer on this machine that can be loaded. The message is for the person."""


@dataclass(frozen=True)
class SeenRow:
    """A row before it is tokens."""

    raw: Any
    """An object, or the fault's words where it is none."""
    where: str
    example: Example | None
    problem: str = ""


@dataclass(frozen=True)
class Seen:
    """What is known of one side of the data."""

    format: str | None
    reason: str
    rows: int | None
    """None before a scan."""
    row: SeenRow | None
    columns: Mapping[str, str]
    problem: str = ""


def preview(request: dict[str, Any]) -> dict[str, Any]:
    """Answers for row `index` of `side` of the resolved `spec`; whatever is wrong with it is its `problem`.

    Before a scan the row is taken from the head of the data.
    """
    spec = RunSpec.model_validate(request["spec"])
    index: int = request["index"]
    seen = look(spec, index, request["side"])
    reply: dict[str, Any] = {
        "format": seen.format,
        "reason": seen.reason,
        "rows": seen.rows,
        "index": index,
        "where": "" if seen.row is None else seen.row.where,
        "raw": {} if seen.row is None else json.loads(json.dumps(seen.row.raw, default=repr)),
        "columns": dict(seen.columns),
        "cut_at": cut_at(spec.data),
        "problem": seen.problem or (seen.row.problem if seen.row is not None else "") or None,
        **{"pieces": [], "tokens": 0, "trained": 0, "eos_trained": None, "template": ""},
    }
    if seen.row is None or seen.row.example is None:
        return reply
    try:
        return {**reply, **_as_tokens(seen.row.example, spec)}
    except RowRefused as refusal:
        problem = f"the chat template does not take this row: {refusal}"
    except BadSpec as error:
        problem = f"{error} {error.hint}"
    except TokenizerUnreadable as error:
        problem = str(error)
    return {**reply, "problem": problem}


def look(spec: RunSpec, index: int, side: Side) -> Seen:
    """Row `index` of a side, from what a scan has kept or from the head of the data."""
    report = client.kept_report(spec.data, spec.training.seed)
    if report is None:
        return _from_head(spec, index, side)
    try:
        rows = open_rows(report, spec.data, spec.training.seed)
        view = rows.train if side == "train" else rows.held_out
        if not 0 <= index < len(view):
            problem = f"there are {len(view):,} rows" if len(view) else "there are no such rows"
            return Seen(report.format, report.reason, len(view), None, {}, problem)
        row = SeenRow(view.raw(index), view.where(index), view[index])
    except OSError:  # what was kept is gone
        return _from_head(spec, index, side)
    return Seen(report.format, report.reason, len(view), row, columns_of(row.raw))


def cut_at(data: DataSection) -> int | None:
    """Tokens after which a row is cut; None where its rest goes into another block of packed rows, or nowhere is."""
    return None if data.packing and data.packing_strategy == "bfd_split" else data.max_length


def columns_of(raw: Any) -> dict[str, str]:
    """Name -> value, shortened."""
    return {name: shortened(value) for name, value in raw.items()} if isinstance(raw, dict) else {}


def encoder_of(spec: RunSpec, conversations: bool) -> Encoder:
    """As a run would have it, kept for the next request. Raises BadSpec and TokenizerUnreadable."""
    return _kept_encoder(_Settings(spec, conversations))


def tokenizer_of(spec: RunSpec) -> PreTrainedTokenizerBase:
    """The model's, from this machine. Code that comes with it is not run here, where rows are only looked at.

    Raises TokenizerUnreadable.
    """
    try:
        return load_tokenizer(spec.model, trusted=False, only_here=True)
    except Exception as error:  # a file of another shape can break its readers in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TokenizerUnreadable(f"the tokenizer of {spec.model.name_or_path} cannot be loaded: {lines[0]}") from error


@lru_cache(maxsize=8)
def ends_of(encoder: Encoder) -> frozenset[int]:
    return end_ids(encoder)


def head(sources: list[Source]) -> list[SeenRow]:
    """The first rows of the data, without their examples. Raises SourceError and OSError."""
    return list(_kept_head(tuple(sources), tuple(source.stamp() for source in sources)))


def with_example(row: SeenRow, shape: Shape, columns: Mapping[str, str]) -> SeenRow:
    """`row` in the form that is learnt from, or with what is wrong with it."""
    if row.problem:
        return row
    converted = to_example(row.raw, shape, columns)
    problem = "; ".join(message for _, message in converted.faults)
    return replace(row, example=converted.example, problem=problem)


def recognised(sources: list[Source], data: DataSection) -> Shape:
    """The shape that the head of the data has. Raises NotRecognised, SourceError and OSError."""
    return recognise([row.raw for row in head(sources) if not row.problem], data)


def _from_head(spec: RunSpec, index: int, side: Side) -> Seen:
    data = spec.data
    try:
        train, held_out = sources_of(data)
        if side == "held_out" and not held_out:
            why = "which rows are held out is known when the data was checked" if data.eval_fraction else ""
            return Seen(None, "", None, None, {}, why or "no rows are held out")
        rows = head(train if side == "train" else held_out)
        if not 0 <= index < len(rows):
            first = f"only the first {len(rows):,} rows can be looked at before the data is checked"
            return Seen(None, "", None, None, {}, first if rows else "there are no rows")
        row = rows[index]
        shape = recognised(train, data)
    except NotRecognised as error:
        return Seen(None, "", None, row, error.columns or columns_of(row.raw), str(error))
    except InvalidSpec as error:
        return Seen(None, "", None, None, {}, "; ".join(map(str, error.problems)))
    except (SourceError, OSError) as error:
        return Seen(None, "", None, None, {}, str(error))
    return Seen(shape.format, shape.reason, None, with_example(row, shape, data.columns), columns_of(row.raw))


@lru_cache(maxsize=4)
def _kept_head(sources: tuple[Source, ...], _stamps: tuple[Any, ...]) -> tuple[SeenRow, ...]:
    rows: list[SeenRow] = []
    read_bytes = 0

    def count(more_bytes: int) -> None:
        nonlocal read_bytes
        read_bytes += more_bytes

    for source in sources:
        for each in islice(rows_of(source, Piece(0), count), HEAD_ROWS - len(rows)):
            where = source.place(each.line)
            if each.row is not None:
                rows.append(SeenRow(each.row, where, None))
            else:
                assert each.fault is not None
                rows.append(SeenRow({}, where, None, each.fault[1]))
            if read_bytes > HEAD_BYTES:
                return tuple(rows)
        if len(rows) == HEAD_ROWS:
            break
    return tuple(rows)


def _as_tokens(example: Example, spec: RunSpec) -> dict[str, Any]:
    encoder = encoder_of(spec, is_conversation(example))
    row = encoder.encode(example)
    special = special_ids(encoder.tokenizer)
    trained = [label != IGNORED for label in row.labels]
    texts = pieces_of(encoder.tokenizer, row.input_ids)
    return {
        "pieces": [
            [text, int(is_trained), int(token in special)]
            for text, is_trained, token in zip(texts, trained, row.input_ids, strict=True)
        ],
        "tokens": len(row.input_ids),
        "trained": sum(trained[: cut_at(spec.data)]),
        "eos_trained": is_end_learnt(encoder.tokenizer, row, ends_of(encoder), cut_at(spec.data)),
        "template": encoder.template.source,
    }


class _Settings:
    """What an encoder depends on; two are equal where the same encoder serves both."""

    def __init__(self, spec: RunSpec, conversations: bool) -> None:
        self.spec = spec
        self.conversations = conversations
        data = spec.data
        files = [Path(spec.model.name_or_path), *([Path(data.chat_template_path)] if data.chat_template_path else [])]
        self._decides = (
            spec.model.name_or_path,
            spec.model.revision,
            data.chat_template_path,
            data.completion_only_loss,
            data.assistant_only_loss,
            conversations,
            *(stamp for file in files for stamp in _stamps(file)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self._decides == other._decides

    def __hash__(self) -> int:
        return hash(self._decides)


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Of a file, or of the tokenizer's files in a folder; none for a name that is neither."""
    stamps: list[tuple[str, int, int]] = []
    paths = [path] if path.is_file() else [each for pattern in TOKENIZER_FILES for each in sorted(path.glob(pattern))]
    for each in paths:
        status = each.stat()
        stamps.append((str(each), status.st_size, status.st_mtime_ns))
    return stamps


@lru_cache(maxsize=8)
def _kept_encoder(settings: _Settings) -> Encoder:
    tokenizer = tokenizer_of(settings.spec)
    data = settings.spec.data
    return Encoder(tokenizer, data, choose_template(tokenizer, data, settings.conversations))
