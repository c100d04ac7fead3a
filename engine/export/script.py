"""Our end of exporting a run as one script: the worker writes and checks it (`engine.worker.export`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.export.writing import refuse_existing, write_new
from engine.jobs.process import IsCancelled, OnEvent, run_job
from engine.runs.store import Run
from engine.spec import RunSpec

DOING = "Exporting the script"


@dataclass(frozen=True)
class ExportedScript:
    """What was written."""

    path: Path
    rows: int
    """Of the run, held-out ones included."""
    rows_checked: int
    """That the script's own code made the run's tokens and labels of."""
    notes: list[str]
    """What the person has to know of it."""


def export_script(
    run: Run, spec: RunSpec, path: Path, on_event: OnEvent | None = None, is_cancelled: IsCancelled | None = None
) -> ExportedScript:
    """Write the run's script. Events are those of `engine.worker.export.task`.

    Raises ExportRefused where `path` exists, JobFailed (cause `bad-spec`: no script would be right), JobCancelled and
    OSError.
    """
    refuse_existing(path)
    request = {"what": "script", "spec": spec.model_dump(mode="json"), "run": run.id}
    # On the CPU, wherever the run was: rows are tokenized, and no model is loaded.
    result = run_job("export", request, DOING, "cpu", on_event, is_cancelled)
    write_new(path, result["text"])
    return ExportedScript(path, result["rows"], result["rows_checked"], result["notes"])
