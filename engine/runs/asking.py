"""Asking a run for something, wherever it runs."""

from __future__ import annotations

from engine.runs import control
from engine.runs.store import Run


def ask(run: Run, request: control.Request) -> None:
    """Ask `run` for `request`. A run that waits in Slurm's queue leaves it at once when it is asked to stop.

    Raises OSError where the request cannot be left in the run's folder, SlurmError where Slurm cannot be asked.
    """
    if request == "stop":
        from engine.slurm.record import read_job

        if (job := read_job(run)) is not None and not job.ended:
            from engine.slurm.stopping import stop

            stop(run, job)
            return
    control.send(run.control_folder, request)
