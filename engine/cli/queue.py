"""`loradeck queue`: the runs that wait for a card of this machine, and their order."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.output import AsJson, fail, print_json, printable
from engine.cli.watch import found_run
from engine.units import ordinal


def show_queue(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Of this run alone: its id, a part of it, or `last`.")
    ] = None,
    place: Annotated[int | None, typer.Option(min=1, help="Give it this place; 1 is the next to start.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the runs that wait for a free card, first come first served, or give one another place.

    A run never passes an earlier one that could use the same card; one that needs other cards may start before it.
    """
    from engine.queue.line import QueueError, move, waiting

    run = None if name is None else found_run(name, as_json)
    if run is None and place is not None:
        fail("--place needs a run: loradeck queue RUN --place 1", 2, as_json)
    try:
        if run is not None and place is not None:
            place = move(run, place)
        line = waiting()
    except QueueError as error:
        fail(str(error), 1, as_json)
    except OSError as error:
        fail(f"The queue cannot be used: {error.strerror} ({error.filename}).", 1, as_json)
    listed = [(number, entry) for number, entry in enumerate(line, start=1) if run is None or entry.run_id == run.id]
    if run is not None and not listed:
        fail(f"{run.id} does not wait in the queue of this machine: it is {run.read_status().state}.", 1, as_json)
    if as_json:
        statuses = [(number, entry, entry.run.read_status()) for number, entry in listed]
        print_json(
            [
                {"id": entry.run_id, "place": number, "model": status.model, "message": status.message}
                for number, entry, status in statuses
            ]
        )
    elif run is not None and place is not None:
        typer.echo(f"{run.id} is {ordinal(place)} in the queue of {len(line)} now.")
    elif not listed:
        typer.echo("No run waits. `loradeck train SPEC --queue` starts one when a card is free.")
    else:
        for number, entry in listed:
            # Of a place that has just changed, the run's own message is a second old.
            words = entry.run.read_status().message.partition(": ")[2] or "it has just come"
            typer.echo(f"{ordinal(number):>4}  {entry.run_id}  {printable(words)}")
