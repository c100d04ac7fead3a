"""The data screen by its keys, over rows that were really checked and counted; what rows look like is prepared."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot

from engine.data import client
from engine.inspector import Inspector, InspectorError
from tests.tui.conftest import PATIENCE_S, until
from tests.tui.data_rows import TURNS, Chat, KnownRows, chat_of, data_app, data_screen, write_rows
from tests.tui.models import llama
from tests.tui.planning import draft_of, planned, planning_app
from tui.app import LoradeckApp
from tui.glyphs import UNICODE
from tui.planning.draft import Draft
from tui.screens.data import DataScreen
from tui.screens.data_list import DataListScreen
from tui.screens.help import HelpScreen
from tui.screens.map_columns import MapColumnsScreen
from tui.screens.plan import PlanScreen
from tui.widgets.length_histogram import LengthHistogram
from tui.widgets.line import Line
from tui.widgets.prompt import Prompt
from tui.widgets.token_view import TokenView
from tui.widgets.words import Words

SIZE = (120, 40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Chat:
    return chat_of(tmp_path_factory.getbasetemp() / "chat", tiny_model)


@pytest.fixture
def chat(made: Chat, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("LORADECK_CACHE", str(made.cache))
    return made


def said(pilot: Pilot[None], id: str) -> str:
    """What one of the screen's texts says."""
    widget = pilot.app.screen.query_one(f"#{id}")
    assert isinstance(widget, (Line, Words))
    return str(widget.words)


def tokens(pilot: Pilot[None]) -> str:
    view = pilot.app.screen.query_one(TokenView)
    return "\n".join("".join(text for text, _ in line) for line in view.lines)


async def opened(pilot: Pilot[None]) -> DataScreen:
    """The screen, once everything about the rows is known."""
    screen = await data_screen(pilot)
    await until(pilot, lambda: screen.report and screen.has_all_lengths and screen.at, "all rows are known")
    return screen


async def at_row(pilot: Pilot[None], row: int) -> None:
    screen = pilot.app.screen
    assert isinstance(screen, DataScreen)
    await until(pilot, lambda: screen.preview and screen.preview.index == row, f"row {row + 1} is shown")


