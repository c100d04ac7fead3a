"""Watching a run from the command line, to its end, without the app."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from engine.memory.outcomes.comparison import compared
from engine.runs.asking import ask
from engine.runs.events import Event, EventTail
from engine.runs.last_events import last_events
from engine.runs.store import ENDED, Run, RunStatus, runs_folder
from engine.slurm.commands import SlurmError

POLL_S = 0.25
QUEUE_S = 60.0
"""A run in this machine's queue tells what it waits for so often, if its place is the same."""
MEMORY_WHEN = {"end": "at the end", "preflight": "in the preflight"}
PLAIN_LINES = 20
"""Progress lines of a whole run where there is no terminal to draw a bar on."""


class LeftRunning(Exception):
    """The person stopped watching; the run goes on."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.id)
        self.run = run


def follow(run: Run, console: Console) -> tuple[Run, RunStatus]:
    """Show `run` until it ends, and after it the runs that go on from it by themselves.

    Returns the last of them and its last status. Ctrl-C asks the run to stop; a second one raises LeftRunning.
    """
    with _shown(console) as view:
        while True:
            status = _to_its_end(run, view)
            child = goes_on_by_itself(run, status)
            if child is None:
                return run, status
            view.say(status.message, "yellow")
            run = child


def goes_on_by_itself(run: Run, status: RunStatus) -> Run | None:
    """The run that the supervisor of `run` has started to go on from it; None where it started none.

    One that a person has started is another matter: whoever watches this run need not care for it.
    """
    if status.continued_by is None:
        return None
    retry = last_events(run.supervisor_events_path, ["retry"]).get("retry")
    if retry is None or retry.get("child") != status.continued_by:
        return None
    for folder in (run.folder.parent, runs_folder()):
        child = Run(folder / status.continued_by)
        if child.status_path.exists():
            return child
    return None


def _to_its_end(run: Run, view: _View) -> RunStatus:
    tail = EventTail(run.events_path, offset=_where_this_trainer_begins(run))
    asked_to_stop = False
    while True:
        try:
            status = run.read_status()
            for event in tail.read():
                view.show(event)
            view.at(status)
            if status.state in ENDED:
                return status
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            if asked_to_stop:
                raise LeftRunning(run) from None
            asked_to_stop = True
            try:
                ask(run, "stop")
            except SlurmError as error:
                view.say(f"Slurm could not be asked to stop it: {error}", "red")
                continue
            if run.read_status().state not in ENDED:  # one that was queued is stopped at once
                view.say("Stopping after this step, with a checkpoint. Ctrl-C again leaves it to itself.", "yellow")


def _where_this_trainer_begins(run: Run) -> int:
    """Offset in events.jsonl from which on the events are worth telling: a resumed run's history is not news."""
    try:
        history = run.events_path.read_bytes()
    except FileNotFoundError:
        return 0
    return max(history.rfind(b'{"type": "state"', 0, history.rfind(b'"state": "loading"') + 1), 0)


class _View:
    """A bar at the bottom and lines above it; lines alone where there is no terminal."""

    def __init__(self, console: Console, progress: Progress, task: TaskID) -> None:
        self.console = console
        self.progress = progress
        self.task = task
        self.total: int | None = None
        self.told_of_waiting = RunStatus()
        """The status of which it was said last why the run waits."""
        self.told_at = 0.0

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(printable(text), style=style))

    def at(self, status: RunStatus) -> None:
        doing = status.state if status.state != "training" or status.step == 0 else ""
        self.progress.update(self.task, doing=doing)
        told, now = self.told_of_waiting, time.monotonic()
        if status.state not in ("queued", "starting") or status.message in ("", told.message):
            return
        # A card's memory, which the message tells too, may change every second.
        if status.place is None or status.place != told.place or now - self.told_at > QUEUE_S:
            self.told_of_waiting, self.told_at = status, now
            self.say(status.message, "dim")

    def show(self, event: Event) -> None:
        kind = event["type"]
        if kind == "plan":
            self.total = event["total_steps"]
            trained = f"{event['trainable_parameters']:,} of {event['total_parameters']:,} parameters"
            processes, device = event.get("processes") or 1, event["device"]
            where = f"on {device}" if processes == 1 else f"in {processes} processes, {_on(device, event)}"
            self.say(
                f"{self.total:,} steps, {event['train_rows']:,} rows, effective batch {event['effective_batch_size']}, "
                f"training {trained} {where} ({', '.join(event['notes'])})"
            )
            self.progress.update(self.task, total=self.total)
        elif kind == "step":
            self._step(event)
        elif kind == "eval":
            self.say(f"step {event['step']:,}: held-out loss {_number(event['eval_loss'])}", "cyan")
        elif kind == "memory":
            if (comparison := compared(event)) is not None:
                when = MEMORY_WHEN.get(str(event.get("when")), "after the first step")
                self.say(f"memory {when}: {comparison.words}")
        elif kind == "best":
            self.say(f"step {event['step']:,}: the best so far", "cyan")
        elif kind == "early_stop":
            self.say(
                f"step {event['step']:,}: training ends early, no better evaluation for {event['patience']}", "yellow"
            )
        elif kind == "kept":
            self.say(f"the adapter of step {event['step']:,} is kept, the best")
        elif kind == "checkpoint":
            self.say(f"step {event['step']:,}: checkpoint saved", "dim")
        elif kind in ("warning", "error"):
            self.say(
                f"{kind}: {event['message']} {event.get('hint') or ''}",
                "yellow" if kind == "warning" else "red",
            )
        elif kind == "state" and event.get("resumed_from_step"):
            self.say(f"resuming after step {event['resumed_from_step']:,}")

    def _step(self, event: Event) -> None:
        step, loss = event["step"], _number(event["loss"])
        speed = f"{event['tokens_per_s']:,.0f} tok/s" if event.get("tokens_per_s") else ""
        self.progress.update(self.task, completed=step, loss=loss, speed=speed)
        if not self.console.is_terminal and (step == 1 or step % max(1, (self.total or 1) // PLAIN_LINES) == 0):
            self.say(f"step {step:,} of {self.total or 0:,}: loss {loss}  {speed}")


@contextmanager
def _shown(console: Console) -> Iterator[_View]:
    progress = Progress(
        TextColumn("{task.fields[doing]}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield _View(console, progress, progress.add_task("", total=None, doing="starting", loss="-", speed=""))


def _on(device: str, plan: Event) -> str:
    """`on cpu`, or `on GPUs 0, 1` where the `plan` event names them."""
    ids = plan.get("gpu_ids")
    return f"on GPUs {', '.join(map(str, ids))}" if isinstance(ids, list) and ids else f"on {device}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def printable(text: str) -> str:
    """`text` without control characters: what a model, a file or a library wrote must not steer the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )
