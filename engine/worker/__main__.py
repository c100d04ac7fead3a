"""Entry of every worker process. A task's module, and with it torch, is imported only when it is asked for."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.worker.pipes import own_pipes

ANSWERING = ("inspect", "data", "chat", "export", "merge", "evaluate", "lm_eval")
"""Tasks that are asked in lines on stdin, and answer in lines on stdout."""
TASKS = ("train RUN_DIR", "launch OPTIONS", "convert GGUF FOLDER", "probe", *ANSWERING)


def main(arguments: list[str]) -> int:
    task, *rest = arguments or [""]
    if task in ANSWERING:
        own_pipes()
    with quick_imports():
        start = entry(task, rest)
    if start is None:
        print(f"usage: python -m engine.worker {' | '.join(TASKS)}", file=sys.stderr)
        return 2
    return start()


@contextmanager
def quick_imports() -> Iterator[None]:
    """The libraries make half a million objects that stay. To look through all of them again and again while they are
    imported takes an eighth of that time, and each time later 0.2 s."""
    usual = gc.get_threshold()
    gc.set_threshold(10_000, 100, 1_000)
    yield
    gc.freeze()
    gc.set_threshold(*usual)


def entry(task: str, rest: list[str]) -> Callable[[], int] | None:
    """What begins `task`, with all imported that it needs; None if there is no such task."""
    if task == "train":
        # A stop that arrives while torch is still being imported must count, so signals are taken first; and of several
        # processes the supervisor follows each from its beginning.
        from engine.runs.store import Run
        from engine.worker.ranks import Place, Ranks
        from engine.worker.requests import take_signals

        take_signals()
        run = Run(Path(rest[0]))
        ranks = Ranks(run, Place.of(os.environ))
        from engine.worker.train import main as train

        return lambda: train(run, ranks)
    if task == "launch":
        from engine.worker.launching import main as launch

        return lambda: launch(rest)
    if task == "convert":
        from engine.worker.convert import main as convert

        return lambda: convert(rest)
    if task == "probe":
        from engine.worker.probe import main as probe

        return lambda: probe(rest)
    if task == "inspect":
        from engine.worker.serve import main as serve

        return serve
    if task == "data":
        from engine.worker.data.main import main as data

        return data
    if task == "chat":
        from engine.worker.chat.main import main as chat

        return chat
    if task == "export":
        from engine.worker.export.task import main as export

        return export
    if task == "merge":
        from engine.worker.merging.task import main as merge

        return merge
    if task == "evaluate":
        from engine.worker.evaluation.task import main as evaluate

        return evaluate
    if task == "lm_eval":
        from engine.worker.evaluation.harness import main as lm_eval

        return lm_eval
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
