"""The work of a scan shared out over processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized

from engine.worker.data.check import Job, Part, Told, check_pieces
from engine.worker.data.parent import end_with_parent
from engine.worker.data.tables import Piece

PROGRESS_PERIOD_S = 0.1

_shared: tuple[Job, Synchronized[int]] | None = None
"""Of a helper process: what it was started for."""


def _begin(job: Job, done: Synchronized[int]) -> None:
    global _shared
    _shared = job, done
    end_with_parent(signal.SIGKILL)


def _do_shared(number: int, task: list[Piece]) -> Part:
    assert _shared is not None
    job, done = _shared
    before = 0

    def add(so_far: int) -> None:
        nonlocal before
        with done.get_lock():
            done.value += so_far - before
        before = so_far

    told = Told(add)
    part = check_pieces(job, number, task, told.add)
    told.flush()
    return part


def check_in_processes(job: Job, tasks: list[list[Piece]], processes: int, tell: Callable[[int], None]) -> list[Part]:
    """What each task found, in their order. Raises SourceError, OSError, and MemoryError where a process was killed."""
    # Nothing here has started a thread by now, so that forking is safe, and costs no second import of Arrow.
    context = multiprocessing.get_context("fork")
    done: Synchronized[int] = context.Value("q", 0)
    with ProcessPoolExecutor(processes, context, _begin, (job, done)) as pool:
        try:
            futures = [pool.submit(_do_shared, number, task) for number, task in enumerate(tasks)]
            left = set(futures)
            while left:
                finished, left = wait(left, PROGRESS_PERIOD_S, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                tell(done.value)
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise MemoryError from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
