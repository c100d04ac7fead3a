"""Commands about runs that are there: what they are, what they are asked, and how they go on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.machines import MachineRank
from engine.cli.output import AsJson, fail, print_json, printable, wrong_input_explained
from engine.cli.run_table import print_runs
from engine.cli.show import OOM_CAUSES, facts_of, tell, tell_oom, tell_remedies
from engine.cli.watch import Detach, OpenApp, Queue, RunName, ask, found_run, watch_or_leave
from engine.runs.store import ENDED, Run, RunBusy, list_runs

if TYPE_CHECKING:
    from engine.memory.ways_out.remedies import Remedy

app = typer.Typer()
RunNames = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, parts of them, folders, or `last`.")]


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    from engine.slurm.watching import keep_watched

    statuses = [(run, run.read_status()) for run in list_runs()]
    for run, status in statuses:
        keep_watched(run, status)
    if as_json:
        print_json([{"id": run.id, "folder": str(run.folder), **asdict(status)} for run, status in statuses])
        return
    if not statuses:
        typer.echo("There are no runs yet. `loradeck demo` makes one; `loradeck new` writes a spec for your own.")
        return
    print_runs(statuses)
    waiting = [f"{run.id}: {status.message}" for run, status in statuses if status.state == "queued" and status.message]
    for words in waiting:
        typer.echo(f"\n{printable(words)}")


@app.command()
def show(name: RunName, as_json: AsJson = False) -> None:
    """Everything about one run: state, plan, last step, failures and what would help, files."""
    from engine.slurm.watching import keep_watched

    run = found_run(name, as_json)
    facts = facts_of(run)
    keep_watched(run, run.read_status())
    if as_json:
        print_json(facts)
    else:
        tell(run, facts)


@app.command()
def attach(context: typer.Context, name: RunName, as_json: AsJson = False) -> None:
    """Watch a run in the app, or its progress where there is no terminal."""
    from engine.slurm.watching import keep_watched

    run = found_run(name, as_json)
    keep_watched(run, run.read_status())
    open_app: OpenApp | None = context.obj
    if open_app is not None and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        open_app(run, False)
        return
    watch_or_leave(run, False, as_json)


@app.command()
def stop(name: RunName, as_json: AsJson = False) -> None:
    """Finish the step, save a checkpoint, and end. `resume` goes on from there."""
    ask(name, "stop", as_json)


@app.command()
def pause(name: RunName, as_json: AsJson = False) -> None:
    """Hold a run after its step, with everything in memory. `resume` goes on."""
    ask(name, "pause", as_json)


@app.command()
def save(name: RunName, as_json: AsJson = False) -> None:
    """Write a checkpoint after the step."""
    ask(name, "save", as_json)


@app.command()
def evaluate(name: RunName, as_json: AsJson = False) -> None:
    """Measure the held-out rows after the step."""
    ask(name, "evaluate", as_json)


@app.command()
def resume(
    name: RunName,
    remedy: Annotated[
        list[int] | None,
        typer.Option(
            "--remedy", min=1, help="Of a run that ran out of memory: go on with this way out, by its number in `show`."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Go on as a new run with another value of a setting: num_processes=4."
        ),
    ] = None,
    detach: Detach = False,
    queue: Queue = False,
    machine_rank: MachineRank = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused run, or with an ended one from its newest checkpoint."""
    from engine.runs.launch import NotResumable, own_part
    from engine.runs.launch import resume as resume_run

    run = found_run(name, as_json)
    try:
        run = own_part(run, machine_rank)
    except NotResumable as error:
        fail(str(error), 1, as_json)
    status = run.read_status()
    if setting and status.state not in ENDED:
        fail(f"{run.id} is still running. Stop it first: loradeck stop {run.id}", 1, as_json)
    if status.state == "paused":
        ask(name, "resume", as_json)
        return
    if remedy or setting:
        chosen = _recorded(run, remedy, as_json) if remedy else []
        child = _child(run, chosen, setting or [], queue, as_json)
        watch_or_leave(child, detach, as_json)
        return
    if status.continued_by is not None:
        fail(
            f"{run.id} is continued by {status.continued_by} already. Go on with that one: "
            f"loradeck resume {status.continued_by}",
            1,
            as_json,
        )
    from engine.checks import read_spec
    from engine.queue.line import QueueError
    from engine.queue.wish import refuse_where_there_is_no_queue
    from engine.slurm.commands import SlurmError

    with wrong_input_explained(as_json):
        if queue:
            refuse_where_there_is_no_queue(read_spec(run.spec_path))
        try:
            checkpoint = resume_run(run, queue=queue)
        except (NotResumable, RunBusy, SlurmError, QueueError) as error:
            fail(str(error), 1, as_json)
        except OSError as error:
            fail(f"{run.folder} cannot be written: {error.strerror}.", 1, as_json)
    if not as_json:
        verb = "will go on" if queue else "goes on"
        typer.echo(f"{run.id} {verb} from {checkpoint.name if checkpoint else 'the beginning: it has no checkpoint'}.")
        if status.cause in OOM_CAUSES:
            _warn_of_the_same_end(run)
    watch_or_leave(run, detach, as_json)


