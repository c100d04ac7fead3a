"""`loradeck demo`: a real QLoRA run of a small model on bundled rows, small enough to watch on a CPU.

It teaches one visible thing: to turn a sentence about an appointment into a JSON object with fixed keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from engine.checks import parse_spec
from engine.follow import printable
from engine.runs.events import Event, read_events
from engine.runs.store import Run
from engine.spec import RunSpec

FOLDER = Path(__file__).parent
SHOWN_ANSWERS = 3


def demo_spec(model: str = "demo") -> RunSpec:
    """The demo's run: the guide's adapter (NF4, r 16, alpha 32, attention) and a schedule for 200 short rows."""
    spec: dict[str, Any] = {
        "model": {"name_or_path": model},
        "data": {
            "train": str(FOLDER / "train.jsonl"),
            "eval": str(FOLDER / "heldout.jsonl"),
            "max_length": 256,
            "samples": SHOWN_ANSWERS,
            "samples_max_new_tokens": 48,
        },
        "training": {
            # Small batches and a high rate: some 50 steps must show an effect that a real run takes hundreds for.
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            # Two minutes on a CPU are worth more here than memory.
            "activation_checkpointing": False,
            "train_sampling_strategy": "group_by_length",
            "eval_on_start": True,
        },
    }
    return parse_spec(spec)


def report(run: Run, console: Console) -> None:
    """Print what the demo showed: held-out loss before and after, answers side by side, and where to go on."""
    events = read_events(run.events_path)
    console.print()
    if len(evals := [event for event in events if event["type"] == "eval"]) > 1:
        before, after = evals[0]["eval_loss"], evals[-1]["eval_loss"]
        console.print(f"Held-out loss: {before:.3f} with the base model, {after:.3f} with the adapter.", style="bold")
    for answers in _side_by_side(events):
        console.print(answers)
    console.print(Text(f"\nAdapter     {run.adapter_folder}\nRun folder  {run.folder}"), soft_wrap=True)
    console.print(
        Text(
            f"\nNext:  loradeck attach {run.id}    the whole run, with its curves\n"
            "       loradeck new > my-run.yaml    a spec to start from, every setting explained\n"
            "       loradeck train my-run.yaml    your own model and data"
        ),
        soft_wrap=True,
    )


def _side_by_side(events: list[Event]) -> Iterator[Group]:
    """For each prompt: the prompt, the two answers beside each other, and what was hoped for."""
    answers: dict[int, dict[str, Event]] = {}
    for event in events:
        if event["type"] == "sample":
            answers.setdefault(event["prompt_index"], {})[event["model"]] = event
    for both in answers.values():
        if not {"base", "adapter"} <= both.keys():
            continue
        table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False, header_style="dim")
        for model in ("base", "adapter"):
            table.add_column(model, overflow="fold", ratio=1)
        table.add_row(*(Text(printable(both[model]["completion"])) for model in ("base", "adapter")))
        prompt, expected = printable(both["base"]["prompt"]), printable(both["base"]["expected"])
        yield Group(
            Text(""),
            Text.assemble(("prompt    ", "dim"), prompt),
            table,
            Text.assemble(("expected  ", "dim"), expected),
        )
