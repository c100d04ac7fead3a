"""The process that watches a run's job from outside: `python -m engine.slurm.watcher RUN_DIR`, detached.

While the job waits it keeps the reason and the place in `status.json`. While it runs, its supervisor writes that file,
and this only looks whether Slurm still knows the job. When the job has ended and its supervisor did not live to say
how, this says it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from engine.runs.events import EventWriter
from engine.runs.store import ENDED, Run, RunBusy, RunStatus
from engine.slurm import commands, words
from engine.slurm.commands import Queued, SlurmError
from engine.slurm.record import SlurmJob, read_job, write_job
from engine.slurm.script import OUTPUT
from engine.slurm.watching import watcher_lock

QUICK_S, STEADY_S, SLOW_S = 1.0, 10.0, 30.0
"""Between two looks: in the first half minute, in the first quarter of an hour, later. All users' looks add up."""
LOCK_PATIENCE_S = 0.2
SETTLE_S = 5.0
"""A file that was written on another host may take as long to be seen here (NFS keeps attributes for some seconds)."""
SILENT_AFTER_S = 3600.0
"""A controller that has not answered for so long is said to be silent, in the run's message."""
GIVEN_UP_AFTER_S = 24 * 3600.0
"""Then the watcher ends; who looks at the run starts another."""
TAIL_BYTES = 4096


def watch(run: Run) -> None:
    """Stay until the run's job has ended. Returns at once if somebody else watches it."""
    lock = watcher_lock(run)
    if lock is None:
        return
    began = answered = time.monotonic()
    job_id: str | None = None
    while (job := read_job(run)) is not None and not job.ended and run.folder.exists():
        if job.job_id != job_id:
            job_id, began = job.job_id, time.monotonic()
        try:
            seen = commands.look(job.job_id)
            answered = time.monotonic()
        except SlurmError as error:
            if time.monotonic() - answered > SILENT_AFTER_S:
                _say_while_queued(run, f"Slurm does not answer: {error}")
            if time.monotonic() - answered > GIVEN_UP_AFTER_S:
                return
            time.sleep(STEADY_S)
            continue
        if seen is None or seen.has_ended:
            if conclude(run, job):
                continue
        elif seen.is_waiting:
            _note(run, job, seen)
        elif seen.state != "COMPLETING":
            _say_while_queued(run, words.starts(job.job_id, seen))
        time.sleep(_pace_s(time.monotonic() - began, seen))


def conclude(run: Run, job: SlurmJob) -> bool:
    """Tell the end of a run whose job has ended, if its supervisor has not. Returns whether that is settled."""
    end = commands.how_it_ended(job.job_id)
    if run.read_status().host not in ("", os.uname().nodename):
        time.sleep(SETTLE_S)
    try:
        lock = run.lock(LOCK_PATIENCE_S)
    except RunBusy:  # its supervisor writes its last words
        return False
    with lock:
        if (newest := read_job(run)) is None or newest.job_id != job.job_id:
            return True  # it was submitted again meanwhile
        status = run.written_status()
        if status.state not in ENDED or status.state == "lost":
            was_running = status.state != "queued"
            state, cause, message = words.how_it_ended(
                job.job_id, end, newest.stop_asked, was_running, _last_line(run, job)
            )
            now = time.time()
            ended = replace(status, state=state, cause=cause, message=message, ended=now, heartbeat=now)
            _tell(run, ended, exit_code=None)
        write_job(run, replace(newest, ended=True))
    return True


def _note(run: Run, job: SlurmJob, seen: Queued) -> None:
    """Why the job waits, on record. A run whose job Slurm has put back is queued again."""
    place = commands.place(job.job_id, seen.partition)
    message = words.why_it_waits(job.job_id, seen, place, time.time())
    try:
        lock = run.lock(LOCK_PATIENCE_S)
    except RunBusy:  # a supervisor of a job that is just beginning, or ending
        return
    with lock:
        status = run.written_status()
        if status.state == "queued":
            if status.message != message:
                run.write_status(replace(status, message=message))
            return
        if status.state == "finished" or (newest := read_job(run)) is None or newest.job_id != job.job_id:
            return
        again = replace(
            status, state="queued", cause=None, message=message, ended=None, exit_code=None, heartbeat=0.0,
            supervisor_pid=None, trainer_pid=None,
        )  # fmt: skip
        _tell(run, again, job_id=job.job_id)


def _say_while_queued(run: Run, message: str) -> None:
    try:
        lock = run.lock(LOCK_PATIENCE_S)
    except RunBusy:
        return
    with lock:
        status = run.written_status()
        if status.state == "queued" and status.message != message:
            run.write_status(replace(status, message=message))


def _tell(run: Run, status: RunStatus, **fields: object) -> None:
    """Write a new state, as an event too. The caller holds the run's lock."""
    log = EventWriter(run.supervisor_events_path)
    log.write("state", state=status.state, cause=status.cause, message=status.message, **fields)
    log.close()
    run.write_status(status)


def _last_line(run: Run, job: SlurmJob) -> str:
    """The last line that the job printed, or its supervisor; empty if there is none."""
    try:
        with open(run.folder / OUTPUT.format(job=job.job_id), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _pace_s(age_s: float, seen: Queued | None) -> float:
    if age_s < 30 or (seen is not None and seen.state == "COMPLETING"):
        return QUICK_S
    return STEADY_S if age_s < 900 else SLOW_S


if __name__ == "__main__":
    watch(Run(Path(sys.argv[1])))
