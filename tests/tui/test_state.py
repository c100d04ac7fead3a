from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runs.store import RunStatus
from tui.glyphs import UNICODE
from tui.watching import event_words, figures, wording
from tui.watching.notice_words import notice
from tui.watching.schedule import Schedule
from tui.watching.state import LONGEST_TEXT, MOST_KEPT, RunState
from tui.watching.views import Sight
from tui.widgets.figure import draw


def event(type: str, **fields: Any) -> dict[str, Any]:
    return {"type": type, "time": 1000.0, **fields}


def step(number: int, **fields: Any) -> dict[str, Any]:
    return event("step", **{"step": number, "loss": 3 / number, "step_time_s": 2.0, **fields})


def applied(*events: dict[str, Any]) -> RunState:
    state = RunState()
    for each in events:
        state.apply(each)
    return state


def test_steps_fill_the_series_and_the_latest_numbers() -> None:
    state = applied(
        event("plan", total_steps=10, predicted_peak_bytes=5, notes=["optim: adamw_torch"], device="cpu"),
        step(1, learning_rate=2e-4, grad_norm=0.5, epoch=0.1),
        step(2, learning_rate=1e-4, grad_norm=0.7, epoch=0.2, mean_token_accuracy=0.6),
    )
    assert list(state.series["loss"].points()) == [(1, 3.0), (2, 1.5)]
    assert list(state.series["mean_token_accuracy"].points()) == [(2, 0.6)]
    assert (state.step, state.total_steps, state.progress, state.epoch) == (2, 10, 0.2, 0.2)
    assert state.latest("learning_rate") == 1e-4
    assert state.plan is not None
    assert state.plan.notes == ("optim: adamw_torch",)


def test_a_loss_that_is_no_number_is_a_gap() -> None:
    state = applied(step(1), step(2, loss=None), step(3))
    assert [x for x, _ in state.series["loss"].points()] == [1, 3]
    assert [column.joined for column in state.series["loss"].columns(1, 3, 3)] == [False, False]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint() -> None:
    state = applied(
        *(step(number) for number in range(1, 8)),
        event("eval", step=6, eval_loss=1.0),
        event("checkpoint", step=5, path="checkpoint-5"),
        event("sample", step=6, prompt="q", completion="a", model="base", prompt_index=1, expected="b"),
        event("state", state="training", resumed_from_step=5),
        step(6, loss=9.0),
    )
    assert list(state.series["loss"].points())[-2:] == [(5, 0.6), (6, 9.0)]
    assert (state.evaluations, state.samples, state.checkpoints) == ([], [], [5])
    assert state.resumed_from_step == 5


def test_a_step_that_comes_twice_replaces_the_first() -> None:
    state = applied(step(1), step(2), step(3), step(2, loss=7.0))
    assert list(state.series["loss"].points()) == [(1, 3.0), (2, 7.0)]


def test_the_eta_follows_the_pace_of_recent_steps() -> None:
    state = applied(event("plan", total_steps=10), event("state", state="training"), step(1), step(4))
    assert state.eta_s == pytest.approx(12.0)


@pytest.mark.parametrize("name", ["paused", "finished", "stopped", "failed"])
def test_a_run_that_does_not_train_has_no_eta(name: str) -> None:
    assert applied(event("plan", total_steps=10), step(1), event("state", state=name)).eta_s is None


def test_the_supervisors_word_on_the_end_stands_against_a_late_word_of_the_trainer() -> None:
    state = applied(
        event("state", state="failed", cause="killed", message="signal 9", exit_code=-9),
        event("state", state="stopped"),
    )
    assert (state.state, state.cause, state.exit_code) == ("failed", "killed", -9)


def test_a_resumed_run_is_no_longer_failed() -> None:
    state = applied(
        event("state", state="failed", cause="oom", message="m", exit_code=3), event("state", state="starting")
    )
    assert (state.state, state.cause, state.message) == ("starting", None, "")


def test_the_status_tells_what_no_event_can() -> None:
    state = applied(event("state", state="training"), step(1))
    state.observe(RunStatus(state="lost", trainer_pid=7, peak_bytes=5, total_steps=20))
    assert (state.state, state.ended, state.peak_bytes, state.total_steps) == ("lost", True, 5, 20)
    assert state.memory.trainer_pids == {7}


def test_the_best_evaluation_is_the_one_with_the_least_loss() -> None:
    state = applied(*(event("eval", step=s, eval_loss=loss) for s, loss in ((0, 2.0), (5, None), (10, 1.0), (20, 1.5))))
    assert state.best_evaluation is not None
    assert state.best_evaluation.step == 10
    assert list(state.series["eval_loss"].points()) == [(0, 2.0), (10, 1.0), (20, 1.5)]


