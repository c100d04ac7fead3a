"""What commands that start, watch or ask runs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from engine.cli.output import console, fail, print_json, printable
from engine.cli.show import facts_of
from engine.runs import control
from engine.runs.store import ENDED, Run, RunNotFound, RunStatus, find_run
from engine.units import ordinal

if TYPE_CHECKING:
    from engine.jobs.process import JobFailed
    from engine.spec import RunSpec

OpenApp = Callable[[Run, bool], None]
"""Opens the terminal app on a run; with True it closes by itself when the run ends. The app's package passes it in."""

EXIT_OF_STATE = {"finished": 0, "stopped": 130}
EXIT_OF_CAUSE = {"oom": 3, "host-oom": 3, "bad-spec": 2}

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a part of it, its folder, or `last`.")]
Queue = Annotated[bool, typer.Option("--queue", help="Wait for a free card first: behind those that wait already.")]
Detach = Annotated[bool, typer.Option("--detach", help="Start it and return at once.")]


def found_run(name: str, as_json: bool) -> Run:
    """The run called `name`; ends the command where there is none."""
    try:
        return find_run(name)
    except RunNotFound as error:
        fail(str(error), 2, as_json)


def fail_of_job(error: JobFailed, as_json: bool, advice: str = "") -> NoReturn:
    """Say why a job has ended without its result, and end with the code of its cause. `advice` is what to do beside
    what the error says."""
    hint = " ".join(filter(None, (error.hint, advice)))
    if as_json:
        print_json({"error": error.message, "hint": hint, "cause": error.cause})
    else:
        typer.echo(printable(error.message), err=True)
        if hint:
            typer.echo(f"  -> {printable(hint)}", err=True)
    raise typer.Exit(EXIT_OF_CAUSE.get(error.cause, 1))


def launched(spec: RunSpec, as_json: bool, queued: RunSpec | None = None, shared: str | None = None) -> Run:
    """A new run of `spec`, with its prediction told; with `queued`, its spec as `left_open`, it waits for a card.
    `shared` is what `engine.runs.launch.launch` takes."""
    from engine.memory.card import card_of
    from engine.memory.outcomes.at_launch import at_launch
    from engine.memory.outcomes.comparison import predicted_words
    from engine.memory.ways_out.candidate import gib
    from engine.queue.line import QueueError
    from engine.runs.launch import launch
    from engine.slurm.commands import SlurmError

    prediction = at_launch(spec)
    try:
        run = launch(queued or spec, prediction, queue=queued is not None, shared=shared)
    except FileExistsError as error:
        fail(f"{error.filename} exists: this machine has started it already. Resume it, or choose a name.", 2, as_json)
    except OSError as error:
        fail(f"The run's folder cannot be written: {error.strerror} ({error.filename}).", 1, as_json)
    except (SlurmError, QueueError) as error:
        fail(f"Nothing was started: {error}", 2, as_json)
    if not as_json:
        typer.echo(f"Run {run.id}")
        if prediction is not None:
            typer.echo(f"memory: {printable(predicted_words(prediction))}")
            limit = spec.hardware.memory_limit_bytes
            card = card_of(spec.hardware.device).within(limit)
            if limit is not None and card.free_bytes is not None:
                what = "memory_limit" if card.is_limited else "free, which is less than memory_limit"
                typer.echo(f"memory: {prediction.verdict(card.free_bytes)}: {gib(card.free_bytes)} {what}")
    return run


def watch_or_leave(run: Run, detach: bool, as_json: bool) -> None:
    """Follow `run` to its end, which is also the command's; or say how to find it again."""
    if detach:
        if as_json:
            print_json({"id": run.id, "folder": str(run.folder)})
        elif (place := run.read_status().place) is not None:
            typer.echo(f"It is {ordinal(place)} in the queue: loradeck queue    Out of it: loradeck stop {run.id}")
        else:
            typer.echo(f"It runs on its own. Watch: loradeck attach {run.id}    Stop: loradeck stop {run.id}")
        return
    last, status = followed(run, as_json)
    end(last, status, as_json)


def followed(run: Run, as_json: bool) -> tuple[Run, RunStatus]:
    """The run that was the last to go on from `run` by itself, mostly `run` itself, and how it ended."""
    from engine.follow import LeftRunning, follow

    try:
        return follow(run, console(stderr=as_json, quiet=as_json))
    except LeftRunning as left:
        if not as_json:
            typer.echo(f"{left.run.id} is left to itself. Watch: loradeck attach {left.run.id}")
        raise typer.Exit(130) from None


def end(run: Run, status: RunStatus, as_json: bool) -> None:
    """Print how the run ended and exit with the code that says it."""
    if as_json:
        print_json(facts_of(run))
    elif status.state == "stopped":
        words = f"Stopped after step {status.step:,}." if status.step or not status.message else status.message
        typer.echo(f"{printable(words)} Go on with: loradeck resume {run.id}")
    elif status.state == "finished":
        typer.echo(f"Finished. Adapter: {run.adapter_folder}")
    else:
        cause = f" ({status.cause})" if status.cause else ""
        typer.echo(f"The run {status.state}{cause}. {printable(status.message)}".rstrip(), err=True)
        if status.cause in ("oom", "host-oom"):
            from engine.memory.ways_out.recorded import first_to_set
            from engine.runs.last_events import newest_remedies
            from engine.runs.lineage import changes_in_words

            typer.echo(f"What would help: loradeck show {run.id}", err=True)
            if (first := first_to_set((newest_remedies(run) or {}).get("remedies"))) is not None:
                words = printable(changes_in_words(first[1].changes))
                typer.echo(f"The first way out: loradeck resume {run.id} --remedy {first[0]}    ({words})", err=True)
        else:
            typer.echo(f"Its log: {run.log_path}    Go on with: loradeck resume {run.id}", err=True)
    raise typer.Exit(EXIT_OF_STATE.get(status.state, EXIT_OF_CAUSE.get(status.cause or "", 1)))


def ask(name: str, request: control.Request, as_json: bool) -> None:
    """Send a request to a run that goes on."""
    run = found_run(name, as_json)
    status = run.read_status()
    if status.state in ENDED:
        fail(f"{run.id} is not running: {status.state}.", 1, as_json)
    if status.state == "queued" and request != "stop":
        fail(f"{run.id} is queued: there is nothing to {request} yet.", 1, as_json)
    from engine.runs.asking import ask as ask_run
    from engine.slurm.commands import SlurmError

    try:
        ask_run(run, request)
    except OSError as error:
        fail(f"{run.control_folder} cannot be written: {error.strerror}.", 1, as_json)
    except SlurmError as error:
        fail(f"{run.id} could not be asked to {request}: {error}", 1, as_json)
    if as_json:
        print_json({"id": run.id, "request": request})
    elif status.state == "queued" and run.read_status().state in ENDED:
        whose = "the" if status.waits_here else "Slurm's"
        typer.echo(f"{run.id} is out of {whose} queue.")
    else:
        when = "at once" if request == "resume" else "at the end of its step"
        typer.echo(f"{run.id} was asked to {request}; it answers {when}.")
