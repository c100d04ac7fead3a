"""Writing the row store: one Arrow file for each piece of the work, and the index that binds them together."""

from __future__ import annotations

import json
from array import array
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from engine.data.caches import INDEX, file_stamp
from engine.data.report import DataReport
from engine.data.shapes import Shape
from engine.data.sources import Source

SCHEMA = pa.schema([("raw", pa.large_string()), ("source", pa.int32()), ("line", pa.int64()), ("hash", pa.uint64())])
HASHES = "hashes.u64"
"""The hashes of all rows in their order, 8 bytes each in the machine's byte order."""

BATCH_ROWS = 1024
BATCH_BYTES = 4 * 2**20
"""A batch is written when it has either: so much of a shard is in memory at a time."""


@dataclass
class Shard:
    """A written file of good rows."""

    name: str
    batches: list[int] = field(default_factory=list)
    """Rows of each record batch."""
    lines_before: dict[int, int] = field(default_factory=dict)
    """Number of a source -> lines of it that come before this shard's, where there are any."""


class ShardWriter:
    """Rows that are added one by one, and written a batch at a time. Lines count from where the piece begins."""

    def __init__(self, folder: Path, name: str) -> None:
        self.shard = Shard(name)
        self.hashes = array("Q")
        self._file = pa.OSFile(str(folder / name), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)
        self._clear()

    def _clear(self) -> None:
        self._texts: list[bytes] = []
        self._sources = array("i")
        self._lines = array("q")
        self._ends = array("q", [0])

    def add(self, raw: bytes, source: int, line: int, row_hash: int) -> None:
        self._texts.append(raw)
        self._sources.append(source)
        self._lines.append(line)
        self.hashes.append(row_hash)
        self._ends.append(self._ends[-1] + len(raw))
        if len(self._texts) >= BATCH_ROWS or self._ends[-1] >= BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        rows = len(self._texts)
        if not rows:
            return
        # `pa.array` would import pandas to find out that nothing here is its own: 0.2 s.
        texts = pa.LargeStringArray.from_buffers(rows, pa.py_buffer(self._ends), pa.py_buffer(b"".join(self._texts)))
        numbers = ((pa.int32(), self._sources), (pa.int64(), self._lines), (pa.uint64(), self.hashes[-rows:]))
        columns = [texts, *(pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(each)]) for kind, each in numbers)]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.shard.batches.append(rows)
        self._clear()

    def close(self) -> None:
        self._write()
        self._writer.close()
        self._file.close()


@dataclass(frozen=True)
class Index:
    """What a folder of the row store holds."""

    scan: DataReport
    """As if this side were all of the data."""
    shape: Shape
    columns: dict[str, str]
    """As `data.columns` renames them."""
    sources: list[Source]
    shards: list[Shard]


def write_index(folder: Path, index: Index) -> None:
    """Bind the files in `folder` together: without an index, or with files that changed since, none of it counts."""
    names = [shard.name for shard in index.shards] + [HASHES]
    raw: dict[str, Any] = {
        "scan": index.scan.to_json(),
        "shape": asdict(index.shape),
        "columns": index.columns,
        "sources": [asdict(source) for source in index.sources],
        "shards": [asdict(shard) for shard in index.shards],
        "files": {name: file_stamp(folder / name) for name in names},
    }
    (folder / INDEX).write_text(json.dumps(raw), encoding="utf-8")


def read_index(folder: Path) -> Index:
    """What `write_index` wrote. Raises OSError; of a whole folder nothing else."""
    raw = json.loads((folder / INDEX).read_bytes())
    shards = [
        Shard(each["name"], each["batches"], {int(source): lines for source, lines in each["lines_before"].items()})
        for each in raw["shards"]
    ]
    shape = Shape(**{**raw["shape"], "columns": tuple(raw["shape"]["columns"])})
    sources = [Source(**each) for each in raw["sources"]]
    return Index(DataReport.from_json(raw["scan"]), shape, raw["columns"], sources, shards)
