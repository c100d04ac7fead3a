"""Which machine this is, what keeps machines from training together, and how they keep in touch: over loopback, where
127.0.0.1 is machine 0 and 127.0.0.2 machine 1."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml

import engine.machines.contact
import engine.machines.together
from engine.checks import InvalidSpec, impossible_combinations, typed_spec, write_spec
from engine.cli.machines import words_of_machines
from engine.machines.own import own_rank
from engine.machines.together import Ending, NotMet, Together
from engine.queue.wish import refuse_where_there_is_no_queue
from engine.runs.accelerating import CONFIG_NAME, accelerated, environment_of_several
from engine.runs.launch import NotResumable, own_part
from engine.runs.lineage import changed_spec
from engine.runs.rank_watch import HANG_LEAST_S, RankWatch
from engine.runs.ranks import BEAT, Beat, RankRecord, ranks_folder
from engine.runs.remove import remove
from engine.runs.store import Run, RunBusy, RunStatus, create_run, find_run, list_runs
from engine.spec import HardwareSection, RunSpec
from engine.worker.launching import store_at_its_address
from tests.conftest import wait_until

MakeSpec = Callable[..., RunSpec]
TWO = {"num_machines": 2, "num_processes": 2}
ELSEWHERE = [{"address": "198.51.100.1"}, {"address": "198.51.100.2"}]
"""Addresses that are for documentation: nobody has them."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def outward_address() -> str:
    """An address of this machine that is not its loopback."""
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has no address but its loopback")
    return found[0]


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"num_machines": 2}, "hardware.machines: num_machines is 2, and none is named; write machines: "),
        ({"machines": ELSEWHERE, "num_processes": 2}, "num_machines is 1, and 2 are named; write num_machines: 2"),
        (TWO | {"machines": ELSEWHERE, "num_processes": 3}, "num_processes: 3 .* write 2 or 4"),
        (TWO | {"machines": ELSEWHERE, "machine_rank": 2}, "machine_rank: 2 of 2; write 0 to 1"),
        (TWO | {"machines": ELSEWHERE, "launcher": "slurm"}, "hardware.launcher: a job of Slurm is for one node"),
        (TWO | {"machines": ELSEWHERE, "device": "cuda", "gpu_ids": [0, 1]}, "2 GPUs for 1 processes on each machine"),
        ({"machines": [{"port": 1}]}, "give each machine an address"),
        ({"machines": [{"address": "a", "prot": 1}]}, "knows no prot: a machine has address, port, machine_rank"),
        ({"machines": [{"address": "0.0.0.0"}]}, "a name or an address by which the other machines reach it"),
        ({"machines": [{"address": "a", "machine_rank": 1}, {"address": "b"}]}, "they are 1, 1"),
        ({"machines": [{"address": "a"}, {"address": "b", "port": 2}]}, "only machine 0 is listened at"),
    ],
)
def test_what_keeps_machines_from_training_together_is_told_before_anything_starts(
    tiny_spec: MakeSpec, hardware: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        tiny_spec(hardware=hardware)


def test_a_run_that_retries_by_itself_is_for_one_machine(tiny_spec: MakeSpec) -> None:
    raw = tiny_spec(hardware=TWO | {"machines": ELSEWHERE}).model_dump(exclude={"parent"})
    problems = list(impossible_combinations(typed_spec(raw | {"on_oom": "retry"})))
    assert [problem.field for problem in problems] == ["on_oom"]


def test_such_a_run_does_not_wait_in_the_queue_of_one_machine(tiny_spec: MakeSpec) -> None:
    with pytest.raises(InvalidSpec, match=r"the other machines would wait for this one.*leave --queue out"):
        refuse_where_there_is_no_queue(tiny_spec(hardware=TWO | {"machines": ELSEWHERE}))
    refuse_where_there_is_no_queue(tiny_spec(hardware={"num_processes": 2}))


def test_a_machine_finds_itself_by_its_address_or_says_what_to_do() -> None:
    def among(*addresses: str, **more: Any) -> HardwareSection:
        return HardwareSection(machines=[{"address": address} for address in addresses], **TWO, **more)

    here = outward_address()
    assert own_rank(HardwareSection()) is None
    assert own_rank(among("198.51.100.1", here)) == 1
    assert own_rank(among("198.51.100.1", "198.51.100.2", machine_rank=1)) == 1, "it may not know its own address"
    for hardware, words in (
        (among("198.51.100.1", "198.51.100.2"), rf"this machine \(.*{here}.*\) is none of 198.51.100.1, 198.51.100.2"),
        (among("127.0.0.1", "127.0.0.2"), "has the addresses of several: 0, 1; .*--machine-rank"),
        (
            among("198.51.100.1", here, machine_rank=0),
            rf"0 is asked for, and this one has the address of machine 1 \({here}",
        ),
        (among("localhost", "198.51.100.2"), "here localhost is .* where no other machine reaches it"),
    ):
        with pytest.raises(InvalidSpec, match=words):
            own_rank(hardware)


def spec_on(make: MakeSpec, rank: int, port: int, **training: Any) -> RunSpec:
    machines = [{"address": "127.0.0.1", "port": port}, {"address": "127.0.0.2"}]
    return make(training=training, hardware=TWO | {"machines": machines, "machine_rank": rank, "num_processes": 4})


def test_accelerate_is_told_of_the_machines_and_of_the_interface(tiny_spec: MakeSpec, deck_home: Path) -> None:
    run, spec = create_run("m"), spec_on(tiny_spec, 1, 29500)
    accelerated(run, spec, main_port=4321)
    config = yaml.safe_load((run.folder / CONFIG_NAME).read_text())
    told = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "rdzv_backend")
    assert [config[name] for name in told] == [4, 2, 1, "127.0.0.1", 4321, "static"]
    variables = environment_of_several(spec, {})
    assert (variables["GLOO_SOCKET_IFNAME"], variables["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")
    assert changed_spec(spec, {"hardware.num_processes": 2}).effective_batch_size == spec.effective_batch_size


def test_processes_find_each_other_at_one_address_only() -> None:
    port = free_port()
    store = store_at_its_address("127.0.0.1", port, 1, True, timedelta(seconds=30), multi_tenant=True)
    member = store_at_its_address("127.0.0.1", port, 1, False, timedelta(seconds=30), multi_tenant=True)
    member.set("key", "value")
    assert store.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=10)


