"""What the evaluation screen knows, without a screen."""

from __future__ import annotations

import csv
import io
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.evaluation.asked import Options, Progress
from engine.evaluation.results import Evaluation, Part
from engine.memory.card import Card, OtherProcess
from engine.runs.store import Run
from tests.tui.conftest import GIB, RunFolder
from tests.tui.evaluations import (
    EVALUATION,
    GENERAL,
    HELD_OUT,
    TASK,
    answered,
    benchmark_row,
    finished,
    keep,
    loss_row,
    lost,
    measure,
    older,
    rows,
)
from tui.chat.subjects import open_subject
from tui.evaluating.asked import Asked, first_asked, parse, texts
from tui.evaluating.changes import arranged, change_of, counted, parts_of
from tui.evaluating.csv_text import as_csv
from tui.evaluating.differences import MOST_WORDS, Span, compared
from tui.evaluating.figures import table
from tui.evaluating.findings import facts, findings, one_word, time_is_over
from tui.evaluating.loading import changes_of, look
from tui.evaluating.memory_words import memory_words
from tui.evaluating.progress_words import progress_words, share
from tui.evaluating.row_words import asked, body, head, row_line
from tui.glyphs import ASCII, UNICODE
from tui.widgets.path_suggester import first_path

# ---- rows


def names(order: str, part: str | None = None) -> list[str]:
    changes = [change_of(row) for row in rows()]
    listed = arranged(changes, "best" if order == "best" else "worst", part)
    return [f"{change.row.part[0]}{change.row.row} {change.direction}" for change in listed]


def test_rows_are_in_the_order_of_their_score_and_then_of_their_loss() -> None:
    best = names("best")
    assert best[:4] == ["b0 better", "h7 better", "h6 better", "h5 better"]
    assert best[-1] == "b1 worse"
    worst = names("worst")
    assert worst[:4] == ["b1 worse", "h3 worse", "g3 worse", "g2 worse"]
    assert worst[-1] == "b0 better"
    assert names("best", "general_text") == ["g0 better", "g1 same", "g2 worse", "g3 worse"]


def test_of_rows_that_scored_the_same_those_with_other_words_come_first() -> None:
    assert names("best", "benchmark") == ["b0 better", "b3 same", "b2 same", "b1 worse"]


def test_a_row_that_only_one_model_has_done_comes_last_in_either_order() -> None:
    alone = change_of(benchmark_row(0, answered("It is 9.", 1.0), None))
    worse = change_of(loss_row("held_out", 1, 1.0, 2.0))
    unknown = change_of(loss_row("held_out", 2, None, 2.0))
    for order in ("best", "worst"):
        listed = arranged([alone, unknown, worse], "best" if order == "best" else "worst", None)
        assert [change.direction for change in listed] == ["worse", "alone", "alone"]
    assert counted([alone, unknown, worse]) == {"better": 0, "worse": 1, "same": 0, "alone": 2}
    assert row_line(alone, UNICODE).change == "base only: right"
    assert row_line(unknown, UNICODE).change == "adapter only: 2.000"


def test_a_change_too_small_to_be_shown_is_none() -> None:
    assert change_of(loss_row("held_out", 0, 1.0, 1.0004)).direction == "same"
    assert change_of(loss_row("held_out", 0, 1.0, 1.0006)).direction == "worse"


def test_a_line_of_the_list_says_what_became_of_the_row() -> None:
    lines = [row_line(change_of(row), UNICODE) for row in rows()]
    assert (lines[0].change, lines[0].by, lines[0].part) == ("1.900 → 1.500", "-0.400", "held out")
    assert [line.change for line in lines[8:12]] == ["wrong → right", "right → wrong", "both right", "both wrong"]
    assert lines[-1].excerpt.startswith("Water of kind 3")
    assert all(row_line(change_of(row), ASCII).change.isascii() for row in rows())


# ---- differences


def marks(spans: tuple[Span, ...]) -> str:
    return "".join(f"[{span.text}]" if span.differs else span.text for span in spans)


