"""Asking a run to stop that is a Slurm job: one that waits leaves the queue, one that runs saves and ends."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from engine.runs import control
from engine.runs.store import Run
from engine.slurm import commands
from engine.slurm.commands import SlurmError
from engine.slurm.record import SlurmJob, write_job
from engine.slurm.watcher import conclude


def stop(run: Run, job: SlurmJob) -> None:
    """Stop the job's run. Raises SlurmError where Slurm cannot be asked, OSError where the folder cannot be written."""
    write_job(run, replace(job, stop_asked=True))
    if run.read_status().state == "queued":
        with suppress(SlurmError):  # it has begun by now: it is told so below
            commands.cancel(job.job_id, only_waiting=True)
        seen = commands.look(job.job_id)
        if seen is None or seen.has_ended:
            conclude(run, replace(job, stop_asked=True))
            return
    control.send(run.control_folder, "stop")
    with suppress(SlurmError):  # the file is enough, where the folder is shared
        commands.signal_batch(job.job_id, "TERM")
