from __future__ import annotations

from typing import Any

import pytest

from tui.watching.memory import MOST_MARKS, MOST_WAITING, GpuProcess, MemoryHistory

GIB = 2**30


def sample(
    time: float, *processes: tuple[int, int | None], used: int | None = 8, index: int = 0, **more: Any
) -> dict[str, Any]:
    gpu: dict[str, Any] = {
        "index": index,
        "name": "NVIDIA L4",
        "used_bytes": None if used is None else used * GIB,
        "total_bytes": 24 * GIB,
        "processes": [{"pid": pid, "used_bytes": size and size * GIB} for pid, size in processes],
        **more,
    }
    host = {"used_bytes": 9 * GIB, "total_bytes": 64 * GIB, "trainer_rss_bytes": 2 * GIB, "cpu_percent": 50.0}
    return {"type": "hardware", "time": time, "gpus": [gpu], "host": host}


def history(*events: dict[str, Any], pids: frozenset[int] = frozenset({1, 2})) -> MemoryHistory:
    memory = MemoryHistory(trainer_pids=set(pids))
    for event in events:
        memory.apply(event)
    return memory


def test_this_runs_share_is_the_sum_of_its_processes_and_the_rest_is_others() -> None:
    gpu = history(sample(100, (1, 4), (2, 1), (99, 2))).gpus[0]
    assert gpu.by_run.last == (0, 5 * GIB)
    assert gpu.by_others.last == (0, 3 * GIB)


def test_before_the_run_is_on_the_gpu_all_is_others() -> None:
    gpu = history(sample(100, (99, 2)), sample(101, (1, 4))).gpus[0]
    assert list(gpu.by_run.points()) == [(0, 0), (1, 4 * GIB)]
    assert list(gpu.by_others.points()) == [(0, 8 * GIB), (1, 4 * GIB)]


def test_what_the_driver_does_not_tell_is_a_gap_not_a_zero() -> None:
    gpu = history(sample(100, (1, None)), sample(101, (1, 4), used=None)).gpus[0]
    assert list(gpu.by_run.points()) == [(1, 4 * GIB)]
    assert list(gpu.by_others.points()) == []
    assert list(gpu.used.points()) == [(0, 8 * GIB)]


def test_the_time_between_a_stop_and_a_resume_is_left_out() -> None:
    memory = history(sample(100, (1, 4)), sample(101, (1, 4)), sample(9000, (1, 4)), sample(9001, (1, 4)))
    assert [x for x, _ in memory.gpus[0].by_run.points()] == [0, 1, 2, 3]
    assert [column.joined for column in memory.trainer_resident.columns(0, 3, 4)] == [False, True, False, True]


def test_shown_are_the_gpus_that_the_run_uses() -> None:
    memory = history(sample(100, (1, 4)), sample(100, (99, 4), index=1))
    assert [gpu.index for gpu in memory.gpus_of("cuda:0")] == [0]
    assert [gpu.index for gpu in memory.gpus_of("cpu")] == []


def test_where_processes_are_hidden_the_named_gpu_is_shown() -> None:
    memory = history(sample(100), sample(100, index=1))
    assert [gpu.index for gpu in memory.gpus_of("cuda:1")] == [1]
    assert [gpu.index for gpu in memory.gpus_of(None)] == [0, 1]


def test_the_peak_is_the_most_that_the_run_held() -> None:
    assert history(sample(100, (1, 4)), sample(101, (1, 7)), sample(102, (1, 3))).peak_bytes == 7 * GIB
    assert history(sample(100)).peak_bytes == 2 * GIB