class Pair:
    """The supervisors' parts of one run on two machines, in this process."""

    def __init__(self, make: MakeSpec) -> None:
        self.make, self.port = make, free_port()
        self.sides: dict[int, Together] = {}

    def side(self, rank: int, status: RunStatus | None = None, run: Run | None = None, **training: Any) -> Together:
        run = run or create_run("m")
        self.sides[rank] = Together(run, spec_on(self.make, rank, self.port, **training), status or RunStatus())
        return self.sides[rank]

    def meet(self) -> None:
        other = Thread(target=self.sides[1].meet, args=(lambda words: True,))
        other.start()
        self.sides[0].meet(lambda words: True)
        other.join()

    def hang_up(self) -> None:
        for side in self.sides.values():
            side.contact.leave()


@pytest.fixture
def pair(tiny_spec: MakeSpec, deck_home: Path) -> Iterator[Pair]:
    made = Pair(tiny_spec)
    yield made
    made.hang_up()


def test_machines_meet_and_each_hears_how_the_other_ends(pair: Pair) -> None:
    first, second = pair.side(0), pair.side(1)
    pair.meet()
    assert first.meeting == second.meeting is not None
    assert first.main_port == second.main_port != pair.port
    assert (first.first_rank, second.first_rank) == (0, 2)

    watch = RankWatch(second.run, 2, first=2)
    second.look(RunStatus("training", step=7), watch)
    wait_until(lambda: first.with_others(RunStatus()).machines[0]["state"] == "training", "it is heard of", 10)
    (seen,) = first.with_others(RunStatus()).machines
    assert (seen["machine_rank"], seen["address"], seen["step"], seen["run"]) == (1, "127.0.0.2", 7, second.run.id)
    assert words_of_machines([seen], has_ended=False)[0].startswith("machine 1 (127.0.0.2): training, step 7, seen 0 s")

    oom = {"phase": "forward", "rank": 2}
    second.leave(Ending("failed", "oom", "Rank 2: Out of memory."), is_consequence=False, step=7, oom=oom)
    lost = Ending("failed", "error", "gloo: connection closed")
    assert first.ending(lost, is_consequence=True) == Ending(
        "failed", "oom", "Machine 1 (127.0.0.2): Rank 2: Out of memory.", oom
    )
    own = Ending("failed", "nan-loss", "The loss was not a number.")
    assert first.ending(own, is_consequence=False) is own
    watch = RankWatch(first.run, 2)
    first.look(RunStatus("training"), watch)
    assert watch.is_over_elsewhere


