from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.runs.events import Event
from engine.runs.store import RunStatus
from tui.watching.health import Health

BEGAN = 1_795_500_000.0
LIVE = RunStatus(state="training")
GIB = 2**30

Losses = list[float]


def state(name: str, second: float = 0.0) -> Event:
    return {"type": "state", "state": name, "time": BEGAN + second}


def steps(
    losses: list[float | None],
    *,
    first: int = 1,
    second: float = 0.0,
    seed: int = 0,
    every: int = 1,
    step_time_s: float = 1.0,
    tokens_per_s: float = 1900.0,
    norm: Callable[[int], float] = lambda step: 0.45,
) -> Iterator[Event]:
    """`step` events with the scatter of a real run; one for `every` steps, with their mean loss."""
    scatter = random.Random(seed)
    for place in range(every - 1, len(losses), every):
        told = [loss for loss in losses[place - every + 1 : place + 1] if loss is not None]
        step = first + place
        yield {
            "type": "step",
            "step": step,
            "time": BEGAN + second + (place + 1) * step_time_s,
            "loss": sum(told) / len(told) if told else None,
            "grad_norm": norm(step) * math.exp(scatter.gauss(0, 0.3)),
            "learning_rate": 2e-4 * min(1.0, step / 10) * (1 + math.cos(math.pi * place / len(losses))) / 2,
            "tokens_per_s": tokens_per_s * math.exp(scatter.gauss(0, 0.15)),
            "step_time_s": step_time_s * math.exp(scatter.gauss(0, 0.2)),
        }


def told(health: Health) -> list[tuple[str, str, int | None]]:
    """Each change as its code, `begins` or `over`, and its step."""
    return [(change.code, "over" if change.is_over else "begins", change.moment.step) for change in health.changes()]


def after(*events: Event) -> Health:
    health = Health()
    health.apply_all([state("training"), *events])
    return health


def ailing(health: Health, second: float = 0.0, status: RunStatus = LIVE) -> list[str]:
    return [ailment.code for ailment in health.judge(BEGAN + second, status)]


def falling(count: int, scatter: float, draw: random.Random, fall_over: float = 150) -> Losses:
    return [max(1e-3, 1.1 + 1.3 * math.exp(-step / fall_over) + draw.gauss(0, scatter)) for step in range(count)]


