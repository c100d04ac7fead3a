from __future__ import annotations

from textual.app import App, ComposeResult

from tests.tui.conftest import until
from tui.widgets.words import Words


class LaidOutFirst(Words):
    """Told more before it is mounted, and after a layout."""

    DEFAULT_CSS = "LaidOutFirst { height: auto; width: 1fr; padding: 0 1; }"

    def on_mount(self) -> None:
        assert not self.is_mounted
        self.screen._refresh_layout()
        self.say("one\ntwo\nthree")


class Told(App[None]):
    def compose(self) -> ComposeResult:
        yield LaidOutFirst("one line")


async def test_words_that_change_between_layout_and_mount_have_room() -> None:
    async with Told().run_test(size=(80, 24)) as pilot:
        words = pilot.app.query_one(Words)
        await until(pilot, lambda: words.size.height == 3, "three lines", 5)
        assert [words.render_line(y).text.strip() for y in range(3)] == ["one", "two", "three"]