async def test_the_first_row_is_shown_as_the_model_sees_it_with_its_heading(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await data_screen(pilot)
        assert said(pilot, "heading").startswith(
            "row 1 of 59   chat.jsonl, line 1   messages, the model's own template"
        )
        assert "end of sequence is trained: yes" in said(pilot, "heading")
        assert tokens(pilot).startswith("<|im_start|>system↵\nYou are a helpful assistant.<|im_end|>↵\n")


async def test_v_shows_the_row_as_it_is_and_back(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await data_screen(pilot)
        before = tokens(pilot)
        await pilot.press("v")
        assert '"role": "user",' in tokens(pilot)
        await pilot.press("n")
        await at_row(pilot, 1)
        assert '"id": 1,' in tokens(pilot)
        await pilot.press("p")
        await at_row(pilot, 0)
        await pilot.press("v")
        assert tokens(pilot) == before


async def test_all_rows_are_checked_and_the_report_says_what_will_be_done(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await opened(pilot)
        report = said(pilot, "report")
        assert "59 rows to train on" in report
        assert "2 bad rows" in report
        assert "1 duplicate" in report
        assert "they are left out (on_bad_row: skip)" in report
        await pilot.press("o")
        await pilot.pause()
        assert draft_of_data(pilot).spec.data.on_bad_row == "error"
        assert "no run starts with them" in said(pilot, "report")
        await pilot.press("b")
        await until(pilot, lambda: isinstance(pilot.app.screen, DataListScreen), "the list is open")
        words = "\n".join(str(words.words) for words in pilot.app.screen.query(Words))
        assert "chat.jsonl, line 21" in words
        assert "chat.jsonl, line 41" in words
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, DataScreen)


def draft_of_data(pilot: Pilot[None]) -> Any:
    screen = pilot.app.screen
    assert isinstance(screen, DataScreen)
    return screen.draft


async def test_keys_lead_to_rows_by_their_lengths(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        screen = await opened(pilot)
        assert screen.measured is not None
        lengths = screen.measured.lengths.tokens
        for key, row in (
            ("l", lengths.index(max(lengths))),
            ("s", lengths.index(min(lengths))),
            ("t", next(row for row in range(59) if row > lengths.index(min(lengths)) and lengths[row] > 512)),
        ):
            await pilot.press(key)
            await at_row(pilot, row)
        await pilot.press("z")
        firsts = screen.measured.lengths.first_learnt
        await until(pilot, lambda: screen.preview and firsts[screen.preview.index] >= 512, "nothing is learnt of it")


async def test_rows_come_one_after_the_other_and_the_first_follows_the_last(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await data_screen(pilot)
        await pilot.press("n", "down", "n", "up")
        await at_row(pilot, 2)
        await pilot.press("p", "p", "p")
        await at_row(pilot, 58)
        await pilot.press("colon", *"12", "enter")
        await at_row(pilot, 11)
        await pilot.press("colon", *"60", "enter")
        await pilot.pause()
        assert pilot.app.screen.query_one(Prompt).display
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, TokenView)
        await pilot.press("r")
        await pilot.pause()
        assert isinstance(pilot.app.screen, DataScreen)


async def test_held_out_rows_are_shown_where_there_are_some(chat: Chat) -> None:
    known = chat.inspector()
    known.held_out = [{"messages": TURNS}]
    app = chat.app(known, **{"data.eval_fraction": 0.1})
    async with app.run_test(size=SIZE) as pilot:
        await data_screen(pilot)
        await pilot.press("h")
        await until(pilot, lambda: "held-out row 1 of 1" in said(pilot, "heading"), "it is a held-out row")
        await pilot.press("h")
        await until(pilot, lambda: said(pilot, "heading").startswith("row 1"), "it is a training row")


async def test_the_line_is_moved_and_taken_as_max_length_and_that_is_undone(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        screen = await opened(pilot)
        before = said(pilot, "line")
        assert before.startswith("max_length 512 cuts")
        await pilot.press(*["left"] * 3, "shift+left")
        await until(pilot, lambda: said(pilot, "line") != before and screen.line, "the figures are those of the line")
        line = screen.line
        assert line is not None
        assert line < 512
        assert said(pilot, "line").startswith(f"max_length {line:,} cuts")
        assert draft_of_data(pilot).spec.data.max_length == 512
        await pilot.press("enter")
        assert draft_of_data(pilot).spec.data.max_length == line
        assert screen.measured is not None  # it does not have to be counted again
        await until(pilot, lambda: screen.preview and screen.preview.cut_at == line, "the row is cut there")
        await pilot.press("ctrl+z")
        assert draft_of_data(pilot).spec.data.max_length == 512
        assert screen.query_one(LengthHistogram).max_length == 512


async def test_g_goes_through_the_ways_to_form_batches(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await opened(pilot)
        assert "▸ grouped" in said(pilot, "choices")
        rows = [line.split() for line in said(pilot, "choices").splitlines()]
        assert all("MiB" in row or "GiB" in row for row in rows[1:])
        await pilot.press("g")
        assert draft_of_data(pilot).spec.data.packing
        assert "▸ packed" in said(pilot, "choices")
        await pilot.press("g")
        assert draft_of_data(pilot).spec.training.train_sampling_strategy == "random"
        assert not draft_of_data(pilot).spec.data.packing


NOTES = [
    {"code": "a", "message": "Rows end in \x1b[31m[red]nothing", "hint": "hint a", "changes": {}},
    {"code": "b", "message": "The prompt is too long.", "hint": "hint b", "changes": {"data.max_length": 2048}},
]


async def test_a_warning_is_fixed_by_a_key_and_then_asked_anew(chat: Chat) -> None:
    known = chat.inspector()
    known.notes = NOTES
    async with chat.app(known).run_test(size=SIZE) as pilot:
        screen = await opened(pilot)
        await until(pilot, lambda: screen.notes, "the warnings are there")
        assert said(pilot, "notes").splitlines()[0] == "! Rows end in ␛[31m[red]nothing   1 of 2, w next"
        await pilot.press("f")
        assert "no setting that changes this" in said(pilot, "said")
        asked = sum(task == "data_notes" for task, _ in known.requests)
        await pilot.press("w", "f")
        assert draft_of_data(pilot).spec.data.max_length == 2048
        await until(
            pilot, lambda: sum(task == "data_notes" for task, _ in known.requests) > asked, "they are asked again"
        )


async def test_columns_that_are_not_recognised_are_named_by_keys(chat: Chat, tmp_path: Path) -> None:
    rows = [{"frage": "Was ist [bold]das[/bold]?", "antwort": "Ein Test.", "id": number} for number in range(4)]
    file = write_rows(tmp_path / "own.jsonl", [json.dumps(row) for row in rows])
    known = chat.inspector()
    known.train = rows
    known.fields = {"format": None, "problem": "No format has these columns.", "template": ""}
    async with data_app(known, str(chat.model), str(file)).run_test(size=(80, 24)) as pilot:
        await planned(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, MapColumnsScreen), "it asks by itself")
        await pilot.pause()
        assert "No format has these columns." in str(pilot.app.screen.query(Words).first().words)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert said(pilot, "question").startswith("Which column is the prompt?   prompt-completion")
        await pilot.press("enter")
        await pilot.press("backspace", "enter", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, DataScreen), "it is done")
        assert draft_of_data(pilot).spec.data.format == "prompt-completion"
        assert draft_of_data(pilot).spec.data.columns == {"prompt": "frage", "completion": "antwort"}
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, MapColumnsScreen), "c asks again")
        await pilot.press("escape")
        assert draft_of_data(pilot).spec.data.format == "prompt-completion"


async def test_escape_leads_back_to_the_plan_which_knows_the_edits(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await opened(pilot)
        await pilot.press("g", "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is back")
        assert draft_of(pilot).spec.data.packing
        assert str(pilot.app.screen.query_one("#totals", Line).words).endswith("not known yet")


async def test_without_data_or_a_model_the_key_says_what_is_missing() -> None:
    async with planning_app().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("d")
        assert isinstance(pilot.app.screen, PlanScreen)
        assert "name the training data" in said(pilot, "note")


async def test_a_row_that_cannot_be_shown_says_why_and_the_next_one_can(chat: Chat) -> None:
    class Broken(KnownRows):
        def request(self, task: str, timeout_s: float, **fields: Any) -> Any:
            if task == "data_preview" and fields["index"] == 0:
                raise InspectorError("Reading the row failed: [red]\x1b[31m.")
            return super().request(task, timeout_s, **fields)

    known = Broken(llama(str(chat.model), layers=2))
    known.train = chat.rows
    async with chat.app(known).run_test(size=SIZE) as pilot:
        await data_screen(pilot)
        assert said(pilot, "heading") == "Reading the row failed: [red]␛[31m."
        await pilot.press("n")
        await at_row(pilot, 1)
        assert said(pilot, "heading").startswith("row 2 of")


async def test_before_lengths_are_there_the_keys_that_need_them_say_so(chat: Chat, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "other.jsonl", [json.dumps(row) for row in chat.rows])
    known = chat.inspector()
    known.sample = {**known.sample, "rows": 59} if known.sample else None
    async with data_app(known, str(chat.model), str(file)).run_test(size=SIZE) as pilot:
        screen = await data_screen(pilot)
        await pilot.press("l")
        assert screen.has_all_lengths or "still being counted" in said(pilot, "said")
        await until(pilot, lambda: screen.measured, "a sample is measured")
        assert screen.has_all_lengths or "sample of 4 rows" in said(pilot, "lengths")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_in_ascii_nothing_else_is_on_the_screen(chat: Chat, size: tuple[int, int]) -> None:
    known = chat.inspector()
    known.train = [{"messages": [*TURNS[:2], {"role": "assistant", "content": "日本の首都 e\u0301 👍🏽 مرحبا"}]}]
    known.notes = [{"code": "a", "message": "größe", "hint": "ü", "changes": {}}]
    async with chat.app(known, options={"ascii": True}).run_test(size=size) as pilot:
        await opened(pilot)
        for keys in ((), ("v",), ("b",), ("escape", "f1")):
            await pilot.press(*keys)
            await pilot.pause()
            strips = pilot.app.screen._compositor.render_strips(pilot.app.size)  # all that a terminal gets
            painted = "".join(strip.text for strip in strips)
            assert painted.isascii(), sorted({sign for sign in painted if not sign.isascii()})


async def test_help_and_the_palette_know_the_screen(chat: Chat) -> None:
    async with chat.app().run_test(size=SIZE) as pilot:
        await planned(pilot)
        assert "Data" in [command.title for command in pilot.app.get_system_commands(pilot.app.screen)]
        await data_screen(pilot)
        await pilot.press("h")
        assert "No rows are held out" in said(pilot, "said")
        await pilot.press("f1")
        assert isinstance(pilot.app.screen, HelpScreen)
        words = "\n".join(str(words.words) for words in pilot.app.screen.query(Words))
        assert "underlined" in words
        assert "data.unlearnt" in words


class Slow(KnownRows):
    """Answers about rows only when it may."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(llama(str(chat.model), layers=2))
        self.train, self.may_answer = chat.rows, threading.Event()

    def request(self, task: str, timeout_s: float, **fields: Any) -> Any:
        if task == "data_preview":
            self.may_answer.wait(PATIENCE_S)
        return super().request(task, timeout_s, **fields)

    @property
    def asked_rows(self) -> list[tuple[int, bool]]:
        """Row and packing of each request."""
        previews = (fields for task, fields in self.requests if task == "data_preview")
        return [(fields["index"], fields["spec"]["data"]["packing"]) for fields in previews]


async def test_of_many_keys_the_last_row_is_asked_for_and_answers_for_older_settings_are_dropped(chat: Chat) -> None:
    known = Slow(chat)
    async with chat.app(known).run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, DataScreen), "the data screen is open")
        screen = pilot.app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: any(thread.name == "row" for thread in threading.enumerate()), "a row is asked for")
        await pilot.press(*"nnnn", "g")
        await until(pilot, lambda: screen.draft.spec.data.packing, "the settings are others")
        assert screen.preview is None
        known.may_answer.set()
        await at_row(pilot, 4)
        assert known.asked_rows in ([(0, False), (4, True)], [(0, False), (4, False), (4, True)])


async def test_leaving_gives_up_the_check_of_the_rows(chat: Chat, tmp_path: Path) -> None:
    row = json.dumps({"messages": [*TURNS[:2], {"role": "assistant", "content": "word " * 200}]})
    file = write_rows(tmp_path / "large.jsonl", [row] * 40_000)
    draft = Draft()
    assert draft.change_all({"model.name_or_path": str(chat.model), "data.train": str(file)}) == []

    def is_checking() -> bool:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it has ended, or just does
                if {"engine.worker", "data"} <= set(child.cmdline()):
                    return True
        return False

    app = chat.app()
    async with app.run_test(size=SIZE) as pilot:
        await planned(pilot)
        # Of a draft that is not the plan's: that one checks its data itself.
        await app.push_screen(DataScreen(draft, tmp_path, UNICODE, lambda: None))
        await until(pilot, lambda: said(pilot, "report").startswith("checking every row: "), "the check has begun")
        assert is_checking()
        await pilot.press("escape")
        await until(pilot, lambda: not is_checking(), "its process is gone")
        assert client.kept_report(draft.spec.data, draft.spec.training.seed) is None


class Shared(Inspector):
    """Stays warm from app to app: an app that closes leaves it alone."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def inspector() -> Iterator[Callable[[], Inspector]]:
    shared = Shared()
    yield lambda: shared
    Inspector.close(shared)


async def test_with_the_real_inspector_rows_are_those_of_the_model(
    chat: Chat, inspector: Callable[[], Inspector]
) -> None:
    app: LoradeckApp = planning_app(llama(str(chat.model), layers=2), data=str(chat.file), inspector=inspector())
    draft = app.plan_screen().draft
    assert draft.change_all({"data.on_bad_row": "skip", "data.max_length": 512}) == []
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, PlanScreen), "the plan is open")
        await until(pilot, lambda: draft.architecture, "the model is read", 60)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, DataScreen), "the data screen is open")
        screen = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: screen.preview or screen.trouble, "the first row is there", 60)
        assert screen.trouble == ""
        assert "<|im_start|>assistant↵" in tokens(pilot)
        await until(pilot, lambda: screen.has_all_lengths and screen.at, "all rows are known", 60)
        preview, measured = screen.preview, screen.measured
        assert preview is not None
        assert measured is not None
        assert len(preview.pieces) == measured.lengths.tokens[0]
        assert sum(piece.trained for piece in preview.pieces) == measured.lengths.learnt[0]
        await pilot.press("l")
        row = measured.lengths.tokens.index(max(measured.lengths.tokens))
        await until(pilot, lambda: screen.preview and screen.preview.index == row, "the longest row is shown", 30)
        assert len(screen.preview.pieces) == max(measured.lengths.tokens)
