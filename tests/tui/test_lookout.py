"""Windows and the cursor of the charts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.test_state import applied, event, step
from tui.glyphs import UNICODE
from tui.watching import figures
from tui.watching.lookout import MACHINE, Lookout
from tui.watching.state import RunState
from tui.watching.views import View, read_out
from tui.watching.windows import Window, words
from tui.widgets.figure import draw


def trained(steps: int, **fields: object) -> RunState:
    return applied(*(step(number, grad_norm=0.5, learning_rate=1e-4, **fields) for number in range(1, steps + 1)))


def loss_of(state: RunState) -> list[View]:
    return figures.views(state, UNICODE)[:1]


def test_windows_get_narrower_and_then_show_all_again() -> None:
    window = Window()
    spans = []
    for _ in range(5):
        window = window.next_span("steps", 0, 5000)
        spans.append(window.span)
    assert spans == [1000, 200, 50, None, 1000]
    assert Window().next_span("steps", 0, 120).span == 50
    assert Window().next_span("steps", 0, 30).span is None


def test_a_window_follows_the_newest_value_and_one_that_was_moved_stands_still() -> None:
    following, still = Window(200), Window(200).moved(-0.5, 0, 1000)
    assert following.sight(0, 1000, growing=False) == (800, 1000)
    assert following.sight(0, 1500, growing=False) == (1300, 1500)
    assert still.sight(0, 1000, growing=False) == still.sight(0, 1500, growing=False) == (700, 900)
    assert still.moved(5, 0, 1000).end is None
    assert still.moved(-9, 0, 1000).sight(0, 1000, growing=False) == (0, 200)


def test_zooming_keeps_what_is_looked_at_in_its_place() -> None:
    closer = Window(400, 800).zoomed(0.5, "steps", 0, 1000, around=500)
    assert closer.sight(0, 1000, growing=False) == (450, 650)  # 500 is a quarter from the left, as before
    assert Window(400).zoomed(0.5, "steps", 0, 1000).sight(0, 1000, growing=False) == (800, 1000)
    assert Window(400).zoomed(4, "steps", 0, 1000) == Window()


spots = st.floats(0, 10_000)


@given(st.floats(1, 5000), st.one_of(st.none(), spots), st.floats(-3, 3), spots)
def test_no_window_leaves_the_values_there_are(span: float, end: float | None, move: float, spot: float) -> None:
    for window in (Window(span, end).moved(move, 0, 10_000), Window(span, end).zoomed(2, "steps", 0, 10_000, spot)):
        begin, last = window.sight(0, 10_000, growing=False)
        assert begin >= -1e-6 or end is not None
        assert last > begin
    begin, last = Window(span).showing(spot, 0, 10_000).sight(0, 10_000, growing=False)
    assert begin - 1e-6 <= spot <= last + 1e-6


@given(st.integers(1, 10**7), st.integers(1, 50))
def test_a_growing_line_moves_its_drawing_only_now_and_then(length: int, more: int) -> None:
    ends = {Window().sight(0, length + extra, growing=True)[1] for extra in range(more)}
    assert all(end > length for end in ends)
    assert len(ends) <= 2 + more * 32 // max(1, length) + more // 8
    assert all(end <= (length + more) * 1.2 + 1 for end in ends)


def test_a_window_says_what_it_shows() -> None:
    assert words(Window(), "steps", 0, 500) == ""
    assert words(Window(200), "steps", 0, 5000) == "last 200 steps"
    assert words(Window(200, 900), "steps", 0, 5000) == "steps 700 to 900"
    assert words(Window(600), "seconds", 0, 5000) == "last 10 min"


def test_charts_take_turns_by_name_while_new_ones_appear() -> None:
    state, lookout = trained(3), Lookout()
    lookout.step(figures.views(state, UNICODE), two=True, by=1)
    assert lookout.chosen == "learning rate"
    state.apply(event("hardware", gpus=[{"index": 0, "used_bytes": 5, "utilization": 3, "processes": []}]))
    views = figures.views(state, UNICODE)
    main, side = lookout.shown(views, two=True)
    assert main is not None
    assert side is not None
    assert (main.name, side.name) == ("loss", "learning rate")
    lookout.step(views, two=True, by=-1)
    assert lookout.chosen == "GPU 0 load"


def test_with_one_chart_all_take_turns_and_with_two_the_loss_stays() -> None:
    views = figures.views(trained(3), UNICODE)
    names = ["loss", "host memory", "learning rate", "gradient norm", "token accuracy", "tokens/s", MACHINE]
    for two, expected in ((False, [*names[1:], "loss"]), (True, [*names[2:], "host memory"])):
        lookout, seen = Lookout(), []
        for _ in expected:
            lookout.step(views, two, 1)
            seen.append(lookout.chosen)
        assert seen == expected


def test_the_cursor_goes_from_value_to_value_and_says_what_is_there() -> None:
    logged = [step(number, loss=float(number)) for number in range(10, 110, 10)]
    state, lookout = applied(*logged, event("eval", step=50, eval_loss=0.5)), Lookout()
    shown = loss_of(state)
    assert lookout.next_cursor(shown)
    assert lookout.cursors == {"steps": 100.0}
    lookout.move_cursor(shown, -0.001)
    assert lookout.cursors == {"steps": 90.0}
    lookout.move_cursor(shown, 0.001)
    lookout.move_cursor(shown, 0.5)
    assert lookout.cursors == {"steps": 100.0}
    lookout.move_cursor(shown, -0.6)
    parts = [text for text, _ in read_out(shown[0], lookout.cursors["steps"])]
    assert parts[:3] == ["loss", "step 50", "loss 50.00"]
    assert parts[-1] == "eval 0.500 at 50"
    assert not lookout.next_cursor(shown)


def test_in_a_gap_the_cursor_reads_out_nothing() -> None:
    state = applied(step(1), step(2, loss=None), step(3))
    assert ("loss -", "quiet") in read_out(loss_of(state)[0], 2.0)


def test_a_cursor_is_drawn_where_it_stands_and_moves_the_window_with_it() -> None:
    lookout, shown = Lookout(), loss_of(trained(1000))
    lookout.windows["steps"] = Window(100)
    lookout.next_cursor(shown)
    for _ in range(30):
        lookout.move_cursor(shown, -0.1)
    assert lookout.cursors == {"steps": 700.0}
    figure = shown[0].figure(lookout.sight(growing=False))
    assert figure.window == (700.0, 800.0)
    drawing = draw(figure, 60, 20)
    assert "step 700" in "".join(text for text, _ in drawing[0])
    assert sum(any(style == "cursor" for _, style in row) for row in drawing) == 18
    lookout.zoom(shown, closer=True)
    assert shown[0].figure(lookout.sight(growing=False)).window == (700.0, 750.0)


def test_the_newest_steps_of_a_long_run_are_all_in_the_narrowest_window() -> None:
    state = RunState()
    state.apply_all([step(number) for number in range(1, 100_000)])
    lookout, shown = Lookout(), loss_of(state)
    lookout.next_span(shown)
    lookout.next_span(shown)
    lookout.next_span(shown)
    figure = shown[0].figure(lookout.sight(growing=False))
    assert figure.window == (99_949, 99_999)
    assert len(list(figure.lines[0].points.points(*figure.window))) == 51


@pytest.mark.parametrize("two", [False, True])
def test_without_a_value_no_key_does_anything(two: bool) -> None:
    lookout, views = Lookout(), figures.views(RunState(), UNICODE)
    shown = [view for view in lookout.shown(views, two) if view is not None]
    assert not lookout.next_cursor(shown)
    assert not lookout.next_span(shown)
    assert not lookout.zoom(shown, closer=True)
    assert not lookout.move_window(shown, -1)
