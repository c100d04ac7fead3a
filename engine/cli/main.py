"""The `loradeck` commands: those that start a run, and the names of all the others."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.chat import chat
from engine.cli.data import data
from engine.cli.evaluate import eval_run
from engine.cli.export import export
from engine.cli.machines import MachineRank, on_machine, wait_for_shared
from engine.cli.memory import estimate, fit
from engine.cli.merge import merge
from engine.cli.output import AsJson, console, fail, print_json, printable, wrong_input_explained
from engine.cli.queue import show_queue
from engine.cli.runs import app as runs_app
from engine.cli.watch import Detach, OpenApp, Queue, end, followed, launched, watch_or_leave

if TYPE_CHECKING:
    from engine.architecture import Architecture
    from engine.data.client import Progress as ScanProgress
    from engine.spec import RunSpec

QUICK_S = 1.0
"""What is done sooner shows no progress."""

app = typer.Typer(
    help="A terminal workbench for QLoRA fine-tuning. Without a command it opens the app.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None, open_app: OpenApp | None = None) -> None:
    """Run one command and exit. `open_app` is called where a command shows a run in the app."""
    app(args=arguments, obj=open_app, prog_name="loradeck")


@app.command()
def demo(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Another model: a hub id or a local folder.")] = "demo",
    headless: Annotated[bool, typer.Option("--headless", help="Print progress instead of opening the app.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a small real model on bundled rows, then show base against adapter."""
    from engine.demo import demo_spec, report

    with wrong_input_explained(as_json):
        spec = _prepared(demo_spec(model), Path.cwd(), as_json)
    run = launched(spec, as_json)
    open_app: OpenApp | None = context.obj
    if open_app is not None and not headless and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        open_app(run, True)
    run, status = followed(run, as_json)
    if status.state == "finished" and not as_json:
        report(run, console())
        return
    end(run, status, as_json)


@app.command()
def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file; `loradeck new` writes one.")],
    detach: Detach = False,
    queue: Queue = False,
    machine_rank: MachineRank = None,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of several machines with LORADECK_HOME on shared storage: the one run folder of all."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run. Ctrl-C stops it cleanly, with a checkpoint."""
    from engine.checks import read_spec
    from engine.prepare import left_open
    from engine.queue.wish import refuse_where_there_is_no_queue

    with wrong_input_explained(as_json):
        written = on_machine(read_spec(spec), machine_rank)
        if queue:
            refuse_where_there_is_no_queue(written)
        resolved = _prepared(written, spec.absolute().parent, as_json)
    if shared is not None:
        wait_for_shared(shared, resolved, as_json)
    run = launched(resolved, as_json, left_open(written, resolved) if queue else None, shared)
    watch_or_leave(run, detach, as_json)


