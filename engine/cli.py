"""The headless commands. Each prints for people, or with `--json` one JSON document on stdout and nothing else.

Exit codes: 0 done, 1 failed, 2 the input is wrong, 3 out of memory, 130 stopped.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli_memory import estimate, fit
from engine.cli_output import AsJson, console, fail, print_json, printable, wrong_input_explained
from engine.runs import control
from engine.runs.store import ENDED, Run, RunBusy, RunNotFound, RunStatus, find_run, list_runs

if TYPE_CHECKING:
    from engine.architecture import Architecture
    from engine.spec import RunSpec

OpenApp = Callable[[Run, bool], None]
"""Opens the terminal app on a run; with True it closes by itself when the run ends. The app's package passes it in."""

EXIT_OF_STATE = {"finished": 0, "stopped": 130}
EXIT_OF_CAUSE = {"oom": 3, "host-oom": 3, "bad-spec": 2}

app = typer.Typer(
    help="A terminal workbench for QLoRA fine-tuning. Without a command it opens the app.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a part of it, its folder, or `last`.")]


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
    run = _launch(spec, as_json)
    open_app: OpenApp | None = context.obj
    if open_app is not None and not headless and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        open_app(run, True)
    status = _follow(run, as_json)
    if status.state == "finished" and not as_json:
        report(run, console())
        return
    _end(run, status, as_json)


@app.command()
def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file; `loradeck new` writes one.")],
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run. Ctrl-C stops it cleanly, with a checkpoint."""
    from engine.checks import read_spec

    with wrong_input_explained(as_json):
        resolved = _prepared(read_spec(spec), spec.absolute().parent, as_json)
    run = _launch(resolved, as_json)
    _watch_or_leave(run, detach, as_json)


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


app.command()(estimate)
app.command()(fit)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    statuses = [(run, run.read_status()) for run in list_runs()]
    if as_json:
        print_json([{"id": run.id, "folder": str(run.folder), **asdict(status)} for run, status in statuses])
        return
    if not statuses:
        typer.echo("There are no runs yet. `loradeck demo` makes one; `loradeck new` writes a spec for your own.")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("run", "state", "model", "data"):
        table.add_column(heading, no_wrap=True)
    for heading in ("step", "loss", "held-out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, status in statuses:
        step = f"{status.step:,}/{status.total_steps:,}" if status.total_steps else "-"
        losses = ("-" if value is None else f"{value:.4f}" for value in (status.loss, status.eval_loss))
        state = f"{status.state}: {status.cause}" if status.cause else status.state
        table.add_row(*(Text(cell) for cell in (run.id, state, status.model, status.data, step, *losses)))
    console().print(table)


@app.command()
def show(name: RunName, as_json: AsJson = False) -> None:
    """Everything about one run: state, plan, last step, failures, files."""
    run = _find(name, as_json)
    facts = _facts(run)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if value not in (None, [], ""):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            typer.echo(f"{key:<12} {printable(text)}")


@app.command()
def attach(context: typer.Context, name: RunName, as_json: AsJson = False) -> None:
    """Watch a run in the app, or its progress where there is no terminal."""
    run = _find(name, as_json)
    open_app: OpenApp | None = context.obj
    if open_app is not None and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        open_app(run, False)
        return
    _watch_or_leave(run, False, as_json)


@app.command()
def stop(name: RunName, as_json: AsJson = False) -> None:
    """Finish the step, save a checkpoint, and end. `resume` goes on from there."""
    _request(name, "stop", as_json)


@app.command()
def pause(name: RunName, as_json: AsJson = False) -> None:
    """Hold a run after its step, with everything in memory. `resume` goes on."""
    _request(name, "pause", as_json)


@app.command()
def save(name: RunName, as_json: AsJson = False) -> None:
    """Write a checkpoint after the step."""
    _request(name, "save", as_json)


@app.command()
def resume(
    name: RunName,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused run, or with an ended one from its newest checkpoint."""
    from engine.runs.launch import NotResumable
    from engine.runs.launch import resume as resume_run

    run = _find(name, as_json)
    if run.read_status().state == "paused":
        _request(name, "resume", as_json)
        return
    try:
        checkpoint = resume_run(run)
    except (NotResumable, RunBusy) as error:
        fail(str(error), 1, as_json)
    except OSError as error:
        fail(f"{run.folder} cannot be written: {error.strerror}.", 1, as_json)
    if not as_json:
        typer.echo(f"{run.id} goes on from {checkpoint.name if checkpoint else 'the beginning: it has no checkpoint'}.")
    _watch_or_leave(run, detach, as_json)


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
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        return prepare(spec, folder, progress)


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


