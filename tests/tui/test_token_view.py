from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

import tui
from tests.tui.conftest import until
from tui.data_view.preview import Piece
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.widgets.token_view import TokenView

PIECES = [
    Piece("<|im_start|>", special=True),
    Piece("user\n"),
    Piece("[bold]What[/bold]"),
    Piece(" is\x1b[31m"),
    Piece("日本の首都は", trained=True),
    Piece(" مرحبا e\u0301", trained=True),
    Piece("👍🏽", trained=True),
    Piece("<|im_end|>", trained=True, special=True),
]


class Viewed(App[None]):
    CSS_PATH = Path(tui.__file__).parent / "widgets" / "token_view.tcss"

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self.view = TokenView(glyphs)

    def compose(self) -> ComposeResult:
        yield self.view


async def shown(pilot: Pilot[None], pieces: Sequence[Piece], cut_at: int | None = None) -> list[str]:
    app = pilot.app
    assert isinstance(app, Viewed)
    app.view.show_tokens(pieces, cut_at)
    await pilot.pause()
    return [app.view.render_line(y).text.rstrip() for y in range(app.view.size.height)]


def style_of(view: TokenView, text: str) -> str:
    """How the segment with `text` is drawn."""
    segments = (segment for y in range(view.size.height) for segment in view.render_line(y))
    return str(next(segment.style for segment in segments if text in segment.text))


async def test_what_is_trained_is_underlined_and_brighter_than_what_is_masked() -> None:
    app = Viewed(UNICODE)
    async with app.run_test(size=(40, 10)) as pilot:
        await shown(pilot, PIECES)
        assert "underline" in style_of(app.view, "首都")
        assert "underline" in style_of(app.view, "<|im_end|>")
        assert "underline" not in style_of(app.view, "user")
        assert style_of(app.view, "user").split()[0] != style_of(app.view, "首都").split()[1]
        assert style_of(app.view, "<|im_start|>") != style_of(app.view, "user")


async def test_escape_codes_markup_and_other_scripts_are_text_and_lines_stay_in_the_view() -> None:
    app = Viewed(UNICODE)
    async with app.run_test(size=(20, 10)) as pilot:
        lines = await shown(pilot, PIECES)
        assert lines[:2] == ["<|im_start|>user↵", "[bold]What[/bold]"]
        assert "␛[31m" in "".join(lines)
        assert "日本の首都は" in "".join(lines)
        assert all(app.view.render_line(y).cell_length == 20 for y in range(10))


@pytest.mark.parametrize("without_colour", [True, False])
async def test_without_colours_and_in_ascii_brackets_tell_what_is_trained(
    without_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    app = Viewed(UNICODE if without_colour else ASCII)
    async with app.run_test(size=(160, 10)) as pilot:
        lines = await shown(pilot, PIECES)
        assert lines[1].endswith("<|im_end|>]")
        assert ("[日本" if without_colour else "[\\u65e5") in lines[1]
        if not without_colour:
            assert all(line.isascii() for line in lines)


async def test_a_long_row_is_scrolled_by_pages_and_the_next_one_begins_on_top() -> None:
    app = Viewed(UNICODE)
    async with app.run_test(size=(20, 10)) as pilot:
        await shown(pilot, [Piece(f"line {number}\n") for number in range(100)])
        app.view.focus()
        await pilot.press("pagedown")
        assert app.view.render_line(0).text.startswith("line 9↵")
        await pilot.press("space", "pageup", "pageup")
        assert app.view.render_line(0).text.startswith("line 0↵")
        await pilot.press("pagedown")
        lines = await shown(pilot, PIECES)
        assert lines[0].startswith("<|im_start|>")


async def test_another_width_lays_the_row_out_again() -> None:
    app = Viewed(UNICODE)
    async with app.run_test(size=(60, 10)) as pilot:
        await shown(pilot, [Piece(" word")] * 20)
        before = len(app.view.lines)
        await pilot.resize_terminal(20, 10)
        await until(pilot, lambda: len(app.view.lines) > before, "there are more lines")
        assert all(app.view.render_line(y).cell_length <= 20 for y in range(10))


async def test_a_row_as_it_is_keeps_its_lines() -> None:
    app = Viewed(UNICODE)
    async with app.run_test(size=(60, 10)) as pilot:
        app.view.show_text('{\n  "text": "a [b]c[/b]\x1b"\n}')
        await pilot.pause()
        assert [app.view.render_line(y).text.rstrip() for y in range(3)] == ["{", '  "text": "a [b]c[/b]␛"', "}"]