@app.command()
def remedies(name: RunName, as_json: AsJson = False) -> None:
    """Trace what each way out of memory would take, of a run that ran out of it. Takes up to a minute."""
    from engine.inspector import Inspector
    from engine.memory.ways_out.after_oom import NoWayOut, remedies_event, shortage, ways_out
    from engine.memory.ways_out.recorded import first_to_set

    run = found_run(name, as_json)
    if run.read_status().state not in ENDED:
        fail(f"{run.id} is still running.", 1, as_json)
    try:
        with Inspector() as inspector:
            short = shortage(run, inspector)
            found = ways_out(short, inspector)
    except NoWayOut as reason:
        fail(str(reason), 1, as_json)
    fields = remedies_event(short, found)
    is_recorded = _record(run, fields)
    if as_json:
        print_json({"id": run.id, "oom": short.oom, "recorded": is_recorded, **fields})
        return
    tell_oom(run, short.oom)
    typer.echo("")
    tell_remedies(fields["remedies"], fields, numbered=is_recorded)
    if is_recorded and (first := first_to_set(fields["remedies"])) is not None:
        typer.echo(f"\nGo on with one: loradeck resume {run.id} --remedy {first[0]}")


@app.command()
def note(
    name: RunName, text: Annotated[str, typer.Argument(help="What to remember.")], as_json: AsJson = False
) -> None:
    """Write a note beside a run."""
    from engine.runs.labels import add_note

    run = found_run(name, as_json)
    if not text.strip():
        fail("A note needs words.", 2, as_json)
    try:
        event = add_note(run, text)
    except OSError as error:
        fail(f"{run.labels_path} cannot be written: {error.strerror}.", 1, as_json)
    if as_json:
        print_json({"id": run.id, "note": event["text"]})
    else:
        typer.echo(f"Noted beside {run.id}.")