def test_a_machine_that_falls_silent_cannot_be_reached(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine.machines.contact, engine.machines.together):
        monkeypatch.setattr(module, "LOST_S", 1.5)
    first = pair.side(0)
    pair.side(1)
    pair.meet()
    pair.sides.pop(1).contact.leave()  # without a word of how it ended, as when it is killed
    ending = first.ending(Ending("failed", "error", "gloo: timed out"), is_consequence=True)
    assert ending.message.startswith("Machine 1 (127.0.0.2) cannot be reached since ")
    assert ending.message.endswith(
        "Once it can, `loradeck resume` on each machine begins anew, as there is no checkpoint."
    )


def checkpoint(run: Run, step: int) -> Run:
    (run.checkpoints_folder / f"checkpoint-{step}").mkdir(parents=True)
    return run


@pytest.mark.parametrize(
    ("here", "there", "training", "words"),
    [
        ((0, None), (0, None), {"learning_rate": 1.0}, r"training.learning_rate is 1.0, and 0.0002 on machine 0 \(127"),
        ((30, "a"), (0, None), {}, "goes on from checkpoint-30 on machine 0 .*, and there is no checkpoint here"),
        ((0, None), (20, "a"), {}, r"from checkpoint-20 here, and there is no checkpoint on machine 0 \(127.0.0.1\)"),
        ((30, "a"), (30, "b"), {}, "has not trained with .* on machine 0 .* before"),
    ],
)
def test_a_machine_with_another_run_is_sent_away_and_the_others_go_on_waiting(
    pair: Pair, here: tuple[int, str], there: tuple[int, str], training: dict[str, Any], words: str
) -> None:
    runs = [create_run("m"), create_run("m")]
    for run, (step, _) in zip(runs, (here, there), strict=True):
        if step:
            checkpoint(run, step)
    first = pair.side(0, RunStatus(meeting=here[1]), runs[0])
    second = pair.side(1, RunStatus(meeting=there[1]), runs[1], **training)
    with pytest.raises(NotMet, match=words) as caught:
        second.meet(lambda words: True, limit_s=30)
    assert (caught.value.ending.state, caught.value.ending.cause) == ("failed", "bad-spec")
    told: list[str] = []

    def one_look(waits_for: str) -> bool:
        told.append(waits_for)
        return False

    with pytest.raises(NotMet) as stopped:
        first.meet(one_look)
    assert stopped.value.ending.state == "stopped"
    assert told[0].startswith(
        "Waits for machine 1 (127.0.0.2): start the run there too. Machine 1 (127.0.0.2) was sent"
    )


