"""The process beside a trainer: `python -m engine.runs.supervisor RUN_DIR LOCK_FD`, detached, without torch.

It inherits the run's lock, starts the trainer, samples the hardware once a second, keeps `status.json` true, and
records how the trainer really ended, whatever ended it. As a Slurm job's batch script it has no LOCK_FD: it takes the
lock itself. Where memory ran out it puts the ways out on record, and with
`on_oom: retry` starts the run that goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from engine.checks import read_spec
from engine.hardware import process_tree, sample
from engine.hardware import resident_bytes as resident_bytes_of
from engine.machines.together import Ending, NotMet, Together
from engine.memory.outcomes.comparison import size
from engine.memory.ways_out.after_oom import OOM_CAUSES, NoWayOut
from engine.memory.ways_out.failing import is_of_the_host
from engine.queue.waiting import wait_for_turn
from engine.runs import control
from engine.runs.events import Event, EventTail, EventWriter
from engine.runs.kernel_oom import KernelWatch
from engine.runs.launch import start_child, trainer_command
from engine.runs.lineage import changes_in_words
from engine.runs.rank_watch import ProcessEnd, RankWatch, adopt_orphans
from engine.runs.retry import MOST_ATTEMPTS, attempts_so_far, chosen_by_itself, record_ways_out
from engine.runs.silent_oom import last_words, on_gpu, oom_fields
from engine.runs.store import DISK_IS_FULL, ENDED, RESERVE_BYTES, Cause, Run, State
from engine.slurm.inside import InsideJob, taken_over
from engine.spec import RunSpec

PERIOD_S = 1.0

OUTCOMES: dict[int, tuple[State, Cause | None]] = {
    0: ("finished", None),
    1: ("failed", "error"),
    2: ("failed", "bad-spec"),
    3: ("failed", "oom"),
    4: ("failed", "disk-full"),
    5: ("failed", "nan-loss"),
    130: ("stopped", None),
}
"""What the trainer's exit codes mean: they reach the supervisor even when no file can be written any more."""

WHO_ENDED = {"bitsandbytes": "bitsandbytes", "python": "a library"}