def test_problems_keep_their_hints() -> None:
    state = applied(
        event("warning", code="nan-loss", message="m", hint="h"), event("error", code="c", message="e", hint="")
    )
    assert [(problem.serious, problem.message, problem.hint) for problem in state.problems] == [
        (False, "m", "h"),
        (True, "e", ""),
    ]


def test_a_training_run_that_falls_silent_says_for_how_long() -> None:
    state = applied(event("state", state="training"), step(1))
    assert state.silence_s(1010.0) is None
    assert state.silence_s(1300.0) == 300.0


whole_numbers = st.one_of(st.integers(-5, 10**6), st.just(10**400), st.just(-(10**400)))
json_values = st.one_of(st.none(), st.booleans(), whole_numbers, st.floats(), st.text(max_size=5), st.just([]))
names = st.sampled_from(
    ["step", "loss", "eval_loss", "total_steps", "state", "cause", "gpus", "host", "notes", "time", "message", "path"]
)
TRAINERS = ["step", "eval", "plan", "state", "sample", "checkpoint", "oom", "warning", "error", "control", "new"]
JUDGED = ["best", "early_stop", "kept"]
kinds = st.sampled_from([*TRAINERS, *JUDGED, "hardware", "note", "retry", "joined", "health", "remedies"])
damaged_events = st.lists(
    st.builds(lambda kind, fields: {**fields, "type": kind}, kinds, st.dictionaries(names, json_values))
)


@given(damaged_events)
def test_no_damaged_event_stops_the_reader(events: list[dict[str, Any]]) -> None:
    state = applied(*events)
    steps = [x for x, _ in state.series["loss"].points()]
    assert steps == sorted(steps)
    wording.progress(state, UNICODE, now=1000.0)
    wording.measurements(state, Schedule(), None, UNICODE, width=100)
    wording.at_step(state, 3, width=100)
    notice(state, [], "run", UNICODE)
    event_words.recent_events(state, UNICODE, most=100)
    event_words.newest_sample(state, UNICODE, 40)
    for view in figures.views(state, UNICODE):
        draw(view.figure(), 60, 20)
        draw(view.figure(Sight(cursors={"steps": 3.0, "seconds": 3.0}, log=True, growing=True)), 60, 20)


good_steps = st.integers(1, 40).map(lambda number: step(number, grad_norm=number / 7, learning_rate=None))
numbered = st.integers(1, 40).map(lambda number: event("eval", step=number, eval_loss=float(number % 5)))


@given(st.lists(st.one_of(good_steps, numbered)))
def test_events_taken_in_together_are_as_if_taken_in_one_by_one(events: list[dict[str, Any]]) -> None:
    together = RunState()
    together.apply_all(events)
    one_by_one = applied(*events)
    for name, points in one_by_one.series.items():
        assert list(together.series[name].points()) == list(points.points())
    assert (together.step, together.last_step, together.evaluations) == (
        one_by_one.step,
        one_by_one.last_step,
        one_by_one.evaluations,
    )


@given(damaged_events)
def test_damaged_events_taken_in_together_are_as_if_taken_in_one_by_one(events: list[dict[str, Any]]) -> None:
    together = RunState()
    together.apply_all(events)
    one_by_one = applied(*events)
    assert list(together.series["loss"].points()) == list(one_by_one.series["loss"].points())
    assert (together.step, list(together.recent)) == (one_by_one.step, list(one_by_one.recent))


def test_a_run_that_continues_another_goes_on_from_its_checkpoint() -> None:
    state = applied(
        event("plan", total_steps=100, predicted_peak_bytes=7),
        *(step(number, loss=1.0) for number in range(1, 38)),
        event("eval", step=36, eval_loss=0.1),
        event("error", code="oom", message="m", hint="h"),
        event("oom", phase="backward", step=37),
        event("state", state="failed", cause="oom", exit_code=3),
        {"type": "joined", "step": 30, "run": "the-one-before"},
        event("state", state="loading", resumed_from_step=30),
        event("plan", total_steps=100, predicted_peak_bytes=5),
        *(step(number, loss=2.0) for number in range(31, 35)),
    )
    losses = list(state.series["loss"].points())
    assert losses == [(x, 1.0) for x in range(1, 31)] + [(x, 2.0) for x in range(31, 35)]
    assert (state.joins, state.step, state.cause, state.oom, state.problems) == ([30], 34, None, None, [])
    assert state.plan is not None
    assert state.plan.predicted_peak_bytes == 5
    assert state.best_evaluation is None
    words = str(event_words.recent_events(state, UNICODE, most=50))
    assert "continues the-one-before from checkpoint-30" in words
    assert "out of memory" not in words


