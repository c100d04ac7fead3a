"""What earlier scans left on this machine, found by what was scanned; used only while it is whole.

data/<key of the sources>/  index.json  00000.arrow ...  hashes.u64  reports/<key of the rest>.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.catalog import cache_folder
from engine.data.report import DataReport
from engine.data.sources import Source, sources_of
from engine.runs.store import write_atomically
from engine.spec import DataSection

UNUSED_DAYS = 30
"""What nobody asked for in so many days goes."""
LEFTOVER_DAYS = 1
"""What a killed scan left half done goes after so many: no scan takes that long."""

INDEX = "index.json"


@dataclass(frozen=True)
class Places:
    """What `data` names, and where the result of scanning it is kept."""

    train: list[Source]
    held_out: list[Source]
    """Of a file or a split of its own; empty where there is none."""
    train_folder: Path
    held_out_folder: Path | None
    report_path: Path


def data_folder() -> Path:
    return cache_folder() / "data"


def places_of(data: DataSection, seed: int) -> Places:
    """Where a scan of `data` is kept, whether or not there has been one. Looks at the files' sizes and times only.

    Raises InvalidSpec for files that are not there.
    """
    train, held_out = sources_of(data)
    settings = [data.format, data.columns]
    train_key = _key(settings, _stamps(train), _made_with())
    # Held-out rows are read in the shape that the training rows were recognised as.
    held_out_key = None if not held_out else _key(train_key, _stamps(held_out))
    train_folder = data_folder() / train_key
    rest = _key(held_out_key, data.eval_fraction, seed if data.eval_fraction else 0)
    return Places(
        train,
        held_out,
        train_folder,
        None if held_out_key is None else data_folder() / held_out_key,
        train_folder / "reports" / f"{rest}.json",
    )


def read_report(places: Places) -> DataReport | None:
    """The report that is kept, if the rows it speaks of are there still."""
    try:
        report = DataReport.from_json(json.loads(places.report_path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    folders = [folder for folder in (places.train_folder, places.held_out_folder) if folder is not None]
    if not all(map(is_whole, folders)):
        return None
    for folder in folders:
        mark_used(folder)
    return report


def keep_report(places: Places, report: DataReport) -> None:
    """Raises OSError."""
    places.report_path.parent.mkdir(exist_ok=True)
    write_atomically(places.report_path, json.dumps(report.to_json()).encode())


def is_whole(folder: Path) -> bool:
    """Whether every file of a scanned side is as the scan left it."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
        return all(file_stamp(folder / name) == stamp for name, stamp in index["files"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def file_stamp(path: Path) -> list[int]:
    """Size in bytes, and the time of the last change in nanoseconds. Raises OSError."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def mark_used(folder: Path) -> None:
    with suppress(OSError):
        os.utime(folder / INDEX)


def remove_unused(folder: Path) -> None:
    """Delete what has not been used for long from a folder of such entries. Raises nothing."""
    now_s = time.time()
    with suppress(OSError):
        for entry in folder.iterdir():
            with suppress(OSError):
                marked = entry / INDEX if (entry / INDEX).exists() else entry
                days = LEFTOVER_DAYS if entry.name.startswith(".") else UNUSED_DAYS
                if now_s - marked.stat().st_mtime > days * 86_400:
                    shutil.rmtree(entry, ignore_errors=True)


def _stamps(sources: Sequence[Source]) -> list[Any]:
    return [list(source.stamp()) for source in sources]


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@cache
def _made_with() -> str:
    """The code that reads and keeps rows: another version of it makes another cache."""
    engine = Path(__file__).parents[1]
    files = sorted((engine / "data").glob("*.py"))
    files += [
        engine / "worker" / "data" / f"{name}.py" for name in ("tables", "hub", "check", "scan", "shards", "hashes")
    ]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
