"""`eval`: base against adapter, with what can be said for certain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine import units
from engine.cli.output import AsJson, console, fail, printable, wrong_input_explained
from engine.cli.progress import bars
from engine.cli.watch import RunName, fail_of_job, found_run

if TYPE_CHECKING:
    from rich.console import Console

    from engine.evaluation.results import Evaluation
    from engine.evaluation.run_evaluation import Progress
    from engine.jobs.process import JobFailed
    from engine.runs.store import Run


def eval_run(
    name: RunName,
    benchmark: Annotated[
        Path | None, typer.Option("--benchmark", help="JSONL rows to answer: prompt or messages, and expected.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="exact, contains, regex, number, json or choice; without it the rows tell."),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-eval, with commas.")] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="A folder with lm-eval task files of your own.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint's step, or newest; without it the finished adapter.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of each set.")] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out/--no-held-out", help="Measure the rows that the run held out.")
    ] = True,
    general_text: Annotated[
        bool, typer.Option("--general-text/--no-general-text", help="Measure forgetting on a fixed general text.")
    ] = True,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")] = 256,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Rows in one pass.")] = None,
    time_limit: Annotated[
        str | None, typer.Option("--time-limit", help="Such as 10m; what both models did by then is compared.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0; without it the run's, if it is here.")] = None,
    show: Annotated[
        bool, typer.Option("--show", "--last", help="Print the newest evaluation again; nothing is computed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure base against adapter: held-out rows, a benchmark, lm-eval tasks, and what was forgotten."""
    from engine.evaluation.run_evaluation import Options, evaluate
    from engine.jobs.process import JobCancelled, JobFailed
    from engine.jobs.subject import NoAdapter, subject_of

    run = found_run(name, as_json)
    if show:
        _show_newest(run, as_json)
        return
    with wrong_input_explained(as_json, "Nothing was evaluated"):
        try:
            subject = subject_of(run, checkpoint)
        except NoAdapter as error:
            fail(str(error), 2, as_json)
        options = Options(
            benchmark=benchmark,
            scorer=scorer,
            tasks=tuple(dict.fromkeys(filter(None, (task.strip() for task in (tasks or "").split(","))))),
            include_path=include_path,
            held_out=held_out,
            general_text=general_text,
            limit=limit,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            time_limit_s=None if time_limit is None else seconds_of(time_limit),
            device=device,
        )
        try:
            with _progress() as on_event:
                evaluation = evaluate(subject, options, on_event)
        except JobFailed as error:
            fail_of_job(error, as_json, _advice(error, batch_size))
        except (KeyboardInterrupt, JobCancelled):
            typer.echo("Stopped. Nothing was kept.", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            fail(f"The evaluation cannot be kept in {run.folder}: {error.strerror}.", 1, as_json)
    _tell(run, evaluation, as_json)


def seconds_of(text: str) -> float:
    """`90`, `90s`, `10m` or `1.5h` in seconds. Raises InvalidSpec."""
    from engine.checks import InvalidSpec, Problem

    if (seconds := units.seconds_of(text)) is None:
        raise InvalidSpec([Problem("--time-limit", f"{text!r} is no time", "write 90s, 10m or 2h")])
    return seconds


def tell(evaluation: Evaluation, screen: Console) -> None:
    """The tables of its parts, and what they mean."""
    from rich.table import Table
    from rich.text import Text

    from engine.evaluation.words import HEADINGS, cells_of, heading_of, sentences

    styles = {"better": "green", "worse": "red"}
    for part in evaluation.parts:
        screen.print(Text(printable(heading_of(part)), "bold"))
        if part.measures:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for place, heading in enumerate(HEADINGS):
                is_last = place == len(HEADINGS) - 1  # which may wrap on a narrow terminal; figures are never cut
                table.add_column(heading, justify="left" if is_last or not place else "right", no_wrap=not is_last)
            for measure in part.measures:
                *cells, verdict = map(printable, cells_of(measure))
                table.add_row(*map(Text, cells), Text(verdict, styles.get(verdict, "")))
            screen.print(table)
        if part.note:
            screen.print(Text(printable(part.note), "dim"))
        screen.print()
    for sentence in sentences(evaluation):
        screen.print(Text(printable(sentence)))


def _tell(run: Run, evaluation: Evaluation, as_json: bool) -> None:
    folder = run.folder / "evaluations" / evaluation.id
    if as_json:
        document = {**evaluation.to_json(), "folder": str(folder)}
        text = json.dumps(document, ensure_ascii=False)
        typer.echo(json.dumps(document, indent=2, ensure_ascii=printable(text) != text))
        return
    tell(evaluation, console())
    typer.echo(f"Every row, with both answers: {printable(str(folder / 'rows.jsonl'))}")


def _show_newest(run: Run, as_json: bool) -> None:
    from engine.evaluation.results import evaluations_of

    kept = evaluations_of(run)
    if not kept:
        fail(f"{run.id} was not evaluated yet. `loradeck eval {run.id}` does it.", 2, as_json)
    _tell(run, kept[0], as_json)


def _advice(error: JobFailed, batch_size: int | None) -> str:
    if error.cause != "oom":
        return ""
    smaller = "1" if batch_size is None or batch_size < 4 else str(batch_size // 2)
    return f"Try --batch-size {smaller}, fewer --max-new-tokens, or --device cpu."


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """A bar for each part and model, where stderr is a terminal."""
    with bars() as show:
        yield None if show is None else lambda so_far: show(_label(so_far), so_far.done, so_far.total)


def _label(how_far: Progress) -> str:
    if how_far.doing == "load":
        return "Loading the model"
    part = how_far.part.replace("_", " ")
    who = f", {how_far.model}" if how_far.model else ""
    doing = {"loss": "Loss of", "answers": "Answers to", "task": "Task"}[how_far.doing]
    return printable(f"{doing} {part}{who}")
