"""What a run's supervisor does otherwise when it is itself the batch script of a Slurm job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO

from engine.checks import InvalidSpec, read_spec
from engine.runs.store import Cause, Run, State
from engine.slurm import commands
from engine.slurm.commands import SlurmError
from engine.slurm.record import SlurmJob, read_job, write_job
from engine.slurm.settings import SlurmSettings

LOCK_PATIENCE_S = 30.0
"""Who submitted the run may hold its lock for as long as sbatch takes."""


@dataclass
class InsideJob:
    """The job that this process is."""

    job_id: str
    restarts: int
    """How often Slurm had put the job back when it began."""
    settings: SlurmSettings
    first_step: int
    """The step that training goes on from."""
    is_time_up: bool = False
    was_ended: bool = False
    """Whether Slurm, or a person by way of Slurm, sent SIGTERM."""
    is_to_requeue: bool = field(default=False, init=False)

    @classmethod
    def of(cls, run: Run, environment: Mapping[str, str] = os.environ) -> InsideJob | None:
        """The job of this process; None outside of one, and where its run is not submitted to Slurm."""
        try:
            hardware = read_spec(run.spec_path).hardware
        except InvalidSpec:  # the supervisor says so
            return None
        job_id = environment.get("SLURM_JOB_ID", "")
        if hardware.launcher != "slurm" or not job_id.isdigit():
            return None
        return cls(job_id, int(environment.get("SLURM_RESTART_COUNT") or 0), hardware.slurm_settings, run.newest_step())

    def notice(self, number: int) -> None:
        """A signal has come: both mean to stop, and this is why."""
        if number == signal.SIGUSR1:
            self.is_time_up = True
        elif number == signal.SIGTERM:
            self.was_ended = True

    def ending(
        self, state: State, cause: Cause | None, message: str, exit_code: int, step: int
    ) -> tuple[State, Cause | None, str]:
        """How the run ended, or that it goes on, given how its trainer ended."""
        job = f"Slurm job {self.job_id}"
        if exit_code == -signal.SIGTERM and (self.was_ended or self.is_time_up):
            state, cause = "stopped", None  # it was still importing libraries, and took the signal as everybody does
        if state != "stopped":
            return state, cause, message
        if self.is_time_up:
            near = f"The time limit of {job} was near: stopped after step {step:,}, with a checkpoint"
            if not self.settings.requeue:
                return state, cause, f"{near}."
            if step <= self.first_step:
                return state, cause, f"The time limit of {job} left no time to train a step: give it more."
            self.is_to_requeue = True
            return "queued", None, f"{near}. The job goes back to the queue."
        if self.was_ended:
            with suppress(SlurmError):
                if (commands.restarts(self.job_id) or 0) > self.restarts:
                    return "queued", None, f"Slurm has put job {self.job_id} back in the queue, after step {step:,}."
                seen = commands.look(self.job_id)
                if seen is None or seen.state != "RUNNING":
                    return state, cause, f"{job} was cancelled after step {step:,}: a checkpoint is saved."
        return state, cause, message

    def go_back_to_the_queue(self) -> str | None:
        """Have Slurm put the job back, where `ending` said so. Returns why it could not be; None if all is well.

        Slurm ends this process for it: nothing may be left to write.
        """
        if not self.is_to_requeue:
            return None
        try:
            commands.requeue(self.job_id)
        except SlurmError as error:
            return f"The time limit of Slurm job {self.job_id} was near, and it could not be put back: {error}."
        return None


def taken_over(run: Run, job: InsideJob | None) -> IO[bytes]:
    """The run's lock, with `status.json` saying that this host starts it. Raises RunBusy, OSError.

    `slurm.json` names the job too: a person may have submitted the script by hand, or requeued a job that had ended.
    """
    lock = run.lock(LOCK_PATIENCE_S)
    now = time.time()
    if job is not None:
        known = read_job(run)
        if known is None or known.job_id != job.job_id:
            known = SlurmJob(job.job_id, now)
        write_job(run, replace(known, ended=False))
    run.write_status(
        replace(
            run.written_status(),
            state="starting",
            cause=None,
            message="",
            started=now,
            heartbeat=now,
            ended=None,
            exit_code=None,
            host=os.uname().nodename,
            supervisor_pid=os.getpid(),
            trainer_pid=None,
        )
    )
    return lock


def given_gpus(devices: Sequence[str | int], environment: Mapping[str, str]) -> dict[str, str]:
    """What the trainer has to see where Slurm gave this job its GPUs: `cuda:0` is the first of those, not the node's.

    `devices` are those of a resolved spec, names or numbers; `environment` the job's.
    """
    given = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    numbers = [str(device).removeprefix("cuda:") for device in devices]
    if "SLURM_JOB_ID" not in environment or any(not n.isdigit() or int(n) >= len(given) for n in numbers):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(given[int(number)] for number in numbers)}
