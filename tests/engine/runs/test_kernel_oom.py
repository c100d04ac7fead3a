"""Signs of the kernel's OOM killer, in the files of control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs import kernel_oom
from engine.runs.kernel_oom import KernelWatch, memory_group
from engine.runs.silent_oom import last_words, on_gpu, oom_fields


def v1(cgroups: Path, name: str, kills: int, limit: int) -> Path:
    folder = cgroups / "memory" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    return folder


def v2(cgroups: Path, name: str, kills: int, limit: str) -> Path:
    folder = cgroups / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.events").write_text(f"low 0\nhigh 0\nmax 7\noom 3\noom_kill {kills}\noom_group_kill 0\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    return folder


def test_a_group_of_version_1(tmp_path: Path) -> None:
    v1(tmp_path, "jobs", 0, 2**30)
    v1(tmp_path, "jobs/mine", 2, 2**63 - 4096)
    group = memory_group("9:name=systemd:/\n4:cpu,memory:/jobs/mine\n0::/\n", tmp_path)
    assert group is not None
    assert (group.oom_kills(), group.limit_bytes()) == (2, 2**30), "the group that it is in has a limit"


def test_a_group_of_version_2(tmp_path: Path) -> None:
    v2(tmp_path, "user.slice", 5, "3000000000")
    v2(tmp_path, "user.slice/mine", 1, "max")
    group = memory_group("0::/user.slice/mine\n", tmp_path)
    assert group is not None
    assert (group.oom_kills(), group.limit_bytes()) == (1, 3_000_000_000)


def test_in_a_container_that_is_shown_the_hosts_path_its_own_root_counts(tmp_path: Path) -> None:
    v2(tmp_path, ".", 4, "12345678")
    group = memory_group("0::/docker/abc/def\n", tmp_path)
    assert group is not None
    assert (group.folder, group.oom_kills(), group.limit_bytes()) == (tmp_path, 4, 12_345_678)


@pytest.mark.parametrize("written", ["", "0::/\n", "4:memory:/x\n", "nonsense", "::::"])
def test_where_nothing_can_be_read_there_is_no_group(tmp_path: Path, written: str) -> None:
    assert memory_group(written, tmp_path) is None


def test_a_process_that_somebody_else_ended_bears_no_sign_of_the_kernel() -> None:
    watch = KernelWatch()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.kill()
    process.wait()
    assert not watch.has_killed(process.pid)


@pytest.mark.parametrize("is_readable", [True, False])
def test_who_reads_the_kernels_log_does_not_take_another_process_for_the_victim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    log, counts = tmp_path / "kmsg", tmp_path / "vmstat"
    if is_readable:
        log.write_text("4,1,1,-;Out of memory: Killed process 7 (python3), long ago\n")
    counts.write_text("pgfault 9\noom_kill 1\n")
    for name, value in (("KERNEL_LOG", log), ("VMSTAT", counts)):
        monkeypatch.setattr(kernel_oom, name, value)
    monkeypatch.setattr(kernel_oom, "_own_group", lambda: None)
    monkeypatch.setattr(kernel_oom, "ALL_PROCESSES", os.readlink("/proc/self/ns/pid"))
    watch = KernelWatch()
    assert not watch.has_killed(7)
    counts.write_text("pgfault 9\noom_kill 2\n")
    if is_readable:
        with open(log, "a") as kernel:
            kernel.write("6,2,2,-;Memory cgroup out of memory: Killed process 8 (python3) total-vm:633300kB\n")
    assert watch.has_killed(8)
    assert watch.has_killed(9) is not is_readable, "where nobody is named, the count has to do"


def test_libraries_that_end_a_process_without_a_word_to_python_are_known_by_what_they_print(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_bytes(b"an earlier trainer: std::bad_alloc\n")
    began = log.stat().st_size
    assert last_words(log, began) is None
    for said, who, requested in (
        (b"Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp\n", "bitsandbytes", None),
        (b"terminate called after throwing an instance of 'std::bad_alloc'\n", "python", None),
        (b"memory allocation of 4096 bytes failed\n", "python", 4096),
        (b"Traceback (most recent call last):\nMemoryError\n", "python", None),
    ):
        log.write_bytes(b"an earlier trainer: std::bad_alloc\n" + b"\xff\x00 loading\n" + said)
        words = last_words(log, began)
        assert words is not None
        assert (words[0], words[2]) == (who, requested)
        assert words[1] in said.decode()
    assert last_words(tmp_path / "none", 0) is None


def test_what_was_seen_last_goes_into_the_event_and_what_was_not_is_null() -> None:
    host = {"used_bytes": 10 * 2**30, "total_bytes": 16 * 2**30, "trainer_rss_bytes": 9 * 2**30}
    fields = oom_fields(
        last_state="evaluating",
        step=4,
        host=host,
        trainer_pids={os.getpid()},
        group=None,
        memory_limit_bytes=None,
        raised_by="kernel",
        message="m",
    )
    assert (fields["phase"], fields["step"], fields["held_bytes"]) == ("eval", 4, 9 * 2**30)
    assert (fields["capacity_bytes"], fields["other_processes_bytes"]) == (16 * 2**30, 2**30)
    assert fields["batch_shape"] is fields["requested_bytes"] is None
    nothing = oom_fields(
        last_state="training",
        step=0,
        host={},
        trainer_pids=set(),
        group=None,
        memory_limit_bytes=5,
        raised_by="kernel",
        message="m",
    )
    assert (nothing["held_bytes"], nothing["other_processes_bytes"], nothing["capacity_bytes"]) == (None, None, 5)


def test_where_it_was_a_gpus_memory_the_gpus_sample_counts() -> None:
    gpu = {
        "total_bytes": 12 * 2**30,
        "processes": [
            {"pid": 7, "used_bytes": 9 * 2**30, "user": "me", "name": "python"},
            {"pid": 8, "used_bytes": 2**30, "user": "anna", "name": "ollama"},
            {"pid": 9, "used_bytes": None},
        ],
    }
    fields = on_gpu(gpu, {7})
    assert (fields["held_bytes"], fields["capacity_bytes"], fields["other_processes_bytes"]) == (
        9 * 2**30,
        12 * 2**30,
        2**30,
    )
    assert [other["name"] for other in fields["others"]] == ["ollama", None]
