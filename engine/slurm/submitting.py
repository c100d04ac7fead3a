"""Handing a run over to Slurm, in place of starting its supervisor here."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.store import Run, write_atomically
from engine.slurm import commands
from engine.slurm.commands import SlurmError
from engine.slurm.record import SlurmJob, read_job, write_job
from engine.slurm.script import job_script, script_path
from engine.slurm.settings import SlurmSettings
from engine.slurm.watching import start_watcher


def submit(run: Run, settings: SlurmSettings) -> SlurmJob:
    """Submit `run`; the caller holds its lock. From then on the run is `queued`, and a watcher says why it waits.

    Raises SlurmError if it cannot be submitted, and then the run is as it was before; OSError where its folder cannot
    be written.
    """
    if (reason := commands.missing()) is not None:
        raise SlurmError(f"{reason}: the run cannot be submitted from here")
    if (earlier := read_job(run)) is not None and not earlier.ended:
        with suppress(SlurmError):  # an earlier job that Slurm put back must not train in this folder too
            commands.cancel(earlier.job_id)
    write_atomically(script_path(run), job_script(run, settings).encode())
    before = run.read_status()
    control.clear(run.control_folder)
    now = time.time()
    # Written before the job can begin: from then on the file is its supervisor's.
    run.write_status(
        replace(
            before,
            state="queued",
            cause=None,
            message="",
            started=now,
            heartbeat=0.0,
            ended=None,
            exit_code=None,
            host="",
            supervisor_pid=None,
            trainer_pid=None,
        )
    )
    try:
        job = SlurmJob(commands.submit(script_path(run)), now)
    except SlurmError:
        run.write_status(before)
        raise
    write_job(run, job)
    log = EventWriter(run.supervisor_events_path)
    log.write("state", state="queued", job_id=job.job_id)
    log.close()
    start_watcher(run)
    return job