class Supervisor:
    """One run's supervisor, from the trainer's start to its end."""

    def __init__(self, run: Run, lock_fd: int, job: InsideJob | None = None) -> None:
        self.run = run
        self.job = job
        """The Slurm job that this process is, if it is one."""
        self.lock_fd = lock_fd
        self.status = replace(run.read_status(), state="starting", supervisor_pid=os.getpid(), started=time.time())
        self.log = EventWriter(run.supervisor_events_path)
        self.hardware = EventWriter(run.hardware_path)
        # What an earlier trainer of this run wrote is history: only new events tell this one's state.
        already = run.events_path.stat().st_size if run.events_path.exists() else 0
        self.events = EventTail(run.events_path, offset=already)
        self.reserve = run.reserve_path
        self.trainer: subprocess.Popen[bytes] | None = None
        self.trainer_pids: set[int] = set()
        self.host: dict[str, Any] = {}
        """The host's part of the last hardware sample that saw the trainer."""
        self.gpus: list[dict[str, Any]] = []
        """The GPUs' part of it."""
        self.rss_of_ranks: dict[int, int | None] = {}
        """What each of several processes held of the host's memory by then."""
        self.oom: Event | None = None
        """The newest of this trainer's `oom` events."""
        self.told_its_end = False
        """Whether the trainer said how it ended."""
        self.is_to_stop = False
        self.on_cpu = True
        self.ranks: RankWatch | None = None
        """Where the trainer is accelerate's launcher of several processes."""
        self.together: Together | None = None
        """Where this machine is one of several."""
        self.kernel = KernelWatch()

    def supervise(self) -> State:
        """Start the trainer and stay until it ends. Returns the run's final state."""
        self.reserve.write_bytes(b"\0" * RESERVE_BYTES)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on_as_stop)
        if self.job is not None:
            signal.signal(signal.SIGUSR1, self._pass_on_as_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._write(self.log, "state", state="starting", pid=os.getpid())
        spec = read_spec(self.run.spec_path)
        self.on_cpu = spec.hardware.device == "cpu"
        try:
            self.together = Together.of(self.run, spec, self.status)
            if self.together is not None:
                self.together.meet(self._waits)
        except NotMet as error:
            if self.together is not None:
                self.together.leave(error.ending, is_consequence=False, step=self.status.step, oom=None)
            self._finish(error.ending, exit_code=None)
            return self.status.state
        if spec.hardware.num_processes > 1:
            adopt_orphans()
            first = 0 if self.together is None else self.together.first_rank
            self.ranks = RankWatch(self.run, spec.hardware.processes_here, first=first)
        command = trainer_command(self.run, spec, None if self.together is None else self.together.main_port)
        with open(self.run.log_path, "ab") as log:
            log_began = log.tell()
            self.trainer = subprocess.Popen(
                command.arguments,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.run.folder,
                # The trainer holds the lock too: if this process is killed, nobody else starts while it still saves.
                pass_fds=[self.lock_fd],
            )
        exit_code = self._watch(self.trainer)
        self._take_in(self.events.read())
        pid, log_path = self.trainer.pid, self.run.log_path
        end = ProcessEnd(exit_code, pid, log_path, log_began, has_told=self.told_its_end, message=self.status.message)
        if self.ranks is not None:
            end = self.ranks.ended(exit_code, pid)
            self.ranks.end_all()
            if end.rank is None:
                end = replace(end, message=self.status.message)
        self._end(spec, end)
        return self.status.state

    def _waits(self, for_what: str) -> bool:
        """Called each second until all machines are there; returns whether to go on waiting."""
        assert self.together is not None
        self.status = self.together.with_others(replace(self.status, message=for_what))
        self._beat()
        return not self.is_to_stop and "stop" not in control.pending(self.run.control_folder)

    def _watch(self, trainer: subprocess.Popen[bytes]) -> int:
        self.status = replace(self.status, trainer_pid=trainer.pid, message="")
        while True:
            self._sample(trainer.pid)
            self.kernel.look()
            self._take_in(self.events.read())
            if self.together is not None and self.ranks is not None:
                self.status = self.together.look(self.status, self.ranks)
            self._beat()
            if self.ranks is not None:
                self.ranks.look(trainer.pid, self.status.state)
            try:
                exit_code = trainer.wait(PERIOD_S)
            except subprocess.TimeoutExpired:
                continue
            if self.ranks is None or self.ranks.launcher_ended():
                return exit_code
            time.sleep(PERIOD_S)

    def _beat(self) -> None:
        self.status = replace(self.status, heartbeat=time.time())
        self._write_status()

    def _sample(self, trainer_pid: int) -> None:
        fields, pids = sample(trainer_pid, self.run.folder), process_tree(trainer_pid)
        if self.ranks is not None:
            self._sample_ranks(self.ranks, fields, pids)
            return
        self._write(self.hardware, "hardware", **fields, trainer_pids=sorted(pids))
        if fields["host"]["trainer_rss_bytes"]:  # of a process that has just died it is 0, or not there
            self.host, self.gpus, self.trainer_pids = fields["host"], fields["gpus"], pids
        self._has_held(_held_on_gpus(fields["gpus"], pids) or fields["host"]["trainer_rss_bytes"])

    def _sample_ranks(self, ranks: RankWatch, fields: dict[str, Any], pids: set[int]) -> None:
        of_ranks: list[dict[str, Any]] = []
        for rank, pid in ranks.pids.items():
            tree = process_tree(pid)
            resident_bytes, gpu_bytes = resident_bytes_of(pid), _held_on_gpus(fields["gpus"], tree)
            sizes = {"rss_bytes": resident_bytes, "gpu_bytes": gpu_bytes}
            of_ranks.append({"rank": rank, "pid": pid, "pids": sorted(tree), **sizes})
            self._has_held(gpu_bytes if gpu_bytes is not None or not self.on_cpu else resident_bytes, rank)
        self._write(self.hardware, "hardware", **fields, trainer_pids=sorted(pids), ranks=of_ranks)
        if of_ranks:
            self.host, self.gpus, self.trainer_pids = fields["host"], fields["gpus"], pids
            self.rss_of_ranks = {each["rank"]: each["rss_bytes"] for each in of_ranks}

    def _has_held(self, held_bytes: int | None, rank: int | None = None) -> None:
        """Of several processes what is predicted is one's part, and so is a peak."""
        if held_bytes is None:
            return
        peaks = list(self.status.rank_peak_bytes)
        if self.ranks is not None:
            of = self.ranks.ranks[0] if rank is None else rank
            peaks += [None] * (self.ranks.ranks.stop - len(peaks))
            peaks[of] = max(peaks[of] or 0, held_bytes)
        peak_bytes = max(self.status.peak_bytes or 0, held_bytes)
        self.status = replace(self.status, peak_bytes=peak_bytes, rank_peak_bytes=peaks)

    def _take_in(self, events: list[Event]) -> None:
        for event in events:  # a second between two samples is long: the trainer knows its peaks
            if event["type"] == "memory":
                self._has_held(size(event, "device_bytes"))
            elif event["type"] == "oom" and not is_of_the_host(event, self.on_cpu):
                self._has_held(size(event, "held_bytes"), event.get("rank"))
        status = self.status
        for event in events:
            if event["type"] == "state" and event["state"] not in ENDED:
                status = replace(status, state=event["state"])
            elif event["type"] == "state":
                self.told_its_end = True
                status = replace(status, message=event.get("message") or "")
            elif event["type"] == "plan":
                status = replace(status, total_steps=event["total_steps"])
            elif event["type"] == "step":
                tokens = event.get("tokens", status.tokens)
                if self.ranks is not None and (seconds := event.get("step_time_s")):
                    self.ranks.step_took(seconds)
                status = replace(status, step=event["step"], epoch=event["epoch"], loss=event["loss"], tokens=tokens)
            elif event["type"] == "eval":
                status = replace(status, eval_loss=event["eval_loss"])
            elif event["type"] == "best":
                best = {"best_step": event["step"], "best_metric": event["metric"], "best_value": event["value"]}
                status = replace(status, **best)
            elif event["type"] == "oom":
                self.oom = event
        self.status = status

    def _end(self, spec: RunSpec, end: ProcessEnd) -> None:
        exit_code = end.exit_code
        state, cause, message = self._ending(spec, end)
        if self.job is not None:
            state, cause, message = self.job.ending(state, cause, message, exit_code, self.status.step)
        self.reserve.unlink(missing_ok=True)
        rank = end.rank
        if self.together is not None:
            own = Ending(state, cause, message)
            ending = self.together.ending(own, end.is_consequence)
            state, cause, message = ending.state, ending.cause, ending.message
            if ending.oom is not None:
                self.oom = {"type": "oom", "time": round(time.time(), 3), **ending.oom}
                self._write(self.log, "oom", **ending.oom)
            rank = end.rank if ending is own else None
            self.together.leave(ending, is_consequence=ending is not own, step=self.status.step, oom=self._told_oom())
            self.status = self.together.with_others(self.status)
        if cause in OOM_CAUSES:
            record_ways_out(self.run, self.log, self.oom)
            if spec.on_oom == "retry":
                message = f"{message} {self._go_on(spec, cause)}".strip()
        self._finish(Ending(state, cause, message), exit_code, rank)
        if self.job is not None and (words := self.job.go_back_to_the_queue()) is not None:
            now = time.time()
            self.status = replace(self.status, state="stopped", message=words, ended=now, heartbeat=now)
            self._write(self.log, "state", state="stopped", cause=None, message=words, exit_code=exit_code)
            self._write_status()

    def _told_oom(self) -> dict[str, Any] | None:
        """Fields of the newest `oom` event, for other machines."""
        return None if self.oom is None else {name: self.oom[name] for name in self.oom if name not in ("type", "time")}

    def _finish(self, ending: Ending, exit_code: int | None, rank: int | None = None) -> None:
        """Put the end on record; `rank` is whose end it was, of several processes."""
        self.reserve.unlink(missing_ok=True)
        state, cause, message = ending.state, ending.cause, ending.message
        now = time.time()
        self.status = replace(
            self.status,
            state=state,
            cause=cause,
            message=message,
            exit_code=exit_code,
            ended=now if state in ENDED else None,
            heartbeat=now if state in ENDED else 0.0,
        )
        told = {"state": state, "cause": cause, "message": message, "exit_code": exit_code}
        self._write(self.log, "state", **told, rank=rank)
        self._write_status()

    def _ending(self, spec: RunSpec, end: ProcessEnd) -> tuple[State, Cause | None, str]:
        """State, cause and message of a trainer that has ended, with an `oom` event for one that could not write it."""
        exit_code, message = end.exit_code, end.message
        state, cause = OUTCOMES.get(exit_code, ("failed", "error"))
        who = "the trainer" if end.rank is None else f"rank {end.rank}"
        if end.oom is not None:
            self.oom = {"type": "oom", "time": round(time.time(), 3), **end.oom}
            self._write(self.log, "oom", **end.oom)
            if not is_of_the_host(self.oom, self.on_cpu):
                self._has_held(size(self.oom, "held_bytes"), end.rank or 0)
        if exit_code == -signal.SIGKILL and self.kernel.has_killed(end.pid):
            message = f"The kernel ended {who}, as the memory of this machine ran out"
            if (limit := self._group_limit_bytes()) is not None:
                message = f"The kernel ended {who}, as it had reached the {limit / 2**30:.1f} GiB of its control group"
            self._write_oom(spec, "kernel", f"{message}.", rank=end.rank)
            return state, "host-oom", f"{message}."
        if state == "failed" and not end.has_told:
            words = last_words(end.log, end.log_began)
            if words is not None:
                raised_by, message, requested = words
                self._write_oom(spec, raised_by, message, requested, end.rank)
                return state, "oom", f"Memory ran out, and {WHO_ENDED[raised_by]} ended {who}: {message}"
        if exit_code < 0:
            cause = "killed"
            message = f"{end.name} was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})."
            if exit_code == -signal.SIGKILL:
                message += " There is no sign of the kernel's OOM killer: somebody or something else sent it."
        elif state == "failed" and not message:
            message = (
                "The disk is full. Free some space, then resume."
                if cause == "disk-full"
                else f"{end.name} ended with exit code {exit_code}; {end.log.name} says more."
            )
        return state, cause, message

    def _group_limit_bytes(self) -> int | None:
        limit = None if self.kernel.group is None else self.kernel.group.limit_bytes()
        total = self.host.get("total_bytes")
        return limit if limit is not None and (total is None or limit < total) else None

    def _write_oom(
        self, spec: RunSpec, raised_by: str, message: str, requested_bytes: int | None = None, rank: int | None = None
    ) -> None:
        fields = oom_fields(
            last_state=self.status.state,
            step=self.status.step,
            host=self.host,
            trainer_pids=self.trainer_pids,
            group=self.kernel.group,
            memory_limit_bytes=spec.hardware.memory_limit_bytes if self.on_cpu else None,
            raised_by=raised_by,
            message=message,
            requested_bytes=requested_bytes,
        )
        device, ids = spec.hardware.device, spec.hardware.gpu_ids
        if rank is not None:
            device = f"cuda:{ids[rank]}" if rank < len(ids) else device
            if fields["capacity_bytes"] == spec.hardware.memory_limit_bytes:  # which is each process's own
                fields["held_bytes"] = self.rss_of_ranks.get(rank)
        gpus = (gpu for gpu in self.gpus if gpu["mig"] is None)
        gpu = next((gpu for gpu in gpus if device == f"cuda:{gpu['index']}"), None)
        if raised_by == "bitsandbytes" and gpu is not None:
            fields |= on_gpu(gpu, self.trainer_pids)
        fields |= {"rank": rank, "device": device}
        self.oom = {"type": "oom", "time": round(time.time(), 3), **fields}
        self._write(self.log, "oom", **fields)

    def _go_on(self, spec: RunSpec, cause: Cause) -> str:
        """Start the run that goes on from this one, if there is one. Returns what to say about it."""
        attempts = attempts_so_far(spec)
        if attempts >= MOST_ATTEMPTS:
            return f"It was tried anew {MOST_ATTEMPTS} times by itself, which is all: the rest is left to you."
        try:
            # What traces takes half a GiB of its own: not where that has just run out.
            choice = chosen_by_itself(self.run, self.log, self.oom, cause == "oom", self._still_to_go_on)
            if choice is None:
                return "It was asked to stop before it could be tried anew."
            if not choice.remedies:
                return "It is not tried anew: nothing that leaves training the same is predicted to fit."
            fresh = not all(remedy.continues for remedy in choice.remedies)
            ids = [remedy.id for remedy in choice.remedies]
            child = start_child(self.run, choice.changes, ids, attempt=attempts + 1, fresh=fresh)
        except NoWayOut as reason:
            return f"It is not tried anew: {reason}"
        except Exception as error:  # the end of this run has to be written all the same
            return f"It could not be tried anew: {type(error).__name__}: {error}."
        changes = {field: values for remedy in choice.remedies for field, values in remedy.changes.items()}
        self._write(self.log, "retry", attempt=attempts + 1, child=child.id, remedies=ids, changes=changes)
        self.status = replace(self.status, continued_by=child.id)
        return f"It goes on by itself as {child.id}: {changes_in_words(changes)}."

    def _still_to_go_on(self) -> bool:
        """Called each second while prices are traced."""
        self._beat()
        return not self.is_to_stop and "stop" not in control.pending(self.run.control_folder)

    def _write_status(self) -> None:
        try:
            self.run.write_status(self.status)
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise
            # The next second tries again; at the end the reserve has made room.

    def _write(self, file: EventWriter, type: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk costs a sample, not the run
            file.write(type, **fields)

    def _pass_on_as_stop(self, number: int, _frame: FrameType | None) -> None:
        self.is_to_stop = True
        if self.job is not None:
            self.job.notice(number)
        if self.ranks is not None:
            # The launcher would give its processes half a minute to end, however long their step and their save take.
            with contextlib.suppress(OSError):
                control.send(self.run.control_folder, "stop")
        elif self.trainer is not None:
            self.trainer.send_signal(signal.SIGTERM)


def _held_on_gpus(gpus: list[dict[str, Any]], pids: set[int]) -> int | None:
    held = [
        p["used_bytes"] for gpu in gpus for p in gpu["processes"] if p["pid"] in pids and p["used_bytes"] is not None
    ]
    return sum(held) if held else None


def main() -> None:
    run = Run(Path(sys.argv[1]))
    job = InsideJob.of(run)
    # The lock of a job is kept by this frame: closed, it would be free.
    lock = taken_over(run, job) if len(sys.argv) == 2 else None
    if job is not None:
        control.clear(run.control_folder)  # of a job that went back to the queue: what stopped it then is over
    elif run.written_status().waits_here and not wait_for_turn(run):
        return
    supervisor = Supervisor(run, int(sys.argv[2]) if lock is None else lock.fileno(), job)
    try:
        state = supervisor.supervise()
    except Exception as error:
        # The trace goes to supervisor.log; the run itself must not look alive for ever.
        now = time.time()
        run.write_status(
            replace(
                supervisor.status,
                state="failed",
                cause="error",
                message=f"The supervisor failed: {error}. {run.supervisor_log_path.name} says more.",
                ended=now,
                heartbeat=now,
            )
        )
        raise
    if job is not None and state == "failed":
        sys.exit(1)  # for Slurm's own records


if __name__ == "__main__":
    main()
