"""`slurm.json` in a run folder: which job the run is, and what was asked of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.runs.store import Run, write_atomically


@dataclass(frozen=True)
class SlurmJob:
    """The newest job of a run."""

    job_id: str
    submitted: float
    """Unix time."""
    stop_asked: bool = False
    """Whether a person asked the run to stop while it was this job."""
    ended: bool = False
    """Whether the job's end is known and told: nobody needs to watch it any more."""


def job_path(run: Run) -> Path:
    return run.folder / "slurm.json"


def read_job(run: Run) -> SlurmJob | None:
    """The run's newest job; None of a run that is none, or whose file holds no job."""
    try:
        raw = json.loads(job_path(run).read_bytes())
        known = {field.name for field in fields(SlurmJob)}
        job = SlurmJob(**{key: value for key, value in raw.items() if key in known})
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None
    return job if isinstance(job.job_id, str) and job.job_id.isdigit() else None


def write_job(run: Run, job: SlurmJob) -> None:
    """Raises OSError."""
    write_atomically(job_path(run), json.dumps(asdict(job), indent=1).encode() + b"\n")
