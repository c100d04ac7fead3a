"""The real pynvml against a driver of our own, in processes of their own: see `tests.nvml.driver`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.hardware import process_tree, resident_bytes, sample
from tests.nvml.driver import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GIB,
    GPU_IS_LOST,
    HARDWARE_SLOWDOWN,
    HARDWARE_THERMAL,
    IDLE,
    LIB_RM_VERSION_MISMATCH,
    NO_PERMISSION,
    NOT_SUPPORTED,
    POWER_CAP,
    SOFTWARE_THERMAL,
    UNKNOWN,
    Error,
    FakeDriver,
    FakeGpu,
)

pytest_plugins = ["tests.nvml.fixtures"]

NOBODY = 65534

WATCH = """
import json, sys
from engine.hardware import sample
for line in sys.stdin:
    print(json.dumps(sample(None)["gpus"]), flush=True)
"""


class Watcher:
    """A process that goes on sampling, as a run's supervisor does."""

    def __init__(self, driver: FakeDriver) -> None:
        environment = {**os.environ, **driver.environment()}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def sample(self) -> list[dict[str, Any]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        gpus: list[dict[str, Any]] = json.loads(self.process.stdout.readline())
        return gpus

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def look(driver: FakeDriver) -> list[dict[str, Any]]:
    """The GPUs of one sample."""
    with Watcher(driver) as watcher:
        return watcher.sample()


def answers(driver: FakeDriver, expression: str, **environment: str) -> Any:
    """What an expression over `engine.hardware` comes to on this machine."""
    program = f"import json; from engine.hardware import *; print(json.dumps({expression}))"
    return json.loads(driver.python(program, **environment).stdout)


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_two_gpus_are_known_with_their_memory_and_what_they_can(fake_driver: FakeDriver) -> None:
    fake_driver.write([FakeGpu(), FakeGpu(name="Tesla T4", total=15 * GIB, capability="7.5")], driver="535.183")
    known = answers(
        fake_driver,
        "[driver_version(), [[gpu.index, gpu.name, gpu.uuid, gpu.total_bytes, gpu.has_bf16] for gpu in list_gpus()]]",
    )
    first = [0, "NVIDIA GeForce RTX 4070 SUPER", "GPU-00000000-0000-0000-0000-000000000000", 12 * GIB, True]
    assert known == ["535.183", [first, [1, "Tesla T4", "GPU-00000001-0000-0000-0000-000000000000", 15 * GIB, False]]]
    said = fake_driver.python(
        "from itertools import islice\n"
        "from engine.doctor import examine\n"
        "for finding in examine():\n"
        "    if finding.name in ('driver', 'gpu 0', 'gpu 1'): print(finding.found)\n"
        "    if finding.name == 'gpu 1': break\n"
    ).stdout
    assert said.splitlines() == [
        "535.183",
        "NVIDIA GeForce RTX 4070 SUPER, 12.0 GiB, bfloat16: yes",
        "Tesla T4, 15.0 GiB, bfloat16: no",
    ]


def test_a_sample_says_what_each_gpu_does_now(fake_driver: FakeDriver) -> None:
    with Watcher(fake_driver) as watcher:
        fake_driver.write([FakeGpu(used=GIB), FakeGpu(used=2 * GIB, utilization=97, temperature=71, power=198_200)])
        assert [gpu["used_bytes"] for gpu in watcher.sample()] == [GIB, 2 * GIB]
        fake_driver.write([FakeGpu(used=7 * GIB), FakeGpu(used=3 * GIB, utilization=12, temperature=60)])
        first, second = watcher.sample()
    assert first["used_bytes"] == 7 * GIB
    assert (second["used_bytes"], second["total_bytes"]) == (3 * GIB, 12 * GIB)
    assert (second["utilization"], second["temperature_c"], second["power_w"]) == (12, 60, 30.0)
    assert (second["index"], second["mig"], second["throttling"]) == (1, None, [])


def test_processes_come_with_their_user_and_name(fake_driver: FakeDriver, sleeping: subprocess.Popen[bytes]) -> None:
    own = os.getpid()
    fake_driver.write([FakeGpu(compute=[(own, GIB), (sleeping.pid, None)], graphics=[(1, 5), (own, GIB)])])
    processes = {process["pid"]: process for process in look(fake_driver)[0]["processes"]}
    user = psutil.Process().username()
    assert processes[own]["used_bytes"] == GIB  # it computes and draws, and is counted once
    assert processes[own]["user"] == user
    assert processes[sleeping.pid] == {"pid": sleeping.pid, "used_bytes": None, "user": user, "name": "sleep"}
    assert processes[1]["user"] == psutil.Process(1).username()
    assert len(processes) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process of another user")
def test_a_process_of_another_user_is_told_as_theirs(fake_driver: FakeDriver) -> None:
    with subprocess.Popen(["sleep", "600"], user=NOBODY) as theirs:
        fake_driver.write([FakeGpu(compute=[(theirs.pid, GIB)])])
        (process,) = look(fake_driver)[0]["processes"]
        theirs.kill()
    assert process == {"pid": theirs.pid, "used_bytes": GIB, "user": "nobody", "name": "sleep"}


def test_of_a_process_that_cannot_be_seen_the_memory_still_counts(fake_driver: FakeDriver) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    fake_driver.write([FakeGpu(compute=[(gone.pid, GIB)])])
    assert look(fake_driver)[0]["processes"] == [{"pid": gone.pid, "used_bytes": GIB, "user": None, "name": None}]


def test_of_a_process_that_has_ended_nothing_is_remembered(fake_driver: FakeDriver) -> None:
    with Watcher(fake_driver) as watcher:
        for command in (["sleep", "600"], ["tail", "-f", "/dev/null"]):
            with subprocess.Popen(command) as process:
                fake_driver.write([FakeGpu(compute=[(process.pid, GIB)])])
                assert watcher.sample()[0]["processes"][0]["name"] == command[0]
                process.kill()
            assert watcher.sample()[0]["processes"][0]["name"] is None


def test_a_gpu_that_falls_off_the_bus_stays_listed_with_nothing_known(fake_driver: FakeDriver) -> None:
    gpus = [FakeGpu(), FakeGpu(name="NVIDIA L4", used=GIB, compute=[(1, GIB)])]
    fake_driver.write(gpus)
    with Watcher(fake_driver) as watcher:
        assert watcher.sample()[1]["used_bytes"] == GIB
        fake_driver.write([FakeGpu(used=2 * GIB), FakeGpu(lost=Error(GPU_IS_LOST))])
        first, second = watcher.sample()
        fake_driver.write([], init=Error(DRIVER_NOT_LOADED), count=Error(UNKNOWN))
        without_driver = watcher.sample()
        fake_driver.write(gpus)
        back = watcher.sample()
    assert first["used_bytes"] == 2 * GIB
    lost = {"index": 1, "mig": None, "name": "NVIDIA L4", "uuid": "GPU-00000001-0000-0000-0000-000000000000"}
    unknown = ("used_bytes", "total_bytes", "utilization", "temperature_c", "power_w", "throttling")
    assert second == {**lost, **dict.fromkeys(unknown), "processes": []}
    assert without_driver[1] == second
    assert back[1]["used_bytes"] == GIB


def test_a_lost_gpu_keeps_its_name_where_only_its_values_fail(fake_driver: FakeDriver) -> None:
    lost = Error(GPU_IS_LOST)
    with Watcher(fake_driver) as watcher:
        fake_driver.write([FakeGpu(name="NVIDIA L4")])
        before = watcher.sample()[0]
        fake_driver.write([FakeGpu(name=lost, uuid=lost, total=lost, utilization=lost)])
        after = watcher.sample()[0]
    assert (after["name"], after["uuid"]) == (before["name"], before["uuid"])
    assert (after["used_bytes"], after["utilization"], after["temperature_c"]) == (None, None, 40)


def test_a_gpu_that_never_answered_is_listed_too(fake_driver: FakeDriver) -> None:
    fake_driver.write([FakeGpu(lost=Error(GPU_IS_LOST)), FakeGpu(used=GIB)])
    assert [(gpu["name"], gpu["used_bytes"]) for gpu in look(fake_driver)] == [
        ("GPU", None),
        ("NVIDIA GeForce RTX 4070 SUPER", GIB),
    ]


def test_what_the_card_does_not_support_is_null_and_never_zero(fake_driver: FakeDriver) -> None:
    silent = FakeGpu(power=Error(NOT_SUPPORTED), utilization=None, temperature=Error(NO_PERMISSION))
    fake_driver.write([silent, FakeGpu(clocks_event_reasons=None, total=None)])
    first, second = look(fake_driver)
    assert (first["power_w"], first["utilization"], first["temperature_c"]) == (None, None, None)
    assert first["used_bytes"] == GIB // 2
    assert (second["throttling"], second["used_bytes"], second["total_bytes"]) == (None, None, None)


def test_drivers_of_every_age_are_understood(fake_driver: FakeDriver) -> None:
    missing = Error(FUNCTION_NOT_FOUND)
    old = FakeGpu(clocks_event_reasons=missing, clocks_throttle_reasons=POWER_CAP)
    new = FakeGpu(temperature=missing, temperature_v=55)
    fake_driver.write([old, new])
    first, second = look(fake_driver)
    assert first["throttling"] == ["power cap"]
    assert second["temperature_c"] == 55


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (IDLE, []),
        (HARDWARE_THERMAL | HARDWARE_SLOWDOWN, ["thermal"]),
        (SOFTWARE_THERMAL | POWER_CAP, ["thermal", "power cap"]),
        (HARDWARE_SLOWDOWN, ["hardware slowdown"]),
    ],
)
def test_why_a_card_is_slow_is_told_in_words(fake_driver: FakeDriver, reasons: int, words: list[str]) -> None:
    fake_driver.write([FakeGpu(clocks_event_reasons=reasons)])
    assert look(fake_driver)[0]["throttling"] == words


