"""The row store: any row by its number, and the same rows held out whatever is added."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.data import client
from engine.data.report import DataReport
from engine.spec import DataSection
from engine.worker.data.hashes import is_held_out, repeated, row_hash, shared
from engine.worker.data.shards import BATCH_ROWS
from engine.worker.data.store import Rows, open_rows


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


def opened(path: Path, texts: list[str], seed: int = 0, **data: object) -> tuple[DataReport, Rows]:
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    section = DataSection.model_validate({"train": str(path), **data})
    report = client.scan(section, seed)
    return report, open_rows(report, section, seed)


TEXTS = [f"row {number}" for number in range(400)]


def test_rows_are_found_by_number_and_in_batches(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(2 * BATCH_ROWS + 7)]
    report, rows = opened(tmp_path / "a.jsonl", texts)
    assert len(rows.train) == len(texts)
    assert rows.train[BATCH_ROWS] == {"text": f"row {BATCH_ROWS}"}
    assert rows.train[-1] == {"text": texts[-1]}
    assert rows.train.raw(3) == {"text": "row 3", "id": 1}
    assert rows.train.where(2 * BATCH_ROWS) == f"a.jsonl, line {2 * BATCH_ROWS + 1}"
    batches = list(rows.train.batches(1000))
    assert [len(batch) for batch in batches] == [1000, 1000, 55]
    assert [row["text"] for batch in batches for row in batch] == texts
    assert rows.train.content == report.train.content
    assert len(rows.held_out) == 0
    assert list(rows.held_out.batches(5)) == []
    with pytest.raises(IndexError):
        rows.train[len(texts)]


def test_held_out_rows_stay_held_out_when_the_file_grows(tmp_path: Path) -> None:
    report, few = opened(tmp_path / "a.jsonl", TEXTS[:200], seed=3, eval_fraction=0.2)
    _, many = opened(tmp_path / "b.jsonl", [*TEXTS[200:], *TEXTS[:200]], seed=3, eval_fraction=0.2)
    assert (len(few.train), len(few.held_out)) == (report.train_rows, report.held_out_rows)
    assert len(few.train) + len(few.held_out) == 200
    assert 20 < len(few.held_out) < 60
    held_out = [row["text"] for row in few.held_out]
    assert [row["text"] for row in many.held_out if row["text"] in TEXTS[:200]] == held_out
    assert not set(held_out) & {row["text"] for row in few.train}
    assert few.held_out.where(0) == f"a.jsonl, line {TEXTS.index(held_out[0]) + 1}"
    _, other = opened(tmp_path / "a.jsonl", TEXTS[:200], seed=4, eval_fraction=0.2)
    assert [row["text"] for row in other.held_out] != held_out
    assert other.train.content != few.train.content


def test_held_out_rows_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text('{"text": "measured"}\n')
    _, rows = opened(tmp_path / "a.jsonl", TEXTS[:3], eval=str(tmp_path / "eval.jsonl"))
    assert [row["text"] for row in rows.train] == TEXTS[:3]
    assert rows.held_out[0] == {"text": "measured"}
    assert rows.held_out.where(0) == "eval.jsonl, line 1"


def test_columns_are_renamed_as_the_scan_was_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "1+1?", "a": "2"}\n')
    data = DataSection(train=str(path), columns={"prompt": "q", "completion": "a"})
    rows = open_rows(client.scan(data, 0), data, 0)
    assert rows.format == "prompt-completion"
    assert rows.train[0] == {"prompt": "1+1?", "completion": "2"}


def test_the_order_of_keys_does_not_make_another_row() -> None:
    assert row_hash({"prompt": "a", "completion": "b"}) == row_hash({"completion": "b", "prompt": "a"})
    assert row_hash({"text": "a"}) != row_hash({"text": "b"})


@pytest.mark.parametrize("share", [0.01, 0.3, 0.999999])
def test_the_share_that_is_held_out_is_the_one_that_was_asked_for(share: float) -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 200_000, dtype=np.uint64)
    assert is_held_out(hashes, share, 42).mean() == pytest.approx(share, abs=0.005)
    neighbours = np.arange(200_000, dtype=np.uint64)  # however alike the hashes are
    assert is_held_out(neighbours, share, 7).mean() == pytest.approx(share, abs=0.005)


def test_repeated_and_shared_rows_are_those_that_a_plain_search_finds() -> None:
    draw = np.random.default_rng(2)
    train, held_out = (draw.integers(0, 50, size, dtype=np.uint64) for size in (80, 12))
    listed = train.tolist()
    again = [(row, listed.index(value)) for row, value in enumerate(listed) if value in listed[:row]]
    assert repeated(train, 5) == (len(again), again[:5])
    both = [(row, held_out.tolist().index(value)) for row, value in enumerate(listed) if value in held_out.tolist()]
    assert shared(train, held_out, 5) == (len(both), both[:5])
    assert repeated(np.empty(0, np.uint64), 5) == shared(train, np.empty(0, np.uint64), 5) == (0, [])
