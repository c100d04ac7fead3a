"""Rows of every kind of source, read in pieces and put together again as if read at once."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.data.report import DataReport
from engine.data.sources import Source, find_sources
from engine.spec import DataSection
from engine.worker.data import scan
from engine.worker.data.shards import read_index
from engine.worker.data.store import RowStore
from engine.worker.data.tables import Piece, SourceError, plain, rows_of

ROWS = [{"text": f"row {number} é 東京"} for number in range(3000)]


def scanned(folder: Path, names: str | list[str], split: str | None = None, **data: Any) -> tuple[DataReport, RowStore]:
    section = DataSection(train=names, **data)
    sources = find_sources("data.train", names, None, split)
    shape = scan.shape_of(sources, section)
    filled = folder / "scanned"
    told: list[int] = []
    scan.scan_side(sources, shape, section.columns, filled, filled, lambda done, *_: told.append(done))
    assert told == sorted(told)
    return read_index(filled).scan, RowStore(filled)


def written(path: Path, rows: list[dict[str, Any]]) -> bytes:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(content)
    return content


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in rows[0]})


def write_parquet(path: Path) -> None:
    parquet.write_table(table_of(ROWS), path, row_group_size=700)


def write_arrow_file(path: Path) -> None:
    with pa.ipc.new_file(str(path), table_of(ROWS).schema) as writer:
        writer.write_table(table_of(ROWS), max_chunksize=900)


def write_arrow_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table_of(ROWS).schema) as writer:
        writer.write_table(table_of(ROWS), max_chunksize=900)


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(written(path, ROWS)))


def write_zstd(path: Path) -> None:
    content = written(path, ROWS)
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(content)


def write_saved(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)


@pytest.mark.parametrize(
    ("name", "write", "first", "unit"),
    [
        ("a.jsonl", lambda path: written(path, ROWS), 1, "line"),
        ("a.json", lambda path: path.write_text(json.dumps(ROWS)), 1, "row"),
        ("a.csv", lambda path: path.write_text("text\n" + "".join(row["text"] + "\n" for row in ROWS)), 2, "line"),
        ("a.txt", lambda path: path.write_text("".join(row["text"] + "\n" for row in ROWS)), 1, "line"),
        ("a.parquet", write_parquet, 1, "row"),
        ("a.arrow", write_arrow_file, 1, "row"),
        ("b.arrow", write_arrow_stream, 1, "row"),
        ("a.jsonl.gz", write_gzip, 1, "line"),
        ("a.jsonl.zst", write_zstd, 1, "line"),
        ("saved", write_saved, 1, "row"),
    ],
)
def test_the_same_rows_come_out_of_every_kind_of_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any, first: int, unit: str
) -> None:
    monkeypatch.setattr(scan, "PIECE_BYTES", 10_000)
    write(tmp_path / name)
    report, store = scanned(tmp_path, str(tmp_path / name))
    assert report.train.bad_rows == ()
    assert store.examples(0, len(ROWS) + 5) == ROWS
    places = [f"{name}, {unit} {first + row}" for row in (0, 699, 2999)]
    assert [store.where(row) for row in (0, 699, 2999)] == places


@pytest.mark.parametrize("piece_bytes", [97, 1000, 4096])
@pytest.mark.parametrize("last", ["\n", ""])
def test_lines_keep_their_numbers_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, last: str
) -> None:
    lines = [json.dumps({"text": "x" * (number % 211)}) if number % 7 else "" for number in range(1, 400)]
    lines[100], lines[399 - 1] = '{"text": ', "[]"
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + last)
    monkeypatch.setattr(scan, "PIECE_BYTES", piece_bytes)
    report, store = scanned(tmp_path, str(tmp_path / "a.jsonl"))
    places = {bad.kind: (bad.count, bad.examples[0].where) for bad in report.train.bad_rows}
    assert places["json"] == (1, "a.jsonl, line 101")
    assert places["not-object"] == (1, "a.jsonl, line 399")
    assert places["empty"][1] == "a.jsonl, line 211"
    for row in range(len(store)):
        line = int(store.where(row).rpartition(" ")[2])
        assert store.raw(row) == json.loads(lines[line - 1])


def test_small_files_share_a_shard_and_keep_their_places(tmp_path: Path) -> None:
    for number in range(30):
        written(tmp_path / f"{number:02d}.jsonl", [{"text": f"{number} {row}"} for row in range(3)])
    report, store = scanned(tmp_path, str(tmp_path / "*.jsonl"))
    assert report.train.rows == 90
    assert store.where(89) == "29.jsonl, line 3"
    assert store.example(45) == {"text": "15 0"}
    assert len(list((tmp_path / "scanned").glob("*.arrow"))) == 1


def test_a_split_of_a_saved_folder_is_read_as_it_was_chosen(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS[:40])
    chosen = whole.shuffle(seed=1).select(range(10))  # saved with indices into the whole
    datasets.DatasetDict({"train": whole, "test": chosen}).save_to_disk(tmp_path / "saved")
    report, store = scanned(tmp_path, str(tmp_path / "saved"), split="test")
    assert store.examples(0, 10) == chosen.to_list()
    assert report.train.rows == 10
    assert store.where(2) == "saved (test), row 3"


def test_values_that_json_has_not_are_made_plain(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30)
    rows = [{"text": "a", "day": day, "at": moment, "price": decimal.Decimal("1.50"), "picture": b"\xff\xd8"}]
    parquet.write_table(table_of(rows), tmp_path / "a.parquet")
    report, store = scanned(tmp_path, str(tmp_path / "a.parquet"))
    assert store.raw(0) == {
        "text": "a",
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00",
        "price": "1.50",
        "picture": "(2 bytes)",
    }
    assert report.train.dropped["column picture"] == 1
    assert plain({"a": np.arange(2), "b": (np.float32(1.5), datetime.timedelta(seconds=2))}) == {
        "a": [0, 1],
        "b": [1.5, 2.0],
    }


def test_bytes_are_text_where_they_are_and_a_fault_where_they_are_needed(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [b"caf\xc3\xa9", b"\xff\xfe"]}), tmp_path / "a.parquet")
    report, store = scanned(tmp_path, str(tmp_path / "a.parquet"))
    assert store.examples(0, 5) == [{"text": "café"}]
    (bad,) = report.train.bad_rows
    assert (bad.kind, bad.examples[0].where) == ("wrong-type", "a.parquet, row 2")


def test_a_surrogate_in_a_table_is_a_fault_and_not_a_crash(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", [{"text": "fine"}])
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"text": "\\ud83d"}\n{"text": "nul \\u0000"}\n')
    report, _ = scanned(tmp_path, str(tmp_path / "a.jsonl"))
    assert {bad.kind for bad in report.train.bad_rows} == {"surrogate", "nul"}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.parquet.gz"])
def test_a_table_that_is_none_is_a_message(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"neither a table nor packed")
    with pytest.raises(SourceError, match=name):
        scanned(tmp_path, str(tmp_path / name))


def test_a_packed_file_that_is_cut_off_gives_what_can_be_read(tmp_path: Path) -> None:
    for name, write in (("a.jsonl.gz", write_gzip), ("a.jsonl.zst", write_zstd)):
        write(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        (source,) = find_sources("data.train", str(tmp_path / name), None, None)
        reads = list(rows_of(source, Piece(0), lambda _: None))
        assert reads[-1].fault is not None
        assert "cut off" in reads[-1].fault[1]


def test_more_rows_than_the_disk_holds_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    huge = Source("file", str(tmp_path / "a.jsonl"), "jsonl", size_bytes=2**60)
    shape = scan.shape_of([huge], DataSection(train="a.jsonl"))
    with pytest.raises(SourceError, match="LORADECK_CACHE"):
        scan.scan_side([huge], shape, {}, tmp_path / "s", tmp_path / "s", lambda *_: None)