SPLIT = FakeGpu(
    name="NVIDIA A100-SXM4-40GB",
    total=40 * GIB,
    used=11 * GIB,
    utilization=None,
    compute=[(1, 10 * GIB)],
    capability="8.0",
    mig={
        0: FakeGpu(name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", total=5 * GIB, used=GIB, power=None, capability=None),
        3: FakeGpu(name="NVIDIA A100-SXM4-40GB MIG 3g.20gb", total=20 * GIB, used=10 * GIB, compute=[(1, 10 * GIB)]),
    },
)


def test_mig_instances_are_listed_after_their_card_with_memory_of_their_own(fake_driver: FakeDriver) -> None:
    fake_driver.write([FakeGpu(), SPLIT])
    gpus = look(fake_driver)
    assert [(gpu["index"], gpu["mig"]) for gpu in gpus] == [(0, None), (1, None), (1, 0), (1, 3)]
    _, card, small, large = gpus
    assert (card["used_bytes"], card["total_bytes"]) == (11 * GIB, 40 * GIB)
    assert (small["used_bytes"], small["total_bytes"], small["power_w"]) == (GIB, 5 * GIB, None)
    assert large["name"] == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert large["uuid"] == "MIG-00010003-0000-0000-0000-000000000000"
    # The card's list holds the processes of its instances, too: each is told once, so that sums are right.
    assert [process["pid"] for process in large["processes"]] == [1]
    assert card["processes"] == []
    assert answers(fake_driver, "gpu_bytes_of(1)") == 10 * GIB


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("1,0", [[1, None], [0, None]]),
        ("GPU-00000001", [[1, None]]),
        ("1,7,0", [[1, None]]),
        ("", []),
        ("MIG-00010003-0000-0000-0000-000000000000", [[1, 3]]),
        ("MIG-00010000,MIG-00010003", [[1, 0]]),
        ("0,MIG-00010000", [[0, None]]),
        ("MIG-GPU-00000001/1/0", []),
    ],
)
def test_only_devices_that_cuda_would_see_are_visible(
    fake_driver: FakeDriver, named: str, seen: list[list[int | None]]
) -> None:
    fake_driver.write([FakeGpu(), SPLIT])
    devices = answers(fake_driver, "[[gpu.index, gpu.mig] for gpu in visible_gpus()]", CUDA_VISIBLE_DEVICES=named)
    assert devices == seen