@app.command()
def new(
    model: Annotated[str, typer.Option(help="A hub id, a local folder, or `demo`.")] = "demo",
    train_file: Annotated[str, typer.Option("--train", help="The rows to learn: a .jsonl file.")] = "train.jsonl",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of to stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a starter spec, with the help of every setting beside it."""
    from engine.starter import starter_spec

    text = starter_spec(model, train_file)
    if output is not None:
        if output.exists():
            fail(f"{output} exists and is left as it is. Choose another name.", 2, as_json)
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}.", 1, as_json)
    if as_json:
        print_json({"path": None if output is None else str(output), "spec": text})
    elif output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"Wrote {output}. Start it with: loradeck train {output}")


@app.command()
def tree(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a local folder, or `demo`.")],
    revision: Annotated[str | None, typer.Option(help="The hub's branch, tag or commit.")] = None,
    unfold: Annotated[bool, typer.Option("--unfold", help="Show every layer, not one of each kind.")] = False,
    depth: Annotated[int | None, typer.Option(min=1, help="Levels to show.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's modules: shapes, parameters, what LoRA can adapt. No weights are loaded."""
    from engine.outline import outline
    from engine.tree import fold

    architecture = _architecture(model, revision, as_json)
    root = fold(architecture, unfold)
    if as_json:
        print_json({**architecture.to_json(), "tree": root.to_json(depth)})
        return
    for line in outline(architecture, root, depth):
        typer.echo(line)


@app.command()
def targets(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a local folder, or `demo`.")],
    select: Annotated[
        str,
        typer.Option(
            help="attention, attention+mlp, all-linear or qv; last parts of names with commas; or a regular expression."
        ),
    ],
    layers: Annotated[str | None, typer.Option(help="Such as 0-15, -8: or 3,5,7; without it all of them.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Leave these out: names, or a regular expression.")] = None,
    r: Annotated[int, typer.Option("--r", min=1, help="Rank of the adapters.")] = 16,
    revision: Annotated[str | None, typer.Option(help="The hub's branch, tag or commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the LoraConfig fields for a selection, the modules matched and the parameters trained."""
    from engine.targets import asked_for, selected, trainable_parameters

    architecture = _architecture(model, revision, as_json)
    with wrong_input_explained(as_json):
        lora = asked_for(select, layers, exclude, r, architecture)
    matched = [name for name in architecture.targets if name in selected(lora, architecture).targets]
    trainable = trainable_parameters(lora, architecture)
    if as_json:
        print_json(
            {
                "lora": lora.model_dump(),
                "modules_matched": len(matched),
                "trainable_parameters": trainable,
                "total_parameters": architecture.total_parameters,
                "modules": matched,
            }
        )
        return
    import yaml

    fields = {"r": lora.r, **lora.model_dump(exclude_defaults=True), "target_modules": lora.target_modules}
    typer.echo(yaml.safe_dump({"lora": fields}, sort_keys=False, width=110, default_flow_style=None), nl=False)
    counts = Counter(name.rpartition(".")[2] for name in matched)
    typer.echo(f"{len(matched):,} modules matched: {', '.join(f'{name} x{n}' for name, n in counts.items())}")
    share = trainable / architecture.total_parameters
    typer.echo(f"{trainable:,} trainable parameters, {share:.2%} of {architecture.total_parameters:,}")


app.command()(data)
app.command()(estimate)
app.command()(fit)


app.add_typer(runs_app)
app.command("queue")(show_queue)
app.command("eval")(eval_run)
app.command()(chat)
app.command()(merge)
app.command()(export)


@app.command()
def doctor(
    memory: Annotated[
        bool, typer.Option("--memory", help="How far the memory of runs here came out from its prediction.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What this machine has and lacks for QLoRA, and what to do about it."""
    if memory:
        _tell_outcomes(as_json)
        return
    from engine.doctor import examine

    if as_json:
        findings = list(examine())
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        from rich.table import Table
        from rich.text import Text

        screen = console()
        marks = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "red")}
        findings = []
        for finding in examine():  # one by one: the probes at the end take seconds
            findings.append(finding)
            mark, style = marks[finding.verdict]
            row = Table.grid(padding=(0, 2))
            row.add_column(width=4)
            row.add_column(width=16)
            row.add_column()
            row.add_row(Text(mark, style), Text(finding.name), Text(printable(finding.found)))
            if finding.advice:
                row.add_row("", "", Text(printable(finding.advice), style="dim"))
            screen.print(row)
    raise typer.Exit(1 if any(finding.verdict == "bad" for finding in findings) else 0)


def _tell_outcomes(as_json: bool) -> None:
    from engine import doctor_memory
    from engine.memory.outcomes.history import history

    outcomes = history()
    if as_json:
        print_json(doctor_memory.as_json(outcomes))
    elif not outcomes:
        typer.echo(doctor_memory.NONE_YET)
    else:
        for line in [*doctor_memory.lines(outcomes), "", *doctor_memory.sentences(outcomes)]:
            typer.echo(line)


def _prepared(spec: RunSpec, folder: Path, as_json: bool) -> RunSpec:
    from engine.prepare import prepare

    if as_json or not sys.stderr.isatty():
        return prepare(spec, folder)
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    started_s = time.monotonic()
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        def on_data(scanned: ScanProgress) -> None:
            if time.monotonic() - started_s > QUICK_S:
                progress("Checking every row", scanned.done, scanned.total)

        return prepare(spec, folder, progress, on_data)


def _architecture(model: str, revision: str | None, as_json: bool) -> Architecture:
    from engine.catalog import ModelUnavailable
    from engine.inspector import Inspector, InspectorError, RequestRefused

    try:
        with Inspector() as inspector:
            return inspector.architecture(model, revision)
    except (ModelUnavailable, RequestRefused) as error:
        fail(str(error), 2, as_json)
    except InspectorError as error:
        fail(str(error), 1, as_json)


if __name__ == "__main__":
    main()
