"""All that is known of a spec's data before a run: found, measured, and as facts for a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from engine.cli.memory import SpecFile
from engine.cli.progress import bars

if TYPE_CHECKING:
    from engine.checks import Problem
    from engine.data.batching import Epochs
    from engine.data.client import Progress
    from engine.data.figures import Cut, LengthFigures
    from engine.data.lengths import RowLengths
    from engine.data.report import BadRows, DataReport, Side
    from engine.inspector import Inspector
    from engine.spec import RunSpec

EXACT_UP_TO_BYTES = 4 * 2**20
"""Rows of so many bytes are tokenized in some seconds; of more, a sample is."""
EXAMPLES = 3
SKIP_HINT = "data.on_bad_row: skip leaves out rows that it does not take"
LENGTHS_TIMEOUT_S = 120.0
PREVIEW_TIMEOUT_S = 60.0


@dataclass
class Found:
    """All that is known of a spec's data."""

    spec: RunSpec
    report: DataReport
    problems: list[Problem]
    """What keeps a run from starting."""
    figures: LengthFigures | None = None
    lengths_unknown: str = ""
    """Why there are no figures."""
    refused: list[int] = field(default_factory=list)
    """Of the rows whose lengths are known, those that the chat template does not take: they have no tokens."""
    cut: Cut | None = None
    epochs: Epochs | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    """Of the inspector's task `data_notes`."""
    previews: list[dict[str, Any]] = field(default_factory=list)
    """The first training rows, of the inspector's task `data_preview`."""

    @property
    def would_start(self) -> bool:
        return not self.problems

    @property
    def sides(self) -> list[Side]:
        """Training rows, and held-out ones that have a source of their own."""
        return [self.report.train, *([self.report.eval] if self.report.eval is not None else [])]

    @property
    def bad_rows(self) -> list[BadRows]:
        return [bad for side in self.sides for bad in side.bad_rows]

    @property
    def rows(self) -> int:
        """What `data.train` holds, good and bad."""
        return self.report.train.rows + self.report.train.bad_count


def find(path: SpecFile, exact: bool, inspector: Inspector) -> Found:
    """Raises InvalidSpec where the spec or all of its data makes no sense, and DataError."""
    from engine.catalog import ModelUnavailable, find_config
    from engine.checks import Problem, read_spec
    from engine.data import client
    from engine.prepare import with_absolute_paths

    spec = with_absolute_paths(read_spec(path), path.absolute().parent)
    with _progress() as on_progress:
        report = client.scan(spec.data, spec.training.seed, on_progress)
        found = Found(spec, report, client.problems_of(report, spec.data))
        model = spec.model
        try:
            source = find_config(model.name_or_path, model.revision)[0]
        except ModelUnavailable as error:
            found.problems.append(Problem("model.name_or_path", str(error)))
            found.lengths_unknown = "they need the model's tokenizer"
            return found
        if not report.train_rows:
            found.lengths_unknown = "there are no rows"
            return found
        found.spec = spec.model_copy(update={"model": model.model_copy(update={"name_or_path": source.name_or_path})})
        inspector.start()
        _measure(found, exact, inspector, on_progress)
    _look(found, inspector)
    return found


def _measure(found: Found, exact: bool, inspector: Inspector, on_progress: Callable[[Progress], None] | None) -> None:
    """Put into `found` what the rows' lengths say."""
    from engine.checks import InvalidSpec, Problem
    from engine.data import client
    from engine.data.batching import Batches, Batching
    from engine.data.figures import LengthFigures
    from engine.inspector import InspectorError, RequestRefused

    spec = readable(found)
    try:
        lengths = client.kept_lengths(spec)
        if lengths is None and (exact or found.report.train.bytes_read <= EXACT_UP_TO_BYTES):
            lengths = client.tokenize(spec, on_progress)
        elif lengths is None:
            lengths = _sampled(spec, inspector)
    except InvalidSpec as error:
        found.lengths_unknown = str(error)
        found.problems += [problem for problem in error.problems if problem not in found.problems]
    except (client.DataError, RequestRefused) as error:  # the trainer would meet the same
        found.lengths_unknown = str(error)
        found.problems.append(Problem("data.train", str(error)))
    except InspectorError as error:
        found.lengths_unknown = str(error)
    else:
        training, splits = spec.training, spec.data.packing and spec.data.packing_strategy == "bfd_split"
        found.figures = LengthFigures(lengths)
        found.refused = [row for row, tokens in enumerate(lengths.tokens) if not tokens]
        found.cut = found.figures.at(None if splits else spec.data.max_length)
        seed = training.seed if training.data_seed is None else training.data_seed
        found.epochs = Batching(lengths, seed).epochs(Batches.of(spec))


