"""How long the training rows of a spec are in tokens: of all of them where a run or the data screen has made their
tokens, else of some. No model is loaded."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.data import client
from engine.data.shapes import Example, is_conversation, recognise, to_example
from engine.data.sources import sources_of
from engine.spec import RunSpec
from engine.worker.data.encode import Encoded, RowRefused
from engine.worker.data.preview import encoder_of
from engine.worker.data.store import open_rows
from engine.worker.data.tables import Piece, rows_of
from engine.worker.data.tokens import Columns, finished
from engine.worker.failures import BadSpec

SAMPLE = 4000
"""Rows that are tokenized, drawn from all of the data where it was scanned: about a second."""
HEAD_BYTES = 16 * 2**20
"""Of data that nobody has scanned no more is read, as the rows are in JSON."""


@dataclass(frozen=True)
class _Looked:
    """Rows to take the lengths of."""

    examples: list[Example]
    rows: int
    """How many there are in all; reckoned where only the head was read."""


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The inspector's task `lengths` for the resolved `spec`: the arrays of a `RowLengths` as lists, how many `rows`
    there are in all, and the `labelled_share` of the tokens. Rows that the chat template refuses have no tokens.

    Raises InvalidSpec, NotRecognised, SourceError and BadSpec for data that cannot be learnt from, OSError where no
    tokenizer is on this machine.
    """
    spec = RunSpec.model_validate(request["spec"])
    report = client.kept_report(spec.data, spec.training.seed)
    if report is None:
        looked = _head(spec)
        encoder = encoder_of(spec, is_conversation(looked.examples[0]))
    else:
        view = open_rows(report, spec.data, spec.training.seed).train
        encoder = encoder_of(spec, is_conversation(view[0]))
        if (store := finished(view, encoder)) is not None:
            return _reply(store.lengths, store.learnt, store.first_learnt, len(store))
        # Not every so many rows: data that repeats itself in the same rhythm would be seen from one side only.
        drawn = sorted(random.Random(spec.training.seed).sample(range(len(view)), min(SAMPLE, len(view))))
        looked = _Looked([view[row] for row in drawn], len(view))
    attempts = encoder.attempt_all(looked.examples)
    encoded = [Encoded([], []) if isinstance(each, RowRefused) else each for each in attempts]
    columns = Columns.of(encoded)
    return _reply(columns.lengths, columns.learnt_counts, columns.first_learnt, looked.rows)


def _reply(tokens: Any, learnt: Any, first_learnt: Any, rows: int) -> dict[str, Any]:
    return {
        "tokens": tokens.tolist(),
        "learnt": learnt.tolist(),
        "first_learnt": first_learnt.tolist(),
        "rows": rows,
        "labelled_share": int(learnt.sum()) / max(1, int(tokens.sum())),
    }


def _head(spec: RunSpec) -> _Looked:
    """The first good rows of the data. How many there are is told from the size of all sources."""
    data = spec.data
    sources, _ = sources_of(data)
    raw: list[dict[str, Any]] = []
    read_bytes = 0
    is_all = True
    for source in sources:
        for each in rows_of(source, Piece(0), lambda _: None):
            if len(raw) == SAMPLE or read_bytes > HEAD_BYTES:
                is_all = False
                break
            if each.row is not None:
                raw.append(each.row)
                read_bytes += len(json.dumps(each.row, ensure_ascii=False).encode("utf-8", "replace"))
    shape = recognise(list(islice(raw, 200)), data)
    converted = [to_example(row, shape, data.columns) for row in raw]
    examples = [each.example for each in converted if each.example is not None]
    if not examples:
        raise BadSpec("The first rows have nothing to learn from.", "`loradeck data` says what is wrong with them.")
    rows = len(examples)
    if not is_all:
        size_bytes = sum(source.size_bytes for source in sources)
        rows = max(rows + 1, round(rows * size_bytes / max(1, read_bytes)))
    return _Looked(examples, max(len(examples), round(rows * (1 - data.eval_fraction))))
