"""What the data screen looks like. Run with `--snapshot-update` after a change that is meant to be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import until
from tests.tui.data_rows import TURNS, Chat, KnownRows, chat_of, data_app, data_screen, write_rows
from tests.tui.planning import planned
from tui.screens.data import DataScreen
from tui.screens.data_list import DataListScreen
from tui.screens.map_columns import MapColumnsScreen

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
MORE_TURNS = [
    *TURNS,
    {"role": "user", "content": "And of Japan? Answer in Japanese, please."},
    {
        "role": "assistant",
        "content": "日本の首都は東京です。\nThe cafe\u0301 there is called مرحبا, with [b]markup[/b] and \x1b[31m.",
    },
]
NOTE = {
    "code": "prompts-too-long",
    "message": "6 rows have nothing to learn: their prompt alone is longer than max_length.",
    "hint": "Set data.max_length to 640: the longest prompt then leaves room for an answer.",
    "changes": {"data.max_length": 640},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Chat:
    return chat_of(tmp_path_factory.getbasetemp() / "chat", tiny_model)


@pytest.fixture
def chat(made: Chat, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("LORADECK_CACHE", str(made.cache))
    return made


def inspector_of(chat: Chat) -> KnownRows:
    known = chat.inspector()
    known.train = [{"messages": MORE_TURNS}, *chat.rows[1:]]
    known.notes = [NOTE]
    return known


def shown(*keys: str) -> Callable[[Pilot[None]], Any]:
    """Opens the screen, waits for all that it has to say, and presses keys there."""

    async def show(pilot: Pilot[None]) -> None:
        screen = await data_screen(pilot)
        await until(pilot, lambda: screen.report and screen.has_all_lengths and screen.notes, "all is known")
        await until(pilot, lambda: screen.at, "the figures are there")
        await pilot.press(*keys)
        await until(pilot, lambda: screen.at and screen.at.max_length == screen.line, "the figures are the line's")
        await pilot.pause()

    return show


@SIZES
def test_data(snap_compare: Any, chat: Chat, size: tuple[int, int]) -> None:
    assert snap_compare(chat.app(inspector_of(chat)), terminal_size=size, run_before=shown())


@SIZES
def test_a_row_that_is_cut(snap_compare: Any, chat: Chat, size: tuple[int, int]) -> None:
    app = chat.app(inspector_of(chat), **{"data.max_length": 40})
    assert snap_compare(app, terminal_size=size, run_before=shown("shift+right", "shift+right"))


def test_data_in_ascii(snap_compare: Any, chat: Chat) -> None:
    app = chat.app(inspector_of(chat), options={"ascii": True})
    assert snap_compare(app, terminal_size=(80, 24), run_before=shown())


def test_what_the_check_found(snap_compare: Any, chat: Chat) -> None:
    async def listed(pilot: Pilot[None]) -> None:
        await shown("b")(pilot)
        await until(pilot, lambda: isinstance(pilot.app.screen, DataListScreen), "the list is open")
        await pilot.pause()

    assert snap_compare(chat.app(inspector_of(chat)), terminal_size=(80, 24), run_before=listed)


def test_columns_are_named(snap_compare: Any, chat: Chat, tmp_path: Path) -> None:
    row = {"frage": "Was ist die Hauptstadt von Frankreich?", "antwort": "Die Hauptstadt ist Paris.", "id": 1}
    known = chat.inspector()
    known.train = [row]
    known.fields = {
        "format": None,
        "where": "fragen.jsonl, line 1",
        "template": "",
        "problem": "No known format has the columns frage, antwort, id.",
    }
    file = write_rows(tmp_path / "fragen.jsonl", [json.dumps(row)])

    async def one_is_asked(pilot: Pilot[None]) -> None:
        await planned(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, MapColumnsScreen), "it asks")
        below = pilot.app.screen_stack[-2]
        assert isinstance(below, DataScreen)
        await until(pilot, lambda: below.report_trouble and below.at, "the rows are checked, and some are measured")
        await pilot.press("down", "enter")
        await pilot.pause()

    app = data_app(known, str(chat.model), str(file))
    assert snap_compare(app, terminal_size=(80, 24), run_before=one_is_asked)
