"""`estimate` and `fit`: the memory of a run before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import AsJson, console, fail, print_json, printable, wrong_input_explained

if TYPE_CHECKING:
    from engine.inspector import Inspector
    from engine.memory.card import Card
    from engine.memory.footprint import Footprint
    from engine.memory.predict import Question

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file; `loradeck new` writes one.")]
GpuName = Annotated[
    str | None,
    typer.Option("--gpu", help="A card that need not be here: a size such as 12GiB, or a name such as t4 or 4090."),
]

PARTS = {
    "weights": "frozen weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits and loss",
    "workspaces": "kernels' workspaces",
    "cache": "held by PyTorch, unused",
    "context": "CUDA context",
}
TIERS = {"formula": "by formula", "shallow": "traced on few layers", "full": "traced"}


def estimate(
    spec: SpecFile,
    gpu: GpuName = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that train together; bytes are those of one. Else the spec's.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="How they share: ddp or fsdp. Else the spec's.")] = None,
    formula: Annotated[bool, typer.Option("--formula", help="Answer at once, by formula alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predict the memory of a run, and whether it fits. No weights, no GPU and no network are needed."""
    from engine.inspector import Inspector
    from engine.memory.outcomes.history import with_experience
    from engine.memory.predict import NotPredicted, best, by_formula
    from engine.memory.ways_out.pricing import price

    if strategy not in (None, "ddp", "fsdp"):
        fail(f"--strategy is ddp or fsdp, not {strategy}.", 2, as_json)
    others: dict[str, Any] = {}
    if processes is not None:
        others = {"num_processes": processes, "strategy": None, "gpu_ids": []}
    if strategy is not None:
        others["strategy"] = strategy
    with Inspector() as inspector:
        question = _question(spec, gpu, inspector, as_json, others)
        try:
            if question.spec.training.activation_offloading and not question.card.on_cpu:  # counted: no trace has it
                footprint = price(question, None if formula else inspector, "full")
            else:
                footprint = by_formula(question) if formula else best(question, inspector)
        except KeyError as error:
            fail(f"This kind of model cannot be predicted: {error.args[0]}.", 1, as_json)
        except NotPredicted as reason:
            fail(str(reason), 1, as_json)
    if question.card.is_here:
        footprint = with_experience(footprint, question.card)
    if as_json:
        print_json(_with_verdict(footprint, question.card))
        return
    _print(footprint, question.card, question.spec.hardware.num_processes)


def fit(spec: SpecFile, gpu: GpuName = None, as_json: AsJson = False) -> None:
    """Find the settings that fit a card and cost least, and say why each."""
    from engine.inspector import Inspector
    from engine.memory.ways_out.fit import fit as fit_to_card

    with Inspector() as inspector:
        question = _question(spec, gpu, inspector, as_json)
        try:
            found = fit_to_card(question, inspector)
        except KeyError as error:
            fail(f"This kind of model cannot be predicted: {error.args[0]}.", 1, as_json)
    if as_json:
        print_json(
            {
                **found.to_json(),
                "card": question.card.name,
                "free_bytes": question.card.free_bytes,
                "limit_bytes": question.card.limit_bytes,
            }
        )
    else:
        typer.echo(printable(found.summary))
        for field, (old, new) in found.changes.items():
            typer.echo(f"\n{field}: {old} -> {new}")
            typer.echo(f"    {printable(found.reasons.get(field, ''))}")
        for field, reason in found.reasons.items():
            if field not in found.changes:
                typer.echo(f"\n{field} stays")
                typer.echo(f"    {printable(reason)}")
        typer.echo("")
        _print(found.footprint, question.card, question.spec.hardware.num_processes)
    raise typer.Exit(0 if found.fits else 1)