@app.command()
def tag(
    name: RunName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="None takes all tags off.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set a run's tags, in place of those that it has."""
    from engine.runs.labels import set_tags

    run = found_run(name, as_json)
    try:
        event = set_tags(run, tags or [])
    except OSError as error:
        fail(f"{run.labels_path} cannot be written: {error.strerror}.", 1, as_json)
    if as_json:
        print_json({"id": run.id, "tags": event["tags"]})
    else:
        typer.echo(f"{run.id}: {printable(', '.join(event['tags']))}" if event["tags"] else f"{run.id} has no tags.")


@app.command()
def compare(names: RunNames, as_json: AsJson = False) -> None:
    """Put runs beside each other: settings that differ, losses, memory, tokens, time."""
    from engine.cli.compare import tell_comparison
    from engine.runs.compare import differing_settings, outcome

    compared = [found_run(name, as_json) for name in names]
    if len(compared) < 2:
        fail("It takes two runs or more to compare.", 2, as_json)
    with wrong_input_explained(as_json, "Nothing was compared"):
        differing = differing_settings(compared)
    outcomes = [outcome(run) for run in compared]
    if as_json:
        print_json({"runs": [asdict(each) for each in outcomes], "differing_settings": differing})
    else:
        tell_comparison(outcomes, differing)


def _recorded(run: Run, numbers: list[int], as_json: bool) -> list[Remedy]:
    """The ways out with these numbers in the newest list on record; ends the command where there are none."""
    from engine.memory.ways_out.recorded import remedy_from
    from engine.runs.last_events import newest_remedies

    event = newest_remedies(run)
    listed = (event or {}).get("remedies")
    if not isinstance(listed, list) or not listed:
        fail(f"{run.id} has no ways out on record: loradeck remedies {run.id}", 2, as_json)
    chosen: list[Remedy] = []
    for number in dict.fromkeys(numbers):
        found = remedy_from(listed[number - 1]) if number <= len(listed) else None
        if found is None:
            fail(f"{run.id} has ways out 1 to {len(listed)}, not {number}: loradeck show {run.id}", 2, as_json)
        if not found.changes:
            fail(f"Way out {number} is nothing that can be set: {found.note}", 2, as_json)
        chosen.append(found)
    return chosen


def _child(run: Run, chosen: list[Remedy], settings: list[str], queue: bool, as_json: bool) -> Run:
    """The run that goes on from `run` with these ways out and settings, started."""
    from engine.cli.changes import prepared_changes, values_of
    from engine.queue.line import QueueError
    from engine.runs.launch import NotResumable, continue_run
    from engine.runs.lineage import changes_in_words
    from engine.slurm.commands import SlurmError

    changes: dict[str, Any] = {field: new for remedy in chosen for field, (_, new) in remedy.changes.items()}
    told: dict[str, Any] = {field: values for remedy in chosen for field, values in remedy.changes.items()}
    fresh = not all(remedy.continues for remedy in chosen)
    with wrong_input_explained(as_json):
        if settings:
            told |= prepared_changes(run, changes | values_of(settings))
            changes |= {field: new for field, (_, new) in told.items()}
        try:
            child = continue_run(run, changes, [remedy.id for remedy in chosen], fresh=fresh, queue=queue)
        except (NotResumable, RunBusy, SlurmError, QueueError) as error:
            fail(str(error), 1, as_json)
        except OSError as error:
            fail(f"The run's folder cannot be written: {error.strerror} ({error.filename}).", 1, as_json)
    if not as_json:
        checkpoint = child.newest_checkpoint()
        begins = "anew" if fresh else "from the beginning" if checkpoint is None else f"from {checkpoint.name}"
        typer.echo(f"Run {child.id} goes on from {run.id}, {begins}: {printable(changes_in_words(told))}")
        if fresh and run.newest_checkpoint() is not None:
            typer.echo("Checkpoints cannot be gone on from with other shapes: what was trained is trained again.")
    return child


def _warn_of_the_same_end(run: Run) -> None:
    from engine.memory.ways_out.recorded import first_to_set
    from engine.runs.last_events import newest_remedies
    from engine.runs.lineage import changes_in_words

    typer.echo("It ran out of memory with these settings, and will likely do so again.", err=True)
    event = newest_remedies(run)
    first = first_to_set((event or {}).get("remedies"))
    if first is not None:
        number, remedy = first
        words = printable(changes_in_words(remedy.changes))
        typer.echo(f"To change that, stop it and: loradeck resume {run.id} --remedy {number}    ({words})", err=True)


def _record(run: Run, fields: dict[str, Any]) -> bool:
    """Put traced prices on record, so that their numbers are those that `resume --remedy` takes."""
    from engine.runs.events import EventWriter

    try:
        with run.lock():  # the file has one writer at a time: the supervisor, or who holds its lock
            EventWriter(run.supervisor_events_path).write("remedies", **fields)
    except (OSError, RunBusy):
        return False
    return True
