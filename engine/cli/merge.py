"""`merge`: an adapter and its base as one model, checked against the adapter before it is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import AsJson, console, fail, print_json, printable, wrong_input_explained
from engine.cli.progress import bar
from engine.cli.watch import RunName, fail_of_job, found_run

if TYPE_CHECKING:
    from engine.merging.report import MergeReport

DOING = {
    "rows": "Reading rows to check on",
    "adapter": "The adapter answers",
    "merge": "Merging onto {base}",
    "check": "The merged model answers",
}
BASES = ("auto", "16bit", "dequantized")
DTYPES = ("bfloat16", "float16", "float32")
DEVICE = re.compile(r"cpu|cuda:\d+")


def merge(
    name: RunName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The new model's folder.")],
    base: Annotated[
        str,
        typer.Option(
            metavar="|".join(BASES),
            help="Onto the base's own weights, what quantization left of them, or whichever is closer.",
        ),
    ] = "auto",
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="A checkpoint's step, or newest; without it the finished adapter."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="|".join(DTYPES), help="Type of the weights; without it the run's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0; without it the run's, if it is here.")] = None,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Keep the merge also where it does not pass its check.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make one model of base and adapter that loads in plain transformers, and check that it answers as they do."""
    from engine.jobs.process import JobCancelled, JobFailed
    from engine.jobs.subject import NoAdapter, subject_of
    from engine.merging.client import MergeRejected
    from engine.merging.client import merge as merge_run
    from engine.merging.staging import OutputExists

    for option, value, allowed in (("--base", base, BASES), ("--dtype", dtype, DTYPES)):
        if value is not None and value not in allowed:
            fail(f"{option} is {value!r}; it can be {', '.join(allowed)}.", 2, as_json)
    if device is not None and not DEVICE.fullmatch(device):
        fail(f"--device is {device!r}; it can be cpu, or cuda:0 and so on.", 2, as_json)
    run = found_run(name, as_json)
    with wrong_input_explained(as_json, "Nothing was merged"):
        try:
            subject = subject_of(run, checkpoint)
            with _progress(quiet=as_json) as on_event:
                report = merge_run(subject, output, base, dtype, device, keep_anyway, on_event)  # type: ignore[arg-type]
        except (NoAdapter, OutputExists) as error:
            fail(str(error), 2, as_json)
        except MergeRejected as error:
            if as_json:
                print_json({"error": str(error), "report": error.report.to_json()})
            else:
                tell(error.report)
                typer.echo("\nNothing was kept. --keep-anyway keeps the closest.", err=True)
            raise typer.Exit(1) from None
        except JobFailed as error:
            fail_of_job(error, as_json)
        except (KeyboardInterrupt, JobCancelled):
            typer.echo("Stopped. Nothing was kept.", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            fail(f"{error.filename or output} cannot be written: {error.strerror}. Nothing was kept.", 1, as_json)
    if as_json:
        print_json({"path": str(output.absolute()), **report.to_json()})
        return
    tell(report)
    typer.echo(f"\nMerged model: {printable(str(output.absolute()))}")


def tell(report: MergeReport) -> None:
    """What was measured, one column a merge, and what was decided."""
    from rich.table import Table
    from rich.text import Text

    from engine.merging.report import BASE_WORDS
    from engine.merging.words import rows_of, summary

    screen = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for candidate in report.candidates:
        taken = " (taken)" if candidate.base == report.taken else ""
        table.add_column(f"onto {BASE_WORDS[candidate.base]}{taken}", justify="right")
    for label, *cells in rows_of(report):
        table.add_row(Text(label, style="dim"), *map(Text, cells))
    screen.print(table)
    for line in summary(report):
        screen.print(Text(printable(line)))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What it needs, said before it starts; then a bar, where stderr is a terminal."""
    from engine.merging.client import needs_from
    from engine.merging.needs import needs_in_words
    from engine.merging.report import BASE_WORDS

    with bar(DOING["rows"]) as show:

        def tell(event: dict[str, Any]) -> None:
            if event["type"] == "needs" and not quiet:
                typer.echo(f"needs: {needs_in_words(needs_from(event))}", err=True)
            if show is not None and event["type"] == "progress":
                base = event["base"]
                words = DOING[event["doing"]].format(base="" if base is None else BASE_WORDS[base])
                show(words, event["done"], event["total"])

        yield tell
