from __future__ import annotations

from typing import Any

from tui.memory import MemoryHistory

GIB = 2**30


def sample(time: float, *processes: tuple[int, int | None], used: int | None = 8, index: int = 0) -> dict[str, Any]:
    gpu = {
        "index": index,
        "name": "NVIDIA L4",
        "used_bytes": None if used is None else used * GIB,
        "total_bytes": 24 * GIB,
        "processes": [{"pid": pid, "used_bytes": size and size * GIB} for pid, size in processes],
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
