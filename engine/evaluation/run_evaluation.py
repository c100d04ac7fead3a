"""One evaluation of an adapter against its base, from what is asked to what is kept."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

from engine.checks import InvalidSpec, Problem
from engine.evaluation.asked import Options, Progress
from engine.evaluation.benchmark_set import BenchmarkSet, read_benchmark
from engine.evaluation.results import Evaluation, keep
from engine.evaluation.work import Work
from engine.jobs.device import on_device
from engine.jobs.process import JobCancelled
from engine.jobs.subject import Subject

__all__ = ["Options", "Progress", "evaluate"]


def evaluate(
    subject: Subject,
    options: Options,
    on_event: Callable[[Progress], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Evaluation:
    """Evaluate and keep it in the run's folder. `on_event` is called from the calling thread.

    Raises InvalidSpec for what is asked wrongly (the benchmark's problems among it, or nothing to evaluate on),
    JobFailed, JobCancelled (nothing is left), OSError.
    """
    began_s = time.monotonic()
    benchmark = None
    if options.benchmark is not None:
        benchmark = read_benchmark(options.benchmark, options.scorer).first(options.limit)
    _check(subject, options, benchmark)
    if not os.access(subject.run.folder, os.W_OK):  # known now, and not when all is done
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(subject.run.folder))
    subject = replace(subject, spec=on_device(subject.spec, options.device))
    work = Work(subject, options, benchmark, on_event, is_cancelled)
    # A task that does not exist is known in seconds, before other rows have taken hours. With a limit these go first.
    if options.tasks and options.time_limit_s is None:
        work.measure_tasks()
    work.measure()
    if options.tasks and options.time_limit_s is not None:
        work.measure_tasks()
    compared = work.compared()
    evaluation = Evaluation(
        id="",
        run_id=subject.run.id,
        step=subject.step,
        model=subject.spec.model.name_or_path,
        adapter=str(subject.adapter),
        created=time.time(),
        parts=tuple(part for part, _ in compared),
        settings=work.settings(),
        versions=work.versions,
        seconds={**work.seconds, "total": round(time.monotonic() - began_s, 2)},
        base_from_cache=work.known.is_all_known,
        timed_out=work.timed_out,
    )

    def go_on() -> None:
        if is_cancelled is not None and is_cancelled():
            raise JobCancelled

    go_on()
    return keep(subject.run, evaluation, [row for _, rows in compared for row in rows], go_on)


def _check(subject: Subject, options: Options, benchmark: BenchmarkSet | None) -> None:
    """Raises InvalidSpec where there would be nothing that tells whether it learnt."""
    if options.scorer is not None and benchmark is None:
        raise InvalidSpec([Problem("--scorer", "there is no benchmark to score", "name one with --benchmark")])
    if options.include_path is not None and not options.include_path.is_dir():
        raise InvalidSpec([Problem("--include-path", f"{options.include_path} is no folder", "name one of task files")])
    if options.include_path is not None and not options.tasks:
        raise InvalidSpec([Problem("--include-path", "no task is named", "name tasks of its files with --tasks")])
    if options.tasks and find_spec("lm_eval") is None:
        raise InvalidSpec([Problem("--tasks", "lm-eval is not installed here", "pip install 'loradeck[lm-eval]'")])
    if benchmark is not None or options.tasks or (options.held_out and subject.spec.has_eval):
        return
    if options.held_out:
        raise InvalidSpec(
            [
                Problem(
                    subject.run.id,
                    "it held out no rows, and no benchmark is named: nothing can show whether it learnt",
                    "name rows that it was not trained on with --benchmark, or hold rows out in the next run with "
                    "data.eval or data.eval_fraction; --no-held-out measures forgetting alone",
                )
            ]
        )
    if not options.general_text:
        raise InvalidSpec([Problem("eval", "nothing is left to evaluate on", "leave out --no-general-text")])