def _launch(spec: RunSpec, as_json: bool) -> Run:
    from engine.memory.outcomes.at_launch import at_launch
    from engine.memory.outcomes.comparison import predicted_words
    from engine.runs.launch import launch

    prediction = at_launch(spec)
    try:
        run = launch(spec, prediction)
    except OSError as error:
        fail(f"The run's folder cannot be written: {error.strerror} ({error.filename}).", 1, as_json)
    if not as_json:
        typer.echo(f"Run {run.id}")
        if prediction is not None:
            typer.echo(f"memory: {printable(predicted_words(prediction))}")
    return run


def _watch_or_leave(run: Run, detach: bool, as_json: bool) -> None:
    if detach:
        if as_json:
            print_json({"id": run.id, "folder": str(run.folder)})
        else:
            typer.echo(f"It runs on its own. Watch: loradeck attach {run.id}    Stop: loradeck stop {run.id}")
        return
    status = _follow(run, as_json)
    _end(run, status, as_json)


def _follow(run: Run, as_json: bool) -> RunStatus:
    from engine.follow import LeftRunning, follow

    try:
        return follow(run, console(stderr=as_json, quiet=as_json))
    except LeftRunning:
        if not as_json:
            typer.echo(f"{run.id} is left to itself. Watch: loradeck attach {run.id}")
        raise typer.Exit(130) from None


def _end(run: Run, status: RunStatus, as_json: bool) -> None:
    """Print how the run ended and exit with the code that says it."""
    if as_json:
        print_json(_facts(run))
    elif status.state == "stopped":
        typer.echo(f"Stopped after step {status.step:,}. Go on with: loradeck resume {run.id}")
    elif status.state == "finished":
        typer.echo(f"Finished. Adapter: {run.adapter_folder}")
    else:
        cause = f" ({status.cause})" if status.cause else ""
        typer.echo(f"The run {status.state}{cause}. {printable(status.message)}".rstrip(), err=True)
        typer.echo(f"Its log: {run.log_path}    Go on with: loradeck resume {run.id}", err=True)
    raise typer.Exit(EXIT_OF_STATE.get(status.state, EXIT_OF_CAUSE.get(status.cause or "", 1)))


def _facts(run: Run) -> dict[str, Any]:
    """What `show` tells. Names are those of the spec and of the events."""
    from engine.memory.outcomes.history import facts
    from engine.runs.events import read_events

    status = run.read_status()
    newest: dict[str, Any] = {}
    for event in read_events(run.events_path):
        newest[event["type"]] = {key: value for key, value in event.items() if key != "type"}
    return {
        "id": run.id,
        "folder": str(run.folder),
        **asdict(status),
        "plan": newest.get("plan"),
        "last_step": newest.get("step"),
        "last_eval": newest.get("eval"),
        "memory": facts(run),
        "error": newest.get("error") if status.state == "failed" else None,
        "oom": newest.get("oom") if status.cause == "oom" else None,
        "remedies": (newest.get("remedies") or {}).get("remedies") if status.cause == "oom" else None,
        "parent": None,
        "checkpoints": [str(path) for path in run.checkpoints()],
        "adapter": str(run.adapter_folder) if run.adapter_folder.exists() else None,
    }


def _request(name: str, request: control.Request, as_json: bool) -> None:
    run = _find(name, as_json)
    status = run.read_status()
    if status.state in ENDED:
        fail(f"{run.id} is not running: {status.state}.", 1, as_json)
    try:
        control.send(run.control_folder, request)
    except OSError as error:
        fail(f"{run.control_folder} cannot be written: {error.strerror}.", 1, as_json)
    if as_json:
        print_json({"id": run.id, "request": request})
    else:
        when = "at once" if request == "resume" else "at the end of its step"
        typer.echo(f"{run.id} was asked to {request}; it answers {when}.")


def _find(name: str, as_json: bool) -> Run:
    try:
        return find_run(name)
    except RunNotFound as error:
        fail(str(error), 2, as_json)


if __name__ == "__main__":
    main()
