"""Evaluations that are going on: they outlive the screen that started them, and end with the app."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from textual.app import App

from engine.jobs.process import JobCancelled
from tui.background import in_background

if TYPE_CHECKING:  # closing the app asks this module, and need not import what evaluates
    from engine.evaluation.asked import Progress
    from engine.evaluation.results import Evaluation
    from engine.runs.store import Run
    from tui.evaluating.asked import Asked

    Evaluate = Callable[[Run, Asked, Callable[[Progress], None], Callable[[], bool]], Evaluation]
    """Evaluates a run as asked. Raises JobCancelled, or what it failed of."""


class UnderWay:
    """One evaluation in a thread of its own. Everything here may be read from any thread."""

    def __init__(self, run: Run, asked: Asked, goes_on: Callable[[], bool]) -> None:
        self.run = run
        self.asked = asked
        self.progress: Progress | None = None
        """How far it is; None before the model is being loaded."""
        self.evaluation: Evaluation | None = None
        """What came of it."""
        self.failure = ""
        """Why nothing came of it, for a person; empty also where it was stopped."""
        self.began_s = time.monotonic()
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._goes_on = goes_on

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def is_stopping(self) -> bool:
        return self._stopped.is_set() and not self.has_ended

    def stop(self) -> None:
        """End it soon; nothing of it is kept."""
        self._stopped.set()

    def work(self, evaluate: Evaluate) -> None:
        """Do it; returns when it has ended, whatever came of it."""
        try:
            self.evaluation = evaluate(self.run, self.asked, self._tell, self._is_cancelled)
        except JobCancelled:
            pass
        except Exception as error:  # whatever it is: a person who waits has to be told that it ended
            from tui.evaluating.for_real import failure_words

            self.failure = failure_words(error)
        finally:
            self._ended.set()

    def _tell(self, progress: Progress) -> None:
        self.progress = progress

    def _is_cancelled(self) -> bool:
        return self._stopped.is_set() or not self._goes_on()


_of_app: WeakKeyDictionary[App[Any], dict[Path, UnderWay]] = WeakKeyDictionary()


def under_way(app: App[Any], run: Run) -> UnderWay | None:
    """The evaluation of `run` that was started last in this app."""
    return _of_app.get(app, {}).get(run.folder)


def any_under_way(app: App[Any]) -> list[UnderWay]:
    """Evaluations that have not ended."""
    return [work for work in _of_app.get(app, {}).values() if not work.has_ended]


def begin(app: App[Any], run: Run, asked: Asked, on_end: Callable[[UnderWay], None], evaluate: Evaluate) -> UnderWay:
    """Start evaluating `run` in the background; `on_end` is called from there."""
    kept = ref(app)
    started = UnderWay(run, asked, lambda: (still := kept()) is not None and still.is_running)
    _of_app.setdefault(app, {})[run.folder] = started

    def work() -> None:
        started.work(evaluate)
        on_end(started)

    in_background(work, "evaluation")
    return started
