"""Lengths of the rows in tokens, and the largest batch that they can form."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog import cache_folder
from engine.checks import InvalidSpec
from engine.data import client
from engine.data.lengths import RowLengths
from engine.data.sources import sources_of
from engine.inspector import Inspector, InspectorError
from engine.memory.request import Batch
from engine.runs.store import write_atomically
from engine.spec import SAMPLE_SETTINGS, RunSpec

LENGTHS_TIMEOUT_S = 60.0
ASSUMED_TOKENS = 1024
"""Length of a row where neither the data nor `max_length` says one."""


@dataclass(frozen=True)
class Lengths:
    """Of the training rows, as the model's tokenizer makes them, before any is cut."""

    tokens: tuple[int, ...]
    """Sorted; of all rows, or of a sample."""
    rows: int
    """Rows in all."""
    labelled_share: float = 1.0
    """Part of the tokens that is learnt."""

    @property
    def is_sample(self) -> bool:
        return len(self.tokens) < self.rows

    @property
    def longest(self) -> int:
        return self.tokens[-1]

    def share_longer_than(self, tokens: int) -> float:
        """Part of the rows that `max_length: tokens` would cut."""
        return 1 - bisect_right(self.tokens, tokens) / len(self.tokens)

    def percentile(self, share: float) -> int:
        """The length that `share` of the rows do not exceed."""
        return self.tokens[min(len(self.tokens) - 1, int(share * len(self.tokens)))]

    def to_json(self) -> dict[str, Any]:
        return {"tokens": list(self.tokens), "rows": self.rows, "labelled_share": self.labelled_share}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Lengths:
        """Of what `to_json` wrote, or the inspector replied."""
        return cls._of(raw["tokens"], raw["rows"], raw["labelled_share"])

    @classmethod
    def of_rows(cls, lengths: RowLengths) -> Lengths:
        return cls._of(lengths.tokens, lengths.rows, sum(lengths.learnt) / max(1, sum(lengths.tokens)))

    @classmethod
    def _of(cls, tokens: Iterable[int], rows: int, labelled_share: float) -> Lengths:
        """Rows without a token, which a chat template refused, are none.

        Raises ValueError where there are no others.
        """
        ordered = sorted(tokens)
        empty = bisect_right(ordered, 0)
        if empty == len(ordered):
            raise ValueError("no row has tokens")
        return cls(tuple(ordered[empty:]), rows - empty, labelled_share)


def row_tokens(spec: RunSpec, lengths: Lengths | None) -> int:
    """The longest row of a batch: that of the data, cut at `max_length`. A sample's longest row is not the data's."""
    limits = [] if spec.data.max_length is None else [spec.data.max_length]
    if lengths is not None and (not lengths.is_sample or not limits):
        limits.append(lengths.longest)
    return min(limits, default=ASSUMED_TOKENS)


def largest_batches(spec: RunSpec, lengths: Lengths | None) -> tuple[Batch, Batch | None]:
    """The largest batch of training, and that of evaluation where rows are held out."""
    tokens = row_tokens(spec, lengths)
    if multiple := spec.training.pad_to_multiple_of:
        tokens = -(-tokens // multiple) * multiple
    share = 1.0 if lengths is None else lengths.labelled_share

    def batch(rows: int) -> Batch:
        if spec.data.packing:
            part = tokens if lengths is None else min(tokens, max(1, lengths.percentile(0.5)))
            parts = (*[part] * (tokens // part), *([tokens % part] if tokens % part else []))
            return Batch(rows, tokens, labelled_share=share, packed_lengths=parts)
        return Batch(rows, tokens, padded=rows > 1, labelled_share=share)

    training = spec.training
    evaluation = batch(training.per_device_eval_batch_size) if spec.has_eval else None
    return batch(training.per_device_train_batch_size), evaluation


def measured(spec: RunSpec, inspector: Inspector) -> Lengths | None:
    """Lengths of the rows of a resolved spec, kept on disk while files and tokenizer are the same.

    None where they cannot be known: no tokenizer on this machine, or rows with faults, which other checks name.
    """
    if (lengths := kept(spec)) is not None:
        return lengths
    try:
        lengths = Lengths.from_json(inspector.request("lengths", LENGTHS_TIMEOUT_S, spec=spec.model_dump()))
    except (InspectorError, ValueError):
        return None
    with suppress(OSError, InvalidSpec):  # it is measured again the next time
        path = _path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(lengths.to_json()).encode())
    return lengths


def kept(spec: RunSpec) -> Lengths | None:
    """Lengths that were measured before, while files and tokenizer are the same; None where none were.

    Those of all rows are better than those of a sample.
    """
    try:
        if (exact := client.kept_lengths(spec)) is not None:
            return Lengths.of_rows(exact)
        return Lengths.from_json(json.loads(_path(spec).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, InvalidSpec):
        return None


def what_decides(spec: RunSpec) -> str:
    """What of a spec the lengths depend on, beside what the files hold."""
    without = {"eval", "eval_split", "max_length", "packing", "packing_strategy", *SAMPLE_SETTINGS}
    data = spec.data.model_dump(exclude=without)
    return json.dumps([data, spec.model.name_or_path, spec.model.revision, spec.training.seed], sort_keys=True)


def _path(spec: RunSpec) -> Path:
    """Where a sample's lengths are kept. Raises InvalidSpec and OSError for data that is not there."""
    sources, _ = sources_of(spec.data)
    files = sorted(Path(spec.model.name_or_path).glob("*token*"))
    if spec.data.chat_template_path is not None:
        files.append(Path(spec.data.chat_template_path))
    stamps = [list(source.stamp()) for source in sources]
    stamps += [[str(file), stat.st_size, stat.st_mtime_ns] for file in files if (stat := _stat(file))]
    key = hashlib.sha256(f"{what_decides(spec)} {stamps}".encode()).hexdigest()
    return cache_folder() / "lengths" / f"{key}.json"


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None
