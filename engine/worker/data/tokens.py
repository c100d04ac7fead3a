"""Making a token store: rows go through the encoder once for each content, tokenizer, template and settings."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from engine.catalog import cache_folder
from engine.data import client
from engine.data.caches import INDEX, mark_used, remove_unused
from engine.data.lengths import NEVER
from engine.data.report import SHOWN_EXAMPLES
from engine.data.shapes import Example
from engine.runs.store import write_atomically
from engine.spec import DataSection, RunSpec
from engine.units import amount
from engine.worker.data import encode, template
from engine.worker.data.encode import IGNORED, Encoded, Encoder, RowRefused
from engine.worker.data.store import Rows, RowView
from engine.worker.data.token_store import BATCH_ROWS, SCHEMA, About, TokenStore
from engine.worker.failures import BadSpec

BYTES_A_TOKEN = 4.125
FORMAT = 1
"""Of a store; another one makes the stores of earlier code unknown."""

OnProgress = Callable[[int, int], None]
"""Is told rows that are done, of how many. What it raises ends the work."""


def build(
    spec: RunSpec, rows: Rows, encoder: Encoder, on_progress: OnProgress | None = None, side: str = "train"
) -> Path:
    """The folder of the store of the training rows, or of those held out (`side` is "held_out").

    It is made unless it is there. Raises BadSpec for a row that the chat template refuses where `data.on_bad_row` is
    `error`, OSError, and whatever `on_progress` raises.
    """
    view = rows.train if side == "train" else rows.held_out
    folder = _folder_of(view, encoder)
    if (folder / INDEX).exists():
        mark_used(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_unused(folder.parent)
        _write(folder, view, encoder, spec.data, on_progress)
    _check_refused(folder, spec.data)
    if side == "train":
        _enter_into_index(folder, spec)
    return folder


def finished(view: RowView, encoder: Encoder) -> TokenStore | None:
    """The store of these rows where one was made."""
    folder = _folder_of(view, encoder)
    return TokenStore(folder) if (folder / INDEX).exists() else None


def _folder_of(view: RowView, encoder: Encoder) -> Path:
    key = hashlib.sha256(f"{FORMAT} {_made_with()} {view.content} {encoder.fingerprint}".encode()).hexdigest()
    return cache_folder() / "tokens" / key


@cache
def _made_with() -> str:
    """The code that makes tokens of rows: another version of it makes another store."""
    files = [Path(module.__file__ or "") for module in (encode, template)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _write(folder: Path, view: RowView, encoder: Encoder, data: DataSection, on_progress: OnProgress | None) -> None:
    """Make the store of all rows of `view`; `folder` appears whole."""
    total = len(view)
    made = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        with (
            pa.OSFile(str(made / "rows.arrow"), "wb") as file,
            pa.ipc.new_stream(file, SCHEMA) as arrow,
            open(made / "lengths.u32", "wb") as lengths,
            open(made / "learnt.u32", "wb") as learnt_counts,
            open(made / "first_learnt.u32", "wb") as first_learnt,
        ):
            done = refused = context_turns = 0
            refused_examples: list[tuple[str, str]] = []
            for examples in view.batches(BATCH_ROWS):
                attempts = encoder.attempt_all(examples)
                for place, attempt in enumerate(attempts):
                    if isinstance(attempt, RowRefused):
                        refused += 1
                        where = view.where(done + place)
                        if data.on_bad_row == "error":
                            raise _refusal(where, str(attempt))
                        if len(refused_examples) < SHOWN_EXAMPLES:
                            refused_examples.append((where, str(attempt)))
                if not encoder.learns_every_turn:
                    context_turns += sum(map(turns_of_context, examples))
                encoded = [Encoded([], []) if isinstance(each, RowRefused) else each for each in attempts]
                columns = Columns.of(encoded)
                if done == 0:
                    _check_room(made, len(columns.ids) * BYTES_A_TOKEN / len(examples) * total)
                arrow.write_batch(columns.batch())
                for counts, file_of_counts in (
                    (columns.lengths, lengths),
                    (columns.learnt_counts, learnt_counts),
                    (columns.first_learnt, first_learnt),
                ):
                    counts.tofile(file_of_counts)
                done += len(examples)
                if on_progress is not None:
                    on_progress(done, total)
        about = About(done, refused, tuple(refused_examples), context_turns)
        (made / INDEX).write_text(json.dumps(asdict(about)))
        try:
            made.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # otherwise another process has made the same meanwhile
    finally:
        shutil.rmtree(made, ignore_errors=True)


def turns_of_context(example: Example) -> int:
    """Assistant turns before the last one of those that the row wants learnt."""
    turns = [turn for turn in example.get("messages", ()) if turn["role"] == "assistant"]
    return max(0, sum(1 for turn in turns if turn.get("train", True)) - 1)


@dataclass(frozen=True)
class Columns:
    """Some rows end to end."""

    ids: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    begins: NDArray[np.int64]
    """Where each row begins, and the end."""

    @classmethod
    def of(cls, rows: list[Encoded]) -> Columns:
        begins = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row.input_ids) for row in rows], out=begins[1:])
        total = int(begins[-1])
        ids = np.fromiter(chain.from_iterable(row.input_ids for row in rows), np.int32, total)
        labels = np.fromiter(chain.from_iterable(row.labels for row in rows), np.int32, total)
        return cls(ids, labels != IGNORED, begins)

    def batch(self) -> pa.RecordBatch:
        offsets = pa.array(self.begins.astype(np.int32))
        columns = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (self.ids, self.learnt)]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    @property
    def lengths(self) -> NDArray[np.uint32]:
        return np.diff(self.begins).astype(np.uint32)

    @property
    def learnt_counts(self) -> NDArray[np.uint32]:
        before = np.concatenate(([0], np.cumsum(self.learnt)))
        return (before[self.begins[1:]] - before[self.begins[:-1]]).astype(np.uint32)

    @property
    def first_learnt(self) -> NDArray[np.uint32]:
        """NEVER for rows of which nothing is learnt."""
        places = np.append(np.flatnonzero(self.learnt), len(self.learnt))
        next_learnt = places[np.searchsorted(places, self.begins[:-1])]
        return np.where(next_learnt < self.begins[1:], next_learnt - self.begins[:-1], NEVER).astype(np.uint32)


def _check_refused(folder: Path, data: DataSection) -> None:
    """A store that was made with `on_bad_row: skip` may hold rows that now keep the run from starting."""
    about = TokenStore(folder).about
    if about.refused and data.on_bad_row == "error":
        raise _refusal(*about.refused_examples[0])


def _refusal(where: str, fault: str) -> BadSpec:
    return BadSpec(
        f"{where}: the chat template does not take this row: {fault.rstrip('.')}.",
        "Correct the row, or leave out such rows with data.on_bad_row: skip.",
    )


def _check_room(folder: Path, needed_bytes: float) -> None:
    """Raises OSError before the disk is full of a store that does not fit."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: the tokens of these rows take about {amount(needed_bytes)}, and "
            f"{amount(free_bytes)} are free where {cache_folder()} is",
        )


def _enter_into_index(folder: Path, spec: RunSpec) -> None:
    """Let `engine.data.client` find the store by what it can know without a tokenizer."""
    report = client.kept_report(spec.data, spec.training.seed)
    if report is None:
        return
    path = folder.parent / "by-spec" / f"{client.tokens_index_key(spec, report)}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({"folder": folder.name}).encode())
