"""What the base did is found again exactly where all that it depends on is the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.evaluation import base_cache
from engine.evaluation.general_text import GENERAL_TEXT_FILE, general_text_rows
from engine.evaluation.plan import Answer, LossPart, RowLoss
from engine.jobs.subject import Subject
from engine.runs.store import Run
from engine.spec import RunSpec

PART = LossPart("general_text", str(GENERAL_TEXT_FILE))
ROWS = [RowLoss("general_text", "base", row, "g, line 1", 3.5 + row, 7, 2, "p", None) for row in range(3)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder, files in ((model, ("config.json", "model.safetensors")), (adapter, ("tokenizer.json",))):
        folder.mkdir()
        for name in files:
            (folder / name).write_text(name)
    (adapter / "adapter_model.safetensors").write_text("weights")
    spec = RunSpec.model_validate({"model": {"name_or_path": str(model)}, "data": {"train": "rows.jsonl"}})
    return Subject(Run(tmp_path / "run"), spec, adapter, None)


def test_what_is_kept_is_found_and_other_adapters_of_the_base_find_it_too(subject: Subject, tmp_path: Path) -> None:
    key = base_cache.losses_key(subject, PART, None)
    assert key is not None
    assert base_cache.read(key, RowLoss) is None
    base_cache.keep(key, map(asdict, ROWS))
    assert base_cache.read(key, RowLoss) == ROWS
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text("tokenizer.json")
    (other / "adapter_model.safetensors").write_text("other weights")
    spec = subject.spec.model_copy(update={"lora": subject.spec.lora.model_copy(update={"r": 3})})
    assert base_cache.losses_key(replace(subject, adapter=other, spec=spec), PART, None) == key


def change(section: str, **values: object) -> Callable[[Subject], Subject]:
    def changed(subject: Subject) -> Subject:
        part = getattr(subject.spec, section).model_copy(update=values)
        return replace(subject, spec=subject.spec.model_copy(update={section: part}))

    return changed


def touched(subject: Subject) -> Subject:
    os.utime(Path(subject.spec.model.name_or_path) / "model.safetensors", (1, 1))
    return subject


def other_tokenizer(subject: Subject) -> Subject:
    (subject.adapter / "tokenizer.json").write_text("another")
    return subject


@pytest.mark.parametrize(
    "changed",
    [
        change("quantization", load_in="8bit"),
        change("quantization", bnb_4bit_quant_type="fp4"),
        change("model", dtype="float16"),
        change("model", revision="v2"),
        change("data", max_length=77),
        change("data", completion_only_loss=False),
        change("hardware", device="cpu"),
        touched,
        other_tokenizer,
    ],
)
def test_whatever_changes_the_figures_changes_the_name(subject: Subject, changed: Callable[[Subject], Subject]) -> None:
    before = base_cache.losses_key(subject, PART, None)
    after = base_cache.losses_key(changed(subject), PART, None)
    assert before is not None
    assert after is not None
    assert before != after


def test_rows_limits_and_questions_are_told_apart(subject: Subject, tmp_path: Path) -> None:
    other = tmp_path / "text.jsonl"
    other.write_text('{"text": "x"}\n')
    names = {
        base_cache.losses_key(subject, PART, None),
        base_cache.losses_key(subject, PART, 4),
        base_cache.losses_key(subject, replace(PART, limit=5), None),
        base_cache.losses_key(subject, replace(PART, rows=str(other)), None),
        base_cache.answers_key(subject, "a", 5, None),
        base_cache.answers_key(subject, "b", 5, None),
        base_cache.answers_key(subject, "a", 6, None),
        base_cache.tasks_key(subject, ("arc",), None, None),
        base_cache.tasks_key(subject, ("arc",), tmp_path, None),
    }
    assert len(names) == 9
    assert None not in names


def test_held_out_rows_that_were_never_read_have_no_name(subject: Subject) -> None:
    assert base_cache.losses_key(subject, LossPart("held_out", "held_out"), None) is None


def test_a_model_that_is_nowhere_has_no_name(subject: Subject) -> None:
    assert base_cache.answers_key(change("model", name_or_path="no-one/has-this")(subject), "a", 5, None) is None
    assert base_cache.answers_key(change("model", name_or_path="/gone/model")(subject), "a", 5, None) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_entry_is_none(subject: Subject, tmp_path: Path, damage: str) -> None:
    key = base_cache.answers_key(subject, "a", 5, None)
    assert key is not None
    base_cache.keep(key, [asdict(Answer("benchmark", "base", 0, "text", 3, False))])
    (path,) = (tmp_path / "cache" / "evaluations").iterdir()
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-9],
            "flip": content.replace(b'"text"', b'"tent"'),
            "empty": b"",
            "other": b'{"sha256": 5}\n[1]\n',
        }[damage]
    )
    assert base_cache.read(key, Answer) is None


def test_entries_that_nobody_asked_for_in_a_month_go(subject: Subject, tmp_path: Path) -> None:
    first = base_cache.answers_key(subject, "a", 5, None)
    second = base_cache.answers_key(subject, "b", 5, None)
    assert first is not None
    assert second is not None
    base_cache.keep(first, [])
    (path,) = (tmp_path / "cache" / "evaluations").iterdir()
    os.utime(path, (1, 1))
    base_cache.keep(second, [])
    assert [each.stem for each in (tmp_path / "cache" / "evaluations").iterdir()] == [second]


def test_the_general_text_is_shipped_whole() -> None:
    import hashlib
    import json

    rows = [json.loads(line) for line in GENERAL_TEXT_FILE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == general_text_rows() == 42
    assert {row["kind"] for row in rows} >= {"science", "history", "prose", "code", "arithmetic", "dialogue", "german"}
    assert all(60 <= len(row["text"].split()) <= 120 for row in rows if row["kind"] not in ("chinese", "japanese"))
    # Figures of different times compare only while it stays as it is.
    digest = hashlib.sha256(GENERAL_TEXT_FILE.read_bytes()).hexdigest()
    assert digest == "7a35dd41c8bf3e8bcfddae011dc417083c7d11785a831b742a2743325feebd7b"
