"""`data` as a person calls it: real files, real processes, the tiny model's own tokenizer."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.checks import write_spec
from engine.cli import data_facts
from engine.cli.data import print_facts
from engine.cli.data_text import ASCII, SHOWN_CHARACTERS, UNICODE, marked, runs_of, shortened, tell
from engine.inspector import Inspector
from engine.spec import RunSpec
from tests.conftest import loradeck

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows are scanned and tokenized once for the tests that look at the same ones."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(cache))


@pytest.fixture(scope="module")
def inspector(cache: Path) -> Iterator[Inspector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        with Inspector() as started:
            yield started


def written(spec: RunSpec, folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(write_spec(spec))
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def tokens_of(question: str, answer: str) -> int:
    """Of a row: each byte is a token, and so is each of the four marks around turns."""
    return len(f"<user\n{question}>\n<assistant\n{answer}>\n".encode())


def lines(*rows: dict[str, Any] | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def told_to_people(found: data_facts.Found) -> str:
    written = io.StringIO()
    tell(found, Console(file=written, width=80, markup=False, highlight=False, emoji=False))
    return written.getvalue()


def test_scripts_are_told_everything_and_nothing_else_is_on_stdout(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    done = loradeck("data", str(written(tiny_spec(), tmp_path)), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["format"], told["rows"], told["train_rows"], told["held_out_rows"]) == ("messages", 64, 64, 0)
    assert told["bad_rows"] == {}
    assert told["would_start"] is True
    lengths = sorted(tokens_of(f"double {n}", f"it is {2 * n}") for n in range(64))
    measured = told["token_lengths"]
    assert (measured["max"], measured["is_sample"], measured["rows_measured"]) == (lengths[-1], False, 64)
    assert measured["mean"] == pytest.approx(sum(lengths) / 64, abs=0.01)
    assert (told["truncated_share"], told["zero_label_rows"]) == (0, 0)
    assert set(told["padding_shares"]) == set(told["steps_per_epoch"]) == {"random", "group_by_length", "packing"}
    assert told["steps_per_epoch"]["random"] == 16
    assert told["padding_shares"]["packing"] == 0
    first, *_ = examples = told["examples"]
    assert len(examples) == 3
    assert first["where"] == "rows.jsonl, line 1"
    assert first["text"].startswith("<|im_start|>user\ndouble 0<|im_end|>")
    assert first["tokens"] == lengths[0]
    assert 0 < first["trained"] < first["tokens"]
    assert first["eos_trained"] is True


def test_people_see_what_is_learnt_by_more_than_colour(
    tiny_spec: MakeSpec, tmp_path: Path, inspector: Inspector
) -> None:
    shown = told_to_people(data_facts.find(written(tiny_spec(), tmp_path), False, inspector))
    assert "64 rows: 64 to learn from, 0 held out" in shown
    assert "⟦it is 0<|im_end|>" in shown
    assert "the end of sequence is learnt" in shown
    assert "group_by_length (chosen)" in shown
    assert "A run would start." in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_sample_is_named_one_and_has_its_error(
    tiny_spec: MakeSpec, tmp_path: Path, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_facts, "EXACT_UP_TO_BYTES", 0)
    rows = tmp_path / "many.jsonl"
    source = random.Random(0)
    turns = [(f"count to {n}", "one " * source.randrange(1, 40)) for n in range(12_000)]
    rows.write_text(lines(*(chat(*turn) for turn in turns)))
    spec = tiny_spec(data={"train": str(rows), "max_length": 128})
    found = data_facts.find(written(spec, tmp_path), False, inspector)
    told = data_facts.facts_of(found)
    assert told["token_lengths"]["is_sample"] is True
    assert 1000 < told["token_lengths"]["rows_measured"] < told["train_rows"] == 12_000
    truncated = sum(tokens_of(*turn) > 128 for turn in turns) / 12_000
    assert 0 < told["errors_95"]["truncated_share"] < 0.05
    assert told["truncated_share"] == pytest.approx(truncated, abs=2 * told["errors_95"]["truncated_share"])


def test_bad_rows_are_named_with_their_place_and_keep_a_run_from_starting(
    tiny_spec: MakeSpec, tmp_path: Path, inspector: Inspector, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "bad.jsonl"
    rows.write_text(
        lines(
            chat("hello", "hi there"),
            '{"messages": [',
            {"messages": [{"role": "user", "content": "\x1b[31m[bold]nobody answers"}]},
            chat("hello", "hi there"),
            chat("hello", "hi \x9b31m there"),
        )
    )
    found = data_facts.find(written(tiny_spec(data={"train": str(rows)}), tmp_path), False, inspector)
    assert [problem.field for problem in found.problems] == ["bad.jsonl, line 2", "bad.jsonl, line 3"]
    assert found.figures is not None
    shown = told_to_people(found)
    for words in (
        "5 rows, 2 bad: 3 to learn from",
        "a run does not start with them (data.on_bad_row: error)",
        "1 row exactly like an earlier one",
        "A run would not start: 2 problems.",
        "⟦hi there<|im_end|>",
    ):
        assert words in shown
    assert not any(character in shown for character in "\x1b\x9b")

    spec = tiny_spec(data={"train": str(rows), "on_bad_row": "skip"})
    print_facts(data_facts.find(written(spec, tmp_path), False, inspector))
    printed = capsys.readouterr().out
    told = json.loads(printed)
    assert told["would_start"] is True
    assert (told["rows"], told["train_rows"], told["duplicates"]) == (5, 3, 1)
    assert told["bad_rows"] == {"json": 1, "no-assistant-turn": 1}
    assert {example["where"] for example in told["bad_row_examples"]} == {"bad.jsonl, line 2", "bad.jsonl, line 3"}
    assert told["examples"][2]["text"].count("\x9b31m") == 1
    assert "\x9b" not in printed


def test_rows_that_the_chat_template_refuses_keep_a_run_from_starting_unless_they_are_skipped(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path, inspector: Inspector
) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    template = folder / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    rows = tmp_path / "some.jsonl"
    system = {"role": "system", "content": "be brief"}
    rows.write_text(
        lines(*(chat(f"{n}?", f"{n}!") for n in range(9)), {"messages": [system, *chat("a", "b")["messages"]]})
    )

    def found(on_bad_row: str) -> data_facts.Found:
        data = {"train": str(rows), "on_bad_row": on_bad_row}
        spec = tiny_spec(model={"name_or_path": str(folder)}, data=data)
        return data_facts.find(written(spec, tmp_path), False, inspector)

    skips = found("skip")
    assert skips.would_start
    assert data_facts.facts_of(skips)["refused_rows"] == 1
    (problem,) = found("error").problems  # the tokens are there already, made without that row
    assert problem.field == "some.jsonl, line 10"
    assert "no system turns" in problem.reason


def test_without_a_tokenizer_the_rows_are_reported_and_their_lengths_are_unknown(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path, inspector: Inspector
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    spec = tiny_spec(model={"name_or_path": str(folder)})
    found = data_facts.find(written(spec, tmp_path), False, inspector)
    told = data_facts.facts_of(found)
    assert told["rows"] == 64
    assert told["token_lengths"] is told["truncated_share"] is told["padding_shares"] is None
    assert "tokenizer" in told["lengths_unknown"]
    assert told["examples"] == []
    assert "Token lengths are unknown" in told_to_people(found)


def test_without_the_model_the_rows_are_reported_and_a_run_would_not_start(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(model={"name_or_path": str(tmp_path / "none")})
    done = loradeck("data", str(written(spec, tmp_path)))
    assert done.returncode == 2
    assert "64 rows: 64 to learn from" in done.stdout
    assert "Token lengths are unknown" in done.stdout
    assert "model.name_or_path" in done.stdout


def test_data_that_is_not_there_is_wrong_input(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    done = loradeck("data", str(written(tiny_spec(data={"train": str(tmp_path / "none.jsonl")}), tmp_path)), "--json")
    assert done.returncode == 2
    assert [problem["field"] for problem in json.loads(done.stdout)["problems"]] == ["data.train"]


PIECES = [["<s>", 0, 1], ["[red]ask", 0, 0], ["ans\twer\x1b[0m", 1, 0], ["</s>", 1, 1], ["", 1, 0], ["\n", 0, 0]]


def test_runs_join_what_is_learnt_alike_and_brackets_stand_around_it() -> None:
    runs = runs_of(PIECES)
    assert runs == [("<s>[red]ask", False), ("ans\twer\x1b[0m</s>", True), ("\n", False)]
    assert marked(runs, False, UNICODE).plain == "<s>[red]ask⟦ans    wer\N{REPLACEMENT CHARACTER}[0m</s>⟧\n"
    assert marked(runs, False, ASCII).plain.startswith("<s>[red]ask[[ans")


def test_on_a_terminal_what_is_learnt_is_underlined_and_nothing_is_put_between() -> None:
    shown = marked(runs_of(PIECES), True, UNICODE)
    assert shown.plain == "<s>[red]askans    wer\N{REPLACEMENT CHARACTER}[0m</s>\n"
    assert [span.style for span in shown.spans] == ["dim", "bold underline", "dim"]


def test_a_long_row_keeps_its_beginning_and_its_end() -> None:
    runs = [("p" * 5000, False), ("a" * 300, True), ("z" * 3000, False), ("end", True)]
    kept = shortened(runs)
    text = "".join(part for part, _ in kept)
    assert kept[-1] == ("end", True)
    assert f"... {8303 - SHOWN_CHARACTERS:,} characters more ..." in text
    assert kept[0] == ("p" * (SHOWN_CHARACTERS // 2), False)
    assert ("z" * (SHOWN_CHARACTERS // 2 - 3), False) in kept
    assert len(text) < SHOWN_CHARACTERS + 50
    assert shortened([("short", True)]) == [("short", True)]
