"""Base against adapter on the rows that both have done: figures, intervals, tests, and what they allow to be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.evaluation.benchmark_set import BenchmarkSet
from engine.evaluation.collected import Answers, RowLosses
from engine.evaluation.plan import BENCHMARK, Answer, RowLoss
from engine.evaluation.resampling import RESAMPLES, interval, mcnemar_p, resampled_sums, resamples_for, sign_flip_p
from engine.evaluation.results import Interval, Measure, Outcome, Part, Row, Verdict
from engine.evaluation.scoring import Score, score
from engine.units import percent

LEAST_ROWS = 10
"""With fewer, no difference is claimed: percentiles of so few rows are far too narrow."""
FEW_ROWS = 30
"""With fewer, it is said that intervals are rough."""
SIGNIFICANT = 0.05
LARGEST_LOSS = 50.0
"""Nats; a perplexity beyond it says nothing, and soon is no number."""


@dataclass(frozen=True)
class Compared:
    """A part, and its rows."""

    part: Part
    rows: list[Row]


def verdict_of(difference: Interval, p_value: float, rows: int, lower_is_better: bool) -> Verdict:
    """`better` or `worse` only where the test and the interval both say so, on LEAST_ROWS rows or more."""
    excludes_0 = difference.low > 0 or difference.high < 0
    if rows < LEAST_ROWS or p_value >= SIGNIFICANT or not excludes_0:
        return "no difference shown"
    return "better" if (difference.value < 0) == lower_is_better else "worse"


def compare_losses(name: str, title: str, base: RowLosses, adapter: RowLosses, planned: int | None = None) -> Compared:
    """A part of row losses; `planned` is how many rows there were to do, where that is known."""
    numbers = sorted(base.keys() | adapter.keys())
    rows = [_loss_row(name, base.get(number), adapter.get(number)) for number in numbers]
    both = [number for number in numbers if _is_usable(base.get(number)) and _is_usable(adapter.get(number))]
    pairs = [(base[number], adapter[number]) for number in both]
    notes = [_unfinished(len(base.keys() & adapter.keys()), planned)]
    if broken := len(base.keys() & adapter.keys()) - len(both):
        notes.append(f"{broken:,} {_rows(broken)} left out: a loss was not a number, or nothing of the row is learnt.")
    if pairs:
        measures = _loss_measures(pairs)
        tokens = sum(before.tokens for before, _ in pairs)
        notes.append(_about_rows(len(pairs)))
    else:
        measures, tokens = (), 0
        notes.append("Nothing to compare: no row was done by both models.")
    part = Part(name, title, len(pairs), tokens, measures, " ".join(filter(None, notes)))
    return Compared(part, rows)


def compare_answers(benchmark: BenchmarkSet, base: Answers, adapter: Answers) -> Compared:
    """The benchmark's part; every answer of either model is among the rows."""
    scores: dict[int, tuple[Score | None, Score | None]] = {}
    rows = []
    for number, row in enumerate(benchmark.rows):
        before, after = base.get(number), adapter.get(number)
        if before is None and after is None:
            continue
        scores[number] = tuple(None if each is None else score(row, each) for each in (before, after))  # type: ignore[assignment]
        outcomes = [
            None if each is None or scored is None else _answered(each, scored)
            for each, scored in zip((before, after), scores[number], strict=True)
        ]
        rows.append(Row(BENCHMARK, number, row.where, row.question, row.expected_text, *outcomes))
    pairs = [(before, after) for before, after in scores.values() if before is not None and after is not None]
    notes = [_unfinished(len(pairs), len(benchmark.rows))]
    measures: tuple[Measure, ...] = ()
    if pairs:
        measures = (_score_measure([(before.value, after.value) for before, after in pairs]),)
        notes += [
            _about_rows(len(pairs)),
            _choices_in_words(pairs),
            _slow_patterns(pairs),
            _cut_in_words(base, adapter),
        ]
    else:
        notes.append("Nothing to compare: no row was answered by both models.")
    part = Part(BENCHMARK, benchmark.title, len(pairs), None, measures, " ".join(filter(None, notes)))
    return Compared(part, rows)


