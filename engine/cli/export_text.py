"""What `export` says of what it has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from engine.cli.output import console, printable

if TYPE_CHECKING:
    from engine.export.adapter import ExportedAdapter
    from engine.export.gguf import ExportedGguf
    from engine.export.modelfile import ExportedModelfile
    from engine.export.script import ExportedScript
    from engine.export.trl_yaml import ExportedConfig
    from engine.export.vllm import Finding

DOING = {"data": "Reading rows", "check": "Comparing rows with the run's"}
MARKS = {"ok": "ok", "needs": "needs", "depends": "depends", "refused": "NO", "wrong": "NO"}


def tell_adapter(exported: ExportedAdapter) -> None:
    from engine.units import amount

    count = len(exported.files)
    typer.echo(f"Adapter: {printable(str(exported.folder))} ({count} files, {amount(exported.size_bytes)})")
    if exported.base.note:
        typer.echo(printable(exported.base.note))
    tell_vllm(exported.vllm)
    typer.echo("Its card is README.md: read it, and add a licence, before you hand it on.")


def tell_vllm(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from engine.export.vllm import options, serves

    if serves(found):
        typer.echo(f"vLLM serves it: vllm serve BASE {' '.join(options(found))} --lora-modules NAME=FOLDER")
    else:
        typer.echo("vLLM does not serve it as it is:")
    table = Table.grid(padding=(0, 2))
    for finding in found:
        if serves(found) and finding.verdict == "ok":
            continue
        table.add_row(
            Text(f"  {MARKS[finding.verdict]}"), Text(printable(finding.setting)), Text(printable(finding.reason))
        )
    console().print(table)


def tell_script(exported: ExportedScript) -> None:
    typer.echo(f"Script: {printable(str(exported.path))}")
    typer.echo(
        f"Its own code makes the run's tokens and labels of {exported.rows_checked:,} of {exported.rows:,} rows, and "
        "its settings are the run's."
    )
    for note in exported.notes:
        typer.echo(printable(note))


def tell_config(exported: ExportedConfig) -> None:
    typer.echo(
        f"Config: {printable(str(exported.path))}    Train with: trl sft --config {printable(str(exported.path))}"
    )
    if exported.template_path is not None:
        typer.echo(f"Chat template: {printable(str(exported.template_path))}")
    if exported.differences:
        typer.echo("What the run did, and the config does not say:")
    for difference in exported.differences:
        typer.echo(f"  {printable(difference)}")


def tell_modelfile(exported: ExportedModelfile) -> None:
    family = f" (template: {exported.family})" if exported.family else ""
    typer.echo(f"Modelfile: {printable(str(exported.path))}{family}")
    for note in exported.notes:
        typer.echo(printable(note))
    typer.echo(f"Take it in with: ollama create NAME -f {printable(str(exported.path))}")


def tell_gguf(exported: ExportedGguf) -> None:
    from engine.units import amount

    typer.echo(f"GGUF: {printable(str(exported.path))} ({amount(exported.size_bytes)})")
