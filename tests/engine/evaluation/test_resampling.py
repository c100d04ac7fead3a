"""Intervals and tests, against figures that are known."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time

import pytest

from engine.evaluation.resampling import interval, mcnemar_p, resampled_sums, resamples_for, sign_flip_p


def test_resampled_sums_draw_the_same_rows_for_every_column() -> None:
    counts = [1.0] * 40
    values = [float(row) for row in range(40)]
    doubled = [2 * value + 1 for value in values]
    ones, sums, twice = resampled_sums([counts, values, doubled], 300)
    assert ones == [40.0] * 300
    assert len(set(sums)) > 50
    for once, double in zip(sums, twice, strict=True):
        assert double == pytest.approx(2 * once + 40, abs=1e-7)


def test_the_same_rows_give_the_same_figures_and_other_seeds_nearly() -> None:
    draw = random.Random(5)
    values = [draw.gauss(2, 1) for _ in range(200)]
    assert resampled_sums([values], 400) == resampled_sums([values], 400)
    assert resampled_sums([values], 400) != resampled_sums([values], 400, seed=1)


def test_the_interval_of_a_mean_is_that_of_the_normal_law_where_rows_are_many() -> None:
    draw = random.Random(1)
    values = [draw.gauss(2.0, 0.5) for _ in range(1000)]
    mean = statistics.fmean(values)
    (sums,) = resampled_sums([values], 4000)
    found = interval(mean, [each / len(values) for each in sums])
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    assert found.value == mean
    assert found.low == pytest.approx(mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(mean + half, abs=0.1 * half)


def test_intervals_hold_the_truth_about_95_times_of_100() -> None:
    held = 0
    for seed in range(200):
        draw = random.Random(seed)
        # A ratio of sums over rows of unequal length, as a loss a token is: 1.5 nats, whatever the length.
        tokens = [float(draw.randint(5, 120)) for _ in range(60)]
        losses = [count * max(draw.gauss(1.5, 0.6), 0.0) for count in tokens]
        drawn = resampled_sums([tokens, losses], 400, seed)
        ratios = [loss / count for count, loss in zip(*drawn, strict=True)]
        found = interval(sum(losses) / sum(tokens), ratios)
        held += found.low <= 1.5 <= found.high
    assert 178 <= held <= 199


def test_few_rows_have_all_their_signs_flipped() -> None:
    differences = [0.5, -0.2, 0.9, 0.3, -0.1, 0.7]
    bound = abs(sum(differences))
    ways = list(itertools.product((1, -1), repeat=6))
    extreme = sum(abs(sum(s * d for s, d in zip(way, differences, strict=True))) >= bound - 1e-12 for way in ways)
    assert sign_flip_p(differences) == pytest.approx(extreme / len(ways))


def test_flips_by_chance_come_near_flips_of_all_signs() -> None:
    draw = random.Random(3)
    differences = [draw.gauss(0.3, 1.0) for _ in range(20)]
    sums = [0.0]
    for each in differences:
        sums = [total + sign * each for total in sums for sign in (1, -1)]
    bound = abs(sum(differences)) - 1e-12
    exact = sum(abs(total) >= bound for total in sums) / len(sums)
    assert 0.02 < exact < 0.98
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("rows", [1, 5, 15, 17, 40])
def test_no_difference_has_a_p_value_of_1_and_rows_without_one_count_for_nothing(rows: int) -> None:
    assert sign_flip_p([0.0] * rows) == 1.0
    draw = random.Random(rows)
    differences = [draw.gauss(0.2, 1) for _ in range(12)]
    assert sign_flip_p(differences + [0.0] * rows) == sign_flip_p(differences)


def test_all_of_one_sign_is_as_rare_as_it_is() -> None:
    assert sign_flip_p([1.0] * 10) == pytest.approx(2 / 2**10)
    assert sign_flip_p([-1.0] * 40) < 1e-4


def test_under_chance_alone_p_is_below_5_percent_5_times_of_100() -> None:
    draw = random.Random(4)
    below = sum(sign_flip_p([draw.gauss(0, 1) for _ in range(12)]) < 0.05 for _ in range(400))
    assert 8 <= below <= 34


def test_mcnemar_is_the_sign_test_of_the_rows_that_changed() -> None:
    # 10 got better and 2 worse: 2 * (1 + 12 + 66) / 4096
    base = [0.0] * 10 + [1.0] * 2 + [1.0] * 50
    adapter = [1.0] * 10 + [0.0] * 2 + [1.0] * 50
    assert mcnemar_p(base, adapter) == pytest.approx(158 / 4096)
    assert mcnemar_p(adapter, base) == pytest.approx(158 / 4096)
    assert mcnemar_p([1.0, 0.0], [1.0, 0.0]) == 1.0
    assert mcnemar_p([1.0, 0.0], [0.0, 1.0]) == 1.0


def test_mcnemar_of_thousands_of_changes_is_near_the_normal_law() -> None:
    gained, lost = 5_100, 4_900
    p_value = mcnemar_p([0.0] * gained + [1.0] * lost, [1.0] * gained + [0.0] * lost)
    z = (gained - lost - 1) / math.sqrt(gained + lost)
    assert p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)
    assert mcnemar_p([0.0] * 10_000, [1.0] * 10_000) == 0.0 or mcnemar_p([0.0] * 10_000, [1.0] * 10_000) < 1e-200


def test_ten_thousand_rows_take_seconds() -> None:
    draw = random.Random(2)
    tokens = [float(draw.randint(5, 300)) for _ in range(10_000)]
    base = [count * draw.uniform(1, 3) for count in tokens]
    began = time.process_time()
    resampled_sums([tokens, base, base, tokens, tokens], resamples_for(10_000))
    sign_flip_p([draw.gauss(0, 1) for _ in range(10_000)])
    assert time.process_time() - began < 15
    assert resamples_for(10_000) == 2_000
