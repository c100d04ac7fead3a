"""What the data screen says and where its keys lead; no screen is needed for that."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from engine.data.asking import Progress
from engine.data.batching import Batching
from engine.data.figures import LengthFigures
from engine.data.lengths import NEVER, RowLengths
from engine.data.report import BadRows, DataReport, Place, Repeated, Side
from engine.memory.card import Card
from engine.memory.predict import Question
from engine.spec import DataSection, RunSpec
from tests.tui.models import llama
from tui.data_view import length_words, report_words, walk
from tui.data_view.choices import CHOICES, Measured, at_line, choice_of, next_choice
from tui.data_view.mapping import ColumnMapping
from tui.data_view.max_length_line import LARGE_STEPS, LineScale
from tui.data_view.preview import Piece, Preview, heading
from tui.data_view.token_lines import MOST_CHARACTERS, Line, text_lines, token_lines
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.planning.draft import Draft

CHAT = (
    Piece("<|im_start|>", special=True),
    Piece("user"),
    Piece("\n"),
    Piece("Hi"),
    Piece("<|im_end|>", special=True),
    Piece("\n"),
    Piece("<|im_start|>", special=True),
    Piece("assistant"),
    Piece("\n"),
    Piece("Good", trained=True),
    Piece(" day", trained=True),
    Piece("<|im_end|>", trained=True, special=True),
)


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


def row(**changes: object) -> Preview:
    known = Preview(
        side="train",
        index=16,
        rows=8412,
        format="messages",
        reason="",
        where="chat.jsonl, line 17",
        raw={"messages": []},
        pieces=CHAT,
        cut_at=1024,
        eos_trained=True,
        template="the model's own",
        columns={},
        problem="",
    )
    return replace(known, **changes)  # type: ignore[arg-type]


# ---- tokens


def test_a_new_line_is_a_sign_and_then_is_one() -> None:
    assert texts(token_lines(CHAT, 40, UNICODE)) == [
        "<|im_start|>user↵",
        "Hi<|im_end|>↵",
        "<|im_start|>assistant↵",
        "Good day<|im_end|>",
    ]


def test_each_token_is_told_apart_by_what_is_trained_and_special() -> None:
    last = token_lines(CHAT, 40, UNICODE)[-1]
    assert last == (("Good", "trained odd"), (" day", "trained"), ("<|im_end|>", "trained special odd"))


def test_brackets_are_around_what_is_trained() -> None:
    assert texts(token_lines(CHAT, 40, ASCII, brackets=True))[-1] == "[Good day<|im_end|>]"


def test_lines_break_at_spaces_and_long_words_anywhere() -> None:
    pieces = [
        Piece("What"),
        Piece(" is"),
        Piece(" the"),
        Piece(" cap"),
        Piece("ital"),
        Piece(" x" * 2),
        Piece("y" * 25),
    ]
    assert texts(token_lines(pieces, 12, UNICODE)) == ["What is the ", "capital x ", "x" + "y" * 11, "y" * 12, "yy"]


def test_where_the_row_is_cut_is_said_and_nothing_behind_it_is_trained() -> None:
    lines = token_lines(CHAT, 40, UNICODE, cut_at=10)
    assert texts(lines)[-3:] == ["Good", "max_length 10: what follows is cut off", " day<|im_end|>"]
    assert lines[-1] == ((" day", "masked beyond"), ("<|im_end|>", "masked special odd beyond"))


def test_wide_characters_take_two_cells_and_marks_none() -> None:
    pieces = [Piece("日本の首都", trained=True), Piece("は"), Piece("e\u0301e"), Piece("\u0301x")]
    assert texts(token_lines(pieces, 9, UNICODE)) == ["日本の首", "都はe\u0301e\u0301x"]


def test_a_mark_without_a_character_before_it_gets_one() -> None:
    assert texts(token_lines([Piece("\u0301x"), Piece("\n"), Piece("\u0301")], 9, UNICODE)) == ["◌\u0301x↵", "◌\u0301"]


def test_what_steers_a_terminal_or_cannot_be_seen_is_shown() -> None:
    pieces = [Piece("\x1b[31m"), Piece("[red]"), Piece("\u202e\u200d"), Piece("\ud800"), Piece("\t\0")]
    assert texts(token_lines(pieces, 60, UNICODE)) == ["␛[31m[red]<202e><200d><d800>    ␀"]
    assert texts(token_lines(pieces, 60, ASCII))[0].isascii()


@given(
    st.lists(st.tuples(st.text(max_size=20), st.booleans(), st.booleans()), max_size=30),
    st.integers(2, 50),
    st.sampled_from([UNICODE, ASCII]),
    st.booleans(),
    st.integers(0, 40) | st.none(),
)
def test_no_line_is_wider_than_the_view(
    tokens: list[tuple[str, bool, bool]], width: int, glyphs: Glyphs, brackets: bool, cut_at: int | None
) -> None:
    lines = token_lines([Piece(*token) for token in tokens], width, glyphs, brackets=brackets, cut_at=cut_at)
    for line in texts(lines):
        assert cell_len(line) <= width
        line.encode()
        assert line.isprintable() or not glyphs.ascii
        assert not glyphs.ascii or line.isascii()


def test_a_very_long_row_is_not_laid_out_whole() -> None:
    lines = texts(token_lines([Piece("word ")] * 100_000, 80, UNICODE))
    assert lines[-1] == "The first 40,001 tokens are shown."
    assert texts(text_lines("x" * (MOST_CHARACTERS + 1), 80, UNICODE))[-1] == "The first 200,000 characters are shown."


# ---- the heading


def test_the_heading_says_which_row_its_tokens_and_its_end() -> None:
    assert str(heading(row(), 200, UNICODE)) == (
        "row 17 of 8,412   chat.jsonl, line 17   messages, the model's own template   "
        "12 tokens: 3 trained, 9 masked   end of sequence is trained: yes"
    )


def test_the_heading_breaks_between_its_parts() -> None:
    lines = str(heading(row(), 78, UNICODE)).splitlines()
    assert lines[1] == "12 tokens: 3 trained, 9 masked   end of sequence is trained: yes"
    assert all(len(line) <= 78 for line in lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eos_trained": False}, "end of sequence is trained: no"),
        ({"eos_trained": False, "cut_at": 10}, "12 tokens: 1 trained, 9 masked, 2 cut off"),
        ({"eos_trained": False, "cut_at": 10}, "end of sequence is trained: no, it is cut off"),
        ({"eos_trained": None}, "nothing is learnt"),
        ({"rows": None}, "row 17   chat.jsonl"),
        ({"side": "held_out"}, "held-out row 17 of 8,412"),
        ({"template": "TRL's training template"}, "messages, TRL's training template"),
        ({"template": ""}, "messages   12 tokens"),
        ({"problem": "no column is known\x1b[2J", "pieces": ()}, "no column is known␛[2J"),
    ],
)
def test_the_heading_says_what_is_special(changes: dict[str, object], said: str) -> None:
    assert said in str(heading(row(**changes), 300, UNICODE))


def test_the_row_as_it_is_is_json_that_keeps_other_scripts() -> None:
    assert row(raw={"text": "日本\n"}).as_it_is() == '{\n  "text": "日本\\n"\n}'


# ---- the report

REPORT = DataReport(
    "messages",
    "every row has messages",
    Side(
        "",
        8412,
        (
            BadRows("no-assistant-turn", 4, (Place("chat.jsonl, line 17", "no turn of an assistant"),)),
            BadRows("json", 1, (Place("chat.jsonl, line 90", "[bold]\x1b[31m"),)),
        ),
        Repeated(3, (Place("chat.jsonl, line 40", "as in line 2"),)),
        {"column id": 8412, "image parts": 2},
        "",
        2**20,
    ),
    None,
    8000,
    412,
    Repeated(2, (Place("chat.jsonl, line 7", "also held out"),)),
)


def test_the_report_in_short() -> None:
    parts = [text for text, _ in report_words.summary(REPORT, DataSection(train="chat.jsonl"), UNICODE)]
    assert parts == [
        "8,000 rows to train on, 412 rows held out",
        "! 5 bad rows: 4 no assistant turn, 1 no JSON",
        "no run starts with them (on_bad_row: error)",
        "chat.jsonl, line 17: no turn of an assistant",
        "3 duplicates",
        "! 2 training rows are among those held out",
        "not learnt from: column id in every row",
        "not learnt from: image parts in 2 rows",
    ]


def test_the_whole_report_has_every_example_with_its_place_as_text() -> None:
    words = str(report_words.whole_list(REPORT, DataSection(train="chat.jsonl", on_bad_row="skip"), UNICODE))
    assert "    chat.jsonl, line 90  [bold]␛[31m" in words
    assert "    and 3 more" in words
    assert "exactly like another one: 3 rows" in words
    assert words.endswith("Bad rows: they are left out (on_bad_row: skip).")


def test_rows_without_faults_say_so() -> None:
    clean = replace(REPORT, train=Side("", 8412), shared=Repeated(), held_out_rows=0)
    parts = [text for text, _ in report_words.summary(clean, DataSection(train="chat.jsonl"), UNICODE)]
    assert parts == ["8,000 rows to train on", "✓ no bad rows"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Progress("scan", 2**29, 2**30, "bytes"), "checking every row: 50 % of 1.0 GiB"),
        (Progress("tokens", 1200, 8412, "rows"), "counting tokens: 14 % of 8,412 rows"),
        (Progress("scan", 2**20, None, "bytes"), "checking every row: 1.0 MiB"),
    ],
)
def test_progress_in_words(now: Progress, said: str) -> None:
    assert report_words.progress(now) == said


# ---- the walk


def lengths_of(*rows: tuple[int, int, int], of: int | None = None) -> RowLengths:
    tokens, learnt, firsts = (array("I", column) for column in zip(*rows, strict=True))
    return RowLengths(tokens, learnt, firsts, of or len(rows))


FIVE = lengths_of((10, 5, 5), (300, 100, 200), (40, 0, NEVER), (400, 390, 10), (5, 1, 4))


def test_rows_are_found_by_their_lengths() -> None:
    assert walk.longest(FIVE) == 3
    assert walk.shortest(FIVE) == 4
    assert [walk.next_cut(FIVE, after, 256) for after in (-1, 1, 3)] == [1, 3, 1]
    assert walk.next_cut(FIVE, 0, 400) is None
    assert walk.next_cut(FIVE, 0, None) is None


def test_a_row_has_nothing_to_learn_where_the_cut_leaves_none() -> None:
    assert [walk.next_unlearnt(FIVE, after, 150) for after in (-1, 1, 2)] == [1, 2, 1]
    assert walk.next_unlearnt(FIVE, -1, None) == 2
    assert walk.next_unlearnt(lengths_of((9, 9, 0)), 0, None) is None


# ---- the line, the choices


def scale_of(lengths: RowLengths, columns: int = 50, up_to: int | None = None) -> LineScale:
    return LineScale(LengthFigures(lengths).histogram(columns, up_to))


def test_the_line_moves_by_powers_of_two_about_a_column_wide() -> None:
    scale = scale_of(FIVE, 50)  # 401 lengths in 50 columns: 9 each
    assert scale.step(200) == 8
    assert scale.moved(201, 1) == 208
    assert scale.moved(201, -1) == 200
    assert scale.moved(200, LARGE_STEPS) == 264
    assert scale.moved(8, -1) == 8


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50), st.integers(1, 6000), st.integers(10, 80))
def test_a_step_to_the_right_and_back_to_the_left_never_stick(tokens: list[int], at: int, columns: int) -> None:
    scale = scale_of(lengths_of(*[(count, count, 0) for count in tokens]), columns, max(*tokens, at))
    assert scale.moved(at, 1) > at
    assert scale.moved(at, -1) < at or at <= scale.step(at)
    for column in range(scale.columns):
        assert scale.column_of(scale.at_column(column)) >= column


def test_a_choice_of_batches_is_what_the_settings_say() -> None:
    draft = Draft()
    assert choice_of(draft.spec) == "grouped"
    seen = []
    for _ in CHOICES:
        assert draft.change_all(CHOICES[next_choice(choice_of(draft.spec))]) == []
        seen.append(choice_of(draft.spec))
    assert seen == ["packed", "plain", "grouped"]


def spec_of(**data: object) -> RunSpec:
    return RunSpec.model_validate({"model": {"name_or_path": "x"}, "data": {"train": "x", **data}})


def test_the_line_says_what_it_would_mean_under_each_choice() -> None:
    measured = Measured.of(FIVE)
    question = Question(spec_of(), llama(layers=2), Card("RTX 4090", 2**34, total_bytes=2**34))
    at, shorter = (at_line(measured, spec_of(), max_length, question) for max_length in (1024, 256))
    assert at.cut.truncated_rows == 0
    assert shorter.cut.truncated_rows == 2
    assert [each.choice for each in at.choices] == ["plain", "grouped", "packed"]
    batches = Batching(FIVE)
    assert batches.rows == 5
    assert all(each.steps == 1 for each in at.choices)
    assert all(
        a.peak_bytes and b.peak_bytes and a.peak_bytes > b.peak_bytes
        for a, b in zip(at.choices, shorter.choices, strict=True)
    )


def test_without_a_known_model_no_memory_is_claimed_and_without_a_length_no_packing() -> None:
    at = at_line(Measured.of(FIVE), spec_of(), None, None)
    assert [each.peak_bytes for each in at.choices] == [None, None, None]
    assert at.choices[2].steps is None
    lines = str(length_words.table(at, "grouped", "▸")).splitlines()
    assert lines[0].split() == ["batches", "steps/epoch", "padding", "predicted"]
    assert lines[2].startswith("▸ grouped")
    assert lines[3].split() == ["packed", "-", "-", "-"]


def test_a_sample_says_so_with_its_error() -> None:
    sample = lengths_of(*[(count, count, 0) for count in range(1, 401)], of=8412)
    figures = LengthFigures(sample)
    assert str(length_words.tokens_a_row(figures, 120, UNICODE, "counting tokens: 14 %")).endswith(
        "from a sample of 400 rows, ± 4.9 %; counting tokens: 14 %"
    )
    assert str(length_words.tokens_a_row(figures, 78, ASCII)).endswith("sample of 400 rows, +- 4.9 %")
    exact = LengthFigures(FIVE)
    assert str(length_words.tokens_a_row(exact, 78, UNICODE)) == (
        "tokens a row   p50 40   p95 400   p99 400   max 400   exact"
    )


def test_the_line_in_words() -> None:
    at = at_line(Measured.of(FIVE), spec_of(), 256, None)
    assert str(length_words.line_words(at, 1024, 120, UNICODE)) == (
        "max_length 256 cuts 40.0 % of rows, 24.9 % of tokens   1 row has nothing to learn"
        "   now 1,024: enter takes this"
    )
    assert len(length_words.line_words(at, 1024, 78, UNICODE)) <= 78
    split = spec_of(packing=True, packing_strategy="bfd_split", max_length=256)
    words = str(length_words.line_words(at_line(Measured.of(FIVE), split, 256, None), 256, 120, UNICODE))
    assert words.startswith("max_length 256 splits ")
    assert "over blocks" in words
    whole = at_line(Measured.of(FIVE), spec_of(), None, None)
    assert str(length_words.line_words(whole, None, 120, UNICODE)).startswith("no max_length cuts nothing   1 row has")


def test_memory_is_predicted_for_the_longest_row_also_of_very_many() -> None:
    many = lengths_of(*[(1 + count % 1000, 1, 0) for count in range(9999)])
    lengths = Measured.of(many).memory_lengths
    assert lengths.longest == 1000
    assert not lengths.is_sample
    assert abs(lengths.percentile(0.5) - 500) <= 2


# ---- columns


def test_columns_are_chosen_for_the_fields_of_a_format() -> None:
    mapping = ColumnMapping({"question": "Why?", "answer": "So.", "id": "1"})
    mapping.choose("prompt-completion")
    assert mapping.asked == "prompt"
    mapping.choose("question")
    assert mapping.left == ["answer", "id"]
    mapping.choose("answer")
    assert mapping.is_done
    assert mapping.changes == {
        "data.format": "prompt-completion",
        "data.columns": {"prompt": "question", "completion": "answer"},
    }


def test_what_a_format_can_do_without_can_be_left_out_and_equal_names_need_no_word() -> None:
    mapping = ColumnMapping({"instruction": "Add.", "out": "3", "numbers": "1 2"})
    mapping.choose("alpaca")
    mapping.choose("instruction")
    mapping.choose("out")
    assert (mapping.asked, mapping.may_be_left_out) == ("input", True)
    mapping.choose("numbers")
    assert mapping.is_done
    assert mapping.changes["data.columns"] == {"output": "out", "input": "numbers"}


def test_the_last_answer_can_be_taken_back() -> None:
    mapping = ColumnMapping({"a": "", "b": ""})
    assert not mapping.back()
    mapping.choose("text")
    assert mapping.back()
    assert mapping.format is None