def test_load_and_other_processes_are_known_now_and_over_time() -> None:
    first = sample(100, (1, 4), utilization=97, temperature_c=71, power_w=198.2, throttling=["thermal"])
    second = sample(101, (1, 4), (99, 2), utilization=50, power_w=None, throttling=None)
    second["gpus"][0]["processes"][1] |= {"user": "bob", "name": "ollama"}
    memory = history(first, second)
    gpu = memory.gpus[0]
    assert (gpu.utilization, gpu.temperature_c, gpu.power_w, gpu.throttling) == (50, None, None, None)
    assert list(gpu.utilization_over_time.points()) == [(0, 97), (1, 50)]
    assert list(gpu.temperature_over_time.points()) == [(0, 71)]
    assert list(gpu.power_over_time.points()) == [(0, 198.2)]
    assert gpu.processes == [
        GpuProcess(1, None, None, 4 * GIB, is_own=True),
        GpuProcess(99, "bob", "ollama", 2 * GIB, is_own=False),
    ]
    assert (gpu.used_bytes, gpu.run_bytes, gpu.others_bytes) == (8 * GIB, 4 * GIB, 4 * GIB)


def test_the_host_and_the_disk_are_known_without_a_gpu() -> None:
    event = sample(100)
    event["gpus"] = []
    event["host"]["disk_free_bytes"] = 3 * GIB
    memory = history(event)
    assert memory.gpus_of(None) == []
    assert (memory.host_used_bytes, memory.host_total_bytes) == (9 * GIB, 64 * GIB)
    assert (memory.trainer_resident_bytes, memory.cpu_percent, memory.disk_free_bytes) == (2 * GIB, 50.0, 3 * GIB)
    assert memory.host_used.last == (0, 9 * GIB)


def test_mig_instances_have_histories_of_their_own() -> None:
    memory = history(
        sample(100, used=11, index=1), sample(100.2, (1, 4), used=5, index=1, mig=0, name="A100 MIG 1g.5gb")
    )
    card = memory.gpus[1]
    instance = card.instances[0]
    assert (card.label, instance.label) == ("GPU 1", "GPU 1 MIG 0")
    assert (card.name, instance.name) == ("NVIDIA L4", "A100 MIG 1g.5gb")
    assert instance.by_run.last == (pytest.approx(0.2), 4 * GIB)
    assert memory.gpus_of("cuda:1") == [instance]
    assert list(memory.in_order) == [card, instance]
    assert memory.peak_bytes == 4 * GIB


def test_of_a_split_card_whose_processes_are_hidden_the_instances_are_shown() -> None:
    memory = history(sample(100, index=1), sample(100, index=1, mig=2))
    assert [gpu.label for gpu in memory.gpus_of("cuda:1")] == ["GPU 1 MIG 2"]


def test_a_gpu_that_no_longer_answers_leaves_a_gap_and_nothing_stale() -> None:
    lost = {"index": 0, "name": "NVIDIA L4", "used_bytes": None, "utilization": None, "processes": []}
    memory = history(sample(100, (1, 4), utilization=97))
    assert memory.gpus[0].answers
    memory.apply({"type": "hardware", "time": 101, "gpus": [lost]})
    gpu = memory.gpus[0]
    assert not gpu.answers
    assert (gpu.used_bytes, gpu.utilization, gpu.processes, gpu.total_bytes) == (None, None, [], 24 * GIB)
    memory.apply(sample(102, (1, 4)))
    assert [column.joined for column in gpu.used.columns(0, 2, 3)] == [False, False]
    memory.apply({"type": "hardware", "time": 103, "gpus": []})  # no longer listed at all
    assert not gpu.answers


def step(time: float, allocated: int | None, reserved: int | None) -> dict[str, Any]:
    return {"type": "step", "time": time, "allocated_bytes": allocated, "reserved_bytes": reserved}


def test_pytorchs_own_figures_are_placed_on_the_runs_time() -> None:
    memory = history(sample(100), sample(101), sample(102))
    memory.apply_step(step(100.5, 3, 4))
    memory.apply_step(step(101.5, 5, 6))
    memory.apply_step(step(101.8, None, None))  # on the CPU they say nothing
    assert list(memory.allocated.points()) == [(0.5, 3), (1.5, 5)]
    assert list(memory.reserved.points()) == [(0.5, 4), (1.5, 6)]