@pytest.mark.parametrize(
    ("base", "adapter", "marked"),
    [
        ("It is 20 now.", "It is 24 now.", ("It is [20] now.", "It is [24] now.")),
        ("a b c d", "a x y d", ("a [b c] d", "a [x y] d")),
        ("a b c", "a  b\nc e", ("a b c", "a  b\nc [e]")),
        ("a, b c", "a b c", ("a[,] b c", "a b c")),
        ("  x y z", "x y z ", ("  x y z", "x y z ")),
        ("48 / 2 = 20 in, 68", "48 / 2 = 24 in, 72", ("48 / 2 = [20] in, [68]", "48 / 2 = [24] in, [72]")),
    ],
)
def test_words_that_differ_are_found(base: str, adapter: str, marked: tuple[str, str]) -> None:
    found = compared(base, adapter)
    assert (marks(found.base), marks(found.adapter)) == marked


def test_the_stretches_of_an_answer_are_the_answer() -> None:
    drawn = random.Random(0)
    for _ in range(300):
        base, adapter = (
            " ".join(drawn.choices(["a", "b", "c,", "d\n", "\u00e9\u0301", "1.5", ""], k=12)) for _ in "12"
        )
        found = compared(base, adapter)
        assert "".join(span.text for span in found.base) == base
        assert "".join(span.text for span in found.adapter) == adapter
        common = [span.text.split() for span in found.base if not span.differs]
        assert common == [] or found.note or base.split()


def test_where_marks_would_show_nothing_it_is_said_why() -> None:
    assert compared("It is 4.", "It is 4.").note == "word for word the same"
    assert compared("About ten", "Perhaps eleven or so").note.startswith("few words in common")
    assert compared("a " * (MOST_WORDS + 1), "b").note.startswith("longer than 2,000 words")
    assert compared("", "Yes.").base == ()


def test_answers_that_turn_in_circles_are_compared_at_once() -> None:
    began_s = time.perf_counter()
    compared("the the of " * 600, "the of " * 900)
    assert time.perf_counter() - began_s < 1.0


# ---- one row


def test_what_differs_is_marked_by_more_than_colour() -> None:
    row = rows()[8]
    assert row.base is not None
    assert row.adapter is not None
    found = compared(row.base.answer or "", row.adapter.answer or "")
    words = body("adapter", row.adapter, found.adapter, UNICODE)
    assert "[24] clips" in words.plain
    assert any("underline" in str(span.style) and "bold" in str(span.style) for span in words.spans)
    assert head(row, "base", row.base, UNICODE).plain == "base   ✗ wrong   19 tokens, cut at max_new_tokens"
    assert head(row, "adapter", row.adapter, ASCII).plain == "adapter   + right   19 tokens"


def test_a_row_without_answers_has_its_losses() -> None:
    row = loss_row("general_text", 0, 3.1, 2.05)
    assert head(row, "base", row.base, UNICODE).plain == "base"
    assert (
        body("base", lost(3.1, 10), (), UNICODE).plain == "loss 3.100 nats a token\n10 of 40 tokens foreseen (25.0 %)"
    )
    assert body("base", lost(None, 0, 0), (), UNICODE).plain == "no loss\n0 of 0 tokens foreseen"
    assert head(row, "adapter", None, UNICODE).plain == "adapter   has not done this row"
    assert asked(row, 80, 3, UNICODE).plain.startswith("text  Water of kind 0")


def test_text_of_models_and_data_is_text_only() -> None:
    evil = "\x1b[31mred[bold]\u202e\ud800\r\n[/bold]\x07"
    row = benchmark_row(0, answered(evil, 0.0), answered(f"{evil} x", 0.0), prompt=evil, expected=evil)
    found = compared(evil, f"{evil} x")
    shown = [
        body("base", row.base, found.base, UNICODE),
        asked(row, 80, None, UNICODE),
        asked(row, 80, 3, UNICODE),
    ]
    for words in shown:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\ud800]", words.plain)
        assert "red[bold]" in words.plain
        assert "␛[31m" in words.plain
    line = row_line(change_of(row), ASCII)
    assert (line.excerpt + body("base", row.base, found.base, ASCII).plain).replace("\n", "").isprintable()