def _sampled(spec: RunSpec, inspector: Inspector) -> RowLengths:
    """Lengths of rows drawn evenly. Raises InspectorError."""
    from array import array

    from engine.data.lengths import RowLengths

    raw = inspector.request("lengths", LENGTHS_TIMEOUT_S, spec=spec.model_dump(mode="json"))
    tokens, learnt, first_learnt = (array("I", raw[name]) for name in ("tokens", "learnt", "first_learnt"))
    return RowLengths(tokens, learnt, first_learnt, raw["rows"])


def _look(found: Found, inspector: Inspector) -> None:
    """Put into `found` the first rows as the model sees them, and what is worth a warning."""
    from engine.checks import Problem
    from engine.inspector import InspectorError

    spec = readable(found)
    dumped = spec.model_dump(mode="json")

    def preview_of(row: int) -> dict[str, Any]:
        preview: dict[str, Any] = inspector.request(
            "data_preview", PREVIEW_TIMEOUT_S, spec=dumped, index=row, side="train"
        )
        return preview

    try:
        previews = [preview_of(row) for row in range(min(EXAMPLES, found.report.train_rows))]
        found.previews = [preview for preview in previews if not preview["problem"]]
        refused = [preview for preview in previews if preview["problem"]]
        if not refused and found.refused and found.figures is not None and not found.figures.is_sample:
            refused = [preview_of(found.refused[0])]
        stops = found.spec.data.on_bad_row == "error" or not found.previews
        if stops and refused and not any(problem.reason == found.lengths_unknown for problem in found.problems):
            found.problems.append(
                Problem(refused[0]["where"], refused[0]["problem"], SKIP_HINT if found.previews else "")
            )
        elif stops and found.refused and not refused:
            some = f"the chat template does not take {len(found.refused):,} of the rows that were looked at"
            found.problems.append(Problem("data.train", some, f"--exact names the first; {SKIP_HINT}"))
        found.notes = inspector.request("data_notes", PREVIEW_TIMEOUT_S, spec=dumped)
    except InspectorError as error:
        if not found.problems:
            found.notes.append({"code": "not-shown", "message": str(error), "hint": "", "changes": {}})


def readable(found: Found) -> RunSpec:
    """The spec with which good rows are looked at even where bad ones keep a run from starting."""
    spec = found.spec
    if not found.bad_rows:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"on_bad_row": "skip"})})


def facts_of(found: Found) -> dict[str, Any]:
    """What `--json` prints. What is not known is null."""
    report, figures, cut, epochs = found.report, found.figures, found.cut, found.epochs
    kinds: Counter[str] = Counter()
    for bad in found.bad_rows:
        kinds[bad.kind] += bad.count
    ways = {} if epochs is None else epochs.each
    return {
        "format": report.format,
        "reason": report.reason,
        "rows": found.rows,
        "train_rows": report.train_rows,
        "held_out_rows": report.held_out_rows,
        "bad_rows": dict(kinds),
        "bad_row_examples": [{"kind": bad.kind, **asdict(place)} for bad in found.bad_rows for place in bad.examples],
        "duplicates": sum(side.duplicates.count for side in found.sides),
        "duplicate_examples": [asdict(place) for side in found.sides for place in side.duplicates.examples],
        "shared_with_eval": report.shared.count,
        "shared_examples": [asdict(place) for place in report.shared.examples],
        "dropped": report.train.dropped,
        "refused_rows": None if figures is None else len(found.refused),
        "token_lengths": None
        if figures is None
        else {
            **figures.percentiles,
            "mean": round(figures.mean, 2),
            "is_sample": figures.is_sample,
            "rows_measured": figures.measured_rows,
        },
        "lengths_unknown": found.lengths_unknown or None,
        "max_length": found.spec.data.max_length,
        "truncated_share": None if cut is None else cut.truncated.value,
        "truncated_tokens_share": None if cut is None else cut.cut_tokens.value,
        "zero_label_rows": None if cut is None else cut.nothing_to_learn_rows,
        "errors_95": None
        if cut is None
        else {
            "truncated_share": cut.truncated.error,
            "truncated_tokens_share": cut.cut_tokens.error,
            "zero_label_share": cut.nothing_to_learn.error,
        },
        "padding_shares": {name: None if way is None else way.padding_share for name, way in ways.items()} or None,
        "steps_per_epoch": {name: None if way is None else way.steps for name, way in ways.items()} or None,
        "notes": found.notes,
        "examples": [
            {
                "where": preview["where"],
                "text": "".join(piece[0] for piece in preview["pieces"]),
                "tokens": preview["tokens"],
                "trained": preview["trained"],
                "eos_trained": preview["eos_trained"],
            }
            for preview in found.previews
        ],
        "on_bad_row": found.spec.data.on_bad_row,
        "would_start": found.would_start,
        "problems": [asdict(problem) for problem in found.problems],
    }


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """A bar for each pass over the rows, where stderr is a terminal."""
    labels = {"scan": "Checking every row", "tokens": "Counting tokens"}
    with bars() as show:
        yield None if show is None else lambda so_far: show(labels[so_far.doing], so_far.done, so_far.total)