def _question(
    path: Path, gpu: str | None, inspector: Inspector, as_json: bool, hardware: Mapping[str, Any] | None = None
) -> Question:
    """What is asked about: the spec's model, data and card, with other values of `hardware` where some are given. Ends
    the command where one of them is wrong."""
    from engine.catalog import ModelUnavailable, find_config
    from engine.checks import InvalidSpec, impossible_combinations, read_spec
    from engine.inspector import InspectorError, RequestRefused
    from engine.memory.card import card_named, chosen_card
    from engine.memory.lengths import measured
    from engine.memory.predict import Question
    from engine.prepare import with_absolute_paths
    from engine.targets import problems_of_sharing, problems_with

    with wrong_input_explained(as_json, "Nothing was predicted"):
        spec = with_absolute_paths(read_spec(path), path.absolute().parent)
        spec = spec.model_copy(update={"hardware": spec.hardware.model_copy(update=dict(hardware or {}))})
        try:
            card = chosen_card(spec.hardware.device) if gpu is None else card_named(gpu)
        except ValueError as error:
            fail(str(error), 2, as_json)
        if not card.is_here and gpu is None:
            fail(f"{card.name}: name a card with --gpu, such as --gpu 12GiB.", 2, as_json)
        card = card.within(spec.hardware.memory_limit_bytes)
        model = spec.model
        try:
            source, config_path = find_config(model.name_or_path, model.revision)
            architecture = inspector.architecture(model.name_or_path, model.revision)
        except (ModelUnavailable, RequestRefused) as error:
            fail(str(error), 2, as_json)
        except InspectorError as error:
            fail(str(error), 1, as_json)
        spec = spec.model_copy(update={"model": model.model_copy(update={"name_or_path": source.name_or_path})})
        problems = [
            *(problems_with(spec.lora, architecture, spec.quantization) or problems_of_sharing(spec, architecture)),
            *impossible_combinations(spec),
        ]
        if problems:
            raise InvalidSpec(problems)
    question = Question(spec, architecture, card, config_folder=config_path.parent)
    lengths = measured(question.resolved, inspector)
    return Question(spec, architecture, card, lengths, config_path.parent)


def _with_verdict(footprint: Footprint, card: Card) -> dict[str, Any]:
    free = card.free_bytes
    verdict = None if free is None else footprint.verdict(free)
    others = [vars(process) for process in card.others]
    told = {
        "card": card.name,
        "free_bytes": free,
        "limit_bytes": card.limit_bytes,
        "verdict": verdict,
        "others": others,
    }
    return {**footprint.to_json(), **told}


def _print(footprint: Footprint, card: Card, processes: int) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    names = {**PARTS, "context": "libraries and the weights' file"} if card.on_cpu else PARTS
    for category, words in names.items():
        size = footprint.categories.get(category, 0)  # type: ignore[call-overload]
        if size:
            table.add_row(Text(words), Text(_amount(size)))
    console().print(table)
    what = "the trainer's resident memory" if card.on_cpu else "on the card"
    each = f", each of {processes} processes" if processes > 1 else ""
    typer.echo(f"{_amount(footprint.device_bytes)} {what}{each}, predicted ({_source(footprint)})")
    if footprint.range_bytes is not None:
        low, high = footprint.range_bytes
        typer.echo(f"    between {_amount(low)} and {_amount(high)}")
    for phase, size in footprint.phases.items():
        typer.echo(f"    {phase:<11} {_amount(size)} in tensors")
    if footprint.least_bytes is not None:
        typer.echo(
            f"    at least    {_amount(footprint.least_bytes)}: with less, PyTorch runs out even with its cache emptied"
        )
    for words in footprint.notes:
        typer.echo(f"    {printable(words)}")
    for words in footprint.not_modelled:
        typer.echo(f"    not in it: {printable(words)}")
    if card.free_bytes is None:
        typer.echo(f"{card.name}: free memory unknown.")
        return
    here = "allowed by memory_limit" if card.is_limited else "free" if card.is_here else "to use"
    typer.echo(f"{footprint.verdict(card.free_bytes)}: {_amount(card.free_bytes)} {here} on {printable(card.name)}")
    for process in card.others:
        used = "?" if process.used_bytes is None else _amount(process.used_bytes)
        typer.echo(f"    {printable(process.name or '?')} (pid {process.pid}, {process.user or '?'}) holds {used}")


def _source(footprint: Footprint) -> str:
    if footprint.tier == "formula":
        return TIERS["formula"]
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {footprint.versions[name]}" for name in names if name in footprint.versions)
    return f"{TIERS[footprint.tier]}: {versions}"


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:,.0f} MiB"
