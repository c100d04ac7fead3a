"""What is told of one run: `show`, for people and for scripts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from engine.cli.machines import words_of_machines
from engine.cli.output import console, printable
from engine.runs.store import ENDED, Run, RunStatus

if TYPE_CHECKING:
    from engine.memory.ways_out.remedies import Remedy

OOM_CAUSES = ("oom", "host-oom")
TOLD_APART = (
    "oom", "remedies", "remedies_event", "parent", "labels", "message", "processes", "rank_peak_bytes", "ranks",
    "machines", "meeting",
)  # fmt: skip
"""Facts that `show` tells in words of their own."""


def facts_of(run: Run) -> dict[str, Any]:
    """What `show` tells. Names are those of the spec and of the events. Of any long file only the ends are read."""
    from engine.memory.outcomes.history import facts
    from engine.runs.compare import parent_of
    from engine.runs.labels import read_labels
    from engine.runs.last_events import last_events, newest_oom, newest_remedies

    status = run.read_status()
    newest = {
        type: {key: value for key, value in event.items() if key != "type"}
        for type, event in last_events(run.events_path, ("plan", "step", "eval", "error")).items()
    }
    oom = newest_oom(run) if status.cause in OOM_CAUSES else None
    ways_out = newest_remedies(run) if status.cause in OOM_CAUSES else None
    parent = parent_of(run)
    try:
        labels = read_labels(run)
        labelled: dict[str, Any] | None = {"tags": list(labels.tags), "notes": list(labels.notes)}
    except OSError:
        labelled = None
    return {
        "id": run.id,
        "folder": str(run.folder),
        **asdict(status),
        "plan": newest.get("plan"),
        "last_step": newest.get("step"),
        "last_eval": newest.get("eval"),
        "ranks": _ranks_of(run, status) if status.processes > 1 else None,
        "memory": facts(run),
        "error": newest.get("error") if status.state == "failed" else None,
        "oom": None if oom is None else {key: value for key, value in oom.items() if key != "type"},
        "remedies": None if ways_out is None else ways_out.get("remedies"),
        "remedies_event": None
        if ways_out is None
        else {key: value for key, value in ways_out.items() if key not in ("type", "remedies")},
        "parent": None if parent is None else parent.model_dump(mode="json"),
        "labels": labelled,
        "checkpoints": [str(path) for path in run.checkpoints()],
        "adapter": str(run.adapter_folder) if run.adapter_folder.exists() else None,
    }


def _ranks_of(run: Run, status: RunStatus) -> list[dict[str, Any]]:
    """Of several processes the peak of each, and while the run goes on what each holds."""
    from engine.runs.fields import objects
    from engine.runs.last_events import last_events

    sample = last_events(run.hardware_path, ["hardware"]).get("hardware", {}) if status.state not in ENDED else {}
    now = {each.get("rank"): each for each in objects(sample.get("ranks"))}
    peaks = [*status.rank_peak_bytes, *[None] * status.processes][: status.processes]
    held = ("pid", "rss_bytes", "gpu_bytes")
    return [
        {"rank": rank, "peak_bytes": peak_bytes} | {name: now[rank].get(name) for name in held if rank in now}
        for rank, peak_bytes in enumerate(peaks)
    ]


def _words_of_ranks(ranks: Sequence[dict[str, Any]]) -> str:
    """`2 processes: rank 0 peak 7.9 GiB, rank 1 peak 8.1 GiB`."""
    from engine.units import amount

    peaks = [f"rank {each['rank']} peak {amount(each['peak_bytes'])}" for each in ranks if each["peak_bytes"]]
    return f"{len(ranks)} processes{': ' if peaks else ''}{', '.join(peaks)}"


def tell(run: Run, facts: dict[str, Any]) -> None:
    """Print the facts for a person: what there is line by line, then what happened and what would help."""
    from engine.memory.ways_out.recorded import first_to_set
    from engine.runs.compare import origin_words, parent_of

    for key, value in facts.items():
        if key not in TOLD_APART and value not in (None, [], ""):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            typer.echo(f"{key:<15} {printable(text)}")
    if facts["ranks"]:
        typer.echo(f"{'ranks':<15} {_words_of_ranks(facts['ranks'])}")
    for words in words_of_machines(facts["machines"], facts["state"] in ENDED):
        typer.echo(words)
    for words in _words_of_labels(facts["labels"] or {}):
        typer.echo(printable(words))
    if facts["message"]:
        typer.echo(f"{'message':<15} {printable(facts['message'])}")
    if origin := origin_words(parent_of(run)):
        typer.echo(f"\n{printable(f'{run.id} {origin}.')}")
    if facts["continued_by"]:
        typer.echo(f"\n{run.id} is continued by {printable(facts['continued_by'])}.")
    if facts["oom"] is not None:
        typer.echo("")
        tell_oom(run, facts["oom"])
    if facts["remedies"]:
        typer.echo("")
        tell_remedies(facts["remedies"], facts["remedies_event"] or {})
        first = first_to_set(facts["remedies"])
        if facts["continued_by"] is None:
            if first is not None:
                typer.echo(f"\nGo on with one: loradeck resume {run.id} --remedy {first[0]}")
            typer.echo(f"Prices by a trace: loradeck remedies {run.id}")


def tell_oom(run: Run, oom: dict[str, Any]) -> None:
    """Print what happened, in sentences."""
    from engine.checks import InvalidSpec, read_spec
    from engine.runs.oom_words import held_for, what_happened

    try:
        limit_bytes = read_spec(run.spec_path).hardware.memory_limit_bytes
    except InvalidSpec:
        limit_bytes = None
    for sentence in [*what_happened(oom, limit_bytes), *filter(None, [held_for(oom)])]:
        typer.echo(printable(sentence))


def tell_remedies(remedies: Sequence[Any], event: dict[str, Any], numbered: bool = True) -> None:
    """Print ways out, as events hold them: what each changes, below it its price, and what it means."""
    from engine.memory.ways_out.recorded import remedy_from
    from engine.runs.lineage import changes_in_words
    from engine.units import amount

    width = min(110, max(60, console().width))
    for number, raw in enumerate(remedies, start=1):
        remedy = remedy_from(raw)
        if remedy is None:
            continue
        head, margin = (f"{number:>2}  ", "    ") if numbered else ("", "")
        what, *rest = [changes_in_words(remedy.changes), remedy.note] if remedy.changes else [remedy.note]
        for line in _wrapped(what, width, head, margin):
            typer.echo(line)
        if remedy.predicted_peak_bytes is not None:
            typer.echo(f"{margin}{_price_words(remedy)}")
        for words in rest:
            for line in _wrapped(words, width, margin, margin):
                typer.echo(line)
    room = event.get("room_bytes")
    tier = {"formula": "by formula", "shallow": "traced in part", "full": "traced"}.get(str(event.get("tier")), "")
    if isinstance(room, int) and room > 0:
        short = event.get("short_bytes")
        less = f", less {amount(short)} that the prediction fell short by" if isinstance(short, int) and short else ""
        typer.echo(f"Peaks are predicted{f' ({tier})' if tier else ''}, to fit into {amount(room)}: what it had{less}.")
    if event.get("checkpoint"):
        repeat = event.get("steps_to_repeat")
        steps = "no step" if repeat == 0 else "1 step" if repeat == 1 else f"{repeat} steps"
        typer.echo(printable(f"It would go on from {event['checkpoint']}, with {steps} to repeat."))


def _price_words(remedy: Remedy) -> str:
    """`predicted  699 MiB  fits          saves  297 MiB   batch 16   training the same   time x 1.33`."""
    from engine.units import amount

    peak = "?" if remedy.predicted_peak_bytes is None else amount(remedy.predicted_peak_bytes)
    saves = amount(remedy.saves_bytes) if remedy.saves_bytes else "-"
    training = "changes" if remedy.changes_training else "the same"
    time = "?" if remedy.slowdown is None else f"x {remedy.slowdown:.2f}"
    return (
        f"predicted {peak:>9}  {remedy.verdict or '?':<12}  saves {saves:>9}   "
        f"batch {remedy.effective_batch_size:,}   training {training}   time {time}"
    )


def _wrapped(words: str, width: int, first: str, then: str) -> list[str]:
    return textwrap.wrap(printable(words), width, initial_indent=first, subsequent_indent=then)


def _words_of_labels(labels: dict[str, Any]) -> Iterator[str]:
    if labels.get("tags"):
        yield f"{'tags':<15} {', '.join(labels['tags'])}"
    for note in labels.get("notes", []):
        yield f"{'note':<15} {note['text']}"
