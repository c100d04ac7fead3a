"""Whether somebody watches a run's job, and starting who does."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from typing import IO

from engine.runs.store import ENDED, NO_LOCKS, Run, RunStatus
from engine.slurm.record import read_job

AGAIN_S = 30.0
"""A watcher that cannot be kept alive is not started more often."""

_started: dict[str, float] = {}


def start_watcher(run: Run) -> None:
    """Start the watcher of a run's job, detached from this terminal. Where there is one already, it ends at once."""
    _started[str(run.folder)] = time.monotonic()
    with open(run.folder / "slurm-watcher.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "engine.slurm.watcher", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=run.folder,
        )


def keep_watched(run: Run, status: RunStatus) -> None:
    """Start a watcher where one is needed and there is none: after a restart of this machine, say.

    Whoever shows a run calls this with its status. It costs next to nothing where the run is no job that waits.
    """
    if status.state in ENDED and status.state != "lost":
        return
    last = _started.get(str(run.folder))
    if last is not None and time.monotonic() - last < AGAIN_S:
        return
    job = read_job(run)
    if job is None or job.ended:
        return
    try:
        lock = watcher_lock(run)
    except OSError:
        return
    if lock is not None:
        lock.close()
        start_watcher(run)


def watcher_lock(run: Run) -> IO[bytes] | None:
    """The watcher's own lock, to be held open; None if another holds it. Without flock there may be two: they agree."""
    lock = open(run.folder / "slurm-watcher.lock", "ab")  # noqa: SIM115  (outlives this call: it is the lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            lock.close()
            raise
    return lock
