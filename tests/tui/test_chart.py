from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from tui.widgets.chart import Chart
from tui.widgets.figure import Figure, Level, Line, Mark, draw
from tui.widgets.pyramid import Pyramid
from tui.widgets.ticks import Axis, elapsed, gibibytes, number


def line_of(*ys: float | None) -> Pyramid:
    points = Pyramid()
    for x, y in enumerate(ys):
        points.append(x, y)
    return points


def drawn(figure: Figure, width: int = 40, height: int = 12, ascii: bool = True) -> list[str]:
    return ["".join(text for text, _ in row) for row in draw(figure, width, height, ascii=ascii)]


@given(
    st.lists(st.one_of(st.floats(-1e9, 1e9), st.none()), max_size=80),
    st.integers(0, 100),
    st.integers(0, 30),
    st.booleans(),
    st.booleans(),
)
def test_every_drawing_fills_exactly_its_size(
    ys: list[float | None], width: int, height: int, log: bool, ascii: bool
) -> None:
    figure = Figure(
        legend=[("loss", "title"), ("1.2 smoothed", "line")],
        lines=[Line(line_of(*ys)), Line(line_of(*ys), "marker", "o", markers=True)],
        levels=[Level(5.0, "capacity 5")],
        y=Axis(log=log),
        empty="no step yet",
    )
    rows = drawn(figure, width, height, ascii)
    assert len(rows) == height
    assert {len(row) for row in rows} <= {width}
    assert not ascii or all(row.isascii() for row in rows)


def test_a_rising_line_rises() -> None:
    rows = drawn(Figure(lines=[Line(line_of(0, 1, 2, 3))]))
    columns = [row.rindex("*") for row in rows if "*" in row]
    assert columns == sorted(columns, reverse=True)


def test_a_gap_is_left_empty() -> None:
    whole = drawn(Figure(lines=[Line(line_of(1, 1, 1, 1, 1, 1))]))
    broken = drawn(Figure(lines=[Line(line_of(1, 1, None, None, 1, 1))]))
    assert sum(row.count("*") for row in broken) < sum(row.count("*") for row in whole) - 10


def test_a_point_between_gaps_is_still_seen() -> None:
    figure = Figure(lines=[Line(line_of(1, None, 2, None, 3))])
    assert sum(row.count("*") for row in drawn(figure)) == 3


def test_markers_stand_at_their_points() -> None:
    rows = drawn(Figure(lines=[Line(line_of(1, 3), "marker", "o", markers=True)]))
    marked = [(y, row.index("o")) for y, row in enumerate(rows) if "o" in row]
    assert len(marked) == 2
    assert marked[0][1] > marked[1][1]


def test_many_markers_become_a_line_that_hides_less() -> None:
    figure = Figure(lines=[Line(line_of(*range(100)), "marker", "o", markers=True)])
    assert not any("o" in row for row in drawn(figure, ascii=False))


def test_only_the_window_is_drawn_and_the_axes_fit_it() -> None:
    figure = Figure(lines=[Line(line_of(1000, *[1, 2] * 20))], window=(10, 20), x=Axis(whole=True))
    rows = drawn(figure)
    assert rows[-1].split()[0] == "10"
    assert not any("1,000" in row for row in rows)


def test_the_cursor_is_a_line_over_all_rows_that_hides_nothing() -> None:
    lines = [Line(line_of(*[5.0] * 50))]
    plain, pointed = (drawn(Figure(lines=lines, cursor=x)) for x in (None, 25))
    (column,) = {at for row, other in zip(pointed, plain, strict=True) for at, c in enumerate(row) if c != other[at]}
    assert [row[column] for row in pointed[1:-2]].count("|") == len(pointed) - 4
    assert sum(row.count("*") for row in pointed) == sum(row.count("*") for row in plain)


def test_marks_are_written_onto_the_axis_and_explained_once() -> None:
    marks = [Mark(0, "Load"), Mark(1, "Train"), Mark(25, "Train"), Mark(50, "Eval"), Mark(70, "Eval"), Mark(99, "Save")]
    axis = drawn(Figure(lines=[Line(line_of(*range(101)))], marks=marks), width=60)[-2]
    assert axis.replace("+", "-").strip() == "-Load---------Train---------Eval-------E---------------S"
    assert "Load" not in "".join(drawn(Figure(lines=[Line(line_of(*range(101)))], marks=marks, window=(60, 100))))


def test_a_join_is_a_thin_line_below_the_curves() -> None:
    rows = drawn(Figure(lines=[Line(line_of(*range(50)))], marks=[Mark(25, ruled=True)]))
    assert sum(row.count(":") for row in rows) == len(rows) - 4


def test_wide_characters_in_a_legend_keep_the_rows_as_wide_as_they_are() -> None:
    legend = [("GPU 0", "title"), ("日本語の名前", "label"), ("👩‍👩‍👧 e\u0301", "label"), ("x" * 90, "label")]
    for width in range(20, 60):
        row = drawn(Figure(legend=legend, lines=[Line(line_of(1, 2))]), width=width, ascii=False)[0]
        assert cell_len(row) == width


