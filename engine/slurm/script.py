"""`job.sbatch`: the run as a batch script that a person can read, change and submit by hand."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.runs.store import Run
from engine.slurm.settings import SlurmSettings

OUTPUT = "slurm-{job}.out"
"""What the job itself prints, in the run folder: mostly nothing. The trainer's output is in trainer.log."""


def script_path(run: Run) -> Path:
    return run.folder / "job.sbatch"


def job_script(run: Run, settings: SlurmSettings, environment: Mapping[str, str] = os.environ) -> str:
    """The script. `environment` says where runs are kept, which the job has to know too."""
    lines = [
        "#!/bin/bash",
        f"# The Slurm job of run {run.id}, written by Loradeck from hardware.slurm in run.yaml.",
        *(f"#SBATCH {option}" for option in _options(run, settings)),
        "",
        "# The supervisor takes the place of this shell, so that it gets the signals that Slurm sends to the batch",
        f"# script: USR1, {settings.warning_s} s before the time limit, and TERM mean stop with a checkpoint.",
        "# When the job is started again, training goes on from the newest checkpoint.",
        f"cd {shlex.quote(str(run.folder))} || exit 1",
    ]
    if home := environment.get("LORADECK_HOME"):
        lines.append(f"export LORADECK_HOME={shlex.quote(home)}")
    lines.append(f"exec {shlex.quote(sys.executable)} -m engine.runs.supervisor {shlex.quote(str(run.folder))}")
    return "\n".join(lines) + "\n"


def _options(run: Run, settings: SlurmSettings) -> Iterator[str]:
    yield f"--job-name=loradeck-{run.id}"
    yield f"--chdir={_quoted(str(run.folder))}"
    yield f"--output={_quoted(str(run.folder / OUTPUT.format(job='%j')))}"
    yield "--open-mode=append"
    yield "--nodes=1"
    yield "--ntasks=1"
    for name in ("partition", "account", "qos", "time", "cpus_per_task", "mem"):
        if (value := getattr(settings, name)) is not None:
            yield f"--{name.replace('_', '-')}={value}"
    if settings.gpus is not None:
        yield f"--gres=gpu:{settings.gpus}"  # also understood where --gpus is not, by select/linear and cons_res
    yield "--requeue" if settings.requeue else "--no-requeue"
    yield f"--signal=B:USR1@{settings.warning_s}"
    yield from settings.extra


def _quoted(path: str) -> str:
    """`path` as a directive takes it: sbatch splits at blanks, and knows double quotes and backslashes."""
    if not any(character in path for character in " \t\"'\\#"):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