def test_a_long_prompt_is_shortened_until_all_of_it_is_asked_for() -> None:
    row = benchmark_row(0, answered("x", 1.0), answered("y", 0.0), prompt="word " * 500, expected="1\n2\n3\n4\n5")
    short = asked(row, 80, 3, UNICODE).plain
    assert len(short) < 400
    assert short.endswith("3 …")
    assert asked(row, 80, None, UNICODE).plain.endswith("3\n4\n5")


# ---- figures


def said(evaluation: Evaluation, width: int = 118) -> list[str]:
    return [finding.lead + finding.figures for finding in findings(evaluation, width, UNICODE)]


def with_verdict(part: Part, verdict: str) -> Evaluation:
    figure = replace(part.measures[0], verdict=verdict)  # type: ignore[arg-type]
    return replace(EVALUATION, parts=(replace(part, measures=(figure, *part.measures[1:])),))


def test_what_is_proven_is_said_in_plain_sentences() -> None:
    assert said(replace(EVALUATION, parts=(*EVALUATION.parts, TASK))) == [
        "Better on held-out rows: loss 1.931 → 1.412 (-0.519, 95 % -0.580 to -0.458, 120 rows)",
        "No difference shown on gsm8k.jsonl: score 25.0 % → 33.3 % (+8.3 pp, 95 % -6.5 to +23.1, 24 rows)",
        "General text: loss 3.102 → 3.141 (+0.039, 95 % +0.021 to +0.057, 42 rows): it forgot a little",
        "No difference shown on lm-eval arc_easy, version 1.0: acc norm 0.512 → 0.521 (+0.009, 95 % -0.020 to +0.038)",
    ]
    assert said(with_verdict(HELD_OUT, "worse"))[0].startswith("Worse on held-out rows: ")
    assert said(with_verdict(HELD_OUT, "not compared"))[0].startswith("Not compared on held-out rows: ")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "nothing is forgotten, it is even better"),
        ("worse", "it forgot a little"),
        ("no difference shown", "no forgetting shown"),
    ],
)
def test_forgetting_is_only_said_where_it_is_shown(verdict: str, words: str) -> None:
    assert said(with_verdict(GENERAL, verdict)) == [
        f"General text: loss 3.102 → 3.141 (+0.039, 95 % +0.021 to +0.057, 42 rows): {words}"
    ]
    much = replace(GENERAL, measures=(measure("loss", 3.1, 3.9, 0.1, "worse"),))
    assert said(replace(EVALUATION, parts=(much,)))[0].endswith(": it forgot")


def test_a_sentence_leaves_out_what_the_table_says_too_before_it_takes_two_lines() -> None:
    assert said(EVALUATION, 78)[0] == "Better on held-out rows: loss 1.931 → 1.412 (-0.519, 95 % -0.580 to -0.458)"
    assert said(EVALUATION, 82)[1].endswith("33.3 % (95 % -6.5 to +23.1)")
    assert said(EVALUATION, 60)[1].endswith("25.0 % → 33.3 %")
    assert all(len(sentence) <= 76 for sentence in said(EVALUATION, 78))


def test_where_the_figures_come_from_is_told() -> None:
    assert facts(EVALUATION, UNICODE) == [
        "final adapter",
        "4bit on cuda:0",
        "only the first 120 rows of each set",
        "took 3 min",
        "base known from before",
    ]
    assert facts(older(), UNICODE)[0] == "checkpoint of step 412"
    assert "base known from before" not in facts(older(), UNICODE)
    assert time_is_over(EVALUATION) == ""
    assert time_is_over(older()).startswith("The time limit of 10 min ended it")
    assert one_word(EVALUATION) == "better on held-out rows, no difference shown on gsm8k.jsonl"


