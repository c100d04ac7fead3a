"""`data`: what a run would learn from, before it runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from engine.cli.data_facts import Found, facts_of, find
from engine.cli.memory import SpecFile
from engine.cli.output import AsJson, console, fail, printable, wrong_input_explained

Exact = Annotated[
    bool, typer.Option("--exact", help="Count the tokens of every row, also where that takes minutes, and keep them.")
]


def data(spec: SpecFile, exact: Exact = False, as_json: AsJson = False) -> None:
    """Check every row, and show what the model would learn: tokens, cuts, padding, the first rows as it sees them."""
    from engine.cli.data_text import tell
    from engine.data.client import DataError
    from engine.inspector import Inspector

    with wrong_input_explained(as_json, "Nothing was read"), Inspector() as inspector:
        try:
            found = find(spec, exact, inspector)
        except DataError as error:
            fail(str(error), 1, as_json)
    if as_json:
        print_facts(found)
    else:
        tell(found, console())
    raise typer.Exit(0 if found.would_start else 2)


def print_facts(found: Found) -> None:
    """As all commands print JSON; text of rows that could steer a terminal is escaped, as JSON allows."""
    document = facts_of(found)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    typer.echo(text if printable(text) == text else json.dumps(document, indent=2))
