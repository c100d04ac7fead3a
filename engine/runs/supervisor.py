"""The process beside a trainer: `python -m engine.runs.supervisor RUN_DIR LOCK_FD`, detached, without torch.

It inherits the run's lock, starts the trainer, samples the hardware once a second, keeps `status.json` true, and
records how the trainer really ended, whatever ended it.
"""

from __future__ import annotations

import contextlib
import errno
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
from engine.runs import control
from engine.runs.events import Event, EventTail, EventWriter
from engine.runs.launch import trainer_command
from engine.runs.store import ENDED, Cause, Run, State

PERIOD_S = 1.0
RESERVE_BYTES = 64 * 1024
"""Set aside at the start, so that the end can be written even when the disk is full."""

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

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Supervisor:
    """One run's supervisor, from the trainer's start to its end."""

    def __init__(self, run: Run, lock_fd: int) -> None:
        self.run = run
        self.lock_fd = lock_fd
        self.status = replace(run.read_status(), state="starting", supervisor_pid=os.getpid(), started=time.time())
        self.log = EventWriter(run.supervisor_events_path)
        self.hardware = EventWriter(run.hardware_path)
        # What an earlier trainer of this run wrote is history: only new events tell this one's state.
        already = run.events_path.stat().st_size if run.events_path.exists() else 0
        self.events = EventTail(run.events_path, offset=already)
        self.reserve = run.folder / ".reserve"
        self.trainer: subprocess.Popen[bytes] | None = None

    def supervise(self) -> State:
        """Start the trainer and stay until it ends. Returns the run's final state."""
        self.reserve.write_bytes(b"\0" * RESERVE_BYTES)
        control.clear(self.run.control_folder)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on_as_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        oom_kills_before = _oom_kills()
        self._write(self.log, "state", state="starting", pid=os.getpid())
        command = trainer_command(self.run, read_spec(self.run.spec_path))
        with open(self.run.log_path, "ab") as log:
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
        self._end(exit_code, killed_by_kernel=exit_code == -signal.SIGKILL and _oom_kills() > oom_kills_before)
        return self.status.state

    def _watch(self, trainer: subprocess.Popen[bytes]) -> int:
        self.status = replace(self.status, trainer_pid=trainer.pid)
        while True:
            self._sample(trainer.pid)
            self._take_in(self.events.read())
            self.status = replace(self.status, heartbeat=time.time())
            self._write_status()
            try:
                return trainer.wait(PERIOD_S)
            except subprocess.TimeoutExpired:
                continue

    def _sample(self, trainer_pid: int) -> None:
        fields, pids = sample(trainer_pid), process_tree(trainer_pid)
        self._write(self.hardware, "hardware", **fields, trainer_pids=sorted(pids))
        held_bytes = _held_on_gpus(fields["gpus"], pids) or fields["host"]["trainer_rss_bytes"]
        if held_bytes is not None and held_bytes > (self.status.peak_bytes or 0):
            self.status = replace(self.status, peak_bytes=held_bytes)

    def _take_in(self, events: list[Event]) -> None:
        status = self.status
        for event in events:
            if event["type"] == "state" and event["state"] not in ENDED:
                status = replace(status, state=event["state"])
            elif event["type"] == "state":
                status = replace(status, message=event.get("message") or "")
            elif event["type"] == "plan":
                status = replace(status, total_steps=event["total_steps"])
            elif event["type"] == "step":
                status = replace(status, step=event["step"], epoch=event["epoch"], loss=event["loss"])
            elif event["type"] == "eval":
                status = replace(status, eval_loss=event["eval_loss"])
        self.status = status

    def _end(self, exit_code: int, killed_by_kernel: bool) -> None:
        state, cause = OUTCOMES.get(exit_code, ("failed", "error"))
        message = self.status.message
        if killed_by_kernel:
            cause = "host-oom"
            message = "The kernel killed the trainer because the host's memory ran out."
        elif exit_code < 0:
            cause = "killed"
            message = f"The trainer was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})."
        elif state == "failed" and not message:
            message = (
                "The disk is full. Free some space, then resume."
                if cause == "disk-full"
                else f"The trainer ended with exit code {exit_code}; trainer.log says more."
            )
        now = time.time()
        self.status = replace(
            self.status,
            state=state,
            cause=cause,
            message=message,
            exit_code=exit_code,
            ended=now,
            heartbeat=now,
        )
        self.reserve.unlink(missing_ok=True)
        self._write(self.log, "state", state=state, cause=cause, message=message, exit_code=exit_code)
        self._write_status()

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

    def _pass_on_as_stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.trainer is not None:
            self.trainer.send_signal(signal.SIGTERM)


def _held_on_gpus(gpus: list[dict[str, Any]], pids: set[int]) -> int | None:
    held = [
        p["used_bytes"] for gpu in gpus for p in gpu["processes"] if p["pid"] in pids and p["used_bytes"] is not None
    ]
    return sum(held) if held else None


def _oom_kills() -> int:
    """How many processes of this cgroup the kernel's OOM killer has ended (cgroup v2; 0 where that cannot be read)."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        for line in (Path("/sys/fs/cgroup") / own / "memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except (OSError, ValueError):
        pass
    return 0


def main() -> None:
    run = Run(Path(sys.argv[1]))
    supervisor = Supervisor(run, int(sys.argv[2]))
    try:
        supervisor.supervise()
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


if __name__ == "__main__":
    main()