@pytest.mark.parametrize("width", [118, 78, 60, 40])
def test_the_table_fits_and_its_columns_stand_below_each_other(width: int) -> None:
    evaluation = replace(EVALUATION, parts=(*EVALUATION.parts, TASK))
    lines = table(evaluation, width, UNICODE).plain.splitlines()
    assert all(len(line) <= max(width, 60) for line in lines)
    loss = next(line for line in lines if line.startswith("  loss"))
    assert loss.index("✓ better") == lines[0].index("verdict")
    assert loss.index("1.931") + 5 == lines[0].index("base") + 4
    assert ("95 %" in lines[0]) == (width > 60)
    assert (" p " in lines[0]) == (width > 100)
    assert any("= no difference shown" in line for line in lines) == (width > 100)


def test_the_table_of_an_ascii_terminal_is_ascii() -> None:
    text = table(EVALUATION, 118, ASCII).plain
    assert text.isascii()
    assert "+ better" in text
    assert "x worse" in text


def test_csv_has_a_line_for_each_measure() -> None:
    evaluation = replace(EVALUATION, parts=(*EVALUATION.parts, replace(TASK, title='a "task", of\nmine')))
    lines = list(csv.DictReader(io.StringIO(as_csv(evaluation))))
    assert len(lines) == 8
    assert lines[0]["part"] == "held_out"
    assert float(lines[0]["difference"]) == pytest.approx(-0.519)
    assert (lines[0]["lower_is_better"], lines[0]["verdict"]) == ("true", "better")
    assert lines[-1]["title"] == 'a "task", of\nmine'


def test_what_was_not_compared_is_empty_in_csv_and_table() -> None:
    alone = replace(TASK.measures[0], base=None, difference=None, p_value=None, verdict="not compared")
    evaluation = replace(EVALUATION, parts=(replace(TASK, measures=(alone,)),))
    line = next(csv.DictReader(io.StringIO(as_csv(evaluation))))
    assert (line["base"], line["base_low"], line["p_value"]) == ("", "", "")
    assert "· not compared" in table(evaluation, 118, UNICODE).plain
    assert said(evaluation) == []


# ---- what is asked

TYPED = texts(Asked(None, Options()))


def test_what_was_typed_is_asked(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("{}")
    typed = {
        **{"checkpoint": " 412", "benchmark": f"{tmp_path}/b.jsonl ", "scorer": "Number", "tasks": "a, b,a"},
        **{"held_out": "NO", "general_text": "y", "limit": "1,000", "max_new_tokens": "32", "time_limit": "10m"},
    }
    assert parse(typed, True) == Asked(
        "412",
        Options(
            benchmark=tmp_path / "b.jsonl",
            scorer="number",
            tasks=("a", "b"),
            held_out=False,
            limit=1000,
            max_new_tokens=32,
            time_limit_s=600.0,
        ),
    )
    assert parse(TYPED, True) == Asked(None, Options())
    everything = Asked("newest", Options(limit=7, time_limit_s=90.0, max_new_tokens=9, general_text=False))
    assert parse(texts(everything), True) == everything


@pytest.mark.parametrize(
    ("field", "text", "complaint"),
    [
        ("benchmark", "/no/such.jsonl", "there is no such file"),
        ("scorer", "f1", "write one of exact, contains"),
        ("scorer", "exact", "there is no benchmark to score"),
        ("held_out", "perhaps", "write yes or no"),
        ("general_text", "", "write yes or no"),
        ("limit", "0", "write a whole number from 1"),
        ("limit", "ten", "write a whole number from 1"),
        ("max_new_tokens", "", "write a whole number from 1"),
        ("time_limit", "0s", "write 90s, 10m or 2h"),
        ("time_limit", "soon", "write 90s, 10m or 2h"),
    ],
)
def test_what_cannot_be_meant_is_said_at_its_field(field: str, text: str, complaint: str) -> None:
    answer = parse({**TYPED, field: text}, True)
    assert isinstance(answer, dict)
    assert list(answer) == [field]
    assert complaint in answer[field]


def test_an_evaluation_of_nothing_is_refused() -> None:
    refused = parse(TYPED, holds_out=False)
    assert isinstance(refused, dict)
    assert "held out no rows" in refused["benchmark"]
    assert isinstance(parse({**TYPED, "held_out": "no"}, holds_out=False), Asked)
    nothing = parse({**TYPED, "held_out": "no", "general_text": "no"}, holds_out=True)
    assert nothing == {"general_text": "nothing is left to evaluate on"}


def test_a_form_begins_as_the_newest_evaluation_was_asked() -> None:
    first = first_asked(True, False, {**EVALUATION.settings, "scorer": "--scorer regex, and 2 rows name their own"})
    assert first == Asked(
        None, Options(benchmark=Path("/data/gsm8k.jsonl"), scorer="regex", limit=120, max_new_tokens=200)
    )
    assert first_asked(False, True, None) == Asked("newest", Options(held_out=False))
    assert first_asked(True, False, EVALUATION.settings).options.scorer is None


def test_a_path_is_suggested_as_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "gsm8k.jsonl").write_text("")
    (tmp_path / "bench" / "notes.txt").write_text("")
    assert first_path(f"{tmp_path}/be", (".jsonl",)) == f"{tmp_path}/bench/"
    assert first_path(f"{tmp_path}/bench/", (".jsonl",)) == f"{tmp_path}/bench/gsm8k.jsonl"
    assert first_path(f"{tmp_path}/bench/n", (".jsonl",)) is None
    assert first_path("/no/such/folder/x", (".jsonl",)) is None


