"""`export --push`: what would go where, the question, and the sending."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from engine.cli.output import printable

if TYPE_CHECKING:
    from engine.export.adapter import ExportedAdapter
    from engine.export.push import Repository
    from engine.jobs.subject import Subject


def push_adapter(
    subject: Subject, repo_id: str, base: str | None, public: bool, yes: bool, as_json: bool
) -> dict[str, Any]:
    """Send the adapter's folder, made for this in a temporary place. Ends the command where the person says no.

    Raises ExportRefused, PushFailed and OSError.
    """
    from engine.export.adapter import export_adapter
    from engine.export.push import look_up, push

    repository = look_up(repo_id, public)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_adapter(subject, Path(folder) / "adapter", base)
        if not as_json:
            _show(repository, exported)
        if not yes and not typer.confirm("Send it?", default=False, err=True):
            typer.echo("Nothing was sent.", err=True)
            raise typer.Exit(1)
        pushed = push(exported.folder, repository, f"Adapter of {subject.name}")
    if not as_json:
        typer.echo(f"Sent: {printable(pushed.url)}")
    return {
        "repository": repository.id,
        "private": repository.private,
        "url": pushed.url,
        "commit": pushed.commit,
        "files": exported.files,
    }


def _show(repository: Repository, exported: ExportedAdapter) -> None:
    from engine.units import amount

    state = "it exists; files of the same names are replaced" if repository.exists else "new"
    seen_by = "private" if repository.private else "PUBLIC: everybody can read it"
    typer.echo(
        f"To {printable(repository.id)} on the hub ({state}; {seen_by}), as {printable(repository.account)}:", err=True
    )
    for name, size_bytes in exported.files.items():
        typer.echo(f"  {amount(size_bytes):>9}  {printable(name)}", err=True)
    typer.echo(f"  {amount(exported.size_bytes):>9}  in all", err=True)
    if exported.base.note:
        typer.echo(printable(exported.base.note), err=True)
