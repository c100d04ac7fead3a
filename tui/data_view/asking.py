"""What the data screen finds out in the background. Every function is slow, and none raises: it returns a sentence."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.catalog import ModelUnavailable, find_config
from engine.checks import InvalidSpec
from engine.data import client
from engine.data.asking import Cancelled, DataError, OnProgress
from engine.data.lengths import RowLengths
from engine.data.report import DataReport
from engine.inspector import Inspector, InspectorError
from engine.prepare import for_device, with_absolute_paths
from engine.spec import SAMPLE_SETTINGS, RunSpec
from tui.data_view.choices import Measured
from tui.data_view.preview import Preview, SideName

T = TypeVar("T")

ROW_TIMEOUT_S = 60.0
"""For a process that has to import everything first, on a busy machine."""
SAMPLE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Note:
    """Something about tokenizer, template and rows that a person should know, and settings that change it."""

    code: str
    message: str
    hint: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Located:
    """A spec that can be asked about."""

    spec: RunSpec | None
    """None where not even the data can be found."""
    trouble: str = ""
    """Why its rows cannot be shown: the model, or the data, is not here."""


def located(spec: RunSpec, folder: Path) -> Located:
    """`spec` with absolute paths and its model as a folder on this machine; `folder` is where relative ones start."""
    try:
        resolved = for_device(with_absolute_paths(spec, folder), "cpu", True)
    except (InvalidSpec, OSError) as error:
        return Located(None, str(error))
    try:
        source, _ = find_config(resolved.model.name_or_path, resolved.model.revision)
    except (ModelUnavailable, OSError) as error:
        return Located(resolved, str(error))
    model = resolved.model.model_copy(update={"name_or_path": source.name_or_path})
    return Located(resolved.model_copy(update={"model": model}))


def preview(spec: RunSpec, index: int, side: SideName, inspector: Inspector) -> Preview | str:
    """Row `index` of a side, as it is and as the model sees it."""
    try:
        raw = inspector.request("data_preview", ROW_TIMEOUT_S, spec=spec.model_dump(), index=index, side=side)
    except InspectorError as error:
        return str(error)
    return Preview.from_json(raw, side)


def notes(spec: RunSpec, inspector: Inspector) -> list[Note] | str:
    try:
        raw = inspector.request("data_notes", SAMPLE_TIMEOUT_S, spec=spec.model_dump())
    except InspectorError as error:
        return str(error)
    return [Note(note["code"], note["message"], note["hint"], note["changes"]) for note in raw]


def sample(spec: RunSpec, inspector: Inspector) -> Measured | str:
    """Lengths of some good rows, evenly over all of them."""
    try:
        raw = inspector.request("lengths", SAMPLE_TIMEOUT_S, spec=_of_good_rows(spec).model_dump())
    except InspectorError as error:
        return str(error)
    tokens, learnt, firsts = (array("I", raw[name]) for name in ("tokens", "learnt", "first_learnt"))
    return Measured.of(RowLengths(tokens, learnt, firsts, raw["rows"]))


def check(spec: RunSpec, tell: OnProgress, is_cancelled: Callable[[], bool]) -> DataReport | str:
    """Every row, checked."""
    return _told(lambda: client.scan(spec.data, spec.training.seed, tell, is_cancelled))


def count_tokens(spec: RunSpec, tell: OnProgress, is_cancelled: Callable[[], bool]) -> Measured | str:
    """Lengths of all good rows."""
    return _told(lambda: Measured.of(client.tokenize(_of_good_rows(spec), tell, is_cancelled)))


def _of_good_rows(spec: RunSpec) -> RunSpec:
    """Bad rows keep a run from starting; how long the others are can be seen all the same."""
    return spec.model_copy(update={"data": spec.data.model_copy(update={"on_bad_row": "skip"})})


def _told(work: Callable[[], T]) -> T | str:
    try:
        return work()
    except InvalidSpec as error:
        return str(error.problems[0])
    except (DataError, OSError) as error:
        return str(error)
    except Cancelled:
        return ""


def what_decides(spec: RunSpec) -> tuple[object, ...]:
    """What the check and the lengths depend on, of a spec: with the same, nothing has to be asked anew."""
    data = spec.data.model_dump(exclude={"max_length", "packing", "packing_strategy", "on_bad_row", *SAMPLE_SETTINGS})
    return str(data), spec.model, spec.training.seed
