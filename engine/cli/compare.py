"""Runs beside each other, for people: a column a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from engine.cli.output import console, printable

if TYPE_CHECKING:
    from engine.runs.compare import Outcome

LONGEST_VALUE = 40


def tell_comparison(outcomes: Sequence[Outcome], differing: Mapping[str, Sequence[Any]]) -> None:
    """Print what came of the runs, and the settings in which they differ."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(Text(printable(outcome.id)), justify="right")
    rows: dict[str, list[str]] = {
        "state": [
            f"{each.status.state}: {each.status.cause}" if each.status.cause else each.status.state for each in outcomes
        ],
        "step": [f"{each.status.step:,}" for each in outcomes],
        "last loss": [_loss(each.status.loss) for each in outcomes],
        "best loss": [_loss(each.best_loss, each.best_loss_step) for each in outcomes],
        "last held-out loss": [_loss(each.status.eval_loss) for each in outcomes],
        "best held-out loss": [_loss(each.best_eval_loss, each.best_eval_loss_step) for each in outcomes],
        "peak memory": [_size(each.peak_bytes) for each in outcomes],
        "predicted": [_size(each.predicted_bytes) for each in outcomes],
        "tokens": ["-" if each.tokens is None else f"{each.tokens:,}" for each in outcomes],
        "took": [_duration(each.duration_s) for each in outcomes],
    }
    rows |= {field: [_value(value) for value in values] for field, values in differing.items()}
    for name, cells in rows.items():
        if name in differing and name == next(iter(differing)):
            table.add_row("")
        table.add_row(*(Text(printable(cell)) for cell in (name, *cells)))
    console().print(table)
    if not differing:
        typer.echo("Their settings are the same.")
    for outcome in outcomes:
        if outcome.origin:
            typer.echo(printable(f"{outcome.id} {outcome.origin}."))


def _loss(loss: float | None, step: int | None = None) -> str:
    if loss is None:
        return "-"
    return f"{loss:.4f}" if step is None else f"{loss:.4f} at {step:,}"


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**30:.2f} GiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
