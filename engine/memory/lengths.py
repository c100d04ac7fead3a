"""Lengths of the rows in tokens, and the largest batch that they can form."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.catalog import cache_folder
from engine.inspector import Inspector, InspectorError
from engine.memory.request import Batch
from engine.runs.store import write_atomically
from engine.spec import RunSpec

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
        return cls(tuple(raw["tokens"]), raw["rows"], raw["labelled_share"])


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
    path = _path(spec)
    try:
        raw = inspector.request("lengths", LENGTHS_TIMEOUT_S, spec=spec.model_dump())
    except InspectorError:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(raw).encode())
    except OSError:
        pass  # it is measured again the next time
    return Lengths.from_json(raw)


def kept(spec: RunSpec) -> Lengths | None:
    """Lengths that were measured before, while files and tokenizer are the same; None where none were."""
    try:
        return Lengths.from_json(json.loads(_path(spec).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def what_decides(spec: RunSpec) -> str:
    """What of a spec the lengths depend on, beside what the files hold."""
    data = spec.data.model_dump(exclude={"eval", "max_length", "packing", "packing_strategy", "samples"})
    return json.dumps([data, spec.model.name_or_path, spec.model.revision, spec.training.seed], sort_keys=True)


def _path(spec: RunSpec) -> Path:
    return cache_folder() / "lengths" / f"{_key(spec)}.json"


def _key(spec: RunSpec) -> str:
    train = [spec.data.train] if isinstance(spec.data.train, str) else spec.data.train
    files = [Path(name) for name in train] + sorted(Path(spec.model.name_or_path).glob("*token*"))
    stamps = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := _stat(file))]
    return hashlib.sha256(f"{what_decides(spec)} {stamps}".encode()).hexdigest()


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None
