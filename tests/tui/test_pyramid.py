from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.widgets.pyramid import MOST_POINTS, Pyramid, SmoothedPyramid

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


def noisy(x: int) -> float:
    """A value for every place, without a pattern that thinning could hide behind."""
    return math.sin(x * 12.9898) * 43758.5453 % 1.0


def test_two_million_points_take_no_more_memory_than_a_hundred_thousand() -> None:
    gaps = {700_000, 1_234_567, 1_990_000}
    lowest, highest = (300_001, -5.0), (1_500_003, 9.0)
    points = Pyramid()
    most = 0
    for x in range(2_000_000):
        points.append(x, None if x in gaps else dict((lowest, highest)).get(x, noisy(x)))
        if x % 50_000 == 0:
            most = max(most, len(points))
    assert most <= MOST_POINTS
    assert points.y_range() == (-5.0, 9.0)
    assert lowest in list(points.points(300_000, 300_002))
    assert highest in list(points.points(1_500_002, 1_500_004))
    assert points.x_range() == (0, 1_999_999)
    assert [x for x, _ in points.points(1_999_000)] == list(range(1_999_000, 2_000_000))
    for gap in gaps:
        assert [x for x, _ in points.points(gap - 1, gap + 1)] == [gap - 1, gap + 1]
        assert points.near(gap) is None
        assert [column.joined for column in points.columns(gap - 1, gap + 1, 3)] == [False, False]
    columns = points.columns(0, 2_000_000, 200)
    assert [column.place for column in columns] == list(range(200))
    assert all(column.joined for column in columns[1:] if column.place not in (70, 123, 199))
    assert all(column.lowest < 0.01 and column.highest > 0.99 for column in columns)


def test_a_line_that_is_half_gaps_is_bounded_too() -> None:
    points = Pyramid()
    for x in range(300_000):
        points.append(x, None if x % 2 else noisy(x))
    assert len(points) <= MOST_POINTS
    exact = [noisy(x) for x in range(0, 300_000, 2)]
    assert points.y_range() == (min(exact), max(exact))
    assert points.near(299_997) is None
    assert not any(column.joined for column in points.columns(299_900, 299_999, 100))


def test_points_added_at_once_equal_points_added_one_by_one() -> None:
    for kind in (Pyramid, lambda: SmoothedPyramid(0.9)):
        one_by_one, at_once = kind(), kind()
        for begin in range(0, 100_000, 250):
            block = range(begin, begin + 250)
            for x in block:
                one_by_one.append(x, noisy(x))
            at_once.extend(block, [noisy(x) for x in block])
        assert list(one_by_one.points()) == list(at_once.points())


def test_a_thinned_line_goes_on_after_a_truncation() -> None:
    points = filled([noisy(x) for x in range(200_000)])
    points.truncate(150_000)
    assert points.x_range() in ((0, x) for x in range(149_900, 150_001))
    for x in range(150_001, 400_000):
        points.append(x, 2.0 if x == 200_000 else noisy(x))
    assert len(points) <= MOST_POINTS
    assert points.y_range() == (min(noisy(x) for x in range(400_000)), 2.0)


def test_the_smoothed_line_of_a_long_run_is_that_of_all_its_points() -> None:
    average = expected = 0.0
    smoothed = SmoothedPyramid(0.9)
    for n, x in enumerate(range(150_000), start=1):
        smoothed.append(x, noisy(x))
        average = 0.9 * average + 0.1 * noisy(x)
        expected = average / (1 - 0.9**n)
    assert smoothed.last == (149_999, pytest.approx(expected))


def test_near_a_place_is_the_nearest_point_that_the_line_goes_by() -> None:
    points = filled([1.0, 2.0, None, 4.0])
    assert [points.near(x) for x in (-1, 0, 0.4, 0.6, 2, 3, 4)] == [None, (0, 1), (0, 1), (1, 2), None, (3, 4), None]
    assert [points.nearest(x) for x in (-1, 2.4, 9)] == [(0, 1), (3, 4), (3, 4)]
    assert Pyramid().near(0) is None
    assert Pyramid().nearest(0) is None
