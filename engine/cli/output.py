"""What all commands share: messages and JSON, and wrong input explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]


@contextmanager
def wrong_input_explained(as_json: bool, nothing: str = "Nothing was started") -> Iterator[None]:
    """Turns wrong input into a message of every problem and exit code 2."""
    from engine.checks import InvalidSpec

    try:
        yield
    except InvalidSpec as error:
        if as_json:
            print_json({"problems": [asdict(problem) for problem in error.problems]})
        else:
            count = len(error.problems)
            typer.echo(f"{nothing}: {count} problem{'s' if count > 1 else ''}.", err=True)
            for problem in error.problems:
                typer.echo(f"\n  {printable(problem.field)}", err=True)
                typer.echo(f"    {printable(problem.reason)}", err=True)
                if problem.hint:
                    typer.echo(f"    -> {printable(problem.hint)}", err=True)
        raise typer.Exit(2) from None


def fail(message: str, code: Literal[1, 2], as_json: bool) -> NoReturn:
    """Say why it ends here, and end."""
    if as_json:
        print_json({"error": message})
    else:
        typer.echo(printable(message), err=True)
    raise typer.Exit(code)


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """A terminal that shows text as text."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, markup=False, highlight=False, emoji=False)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    from engine.follow import printable as without_control_characters

    return without_control_characters(text)
