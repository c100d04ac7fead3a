"""`python -m engine.worker data`: scans or tokenizes the data of one request, and ends.

The request is a line of JSON on stdin. What is answered are lines of JSON on stdout: `{"type": "progress", "doing",
"done", "total", "unit"}` now and then, and last `{"type": "report", "report"}`, `{"type": "tokens", "folder"}`,
`{"type": "problems", "problems"}` for what is wrong with the spec, or `{"type": "failed", "message"}`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec
from engine.data import caches
from engine.data.report import SHOWN_EXAMPLES, DataReport, Place, Repeated
from engine.data.sources import Source
from engine.spec import DataSection, RunSpec
from engine.worker.data.hashes import is_held_out, shared
from engine.worker.data.parent import end_with_parent
from engine.worker.data.scan import scan_side, shape_of
from engine.worker.data.shards import read_index
from engine.worker.data.store import RowStore, open_rows
from engine.worker.data.tables import SourceError
from engine.worker.pipes import own_pipes

TOLD_PERIOD_S = 0.1
OUT_OF_MEMORY = "Reading the data failed: a process was ended, which is how a machine short of memory ends one."

Tell = Callable[..., None]


def main() -> int:
    requests, replies = own_pipes()

    def tell(type: str, **fields: Any) -> None:
        replies.write(json.dumps({"type": type, **fields}) + "\n")
        replies.flush()

    request = json.loads(requests.readline())
    scratch = Path(request["scratch"])

    def give_up(*_: Any) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, give_up)
    end_with_parent(signal.SIGTERM)
    try:
        if request["task"] == "scan":
            tell("report", report=scan(request, tell).to_json())
        else:
            tell("tokens", folder=str(tokenize(request, tell)))
    except InvalidSpec as error:
        tell("problems", problems=[asdict(problem) for problem in error.problems])
    except SourceError as error:
        tell("failed", message=str(error))
    except MemoryError:
        tell(
            "failed",
            message="Reading the data failed: a process was ended, which is how a machine short of memory ends one.",
        )
    except BrokenPipeError:
        give_up()
    except OSError as error:
        tell("failed", message=_of_system(error))
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())[:500]
        tell("failed", message=f"Reading the data failed: {type(error).__name__}: {text}")
    return 0


def scan(request: dict[str, Any], tell: Tell) -> DataReport:
    """The report on the sides of the data, scanned where no scan of them is kept.

    Raises InvalidSpec, SourceError, OSError, MemoryError.
    """
    started_s = time.monotonic()
    data = DataSection.model_validate(request["data"])
    sides = [
        (Path(request[f"{name}_folder"]), [Source(**source) for source in request[name]])
        for name in ("train", "held_out")
        if request[name]
    ]
    scratch = Path(request["scratch"])
    shape = None
    for number, (final, sources) in enumerate(sides):
        if caches.is_whole(final):
            shape = read_index(final).shape
            continue
        shape = shape or shape_of(sources, data)
        folder = scratch / str(number)
        scan_side(sources, shape, data.columns, folder, final, _on_progress(tell))
        _put_in_place(folder, final)
    reports = [read_index(final).scan for final, _ in sides]
    report, train = reports[0], reports[0].train
    train_rows, held_out_rows, both = train.rows, 0, Repeated()
    if len(reports) > 1:
        held_out_rows = reports[1].train.rows
        both = _shared(*(RowStore(final) for final, _ in sides))
    elif data.eval_fraction:
        held_out_rows = int(is_held_out(RowStore(sides[0][0]).hashes, data.eval_fraction, request["seed"]).sum())
        train_rows -= held_out_rows
    return DataReport(
        report.format,
        report.reason,
        train,
        reports[1].train if len(reports) > 1 else None,
        train_rows,
        held_out_rows,
        both,
        time.monotonic() - started_s,
    )


def _shared(train: RowStore, held_out: RowStore) -> Repeated:
    count, pairs = shared(train.hashes, held_out.hashes, SHOWN_EXAMPLES)
    places = [Place(train.where(row), f"is held out too, as {held_out.where(same)}") for row, same in pairs]
    return Repeated(count, tuple(places))


def _put_in_place(folder: Path, final: Path) -> None:
    """Give a scanned side its name. Of two processes that scan the same, the rows of the first stay."""
    for _ in range(2):
        try:
            folder.rename(final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if caches.is_whole(final):
            return
        final.rename(folder.with_name(f"{folder.name}-replaced"))  # half of it is gone; the client deletes the rest


def tokenize(request: dict[str, Any], tell: Tell) -> Path:
    """The folder of the tokens of the training rows. Raises InvalidSpec, OSError."""
    from engine.data.conversion import is_conversation
    from engine.worker.data.encode import load_encoder
    from engine.worker.data.tokens import build
    from engine.worker.failures import BadSpec

    spec = RunSpec.model_validate(request["spec"])
    rows = open_rows(DataReport.from_json(request["report"]), spec.data, spec.training.seed)
    told = _on_progress(tell, "tokens")
    try:
        encoder = load_encoder(spec, is_conversation(rows.train[0]))
        return build(spec, rows, encoder, lambda done, total: told(done, total, "rows"))
    except BadSpec as error:
        raise SourceError(f"{error} {error.hint}".strip()) from None


def _on_progress(tell: Tell, doing: str = "scan") -> Callable[[int, int | None, str], None]:
    last_s = 0.0

    def on_progress(done: int, total: int | None, unit: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= TOLD_PERIOD_S or done == total:
            last_s = now_s
            tell("progress", doing=doing, done=done, total=total, unit=unit)

    return on_progress


def _of_system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk of {caches.data_folder()} is full: the checked rows take about as much as the data. Make room, "
            "or let LORADECK_CACHE name a folder on another disk."
        )
    where = f" ({error.filename})" if error.filename else ""
    return f"Reading the data failed: {error.strerror or error}{where}."
