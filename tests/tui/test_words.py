from __future__ import annotations

from textual.app import App, ComposeResult

from tests.tui.conftest import until
from tui.widgets.words import Words


class Told(App[None]):
    CSS = "Words { height: auto; }"

    def compose(self) -> ComposeResult:
        yield Words("one line")


async def test_words_that_change_twice_around_a_layout_have_the_height_of_the_last() -> None:
    async with Told().run_test(size=(80, 24)) as pilot:
        words = pilot.app.query_one(Words)
        await until(pilot, lambda: words.size.height == 1, "one line")
        words.say("another line")
        pilot.app.screen._clear_arrangement_cache()
        pilot.app.screen._refresh_layout()  # as where another widget asks for one in the same moment
        words.say("one\ntwo\nthree")
        await until(pilot, lambda: words.size.height == 3, "three lines", 5)