def test_nobody_waits_for_ever_and_a_stop_of_one_is_a_stop_of_all(pair: Pair) -> None:
    first = pair.side(0)
    with pytest.raises(NotMet, match=r"Waits for machine 1 .* Nobody came within 0 minutes") as late:
        first.meet(lambda words: True, limit_s=0)
    assert late.value.ending.cause == "error"
    second = pair.side(1)
    wait_until(lambda: 1 in first.contact.others(), "machine 1 is there", 10)
    second.leave(Ending("stopped", None, "Stopped while it waited."), is_consequence=False, step=0, oom=None)
    first.contact._hellos.clear()
    wait_until(lambda: "end" in first.contact.others()[1].state, "its word is heard", 10)
    with pytest.raises(NotMet) as stopped:
        first.meet(lambda words: True)
    assert stopped.value.ending == Ending("stopped", None, "Stopped while it waited.")


def test_a_port_that_is_taken_and_a_caller_that_is_nobody_are_told(pair: Pair) -> None:
    first = pair.side(0)
    with pytest.raises(NotMet, match=f"Port {pair.port} of 127.0.0.1 cannot be listened at: Address already in use"):
        Together(create_run("m"), spec_on(pair.make, 0, pair.port), RunStatus())
    for line in (b'{"machine_rank": 1}\n', b"GET / HTTP/1.1\r\n\r\n", b"[]\n"):
        with socket.create_connection(
            ("127.0.0.1", pair.port), timeout=10, source_address=("127.0.0.3", 0)
        ) as stranger:
            stranger.sendall(line)
            answer = stranger.makefile("rb").read()
        assert b"knows no such machine at 127.0.0.3" in answer or answer == b""
    assert first.contact.trouble == "A call from 127.0.0.3 was refused: it says that it is machine 1 (127.0.0.2)."
    assert first.contact.others() == {}


@pytest.mark.parametrize(("done_elsewhere", "is_here"), [(9, True), (3, False)])
def test_a_rank_that_hangs_is_named_by_its_own_machine(tmp_path: Path, done_elsewhere: int, is_here: bool) -> None:
    now = 1000.0
    watch = RankWatch(Run(tmp_path), 1, clock=lambda: now, first=1)
    for _ in range(3):
        watch.step_took(0.1)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        (ranks_folder(watch.run) / "1.json").write_text(json.dumps(asdict(RankRecord(1, process.pid))))
        (ranks_folder(watch.run) / "1.beat").write_bytes(BEAT.pack(5, 2, 0))
        watch.beats_elsewhere = {0: (Beat(done_elsewhere, 2), False)}
        watch.look(process.pid, "training")
        for _ in range(15):
            now += HANG_LEAST_S / 10
            watch.look(process.pid, "training")
        end = watch.ended(1, process.pid)
        assert (end.rank == 1, end.message.startswith("Rank 1 did not go on for 2 minutes")) == (is_here, is_here)
        assert (process.wait(30) == -signal.SIGKILL) if is_here else (process.poll() is None)
    finally:
        process.kill()
        process.wait()


def test_parts_of_a_shared_run_are_no_runs_of_their_own(tiny_spec: MakeSpec, deck_home: Path) -> None:
    here = outward_address()
    machines = [{"address": "198.51.100.1"}, {"address": here}]
    spec = tiny_spec(hardware=TWO | {"machines": machines, "machine_rank": 0})
    run = create_run("m", name="team")
    run.spec_path.write_text(write_spec(spec))
    run.write_status(RunStatus("failed"))
    with pytest.raises(FileExistsError):
        create_run("m", name="team")
    with pytest.raises(NotResumable, match=rf"This is machine 1 \({here}\), and team is the run of machine 0"):
        own_part(run)
    part = run.part(1)
    part.folder.mkdir(parents=True)
    part.spec_path.write_text(write_spec(changed_spec(spec, {"hardware.machine_rank": 1})))
    part.write_status(RunStatus("training"))
    assert [each.id for each in list_runs()] == ["team"]
    assert (own_part(run), own_part(part), find_run(part.id)) == (part, part, part)
    assert own_part(run, machine_rank=1) == part
    checkpoint(run, 20)
    assert part.newest_step() == 20
    with part.lock(), pytest.raises(RunBusy):
        remove(run)
    part.write_status(replace(part.read_status(), state="failed"))
    remove(run)
    assert not run.folder.exists()