def _loss_measures(pairs: Sequence[tuple[RowLoss, RowLoss]]) -> tuple[Measure, ...]:
    """Token-weighted means: ratios of sums over rows, which are drawn whole, as tokens of a row are not independent."""
    rows = len(pairs)
    tokens = [float(before.tokens) for before, _ in pairs]
    losses = [[each[side].loss_sum for each in pairs] for side in (0, 1)]
    right = [[float(each[side].correct) for each in pairs] for side in (0, 1)]
    drawn = resampled_sums([tokens, *losses, *right], resamples_for(rows))
    total = sum(tokens)
    found: list[Measure] = []
    for name, columns, places in (("loss", losses, (1, 2)), ("token_accuracy", right, (3, 4))):
        values = [sum(column) / total for column in columns]
        means = [[each / count for each, count in zip(drawn[place], drawn[0], strict=True)] for place in places]
        p_value = sign_flip_p([after - before for before, after in zip(*columns, strict=True)])
        found.append(_measure(name, values, means, p_value, rows, name == "loss"))
        if name == "loss" and max(*map(max, means), *values) < LARGEST_LOSS:
            perplexities = [[math.exp(each) for each in of_model] for of_model in means]
            whole = [math.exp(value) for value in values]
            found.append(_measure("perplexity", whole, perplexities, p_value, rows, True, found[0].verdict))
    return tuple(found)


def _score_measure(pairs: Sequence[tuple[float, float]]) -> Measure:
    rows = len(pairs)
    columns = [[pair[side] for pair in pairs] for side in (0, 1)]
    drawn = resampled_sums(columns, resamples_for(rows))
    means = [[each / rows for each in of_model] for of_model in drawn]
    return _measure("score", [sum(column) / rows for column in columns], means, mcnemar_p(*columns), rows, False)


def _measure(
    name: str,
    values: Sequence[float],
    means: Sequence[Sequence[float]],
    p_value: float,
    rows: int,
    lower_is_better: bool,
    verdict: Verdict | None = None,
) -> Measure:
    differences = [after - before for before, after in zip(*means, strict=True)]
    difference = interval(values[1] - values[0], differences)
    return Measure(
        name,
        interval(values[0], means[0]),
        interval(values[1], means[1]),
        difference,
        p_value,
        lower_is_better,
        verdict or verdict_of(difference, p_value, rows, lower_is_better),
    )


def _loss_row(part: str, base: RowLoss | None, adapter: RowLoss | None) -> Row:
    known = adapter or base
    assert known is not None
    told = [each for each in (base, adapter) if each is not None]
    prompt = next((each.prompt for each in told if each.prompt is not None), "")
    expected = next((each.expected for each in told if each.expected is not None), "")
    return Row(part, known.row, known.where, prompt, expected, _lost(base), _lost(adapter))


def _lost(loss: RowLoss | None) -> Outcome | None:
    if loss is None:
        return None
    mean = loss.loss_sum / loss.tokens if _is_usable(loss) else None
    return Outcome(mean, loss.tokens, loss.correct, None, None, False)


def _answered(answer: Answer, scored: Score) -> Outcome:
    return Outcome(None, answer.tokens, 0, answer.text, scored.value, answer.cut)


def _is_usable(loss: RowLoss | None) -> bool:
    return loss is not None and loss.tokens > 0 and math.isfinite(loss.loss_sum)


def _rows(count: int) -> str:
    return "row is" if count == 1 else "rows are"


def _unfinished(done: int, planned: int | None) -> str:
    if planned is None or done >= planned:
        return ""
    return f"Only a part: {done:,} of {planned:,} rows were done by both models."


def _about_rows(rows: int) -> str:
    if rows < LEAST_ROWS:
        return f"{rows} {_rows(rows)} too few to show a difference; take {FEW_ROWS} or more."
    if rows < FEW_ROWS:
        return f"Only {rows} rows: the intervals are rough."
    resamples = resamples_for(rows)
    return f"As there are many rows, the intervals are of {resamples:,} resamples." if resamples < RESAMPLES else ""


def _choices_in_words(pairs: Sequence[tuple[Score, Score]]) -> str:
    by_sum = [(before.by_sum, after.by_sum) for before, after in pairs if before.by_sum is not None]
    if not by_sum:
        return ""
    base, adapter = (sum(each[side] or 0.0 for each in by_sum) / len(by_sum) for side in (0, 1))
    return (
        "Choices are compared by their log-likelihood a byte; by the whole log-likelihood the base has "
        f"{percent(base)} right and the adapter {percent(adapter)}."
    )


def _slow_patterns(pairs: Sequence[tuple[Score, Score]]) -> str:
    slow = sum(before.took_too_long or after.took_too_long for before, after in pairs)
    return f"{slow:,} {_rows(slow)} counted as wrong: the regular expression took too long." if slow else ""


def _cut_in_words(base: Answers, adapter: Answers) -> str:
    before, after = (sum(answer.cut for answer in answers.values()) for answers in (base, adapter))
    if not before and not after:
        return ""
    return f"Cut off at max_new_tokens: {before:,} answers of the base, {after:,} of the adapter."
