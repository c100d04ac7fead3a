"""Our end of exporting a run as a config for `trl sft` (`engine.worker.export.trl_config`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.export.writing import refuse_existing, write_new
from engine.jobs.process import IsCancelled, OnEvent, run_job
from engine.runs.store import Run
from engine.spec import RunSpec


@dataclass(frozen=True)
class ExportedConfig:
    """What was written."""

    path: Path
    template_path: Path | None
    """The chat template, where it is neither the model's own nor one that trl has for it."""
    differences: list[str]
    """What the run did and the config cannot say."""


def export_trl_yaml(
    run: Run, spec: RunSpec, path: Path, on_event: OnEvent | None = None, is_cancelled: IsCancelled | None = None
) -> ExportedConfig:
    """Write the config, and a chat template beside it where it needs one.

    Raises ExportRefused where a file exists, JobFailed (cause `bad-spec`: trl would not read the rows), JobCancelled
    and OSError.
    """
    path = path.absolute()
    template_path = path.with_suffix(".jinja")
    refuse_existing(path)
    request = {
        "what": "trl",
        "spec": spec.model_dump(mode="json"),
        "run": run.id,
        "template_path": str(template_path),
    }
    result = run_job("export", request, "Exporting the config", "cpu", on_event, is_cancelled)
    template = result["template"]
    if template is not None:
        write_new(template_path, template)
    try:
        write_new(path, result["text"])
    except BaseException:
        if template is not None:
            template_path.unlink(missing_ok=True)
        raise
    return ExportedConfig(path, None if template is None else template_path, result["differences"])
