"""What may be said of base against adapter, from rows as the worker tells them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation.benchmark_set import BenchmarkRow, BenchmarkSet
from engine.evaluation.collected import Collected
from engine.evaluation.comparing import Compared, compare_answers, compare_losses
from engine.evaluation.comparing_tasks import compare_tasks
from engine.evaluation.plan import BOTH, TaskResult


def row_loss(model: str, row: int, loss_sum: float, tokens: int = 20, correct: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "type": "row_loss", "part": "held_out", "model": model, "row": row, "where": f"h.jsonl, line {row + 1}",
        "loss_sum": loss_sum, "tokens": tokens, "correct": correct, **more,
    }  # fmt: skip


def losses(events: list[dict[str, Any]], planned: int | None = None) -> Compared:
    collected = Collected()
    for event in events:
        collected.take(event)
    base, adapter = (collected.losses_of("held_out", model) for model in BOTH)
    return compare_losses("held_out", "held-out rows", base, adapter, planned)


def pairs(count: int, shift: float, noise: float = 0.2) -> list[dict[str, Any]]:
    """A base of about 2 nats a token, and an adapter `shift` from it."""
    draw = random.Random(count)
    events = []
    for row in range(count):
        tokens = draw.randint(5, 60)
        base = draw.gauss(2.0, 0.4)
        said = {"prompt": f"p{row}", "expected": f"e{row}"}
        events.append(row_loss("base", row, base * tokens, tokens, tokens // 3, **said))
        events.append(row_loss("adapter", row, (base + draw.gauss(shift, noise)) * tokens, tokens, tokens // 2))
    return events


def test_a_clear_gain_is_better_in_loss_perplexity_and_accuracy() -> None:
    part = losses(pairs(80, -0.5)).part
    loss, perplexity, accuracy = part.measures
    assert [measure.name for measure in part.measures] == ["loss", "perplexity", "token_accuracy"]
    assert [measure.verdict for measure in part.measures] == ["better"] * 3
    assert loss.base is not None
    assert loss.adapter is not None
    assert loss.difference is not None
    assert loss.base.low < loss.base.value < loss.base.high
    assert loss.difference.value == pytest.approx(loss.adapter.value - loss.base.value)
    assert loss.difference.high < 0
    assert loss.p_value is not None
    assert loss.p_value < 0.001
    assert perplexity.base is not None
    assert perplexity.difference is not None
    assert perplexity.adapter is not None
    assert perplexity.base.value == pytest.approx(math.exp(loss.base.value))
    assert perplexity.base.low == pytest.approx(math.exp(loss.base.low), rel=1e-3)
    assert perplexity.difference.value == pytest.approx(perplexity.adapter.value - perplexity.base.value)
    assert accuracy.lower_is_better is False
    assert part.rows == 80
    assert part.note == ""


def test_a_clear_loss_is_worse() -> None:
    assert losses(pairs(80, 0.5)).part.measures[0].verdict == "worse"


def test_means_are_weighted_by_tokens() -> None:
    events = [row_loss("base", 0, 10.0, 10), row_loss("base", 1, 90.0, 30)]
    events += [row_loss("adapter", 0, 10.0, 10), row_loss("adapter", 1, 30.0, 30)]
    loss = losses(events).part.measures[0]
    assert loss.base is not None
    assert loss.adapter is not None
    assert (loss.base.value, loss.adapter.value) == (2.5, 1.0)


def test_chance_is_not_called_better() -> None:
    said = [losses(pairs(40 + seed, 0.0)).part.measures[0].verdict for seed in range(20)]
    assert said.count("no difference shown") >= 17


def test_few_rows_show_nothing_however_large_the_gain() -> None:
    part = losses(pairs(9, -1.0, 0.05)).part
    loss = part.measures[0]
    assert loss.p_value is not None
    assert loss.p_value < 0.05
    assert loss.verdict == "no difference shown"
    assert "9 rows are too few" in part.note
    part = losses(pairs(15, -1.0, 0.05)).part
    assert part.measures[0].verdict == "better"
    assert "Only 15 rows: the intervals are rough" in part.note


def test_only_rows_of_both_models_are_compared_and_a_part_is_called_a_part() -> None:
    events = pairs(40, -0.5)
    done = [event for event in events if event["model"] == "base" or event["row"] < 30]
    compared = losses(done, planned=50)
    assert compared.part.rows == 30
    assert "Only a part: 30 of 50 rows" in compared.part.note
    assert compared.part.measures == losses([event for event in events if event["row"] < 30]).part.measures
    assert len(compared.rows) == 40
    assert compared.rows[35].adapter is None


def test_nothing_in_common_is_not_compared() -> None:
    part = losses([row_loss("base", 0, 1.0)], planned=5).part
    assert (part.rows, part.measures) == (0, ())
    assert "no row was done by both" in part.note


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_losses_that_are_no_number_are_left_out_and_said(broken: float) -> None:
    events = pairs(20, -0.5)
    events[4]["loss_sum"] = broken
    compared = losses(events)
    assert compared.part.rows == 19
    assert "1 row is left out" in compared.part.note
    outcome = compared.rows[2].base
    assert outcome is not None
    assert outcome.loss is None


def test_a_loss_beyond_all_sense_has_no_perplexity() -> None:
    events = [row_loss(model, row, 2000.0 + row, 20) for row in range(12) for model in ("base", "adapter")]
    assert [measure.name for measure in losses(events).part.measures] == ["loss", "token_accuracy"]


def test_rows_keep_what_was_asked_whichever_model_said_it() -> None:
    events = pairs(2, 0.0)
    (first, _) = losses(events).rows
    assert (first.prompt, first.expected, first.where) == ("p0", "e0", "h.jsonl, line 1")
    assert first.base is not None
    assert first.base.loss == pytest.approx(events[0]["loss_sum"] / events[0]["tokens"])


def answer(model: str, row: int, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "answer", "part": "benchmark", "model": model, "row": row, "text": text, "tokens": 3, "cut": False,
            "choice": None, "choice_log_likelihoods": None, **more}  # fmt: skip


def answers(benchmark: BenchmarkSet, events: list[dict[str, Any]]) -> Compared:
    collected = Collected()
    for event in events:
        collected.take(event)
    base, adapter = (collected.answers_of("benchmark", model) for model in BOTH)
    return compare_answers(benchmark, base, adapter)


def sums(count: int) -> BenchmarkSet:
    rows = [BenchmarkRow(f"s.jsonl, line {n + 1}", f"{n}+{n}", None, 2 * n, "number") for n in range(count)]
    return BenchmarkSet(Path("s.jsonl"), tuple(rows), "number, as said")


def test_answers_are_scored_and_compared_by_mcnemar() -> None:
    events = []
    for row in range(40):
        events.append(answer("base", row, f"it is {2 * row}" if row % 4 == 0 else "no idea"))
        events.append(answer("adapter", row, f"#### {2 * row}" if row % 4 else "-1", cut=row == 5))
    compared = answers(sums(40), events)
    (score,) = compared.part.measures
    assert score.base is not None
    assert score.adapter is not None
    assert (score.base.value, score.adapter.value) == (0.25, 0.75)
    # 30 gained, 10 lost
    assert score.p_value == pytest.approx(2 * sum(math.comb(40, k) for k in range(11)) / 2**40)
    assert score.verdict == "better"
    assert "1 of the adapter" in compared.part.note
    kept = compared.rows[5]
    assert (kept.prompt, kept.expected) == ("5+5", "10")
    assert kept.base is not None
    assert (kept.base.answer, kept.base.score) == ("no idea", 0.0)
    assert kept.adapter is not None
    assert (kept.adapter.score, kept.adapter.cut) == (1.0, True)


def test_answers_of_one_model_only_are_kept_and_not_compared() -> None:
    compared = answers(sums(12), [answer("base", row, "1") for row in range(7)])
    assert (compared.part.rows, compared.part.measures, len(compared.rows)) == (0, (), 7)
    assert "0 of 12 rows" in compared.part.note


def test_choices_say_which_likelihood_counts() -> None:
    row = BenchmarkRow("c.jsonl, line 1", "q", None, 1, "choice", ("no", "certainly not"))
    benchmark = BenchmarkSet(Path("c.jsonl"), (row,) * 12, "choice")
    events = [
        answer(model, number, "no", choice=0, choice_log_likelihoods=[-3.0, -6.0])
        for number in range(12)
        for model in ("base", "adapter")
    ]
    part = answers(benchmark, events).part
    assert part.measures[0].base is not None
    assert part.measures[0].base.value == 1.0
    assert "the base has 0.0 % right and the adapter 0.0 %" in part.note


def test_tasks_of_lm_eval_are_compared_by_their_standard_errors() -> None:
    results = [
        TaskResult("base", "arc", "acc", 0.30, 0.02, True, "1"),
        TaskResult("adapter", "arc", "acc", 0.40, 0.02, True, "1"),
        TaskResult("base", "arc", "perplexity", 10.0, None, False, "1"),
        TaskResult("adapter", "arc", "perplexity", 12.0, None, False, "1"),
        TaskResult("base", "small", "acc", 0.30, 0.1, True, "2"),
        TaskResult("adapter", "small", "acc", 0.40, 0.1, True, "2"),
        TaskResult("base", "half", "acc", 0.30, 0.1, True, "2"),
        TaskResult("adapter", "half", "acc", math.nan, 0.1, True, "2"),
    ]
    arc, small, half = compare_tasks(results)
    accuracy, perplexity = arc.measures
    assert (accuracy.verdict, perplexity.verdict) == ("better", "not compared")
    assert accuracy.p_value == pytest.approx(0.000407, rel=0.01)  # z = 0.1 / (0.02 * sqrt 2) = 3.54
    assert small.measures[0].verdict == "no difference shown"
    assert half.measures[0].verdict == "not compared"
    assert "Only one model" in half.note
