from __future__ import annotations

from array import array
from pathlib import Path

from textual.app import App, ComposeResult

import tui
from engine.data.figures import LengthFigures
from engine.data.lengths import RowLengths
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.widgets.length_histogram import LengthHistogram


def figures(*tokens: int) -> LengthFigures:
    counts = array("I", tokens)
    return LengthFigures(RowLengths(counts, counts, array("I", [0] * len(tokens)), len(tokens)))


MANY = figures(*range(1, 200), *[400] * 10, 800)


class Drawn(App[None]):
    CSS_PATH = Path(tui.__file__).parent / "widgets" / "length_histogram.tcss"

    def __init__(self, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.histogram = LengthHistogram(glyphs)
        self.moves: list[int] = []

    def compose(self) -> ComposeResult:
        yield self.histogram

    def on_length_histogram_moved(self, message: LengthHistogram.Moved) -> None:
        self.moves.append(message.max_length)

    @property
    def lines(self) -> list[str]:
        return [self.histogram.render_line(y).text for y in range(self.histogram.size.height)]


async def test_bars_stand_on_an_axis_with_the_line_and_every_row_is_seen() -> None:
    app = Drawn()
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(MANY, 512)
        await pilot.pause()
        *bars, axis = app.lines
        assert all(line[app.histogram.max_length * 50 // 850] == "│" for line in bars if app.histogram.max_length)
        assert axis.split() == ["0", "512", "800"]
        assert "█" in bars[-1]
        assert bars[-1].rstrip()[-1] == "▁"  # one row of 800 among 210


async def test_in_ascii_nothing_else_is_drawn() -> None:
    app = Drawn(ASCII)
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(MANY, 512)
        await pilot.pause()
        assert "".join(app.lines).isascii()
        assert "#" in app.lines[-2]
        assert "|" in app.lines[0]


async def test_without_a_limit_there_is_no_line_and_moving_begins_at_the_longest_row() -> None:
    app = Drawn()
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(MANY, None)
        await pilot.pause()
        assert "│" not in app.lines[0]
        assert app.lines[-1].rstrip().endswith("no max_length")
        app.histogram.move(-1)
        await pilot.pause()
        assert app.moves == [784]


async def test_the_axis_grows_with_the_line_and_does_not_shrink_while_it_moves() -> None:
    app = Drawn()
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(MANY, 512)
        app.histogram.put_line(1600)
        await pilot.pause()
        assert app.lines[-1].split() == ["0", "1,600"]
        app.histogram.put_line(512)
        await pilot.pause()
        assert app.lines[-1].split() == ["0", "512", "1,600"]


async def test_the_mouse_drags_the_line() -> None:
    app = Drawn()
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(MANY, 512)
        await pilot.pause()
        await pilot.mouse_down(LengthHistogram, offset=(10, 1))
        await pilot.hover(LengthHistogram, offset=(20, 1))
        await pilot.hover(LengthHistogram, offset=(5, 1))
        await pilot.mouse_up(LengthHistogram, offset=(5, 1))
        await pilot.hover(LengthHistogram, offset=(40, 1))
        await pilot.pause()
        assert app.moves == [176, 352, 96]
        assert app.lines[0][5] == "│"


async def test_without_lengths_nothing_is_drawn_and_nothing_moves() -> None:
    app = Drawn()
    async with app.run_test(size=(50, 10)) as pilot:
        app.histogram.show(None, 512)
        app.histogram.move(1)
        await pilot.mouse_down(LengthHistogram, offset=(10, 1))
        await pilot.pause()
        assert app.moves == []
        assert "".join(app.lines).strip() == ""
