"""Lengths of rows in tokens: of all of them where they are known, else of some, told as such."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.worker.lengths
from engine.data import client
from engine.inspector import Inspector
from engine.memory.lengths import Lengths, kept, measured, row_tokens
from engine.spec import RunSpec
from engine.worker.data.run_data import load_data
from engine.worker.lengths import measure
from tests.engine.worker.training import write_rows

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def spec(tiny_spec: MakeSpec, tmp_path: Path) -> RunSpec:
    """90 rows, the longest last."""
    return tiny_spec(data={"train": write_rows(tmp_path / "rows.jsonl", ["a" * (number + 1) for number in range(90)])})


def asked(spec: RunSpec) -> dict[str, Any]:
    return measure({"spec": spec.model_dump()})


def test_before_a_scan_the_head_is_looked_at_and_the_rest_reckoned(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(spec)
    assert len(whole["tokens"]) == whole["rows"] == 90
    monkeypatch.setattr(engine.worker.lengths, "SAMPLE", 30)
    head = asked(spec)
    assert head["tokens"] == whole["tokens"][:30]
    assert 60 < head["rows"] < 120


def test_after_a_scan_rows_are_drawn_from_all_and_after_tokenizing_every_one_counts(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked(spec)
    monkeypatch.setattr(engine.worker.lengths, "SAMPLE", 30)
    client.scan(spec.data, spec.training.seed)
    sample = asked(spec)
    assert sample == asked(spec)
    assert (sample["rows"], len(sample["tokens"])) == (90, 30)
    assert Counter(sample["tokens"]) <= Counter(whole["tokens"])
    assert sample["tokens"] not in (whole["tokens"][:30], whole["tokens"][::3])
    load_data(spec)
    exact = asked(spec)
    assert exact == whole
    assert [exact["tokens"][row] - exact["learnt"][row] for row in range(90)] == exact["first_learnt"]


def test_no_length_is_given_for_data_that_cannot_be_learnt(
    tiny_spec: MakeSpec, tmp_path: Path, inspector: Inspector
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"colour": "red"}\n')
    assert measured(tiny_spec(data={"train": str(path)}), inspector) is None
    assert measured(tiny_spec(data={"train": str(tmp_path / "gone.jsonl")}), inspector) is None


def test_a_sample_is_kept_and_gives_way_to_exact_lengths(spec: RunSpec, inspector: Inspector) -> None:
    assert kept(spec) is None
    lengths = measured(spec, inspector)
    assert lengths is not None
    assert kept(spec) == lengths
    longer = spec.data.model_copy(update={"max_length": 20})
    assert kept(spec.model_copy(update={"data": longer})) == lengths, "it is of rows that are not cut"
    other = spec.data.model_copy(update={"chat_template_path": "chatml"})
    assert kept(spec.model_copy(update={"data": other})) is None
    load_data(spec)
    exact = kept(spec)
    assert exact is not None
    assert not exact.is_sample
    assert row_tokens(spec, exact) == min(64, exact.longest)
    with open(str(spec.data.train), "a") as file:
        file.write(json.dumps({"messages": [{"role": "assistant", "content": "more"}]}) + "\n")
    assert kept(spec) is None


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    with Inspector() as started:
        yield started


def test_rows_without_tokens_are_no_rows() -> None:
    lengths = Lengths.from_json({"tokens": [5, 0, 3], "rows": 30, "labelled_share": 0.5})
    assert lengths == Lengths((3, 5), 29, 0.5)
    assert Lengths.from_json(lengths.to_json()) == lengths
    with pytest.raises(ValueError, match="no row has tokens"):
        Lengths.from_json({"tokens": [0], "rows": 1, "labelled_share": 0.0})