def test_a_visible_instance_has_its_own_memory_and_computes_as_its_card(fake_driver: FakeDriver) -> None:
    fake_driver.write([FakeGpu(), SPLIT])
    expression = "[[gpu.total_bytes, gpu.uuid, gpu.has_bf16] for gpu in visible_gpus()]"
    known = answers(fake_driver, expression, CUDA_VISIBLE_DEVICES="MIG-00010000")
    assert known == [[5 * GIB, "MIG-00010000-0000-0000-0000-000000000000", True]]


def test_a_driver_that_does_not_fit_its_library_is_no_driver(fake_driver: FakeDriver) -> None:
    fake_driver.write([FakeGpu()], init=Error(LIB_RM_VERSION_MISMATCH))
    assert answers(fake_driver, "[driver_version(), list_gpus(), sample(None)['gpus'], gpu_bytes_of(1)]") == [
        None,
        [],
        [],
        None,
    ]


def test_the_host_is_sampled_with_the_free_space_of_the_runs_disk(tmp_path: Path) -> None:
    host = sample(os.getpid(), tmp_path)["host"]
    assert 0 < host["used_bytes"] < host["total_bytes"]
    assert host["trainer_rss_bytes"] > 2**20
    assert host["disk_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    gone = sample(None, tmp_path / "gone")["host"]
    assert (gone["disk_free_bytes"], gone["trainer_rss_bytes"]) == (None, None)
    assert sample(None)["host"]["disk_free_bytes"] is None


def test_a_process_counts_with_all_that_it_started() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        assert process_tree(shell.pid) == {shell.pid, child}
        alone = psutil.Process(shell.pid).memory_info().rss
        assert (resident_bytes(shell.pid) or 0) > alone
        psutil.Process(child).kill()
    assert process_tree(shell.pid) == {shell.pid}
    assert resident_bytes(shell.pid) is None