def test_a_resumed_run_is_no_longer_out_of_memory() -> None:
    assert applied(event("oom", phase="forward"), event("state", state="starting")).oom is None


def test_the_best_evaluation_is_forgotten_when_its_step_is_trained_again() -> None:
    evaluations = [event("eval", step=s, eval_loss=loss) for s, loss in ((2, 1.5), (4, 1.0), (6, 0.5))]
    state = applied(*evaluations, event("state", state="loading", resumed_from_step=5))
    assert state.best_evaluation is not None
    assert state.best_evaluation.step == 4


def test_a_run_of_any_length_keeps_a_bounded_number_of_everything() -> None:
    state = RunState()
    for number in range(1, 3 * MOST_KEPT):
        state.apply(event("eval", step=number, eval_loss=float(number)))
        state.apply(event("sample", step=number, prompt="q", completion="a"))
        state.apply(event("checkpoint", step=number))
        state.apply(event("warning", code="c", message="m", hint="h"))
    kept = (state.evaluations, state.samples, state.checkpoints, state.problems)
    assert all(MOST_KEPT <= len(each) <= 2 * MOST_KEPT for each in kept)
    assert state.checkpoints[-1] == 3 * MOST_KEPT - 1
    assert state.best_evaluation is not None
    assert state.best_evaluation.step == 1
    assert len(state.recent) <= 200


def test_of_a_text_of_a_million_characters_the_beginning_is_kept() -> None:
    state = applied(event("sample", step=1, prompt="p" * 10**6, completion="c"))
    assert len(state.samples[0].prompt) < LONGEST_TEXT + 50
    assert "(1,000,000 characters)" in state.samples[0].prompt
    assert len(str(state.recent[-1])) < LONGEST_TEXT + 200


def test_the_best_evaluation_is_the_one_that_the_run_says_it_is() -> None:
    by_accuracy = [
        event("eval", step=2, eval_loss=1.0, eval_token_accuracy=0.5),
        event("best", step=2, metric="eval_mean_token_accuracy", value=0.5),
        event("eval", step=4, eval_loss=1.5, eval_token_accuracy=0.7),
        event("best", step=4, metric="eval_mean_token_accuracy", value=0.7),
        event("eval", step=6, eval_loss=0.9, eval_token_accuracy=0.6),
    ]
    state = applied(*(step(number) for number in range(1, 7)), *by_accuracy)
    assert state.best_evaluation is not None
    assert state.best_evaluation.step == 4
    state.apply(event("state", state="loading", resumed_from_step=3))
    assert state.best_evaluation.step == 2


def test_the_kept_adapters_answer_at_the_end_stands_in_for_the_one_before() -> None:
    def answer(step: int, model: str, completion: str) -> dict[str, Any]:
        return event("sample", step=step, prompt_index=0, prompt="q", model=model, completion=completion)

    state = applied(
        answer(2, "adapter", "two"), answer(4, "adapter", "four"), answer(2, "base", "b"), answer(2, "adapter", "kept")
    )
    said = [(sample.step, sample.model, sample.completion) for sample in state.samples]
    assert said == [(4, "adapter", "four"), (2, "base", "b"), (2, "adapter", "kept")]
    newest = str(event_words.newest_sample(state, UNICODE, 60))
    assert newest.split("\n")[0].startswith("sample at 2")
    assert "kept" in newest
    assert "four" not in newest


def test_an_early_end_and_the_adapter_that_is_kept_are_told_in_words() -> None:
    state = applied(
        event("early_stop", step=1200, best_step=900, metric="eval_loss", value=1.0, patience=3),
        event("kept", step=900, metric="eval_loss", value=1.0, last_step=1200),
    )
    words = str(event_words.recent_events(state, UNICODE, 5))
    assert "training ends early at step 1,200: no better evaluation for 3" in words
    assert "the adapter of step 900 is kept, the best" in words


def test_short_turns_to_evaluate_and_save_are_no_news() -> None:
    turns = [event("state", state=name) for name in ("training", "evaluating", "training", "saving", "training")]
    state = applied(event("state", state="loading"), *turns)
    assert [each["state"] for each in state.recent] == ["loading", "training"]
    assert state.state == "training"