REALISTIC: dict[str, Callable[[random.Random], Losses]] = {
    "noisy": lambda draw: falling(6000, 0.6, draw),
    "heavy tails": lambda draw: [draw.lognormvariate(0, 0.5) * (1.1 + math.exp(-step / 200)) for step in range(6000)],
    "with spikes": lambda draw: [loss * (6 if draw.random() < 0.01 else 1) for loss in falling(6000, 0.1, draw)],
    "50 steps": lambda draw: falling(50, 0.4, draw, 20),
    "200 steps": lambda draw: falling(200, 0.4, draw, 50),
    "at its floor": lambda draw: [0.02 * draw.lognormvariate(0, 1) for _ in range(6000)],
    "learnt by heart": lambda draw: [
        draw.lognormvariate(0, 0.4) * (1.2, 0.7, 0.3, 0.1, 0.05, 0.03)[step // 1000] for step in range(6000)
    ],
    "good from the start": lambda draw: [0.9 + draw.gauss(0, 0.3) for _ in range(3000)],
    "learning little": lambda draw: [
        1.3 - 0.06 * (1 - math.exp(-step / 300)) + draw.gauss(0, 0.4) for step in range(3000)
    ],
    "rows grouped by length": lambda draw: [
        (0.8 + 2.2 * (step % 50 / 50) ** 3) * (1 + 0.5 * math.exp(-step / 300)) * draw.lognormvariate(0, 0.2)
        for step in range(6000)
    ],
}


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("kind", REALISTIC)
def test_a_run_that_goes_well_is_left_in_peace(kind: str, every: int) -> None:
    for seed in (1, 2):
        losses = REALISTIC[kind](random.Random(seed))
        health = after(*steps(list(losses), seed=seed, every=every))
        assert told(health) == []
        assert ailing(health, len(losses)) == []


def test_a_loss_that_runs_away_is_told_once_and_once_when_it_is_back() -> None:
    draw = random.Random(3)
    losses = falling(600, 0.3, draw) + [1.1 + min(4.0, 0.02 * step) + draw.gauss(0, 0.3) for step in range(400)]
    health = after(*steps(list(losses)))
    ((code, began, step),) = told(health)
    assert (code, began) == ("diverging", "begins")
    assert step is not None
    assert 700 < step < 800
    (ailment,) = health.judge(BEGAN + 1000, LIVE)
    # It is told as it is now, not as it was when it began.
    assert re.fullmatch(r"The loss has risen from 1\.\d+ at step 5\d\d to 5\.\d+: training diverges\.", ailment.words)
    assert "lower learning_rate" in ailment.advice
    assert ailment.since.step is not None
    assert 600 < ailment.since.step < step
    health.apply_all(list(steps(list(falling(600, 0.3, draw)), first=1001, second=1000)))
    assert [change[:2] for change in told(health)] == [("diverging", "begins"), ("diverging", "over")]
    assert ailing(health, 1600) == []


def test_a_run_that_blows_up_at_once_is_told_within_50_steps() -> None:
    losses = [2.5 - 0.02 * step for step in range(10)] + [min(9.0, 2.3 + 0.4 * step) for step in range(40)]
    health = after(*steps(list(losses)))
    assert [change[:2] for change in told(health)] == [("diverging", "begins")]
    assert "at the beginning" in health.judge(BEGAN + 50, LIVE)[0].words


def test_a_loss_that_never_falls_is_told_with_its_numbers() -> None:
    draw = random.Random(1)
    health = after(*steps([1.3 + draw.gauss(0, 0.05) for _ in range(1000)]))
    assert [change[:2] for change in told(health)] == [("flat", "begins")]
    (ailment,) = health.judge(BEGAN + 1000, LIVE)
    assert re.fullmatch(r"The loss has not fallen: 1\.\d+ at the beginning, 1\.\d+ now\.", ailment.words)


def test_evaluations_tell_a_flat_loss_where_the_steps_scatter_too_much_to_tell() -> None:
    draw = random.Random(1)
    events = list(steps([1.3 + draw.gauss(0, 0.4) for _ in range(1200)]))
    assert told(after(*events)) == []
    evaluations = [{"type": "eval", "step": step, "time": BEGAN + step, "eval_loss": 1.31} for step in (0, 400, 800)]
    before, *later = evaluations
    merged = [before, *events[:400], later[0], *events[400:800], later[1], *events[800:]]
    assert [change[:2] for change in told(after(*merged))] == [("flat", "begins")]


def test_a_run_that_goes_on_from_another_may_stay_where_it_is() -> None:
    draw = random.Random(1)
    assert told(after(*steps([1.3 + draw.gauss(0, 0.05) for _ in range(1000)], first=400))) == []


def test_a_loss_that_is_no_number_is_told_at_its_step() -> None:
    health = after(*steps([1.0, 1.0, None, None]))
    assert told(health) == [("nan-loss", "begins", 3)]
    assert ailing(health, 4) == ["nan-loss"]
    health.apply_all(list(steps([1.0, float("nan"), 1.0], first=5, second=4)))
    assert [change[1:] for change in told(health)][1:] == [("over", 5), ("begins", 6), ("over", 7)]


def test_gradients_that_explode_are_told_and_single_spikes_are_not() -> None:
    losses = list(falling(400, 0.2, random.Random(1)))
    spikes = after(*steps(list(losses), norm=lambda step: 40 if step % 30 == 0 else 0.45))
    assert told(spikes) == []
    health = after(*steps(list(losses), norm=lambda step: 20 if 200 <= step < 260 else 0.45))
    assert [change[:2] for change in told(health)] == [("gradients", "begins"), ("gradients", "over")]
    assert "it was 0.4" in health.changes()[0].words


def test_gradients_near_zero_may_have_any_ratio() -> None:
    losses = list(falling(400, 0.2, random.Random(1)))
    assert told(after(*steps(list(losses), norm=lambda step: 0.3 if 200 <= step < 260 else 0.002))) == []


def flat(count: int) -> list[float | None]:
    return [1.1] * count


def test_throughput_that_falls_by_half_is_told_until_it_is_back() -> None:
    health = after(*steps(flat(200), first=300))
    health.apply_all(list(steps(flat(100), first=500, second=200, step_time_s=2.5, tokens_per_s=760)))
    assert [change[:2] for change in told(health)] == [("slow", "begins")]
    assert ailing(health, 450) == ["slow"]
    assert "tokens a second; it was 1,9" in health.judge(BEGAN + 450, LIVE)[0].words
    health.apply_all(list(steps(flat(50), first=600, second=450)))
    assert [change[1] for change in told(health)] == ["begins", "over"]


def test_rows_that_are_only_shorter_are_no_fall() -> None:
    health = after(*steps(flat(200), first=300))
    health.apply_all(list(steps(flat(100), first=500, second=200, step_time_s=0.4, tokens_per_s=760)))
    assert told(health) == []


def test_a_hiccup_of_steps_that_take_milliseconds_is_no_fall() -> None:
    health = after(*steps(flat(400), first=300, step_time_s=0.01))
    health.apply_all(list(steps(flat(60), first=700, second=4, step_time_s=0.05, tokens_per_s=400)))
    health.apply_all(list(steps(flat(60), first=760, second=7, step_time_s=0.01)))
    assert told(health) == []


def test_evaluations_and_saves_between_the_steps_are_neither_slow_nor_silent() -> None:
    health = after()
    second = 0.0
    for turn in range(20):
        health.apply_all(list(steps(flat(20), first=300 + 20 * turn, second=second)))
        second += 20
        health.apply_all([state("evaluating", second), state("saving", second + 400), state("training", second + 430)])
        second += 430
        assert ailing(health, second) == []
    assert told(health) == []


def test_no_step_for_long_is_told_live_and_found_again_in_the_history() -> None:
    events = list(steps(flat(40), first=300))
    late = list(steps(flat(40), first=340, second=400))
    live = after(*events)
    assert ailing(live, 90) == []
    assert ailing(live, 130) == ["silent"]
    (ailment,) = live.judge(BEGAN + 160, LIVE)
    assert ailment.words == "No step for 2 min; one took 1 s."
    live.apply_all(late)
    assert ailing(live, 440) == []
    assert told(live) == [("silent", "begins", 339), ("silent", "over", 340)]
    assert after(*events, *late).changes()[1] == live.changes()[1]
    assert told(after(*events, *late)) == told(live)


def test_a_model_whose_steps_take_minutes_is_not_called_silent() -> None:
    health = after(*steps(flat(10), first=300, step_time_s=600))
    assert ailing(health, 6000 + 1800) == []
    assert ailing(after(), 1700) == []


def sample(second: float, **gpu: Any) -> Event:
    """A `hardware` event with this run's GPU."""
    known = {
        "index": 1,
        "mig": None,
        "name": "NVIDIA L4",
        "used_bytes": 8 * GIB,
        "total_bytes": 24 * GIB,
        "utilization": 97,
        "temperature_c": 87,
        "power_w": 70.0,
        "throttling": [],
        "processes": [{"pid": 7, "used_bytes": 8 * GIB, "user": "me", "name": "python"}],
    }
    other = {**known, "index": 0, "processes": [], "utilization": 0, "throttling": ["thermal"]}
    host = {"used_bytes": 1, "total_bytes": 2, "trainer_rss_bytes": 1, "cpu_percent": 1.0}
    disk_free_bytes = gpu.pop("disk_free_bytes", 100 * GIB)
    return {
        "type": "hardware",
        "time": BEGAN + second,
        "gpus": [other, {**known, **gpu}],
        "host": {**host, "disk_free_bytes": disk_free_bytes},
        "trainer_pids": [7],
    }


def test_a_gpu_that_waits_for_its_batches_is_told() -> None:
    health = after(*(sample(second, utilization=12) for second in range(120)))
    (ailment,) = health.judge(BEGAN + 120, LIVE)
    assert ailment.words == "GPU 1 works 12 % of the time: it waits for batches."
    assert "dataloader_num_workers" in ailment.advice
    health.apply_all(sample(second, utilization=90) for second in range(120, 200))
    assert ailing(health, 200) == []
    assert [change[:2] for change in told(health)] == [("idle", "begins"), ("idle", "over")]


def test_a_gpu_may_rest_while_the_run_evaluates_or_saves() -> None:
    health = after()
    for turn in range(5):
        second = turn * 100
        health.apply_all([state("training", second), state("evaluating", second + 50)])
        health.apply_all(sample(second + at, utilization=95 if at < 50 else 0) for at in range(100))
    assert ailing(health, 500) == []
    assert told(health) == []


def test_on_the_cpu_no_gpu_is_judged() -> None:
    health = Health()
    health.apply_all([state("training"), {"type": "plan", "time": BEGAN, "device": "cpu"}])
    health.apply_all(sample(second, utilization=0, throttling=["thermal"]) for second in range(200))
    assert ailing(health, 200) == []


def test_where_the_driver_hides_processes_the_runs_own_device_is_judged() -> None:
    health = Health()
    health.apply_all([state("training"), {"type": "plan", "time": BEGAN, "device": "cuda:1"}])
    health.apply_all(sample(second, utilization=3, processes=[]) for second in range(120))
    assert ailing(health, 120) == ["idle"]


def test_heat_that_slows_the_gpu_is_told_once_though_it_comes_and_goes() -> None:
    health = after()
    hot = (["thermal", "power cap"] if second % 3 else [] for second in range(300))
    health.apply_all(sample(second, throttling=words) for second, words in enumerate(hot))
    (ailment,) = health.judge(BEGAN + 300, LIVE)
    assert (ailment.code, ailment.words) == ("throttled", "GPU 1 is slowed down by its heat at 87 degrees.")
    health.apply_all(sample(second) for second in range(300, 400))
    assert ailing(health, 400) == []
    assert [change[:2] for change in told(health)] == [("throttled", "begins"), ("throttled", "over")]


def test_the_power_cap_is_how_a_card_runs_at_full_load() -> None:
    health = after(*(sample(second, throttling=["power cap"]) for second in range(200)))
    assert ailing(health, 200) == []


def test_a_gpu_that_no_longer_answers_is_told() -> None:
    health = after(*(sample(second) for second in range(10)))
    nothing = dict.fromkeys(("used_bytes", "total_bytes", "utilization", "temperature_c", "power_w", "throttling"))
    health.apply_all(sample(second, **nothing, processes=[]) for second in range(10, 20))
    assert ailing(health, 20) == ["gpu-lost"]


def test_a_disk_that_fills_is_told_before_it_is_full() -> None:
    health = after(sample(1), sample(2, disk_free_bytes=200 * 2**20))
    (ailment,) = health.judge(BEGAN + 3, LIVE)
    assert ailment.words == "The run's disk is nearly full: 200 MiB free."
    health.apply(sample(4, disk_free_bytes=2 * GIB))
    assert ailing(health, 5) == []


def test_how_full_is_too_full_depends_on_the_checkpoints() -> None:
    health = Health()
    plan = {"type": "plan", "time": BEGAN, "device": "cuda:1", "trainable_parameters": 160_000_000}
    health.apply_all([state("training"), plan, sample(1, disk_free_bytes=4 * GIB)])
    (ailment,) = health.judge(BEGAN + 2, LIVE)
    assert ailment.words == "The run's disk is nearly full: 4.0 GiB free; a checkpoint takes up to 1.8 GiB."


def looked(health: Health, begin: float, end: float, heartbeat: Callable[[float], float]) -> list[str]:
    """What ails the run at the last of many looks, one every half second."""
    codes: list[str] = []
    for half in range(int(begin * 2), int(end * 2)):
        second = half / 2
        codes = ailing(health, second, RunStatus(state="training", heartbeat=BEGAN + heartbeat(second)))
    return codes


def test_a_supervisor_that_stops_writing_is_told_within_seconds_and_once() -> None:
    health = after()
    assert looked(health, 0, 60, lambda second: second // 1) == []
    assert looked(health, 60, 69, lambda second: 59) == []
    assert looked(health, 69, 72, lambda second: 59) == ["no-heartbeat"]
    assert looked(health, 72, 80, lambda second: second // 1) == []
    assert [change[:2] for change in told(health)] == [("no-heartbeat", "begins"), ("no-heartbeat", "over")]


def test_a_dead_supervisor_is_told_at_the_first_look_of_a_few_seconds() -> None:
    assert looked(after(), 100, 105, lambda second: 20) == ["no-heartbeat"]


def test_a_clock_that_is_wrong_and_a_sleep_are_no_missing_heartbeat() -> None:
    health = Health()
    assert looked(health, 0, 30, lambda second: second // 1 - 300) == []
    assert looked(health, 7200, 7201, lambda second: 29 - 300) == []
    assert looked(health, 7201, 7230, lambda second: second // 1 - 300) == []
    assert told(health) == []


def test_nothing_ails_a_run_that_has_ended_but_its_history_stays() -> None:
    health = after(*steps([1.0, None, None]), state("failed", 5))
    assert ailing(health, 1000, RunStatus(state="failed")) == []
    assert ailing(health, 1000, LIVE) == []
    assert told(health) == [("nan-loss", "begins", 2)]


def test_a_resumed_run_is_judged_anew() -> None:
    draw = random.Random(3)
    health = after(*steps(flat(200), first=300), *steps([9.0] * 200, first=500, second=200))
    assert ailing(health, 400) == ["diverging"]
    health.apply_all([state("failed", 401), state("starting", 5000), state("training", 5100)])
    again = steps(list(falling(300, 0.2, draw)), first=450, second=5100, step_time_s=3, tokens_per_s=600)
    health.apply_all(list(again))
    assert ailing(health, 6000) == []


def test_a_child_run_is_judged_anew() -> None:
    health = after(*steps(flat(300), first=300), {"type": "joined", "step": 560, "run": "a"}, state("training", 900))
    health.apply_all(list(steps([2.2] * 300, first=561, second=900, step_time_s=4.0, tokens_per_s=470)))
    assert told(health) == []


def everything() -> list[Event]:
    """A run where much goes wrong, the trainer's events first."""
    draw = random.Random(5)
    losses: list[float | None] = [*falling(500, 0.2, draw), None, *([4.0] * 250)]
    norm = lambda step: 30.0 if 300 < step < 340 else 0.45  # noqa: E731
    events = [state("training"), *steps(losses, norm=norm)]
    hot = [["thermal"] if 100 < second < 200 else [] for second in range(700)]
    samples = [
        sample(second, throttling=hot[second], utilization=5 if 400 < second < 600 else 90) for second in range(700)
    ]
    return [*events, state("evaluating", 760), *samples]


def test_history_read_in_pieces_of_any_size_and_either_file_first_tells_the_same() -> None:
    whole = Health()
    whole.apply_all(everything())
    whole.judge(BEGAN + 760, LIVE)
    codes = {change.code for change in whole.changes()}
    assert codes == {"throttled", "gradients", "idle", "nan-loss", "diverging"}
    single = Health()
    for event in sorted(everything(), key=lambda event: event["type"] != "hardware"):
        single.apply(event)
    single.judge(BEGAN + 760, LIVE)
    assert single.changes() == whole.changes()


UNTRUE = [None, "1.0", [], {}, True, float("inf"), -(10**400), 10**400]


@pytest.mark.parametrize("value", UNTRUE, ids=lambda value: str(value)[:8])
def test_values_that_cannot_be_true_are_as_good_as_missing(value: Any) -> None:
    health = after(*steps(flat(30)))
    for event in (*steps(flat(3), first=31), sample(1), state("training"), {"type": "eval", "step": 1}):
        health.apply({name: value if name not in ("type", "loss") else told for name, told in event.items()})
        health.apply({**event, "time": BEGAN + 40, "gpus": value, "host": {"disk_free_bytes": value}})
        health.apply({**event, "time": BEGAN + 40, "gpus": [{"index": value, "throttling": [value]}], "host": value})
    mixed = list(steps(flat(20), first=40, second=40))
    mixed[7] |= {"grad_norm": value, "time": value}
    mixed[9]["step"] = value
    health.apply_all(mixed)
    health.judge(BEGAN + 60, LIVE)
    assert health.changes() == []


def test_a_change_is_an_event_for_the_list_of_what_happened() -> None:
    (change,) = after(*steps([1.0, None])).changes()
    event = change.as_event()
    assert (event["type"], event["time"], event["step"], event["better"]) == ("health", BEGAN + 2, 2, False)
    assert event["message"] == "The loss is not a number since step 2."
    assert event["hint"].startswith("A lower learning_rate")
