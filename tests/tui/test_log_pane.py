from __future__ import annotations

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tui.widgets.log_pane import MOST_LINES, LogPane


class Logged(App[None]):
    CSS = "LogPane { overflow: hidden scroll; scrollbar-size: 0 0; }"

    def compose(self) -> ComposeResult:
        yield LogPane()


def in_sight(pilot: Pilot[None]) -> list[str]:
    pane = pilot.app.query_one(LogPane)
    return [pane.render_line(y).text.rstrip() for y in range(pane.size.height)]


async def test_the_end_is_in_sight_until_a_person_scrolls_away_from_it() -> None:
    async with Logged().run_test(size=(30, 5)) as pilot:
        pane = pilot.app.query_one(LogPane)
        pane.write([f"line {number}" for number in range(20)])
        await pilot.pause()
        assert in_sight(pilot)[-1] == "line 19"
        pane.scroll_to(y=3, animate=False, immediate=True)
        pane.write(["line 20"])
        await pilot.pause()
        assert in_sight(pilot)[0] == "line 3"


async def test_only_the_last_lines_are_kept_and_what_is_looked_at_stays_in_sight() -> None:
    async with Logged().run_test(size=(30, 5)) as pilot:
        pane = pilot.app.query_one(LogPane)
        pane.write([f"line {number}" for number in range(MOST_LINES)])
        pane.search("line 4000")
        await pilot.pause()
        assert "line 4000" in in_sight(pilot)
        pane.write([f"more {number}" for number in range(1000)])
        await pilot.pause()
        assert (len(pane.lines), pane.dropped) == (MOST_LINES, 1000)
        assert "line 4000" in in_sight(pilot)
        assert pane.lines[pane.matches[0]] == "line 4000"


async def test_a_search_goes_from_match_to_match_and_round() -> None:
    async with Logged().run_test(size=(30, 5)) as pilot:
        pane = pilot.app.query_one(LogPane)
        pane.write([f"line {number}" + (" ERROR [b]" if number % 10 == 0 else "") for number in range(40)])
        pane.search("error [B]")
        assert (pane.matches, pane.current) == ([0, 10, 20, 30], 3)
        pane.action_next_match(1)
        assert pane.current == 0
        pane.action_next_match(-1)
        assert pane.current == 3
        pane.write(["another Error [b]"])
        assert pane.matches == [0, 10, 20, 30, 40]
        await pilot.pause()
        strip = pane.render_line(in_sight(pilot).index("line 30 ERROR [b]"))
        assert [segment.text for segment in strip][:2] == ["line 30 ", "ERROR [b]"]
        pane.search("nowhere")
        assert (pane.matches, pane.current) == ([], None)
        pane.action_next_match(1)
        pane.search("")
        assert pane.matches == []


async def test_wide_characters_are_cut_at_the_edge_by_cells() -> None:
    async with Logged().run_test(size=(10, 4)) as pilot:
        pane = pilot.app.query_one(LogPane)
        pane.write(["日本語日本語日本語", "ab日本語日本語", "e\u0301" * 30, "👩‍👩‍👧 family of three"])
        pane.search("本語")
        await pilot.pause()
        assert [pane.render_line(y).cell_length for y in range(4)] == [10, 10, 10, 10]
