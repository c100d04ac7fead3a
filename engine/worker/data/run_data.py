"""From a spec to the sequences that its run trains on, and what the person is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.checks import InvalidSpec
from engine.data import client
from engine.data.report import DataReport
from engine.data.shapes import is_conversation
from engine.spec import DataSection, RunSpec
from engine.worker.data.encode import Encoder, load_encoder
from engine.worker.data.packing import pack
from engine.worker.data.sequences import Sequences, cut
from engine.worker.data.store import Rows, open_rows
from engine.worker.data.token_store import TokenStore
from engine.worker.data.tokens import build
from engine.worker.failures import BadSpec


@dataclass(frozen=True)
class Warned:
    """Something that the person should know of the data."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class RunData:
    """What a run learns, and is measured on."""

    report: DataReport
    rows: Rows
    encoder: Encoder
    train: Sequences
    held_out: Sequences | None
    tokenized_rows: int
    """Rows that had to be tokenized; 0 where both sides were there from an earlier run."""
    seconds: float
    """What reading and tokenizing took."""


def load_data(spec: RunSpec, stop_if_asked: Callable[[], None] = lambda: None) -> RunData:
    """Scan and tokenize what has not been before. `stop_if_asked` is called now and then and may raise.

    Raises InvalidSpec and BadSpec for rows that cannot be learnt, DataError, OSError.
    """
    began = time.monotonic()
    data, seed = spec.data, spec.training.seed
    report = client.scan(data, seed, on_progress=lambda _: stop_if_asked())
    if problems := client.problems_of(report, data):
        raise InvalidSpec(problems)
    rows = open_rows(report, data, seed)
    encoder = load_encoder(spec, is_conversation(rows.train[0]))
    tokenized_rows = 0

    def count(done: int, total: int) -> None:
        nonlocal tokenized_rows
        if done == total:
            tokenized_rows += total
        stop_if_asked()

    train = _sequences(TokenStore(build(spec, rows, encoder, count)), data)
    held_out = None
    if len(rows.held_out):
        held_out = _sequences(TokenStore(build(spec, rows, encoder, count, "held_out")), data)
    if not len(train) or (held_out is not None and not len(held_out)):
        which = "held-out row" if len(train) else "row"
        raise BadSpec(
            f"Within max_length {data.max_length} no {which} has anything left to learn."
            if data.max_length
            else f"No {which} has anything to learn.",
            "Raise data.max_length: the prompts alone fill it.",
        )
    return RunData(report, rows, encoder, train, held_out, tokenized_rows, time.monotonic() - began)


def _sequences(store: TokenStore, data: DataSection) -> Sequences:
    if data.packing:
        assert data.max_length is not None, "refused by engine.checks"
        return pack(store, data.max_length, data.packing_strategy == "bfd_split")
    return cut(store, data.max_length)


def warnings_of(run_data: RunData, data: DataSection) -> Iterator[Warned]:
    """Rows that are left out, cut, learnt in part, or there more than once."""
    report, store = run_data.report, run_data.train.store
    for side, sequences in ((report.train, run_data.train), (report.eval, run_data.held_out)):
        kind = "rows" if sequences is run_data.train else "held-out rows"
        if side is not None and side.bad_count:
            shown = side.bad_rows[0].examples[0]
            yield Warned(
                "bad-rows-skipped",
                f"{side.bad_count:,} of {side.bad_count + side.rows:,} {kind} cannot be learnt from and are left out, "
                f"such as {shown.where}: {shown.message}.",
                "`loradeck data` lists them by kind.",
            )
        if sequences is not None and (refused := sequences.store.about.refused):
            where, fault = sequences.store.about.refused_examples[0]
            yield Warned(
                "rows-refused",
                f"{refused:,} of {len(sequences.store):,} {kind} are left out: the chat template does not take them. "
                f"{where}: {fault}.",
                "Correct them, or choose another template in data.chat_template_path.",
            )
    if again := report.train.duplicates.count:
        yield Warned(
            "duplicate-rows",
            f"{again:,} of {report.train.rows:,} rows are exactly like another one and are learnt again each time.",
            "Take them out of the data if that is not wanted.",
        )
    if shared := report.shared.count:
        yield Warned(
            "shared-rows",
            f"{shared:,} training rows are held out too: the held-out loss will look better than it is.",
            "Take them out of one of the two.",
        )
    if (left_out := store.about.context_turns) and data.assistant_only_loss is None:
        yield Warned(
            "turns-left-out",
            f"{left_out:,} assistant turns before the last one are context only and not learnt: the chat template "
            "does not mark where turns begin and end.",
            "Name a template that does in data.chat_template_path, such as chatml.",
        )
    longest = data.max_length
    splits = data.packing and data.packing_strategy == "bfd_split"
    is_cut = longest is not None and not splits
    ends = store.lengths if longest is None or splits else np.minimum(store.lengths, longest)
    nothing_left = (store.lengths > 0) & (store.first_learnt >= ends)
    if dropped := int(nothing_left.sum()):
        within = f"within max_length {longest} " if is_cut else ""
        yield Warned(
            "rows-dropped",
            f"{dropped:,} of {len(store):,} rows are left out: {within}nothing of them is learnt.",
            "Raise data.max_length, or look at them with `loradeck data`." if is_cut else "See `loradeck data`.",
        )
    if cut_rows := int(((store.lengths > ends) & ~nothing_left).sum()):
        yield Warned(
            "rows-cut",
            f"{cut_rows:,} of {len(store):,} rows are longer than max_length {longest}; what is longer is cut off at "
            "the end.",
            "Raise data.max_length, at the price of memory, or shorten the rows.",
        )