def test_a_level_is_reached_by_the_axis_and_carries_its_label() -> None:
    figure = Figure(lines=[Line(line_of(1, 1.5))], levels=[Level(11.6, "capacity 11.6 GiB")])
    labelled = [row for row in drawn(figure) if "capacity 11.6 GiB" in row]
    assert len(labelled) == 1
    assert "---" in labelled[0]


def test_a_level_out_of_the_way_does_not_flatten_the_line() -> None:
    figure = Figure(lines=[Line(line_of(1, 1.5))], levels=[Level(64, "host 64 GiB", in_range=False)])
    assert not any("host" in row for row in drawn(figure))


def test_two_levels_in_one_row_keep_both_labels() -> None:
    figure = Figure(lines=[Line(line_of(0, 10))], levels=[Level(9.9, "capacity"), Level(9.8, "predicted")])
    assert any("predicted" in row and "capacity" in row for row in drawn(figure, width=60))


def test_a_log_axis_spreads_factors_evenly_and_ignores_what_is_not_positive() -> None:
    rows = drawn(Figure(lines=[Line(line_of(1000, 100, 10, 1, 0, -5))], y=Axis(log=True)), height=15)
    at = {label: y for y, row in enumerate(rows) for label in ("1,000", "100", "10", "1") if row.split()[:1] == [label]}
    assert at["100"] - at["1,000"] == pytest.approx(at["10"] - at["100"], abs=1)
    assert at["10"] - at["100"] == pytest.approx(at["1"] - at["10"], abs=1)


def test_a_log_axis_without_positive_values_says_that_there_is_nothing() -> None:
    figure = Figure(lines=[Line(line_of(0, -1))], y=Axis(log=True), empty="nothing to show")
    assert any("nothing to show" in row for row in drawn(figure))


def test_a_legend_drops_its_last_parts_where_room_is_short() -> None:
    legend = [("loss", "title"), ("1.131 smoothed", "line"), ("eval 1.204 at 400", "marker")]
    assert drawn(Figure(legend=legend), width=30)[0].rstrip() == "loss   1.131 smoothed"


def test_a_smoothed_line_is_seen_over_its_noisy_original() -> None:
    noisy = Figure(lines=[Line(line_of(*[step % 7 for step in range(500)]), "quiet")])
    smooth = Line(line_of(*[3.0] * 500), "line")
    styles = {style for row in draw(Figure(lines=[*noisy.lines, smooth]), 60, 12) for _, style in row}
    assert {"quiet", "line"} <= styles


@pytest.mark.parametrize(
    ("value", "step", "text"), [(1.25, 0.05, "1.25"), (1200, 100, "1,200"), (0, 1, "0"), (2e-4, 1e-4, "2e-4")]
)
def test_tick_numbers_have_the_digits_that_their_step_needs(value: float, step: float, text: str) -> None:
    assert number(value, step) == text


def test_bytes_are_ticked_in_round_gibibytes() -> None:
    axis = Axis(format=gibibytes, unit=2**30)
    assert [text for _, text in axis.ticks(0, 12 * 2**30, 6)] == ["0", "2", "4", "6", "8", "10", "12"]


def test_time_is_ticked_in_minutes_and_hours() -> None:
    axis = Axis(format=elapsed, seconds=True)
    assert [text for _, text in axis.ticks(0, 600, 5)] == ["0", "2 min", "4 min", "6 min", "8 min", "10 min"][:6]
    assert [text for _, text in axis.ticks(0, 4 * 3600, 4)] == ["0", "60 min", "2 h", "3 h", "4 h"]


def test_steps_are_ticked_at_whole_numbers() -> None:
    assert [text for _, text in Axis(whole=True).ticks(0, 3, 8)] == ["0", "1", "2", "3"]


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(1, 20))
def test_ticks_lie_in_range_and_are_few(low: float, span: float, most: int) -> None:
    if low + span == low or span < abs(low) * 1e-9:
        return
    ticks = Axis().ticks(low, low + span, most)
    assert len(ticks) <= most + 1
    tolerance = span * 1e-3
    assert all(low - tolerance <= value <= low + span + tolerance for value, _ in ticks)


async def test_a_chart_repaints_only_the_rows_that_changed() -> None:
    points = line_of(*[math.sin(x / 30) for x in range(400)])
    figure = Figure(lines=[Line(points)])

    class Charted(App[None]):
        def compose(self) -> ComposeResult:
            yield Chart()

    app = Charted()
    async with app.run_test(size=(60, 20)) as pilot:
        chart = app.query_one(Chart)
        chart.show(figure)
        await pilot.pause()
        painted: list[int] = []
        paint = chart.render_line
        chart.render_line = lambda y: painted.append(y) or paint(y)  # type: ignore[method-assign,func-returns-value]
        chart.show(figure)
        await pilot.pause()
        assert painted == []
        chart.show(Figure(legend=[("loss", "title")], lines=figure.lines))
        await pilot.pause()
        assert set(painted) == {0}
