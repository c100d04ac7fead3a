"""Runs that wait for a GPU: the real waiting supervisor and the real pynvml, on a driver whose memory moves."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import architecture_cache
from engine.checks import read_spec, write_spec
from engine.queue.line import QueueError, move, queue_folder, waiting
from engine.queue.waiting import wait_for_turn
from engine.queue.wish import Wish
from engine.runs import control
from engine.runs.asking import ask
from engine.runs.events import read_events
from engine.runs.launch import enqueue, launch
from engine.runs.prediction import read_prediction
from engine.runs.store import LOST_IN_THE_QUEUE, Run, create_run, list_runs
from engine.spec import RunSpec
from tests.conftest import wait_until
from tests.engine.queue.waiters import Waiter
from tests.nvml.driver import GIB, GPU_IS_LOST, Error, FakeDriver, FakeGpu
from tests.tui.models import llama

pytest_plugins = ["tests.nvml.fixtures"]

MakeSpec = Callable[..., RunSpec]
MakeWaiter = Callable[..., Waiter]
FREE = FakeGpu()
TOO_LITTLE = (
    "has 3.0 GiB free of the 10.8 GiB needed "
    f"({psutil.Process(1).name()} of {psutil.Process(1).username()} holds 9.0 GiB)"
)
"""What is said of a card that is `busy`."""


@pytest.fixture
def wait_on(tiny_spec: MakeSpec, fake_driver: FakeDriver) -> Iterator[MakeWaiter]:
    """Makes a run that waits for `device`; without one for any GPU."""
    waiters: list[Waiter] = []

    def make(device: str = "auto", predicted_bytes: int | None = None, **hardware: Any) -> Waiter:
        environment = hardware.pop("environment", {})
        unresolved = {"bf16": None, "fp16": None, "optim": "auto"} if device == "auto" else {}
        spec = tiny_spec(training=unresolved, hardware={"device": device, **hardware})
        waiters.append(Waiter(fake_driver, spec, predicted_bytes, **environment))
        return waiters[-1]

    yield make
    for waiter in waiters:
        waiter.kill()


def device_of(run: Run) -> str:
    return read_spec(run.spec_path).hardware.device


def busy(pid: int | None = 1, used: int = 9 * GIB) -> FakeGpu:
    """A card on which somebody who is no run of ours holds memory."""
    return FakeGpu(used=used, compute=[(pid, used)] if pid is not None else [])


def test_it_waits_while_another_user_holds_the_memory_and_starts_when_it_is_free(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    user, name = psutil.Process(os.getpid()).username(), psutil.Process(os.getpid()).name()
    fake_driver.write([busy(os.getpid())])
    waiter = wait_on("cuda:0", predicted_bytes=8 * GIB)
    waiter.says(
        "1st in the queue: waits for GPU 0, which has 3.0 GiB free of the 8.0 GiB needed "
        f"({name} of {user} holds 9.0 GiB)."
    )
    fake_driver.write([busy(used=4 * GIB)])
    waiter.starts()
    assert (waiter.run.read_status().place, waiter.run.read_status().message) == (None, "")
    assert waiting() == []
    wait_until(lambda: os.listdir(queue_folder()) == ["lock"], "its file is gone: it is written as started before")


def test_runs_for_any_card_get_one_each_in_their_order_and_never_the_same(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([busy(), busy()])
    first, second, third = wait_on(), wait_on(), wait_on()
    third.says(f"3rd in the queue: waits for one of 2 GPUs, after {second.run.id}.")
    assert [entry.run_id for entry in waiting()] == [first.run.id, second.run.id, third.run.id]
    assert waiting()[0].wish == Wish((0, 1))
    fake_driver.write([busy(), FREE])
    first.starts()
    spec = read_spec(first.run.spec_path)
    assert (spec.hardware.device, spec.training.optim, spec.training.bf16) == ("cuda:1", "paged_adamw_32bit", True)
    # To the driver GPU 1 is still free: nothing trains there yet, but the card is taken.
    second.says(f"1st in the queue: waits for one of 2 GPUs: GPU 0 {TOO_LITTLE}, GPU 1 is held by {first.run.id}.")
    fake_driver.write([FREE, FREE])
    second.starts()
    assert device_of(second.run) == "cuda:0"
    third.says(
        f"1st in the queue: waits for one of 2 GPUs: GPU 0 is held by {second.run.id}, GPU 1 is held by {first.run.id}."
    )
    first.finish()
    third.starts()
    assert device_of(third.run) == "cuda:1"


def test_another_place_is_another_turn(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    fake_driver.write([busy()])
    first, second, third = (wait_on("cuda:0") for _ in range(3))
    assert move(third.run, 1) == 1
    assert move(first.run, by=1) == 3
    assert move(first.run, by=1) == 3  # there is none behind it
    second.says(f"2nd in the queue: waits for GPU 0, after {third.run.id}.")
    first.says(f"3rd in the queue: waits for GPU 0, after {second.run.id}.")
    fake_driver.write([FREE])
    third.starts()
    assert [entry.run_id for entry in waiting()] == [second.run.id, first.run.id]
    with pytest.raises(QueueError, match="does not wait"):
        move(third.run, 1)


def test_a_run_that_needs_another_card_may_pass_and_one_for_all_cards_keeps_them(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([busy(), FREE])
    first = wait_on("cuda:0")
    first.says(f"1st in the queue: waits for GPU 0, which {TOO_LITTLE}.")
    both = wait_on("cuda:0", num_processes=2, gpu_ids=[0, 1], strategy="ddp")
    both.says(f"2nd in the queue: waits for GPUs 0 and 1, after {first.run.id}.")
    other = wait_on("cuda:1")
    other.says(f"3rd in the queue: waits for GPU 1, after {both.run.id}.")
    ask(both.run, "stop")
    other.starts()


def test_a_killed_one_leaves_no_hole_and_one_that_is_stopped_leaves_the_queue(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([busy()])
    first, second, third = (wait_on("cuda:0") for _ in range(3))
    third.says(f"3rd in the queue: waits for GPU 0, after {second.run.id}.")
    first.kill()
    lost = first.run.read_status()
    assert (lost.state, lost.message, lost.place) == ("lost", LOST_IN_THE_QUEUE, None)
    third.says(f"2nd in the queue: waits for GPU 0, after {second.run.id}.")
    ask(second.run, "stop")
    stopped = second.run.read_status()
    assert (stopped.state, stopped.cause, stopped.place) == ("stopped", None, None)
    assert control.pending(second.run.control_folder) == []
    assert [event["state"] for event in read_events(second.run.supervisor_events_path)] == ["queued", "stopped"]
    fake_driver.write([FREE])
    third.starts()


def test_an_order_to_end_takes_it_out_of_the_queue(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    fake_driver.write([busy()])
    waiter = wait_on("cuda:0")
    wait_until(lambda: waiter.run.read_status().message, "it waits", 60)
    waiter.process.terminate()
    waiter.process.wait(30)
    assert waiter.run.read_status().state == "stopped"


def test_without_a_prediction_nearly_all_of_the_card_is_waited_for_and_never_more(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([busy(None, used=2 * GIB)])
    unpredicted = wait_on("cuda:0")
    unpredicted.says("1st in the queue: waits for GPU 0, which has 10.0 GiB free of the 10.8 GiB needed.")
    fake_driver.write([FREE])
    unpredicted.starts()
    unpredicted.finish()
    wait_on("cuda:0", predicted_bytes=40 * GIB).starts()
    small = wait_on("cuda:0", predicted_bytes=40 * GIB, memory_limit="2GiB")
    wait_until(lambda: small.run.read_status().message, "it waits", 60)
    assert waiting()[0].wish == Wish((0,), 1, 2 * GIB)


def test_a_run_waits_for_cards_that_it_can_use(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    old = FakeGpu(name="Tesla T4", total=15 * GIB, capability="7.5")
    fake_driver.write([FREE, old, FakeGpu(total=24 * GIB)])
    large = wait_on(predicted_bytes=20 * GIB)
    large.starts()
    assert device_of(large.run) == "cuda:2"
    on_old = wait_on(environment={"CUDA_VISIBLE_DEVICES": "1"})
    on_old.starts()
    spec = read_spec(on_old.run.spec_path)
    assert (spec.hardware.device, spec.training.fp16, spec.training.bf16) == ("cuda:1", True, False)
    two = wait_on(num_processes=2)
    two.says(
        f"1st in the queue: waits for 2 of 3 GPUs: GPU 1 is held by {on_old.run.id}, GPU 2 is held by {large.run.id}."
    )
    on_old.finish()
    two.starts()
    assert read_spec(two.run.spec_path).hardware.gpu_ids == [0, 1]


def test_of_a_card_that_is_split_the_instance_counts(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    def split(used: int) -> FakeGpu:
        return FakeGpu(total=40 * GIB, used=used, mig={2: FakeGpu(uuid="MIG-5", total=10 * GIB, used=used)})

    fake_driver.write([split(used=8 * GIB)])
    waiter = wait_on(predicted_bytes=4 * GIB, environment={"CUDA_VISIBLE_DEVICES": "MIG-5"})
    waiter.says("1st in the queue: waits for GPU 0, which has 2.0 GiB free of the 4.0 GiB needed.")
    fake_driver.write([split(used=GIB)])
    waiter.starts()


def test_a_run_that_gets_another_card_than_it_was_predicted_for_is_predicted_anew(
    fake_driver: FakeDriver,
    wait_on: MakeWaiter,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    architecture_cache.write(architecture_cache.key(tiny_model / "config.json"), llama(str(tiny_model), layers=2))
    fake_driver.write([busy(), FakeGpu(name="NVIDIA L4", total=24 * GIB)])
    waiter = wait_on(predicted_bytes=8 * GIB)
    waiter.starts()
    prediction = wait_until(lambda: (found := read_prediction(waiter.run)) and found.card == "L4" and found, "L4", 60)
    known = prediction.footprint.device_bytes
    assert GIB // 4 < known < 2 * GIB
    wait_until(lambda: waiter.run.read_status().predicted_bytes == known, "the status tells it", 60)


def test_a_run_that_nvml_sees_on_a_card_holds_it_whatever_its_settings_say(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([FREE, FREE])
    elsewhere = wait_on("cuda:0")
    elsewhere.starts()
    status = elsewhere.run.read_status()
    with subprocess.Popen(["sleep", "600"]) as trainer:
        elsewhere.run.write_status(type(status)(**{**vars(status), "trainer_pid": trainer.pid}))
        fake_driver.write([FREE, FakeGpu(compute=[(trainer.pid, GIB // 4)])])
        wait_on("cuda:1").says(f"1st in the queue: waits for GPU 1, held by {elsewhere.run.id}.")
        trainer.kill()


def test_a_card_that_is_lost_is_waited_for_in_words(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    fake_driver.write([FREE, FakeGpu(lost=Error(GPU_IS_LOST))])
    waiter = wait_on("cuda:1")
    waiter.says("1st in the queue: waits for GPU 1, which does not answer.")
    fake_driver.write([FREE, FREE])
    waiter.starts()


def test_a_file_of_the_queue_that_is_nonsense_or_gone_blocks_nobody(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([busy(), busy()])
    first, second = wait_on("cuda:0"), wait_on("cuda:1")
    second.says(f"2nd in the queue: waits for GPU 1, which {TOO_LITTLE}.")
    waiting()[0].path.write_bytes(b"\xff{")
    (queue_folder() / "000000.no-such-run").write_text("{}")
    (queue_folder() / "notes").write_text("mine")
    # Nobody knows any more what the first one waits for: it could be any card.
    second.says(f"2nd in the queue: waits for GPU 1, after {first.run.id}.")
    fake_driver.write([FREE, FREE])
    first.starts()
    second.starts()
    second.finish()
    fake_driver.write([FREE, busy()])
    third = wait_on("cuda:1")
    wait_until(lambda: third.run.read_status().message, "it waits", 60)
    shutil.rmtree(queue_folder())
    wait_until(lambda: [entry.run_id for entry in waiting()] == [third.run.id], "it has a place again", 60)


def test_a_queue_that_cannot_be_used_is_said_and_the_run_goes_on_waiting(
    fake_driver: FakeDriver, wait_on: MakeWaiter
) -> None:
    fake_driver.write([FREE])
    holder = wait_on("cuda:0")
    holder.starts()
    waiter = wait_on("cuda:0")
    waiter.says(f"1st in the queue: waits for GPU 0, held by {holder.run.id}.")
    lock_path = queue_folder() / "lock"
    with open(lock_path, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holder.finish()
        waiter.says(
            "1st in the queue: its turn has come. The queue is held by another process, which has its lock, "
            f"{lock_path}."
        )
        with pytest.raises(QueueError, match="held by another process"):
            move(waiter.run, 1)
    waiter.starts()
    waiter.finish()
    fake_driver.write([busy()])
    again = wait_on("cuda:0")
    wait_until(lambda: again.run.read_status().message, "it waits", 60)
    shutil.rmtree(queue_folder())
    queue_folder().write_text("no folder")
    fake_driver.write([FREE])
    wait_until(lambda: "the queue cannot be used" in again.run.read_status().message, "it says so", 60)
    assert "Not a directory" in again.run.read_status().message
    queue_folder().unlink()
    again.starts()


def test_a_queue_that_stays_unusable_ends_the_run(
    tiny_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    run = create_run("m")
    run.spec_path.write_text(write_spec(tiny_spec()))
    monkeypatch.setattr("engine.queue.waiting.GIVEN_UP_AFTER_S", 0.0)
    try:
        with run.lock():
            enqueue(run, tiny_spec())
            queue_folder().rename(tmp_path / "elsewhere")
            queue_folder().write_text("no folder")
            with pytest.raises(NotADirectoryError):
                wait_for_turn(run)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    status = run.read_status()
    assert (status.state, status.cause, status.place) == ("failed", "error", None)
    assert status.message.startswith("It could not wait in the queue any longer: [Errno 20] Not a directory")


def test_on_a_full_disk_it_says_so_and_starts_when_there_is_room(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    fake_driver.write([busy()])
    waiter = wait_on()  # which GPU it got has to be written into its run.yaml
    wait_until(lambda: waiter.run.read_status().message, "it waits", 60)
    limits = resource.prlimit(waiter.process.pid, resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    assert waiter.run.spec_path.stat().st_size > 2048 > waiter.run.status_path.stat().st_size
    fake_driver.write([FREE])
    waiter.says("1st in the queue: the disk is full, and it starts when there is room.")
    assert device_of(waiter.run) == "auto"
    resource.prlimit(waiter.process.pid, resource.RLIMIT_FSIZE, limits)
    waiter.starts()
    assert device_of(waiter.run) == "cuda:0"


def test_waiting_costs_next_to_nothing(fake_driver: FakeDriver, wait_on: MakeWaiter) -> None:
    fake_driver.write([busy()])
    waiter = wait_on("cuda:0")
    wait_until(lambda: waiter.run.read_status().message, "it waits", 60)
    process = psutil.Process(waiter.process.pid)
    before, beat = process.cpu_times(), waiter.run.read_status().heartbeat
    wait_until(lambda: waiter.run.read_status().heartbeat > beat, "it beats", 60)  # five looks later
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.25
    assert process.memory_info().rss < 150 * 2**20
    maps = {path.path for path in process.memory_maps()}
    assert not any("torch" in path for path in maps)


def test_where_there_are_no_locks_there_is_no_queue(tiny_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        if "queue" in getattr(file, "name", ""):
            raise OSError(errno.ENOLCK, "No locks available")
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(QueueError, match="has none: set LORADECK_HOME to a folder on a disk of this machine"):
        launch(tiny_spec(), queue=True)
    assert list_runs() == []