def test_figures_that_come_before_the_samples_of_their_time_wait_for_them() -> None:
    memory = MemoryHistory()
    memory.apply_steps([step(100.5, 3, 4), step(8000.5, 5, 6)])
    memory.apply_state({"type": "state", "time": 7990.0, "state": "loading"})
    assert not len(memory.reserved)
    for time in (100.0, 101.0, 8000.0, 8001.0):  # the run was stopped for two hours between
        memory.apply(sample(time))
    assert list(memory.reserved.points()) == [(0.5, 4), (2.5, 6)]
    assert [column.joined for column in memory.reserved.columns(0, 3, 2)] == [False, False]
    assert memory.marks == [(2.0, "loading")]


def test_a_run_without_samples_keeps_no_more_figures_than_can_wait() -> None:
    memory = MemoryHistory()
    memory.apply_steps([step(float(second), second, second) for second in range(MOST_WAITING + 500)])
    memory.apply(sample(0.0))
    memory.apply(sample(1e6))
    assert len(memory.reserved) <= MOST_WAITING


def test_of_figures_that_stay_the_same_a_few_are_enough() -> None:
    memory = history(*(sample(100 + second) for second in range(100)))
    memory.apply_steps([step(100 + second / 10, 3, 4 if second < 500 else 7) for second in range(900)])
    kept = list(memory.reserved.points())
    assert len(kept) < 30
    assert kept[0] == (0, 4)
    assert (50.0, 7) in kept
    assert kept[-1] == (pytest.approx(89.9), 7)


def test_marks_say_where_the_phases_began() -> None:
    memory = history(sample(100), sample(120), sample(130))
    for time, state in ((99, "starting"), (102, "loading"), (120, "training"), (125, "training"), (126, "dancing")):
        memory.apply_state({"type": "state", "time": time, "state": state})
    assert memory.marks == [(0, "starting"), (2, "loading"), (20, "training")]


def test_of_very_many_marks_the_first_and_the_newest_stay() -> None:
    memory = history(*(sample(100 + 10 * second) for second in range(500)))
    for turn in range(1000):
        memory.apply_state({"type": "state", "time": 100 + 2 * turn, "state": "training"})
        memory.apply_state({"type": "state", "time": 101 + 2 * turn, "state": "evaluating"})
    assert len(memory.marks) == MOST_MARKS
    assert (memory.marks[0], memory.marks[-1]) == ((0, "training"), (1999, "evaluating"))


UNTRUE = [None, "8", -1, True, float("nan"), float("inf"), 10**400, [], {}, [None, 3]]


@pytest.mark.parametrize("value", UNTRUE, ids=lambda value: str(value)[:8])
def test_whatever_a_file_holds_is_no_number_unless_it_can_be_one(value: Any) -> None:
    memory = history(sample(100, (1, 4)))
    names = ("used_bytes", "total_bytes", "utilization", "temperature_c", "power_w", "throttling", "uuid", "processes")
    gpu = {"index": 0, **dict.fromkeys(names, value)}
    process = {"pid": value, "used_bytes": value, "user": value, "name": value}
    gpus = [
        gpu,
        {**gpu, "index": 1, "processes": [process, value]},
        {"index": value},
        {"index": 0, "mig": value},
        value,
    ]
    host = dict.fromkeys(("used_bytes", "total_bytes", "trainer_rss_bytes", "cpu_percent", "disk_free_bytes"), value)
    for event in (
        {"time": 101, "gpus": gpus, "host": host, "trainer_pids": [value]},
        {"time": value, "gpus": value, "host": value, "trainer_pids": value},
    ):
        memory.apply({"type": "hardware", **event})
    memory.apply_step({"type": "step", "time": value, "allocated_bytes": value, "reserved_bytes": value})
    memory.apply_state({"type": "state", "time": value, "state": value})
    assert memory.gpus[0].used_bytes is None
    assert memory.gpus[0].total_bytes == 24 * GIB
    assert memory.gpus[0].by_run.last == (0, 4 * GIB)
    assert memory.disk_free_bytes is None
    assert not len(memory.reserved)
    assert memory.marks == []