# ---- the run's folder, progress, memory


def test_what_is_kept_is_read_newest_first(new_run: Callable[..., RunFolder]) -> None:
    run = finished(new_run())
    keep(run, older())
    keep(run)
    looked = look(run)
    assert [evaluation.id for evaluation in looked.evaluations] == [EVALUATION.id, older().id]
    assert (looked.holds_out, looked.is_going, looked.why_not) == (True, False, "")
    assert parts_of(changes_of(run, EVALUATION.id)) == ["held_out", "benchmark", "general_text"]
    assert looked.first_asked().options.max_new_tokens == 200


def test_a_run_without_an_adapter_says_what_makes_one(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.run.spec_path.write_text("model: {name_or_path: m}\ndata: {train: r.jsonl}\n")
    looked = look(folder.run)
    assert looked.is_going
    assert "has no adapter yet" in looked.why_not
    assert "k on the monitor saves it" in looked.why_not
    folder.run.spec_path.write_text("model: [")
    assert look(folder.run).why_not.startswith("It cannot be evaluated: ")


def test_progress_is_told_with_its_part_model_and_rows() -> None:
    assert progress_words(None, 3.0, False) == "evaluating: loading the model   3 s"
    answers = Progress("answers", "adapter", "benchmark", 34, 120)
    assert progress_words(answers, 130.0, False) == "evaluating: answers to the benchmark, adapter   34 of 120   2 min"
    assert progress_words(Progress("loss", "base", "held_out", 0, None), 9.0, False) == (
        "evaluating: loss of held-out rows, base   9 s"
    )
    assert progress_words(answers, 130.0, True) == "stopping ..."
    assert share(answers) == pytest.approx(34 / 120)
    assert share(Progress("load", None, "", 1, 2)) is None
    assert share(None) is None


def memory_of(run: Run, card: Card) -> str:
    return memory_words(open_subject(run, lambda device: card if device != "cpu" else Card("host memory", GIB, True)))


def test_memory_that_others_use_is_told(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    run = finished(folder)
    folder.status(state="training")
    run.spec_path.write_text(run.spec_path.read_text().replace("device: cpu", 'device: "cuda:0"'))
    ollama = OtherProcess(4121, "anna", "ollama", GIB)
    busy = memory_of(run, Card("RTX 4070 SUPER", 3 * GIB, others=(ollama,)))
    assert "The run still goes on in the same memory" in busy
    assert "3.0 GiB of cuda:0 are free now." in busy
    assert "the training may run out of memory" in busy
    assert "ollama (pid 4121)" in busy
    moved = memory_of(run, Card("RTX 4070 SUPER", 3 * GIB, is_here=False))
    assert moved == "cuda:0 is not here: it is evaluated on the CPU. 1.0 GiB of this machine's memory are free now."
