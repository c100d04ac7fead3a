from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.widgets.pyramid import Pyramid, SmoothedPyramid

values = st.one_of(st.floats(-1e6, 1e6), st.none(), st.just(math.nan))
point_lists = st.lists(values, max_size=700)


def filled(ys: list[float | None], points: Pyramid | None = None) -> Pyramid:
    points = Pyramid() if points is None else points
    for x, y in enumerate(ys):
        points.append(x, y)
    return points


def finite(ys: list[float | None]) -> list[tuple[float, float]]:
    return [(float(x), y) for x, y in enumerate(ys) if y is not None and math.isfinite(y)]


@given(point_lists, st.integers(0, 700), st.integers(0, 700))
def test_the_range_of_any_stretch_is_that_of_its_points(ys: list[float | None], begin: int, length: int) -> None:
    inside = [y for x, y in finite(ys) if begin <= x <= begin + length]
    expected = (min(inside), max(inside)) if inside else None
    assert filled(ys).y_range(begin, begin + length) == expected


@given(point_lists, st.integers(1, 100))
def test_columns_hold_every_point_once_and_in_order(ys: list[float | None], count: int) -> None:
    points = filled(ys)
    columns = points.columns(0, max(1, len(ys) - 1), count)
    known = finite(ys)
    assert [column.place for column in columns] == sorted({column.place for column in columns})
    assert all(0 <= column.place < count for column in columns)
    if known:
        assert (columns[0].first, columns[-1].last) == (known[0][1], known[-1][1])
        assert min(column.lowest for column in columns) == min(y for _, y in known)
        assert max(column.highest for column in columns) == max(y for _, y in known)


@given(point_lists, st.lists(st.tuples(st.integers(0, 700), st.lists(values, max_size=60)), max_size=4))
def test_a_truncated_pyramid_equals_one_that_never_had_the_points(
    ys: list[float | None], edits: list[tuple[int, list[float | None]]]
) -> None:
    edited = filled(ys)
    for keep, more in edits:
        edited.y_range()  # builds the levels, which then have to shrink
        edited.truncate(keep - 1)
        ys = ys[:keep]
        for y in more:
            edited.append(len(ys), y)
            ys = [*ys, y]
    assert list(edited.points()) == finite(ys)
    for begin, end in ((0, len(ys)), (3, 40), (17, 300)):
        inside = [y for x, y in finite(ys) if begin <= x <= end]
        assert edited.y_range(begin, end) == ((min(inside), max(inside)) if inside else None)


def test_a_gap_breaks_the_line_between_its_neighbours_only() -> None:
    columns = filled([1.0, 2.0, math.nan, 4.0, 5.0]).columns(0, 4, 5)
    assert [(column.place, column.joined) for column in columns] == [(0, False), (1, True), (3, False), (4, True)]


def test_what_follows_a_truncation_joins_the_rest() -> None:
    points = filled([1.0, 2.0, 3.0, None])
    points.truncate(1)
    points.append(2, 2.5)
    assert [column.joined for column in points.columns(0, 2, 3)] == [False, True, True]


def test_smoothing_starts_at_the_first_value_instead_of_near_zero() -> None:
    smoothed = filled([4.0] * 50, SmoothedPyramid(0.95))
    assert [y for _, y in smoothed.points()] == pytest.approx([4.0] * 50)


def test_smoothing_passes_over_gaps() -> None:
    with_gap = filled([4.0, None, 2.0, math.nan, 3.0], SmoothedPyramid(0.9))
    without = filled([4.0, 2.0, 3.0], SmoothedPyramid(0.9))
    assert [y for _, y in with_gap.points()] == [y for _, y in without.points()]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=80), st.integers(0, 80))
def test_smoothing_goes_on_after_a_truncation_as_if_the_rest_had_never_been(ys: list[float], keep: int) -> None:
    smoothed = SmoothedPyramid(0.9)
    filled(list(ys), smoothed)
    smoothed.truncate(keep - 1)
    smoothed.append(len(ys), 7.0)
    expected = SmoothedPyramid(0.9)
    filled(list(ys[:keep]), expected)
    expected.append(len(ys), 7.0)
    assert smoothed.last == pytest.approx(expected.last)


def test_without_points_there_is_no_range() -> None:
    assert Pyramid().x_range() is None
    assert Pyramid().y_range() is None
    assert Pyramid().columns(0, 1, 10) == []
