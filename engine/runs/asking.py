"""Asking a run for something, wherever it runs."""

from __future__ import annotations

import time

from engine.runs import control
from engine.runs.store import Run

LEAVING_S = 10.0
"""A run that waits here looks for requests once a second, as soon as its supervisor is up."""


def ask(run: Run, request: control.Request) -> None:
    """Ask `run` for `request`. A run that waits in a queue leaves it when it is asked to stop: of this machine's, that
    is waited for.

    Raises OSError where the request cannot be left in the run's folder, SlurmError where Slurm cannot be asked.
    """
    if request == "stop":
        from engine.slurm.record import read_job

        if (job := read_job(run)) is not None and not job.ended:
            from engine.slurm.stopping import stop

            stop(run, job)
            return
    control.send(run.control_folder, request)
    deadline = time.monotonic() + LEAVING_S
    while request == "stop" and run.read_status().waits_here and time.monotonic() < deadline:
        time.sleep(0.05)
