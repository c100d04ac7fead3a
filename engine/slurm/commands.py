"""Slurm's commands: what they are asked, and what their answers mean."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60.0
"""A busy controller may take this long."""
UNKNOWN_JOB = "Invalid job id"
"""What squeue and scontrol say of a job that Slurm has forgotten: by default five minutes after its end."""
FIELDS = ("%i", "%T", "%r", "%S", "%P", "%N")
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
"""States that a job does not leave, unless it is requeued."""


class SlurmError(RuntimeError):
    """A Slurm command is missing, or refused; the message is for a person, with the command's own words."""


@dataclass(frozen=True)
class Queued:
    """A job as `squeue` shows it."""

    state: str
    """`PENDING`, `RUNNING`, `COMPLETING`, ..."""
    reason: str
    """Why it waits: `Resources`, `Priority`, ..."""
    start: float | None
    """Unix time at which it began, or is expected to begin."""
    partition: str
    nodes: str

    @property
    def is_waiting(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_STATES


@dataclass(frozen=True)
class JobEnd:
    """How a job ended, as far as Slurm still knows."""

    state: str
    """`COMPLETED`, `CANCELLED`, `TIMEOUT`, ...; empty where nothing is known."""
    exit_code: int | None = None
    """Of the batch script."""
    signal: int | None = None
    """That ended the batch script."""
    nodes: str = ""
    began: bool = True
    """Whether it ever ran."""


@dataclass(frozen=True)
class Place:
    """Where a job stands among those that wait for the same partition."""

    place: int
    """1 is the next."""
    waiting: int


def missing() -> str | None:
    """What keeps this machine from submitting jobs, in words; None if nothing does."""
    lacking = [name for name in ("sbatch", "squeue", "scancel", "scontrol") if shutil.which(name) is None]
    if not lacking:
        return None
    return f"Slurm's {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not on this machine's PATH"


def version() -> str | None:
    """`slurm-wlm 22.05.8`; None where there is no Slurm that answers."""
    try:
        return _run("sinfo", "--version").strip()
    except SlurmError:
        return None


def submit(script: Path) -> str:
    """Submit `script`; the job's id. Raises SlurmError with sbatch's own words."""
    # From inside of another job: what that one was given is not what this one asks for.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_") or key == "SLURM_CONF"}
    return _run("sbatch", "--parsable", str(script), environment=kept).strip().partition(";")[0]


def look(job_id: str) -> Queued | None:
    """The job in Slurm's queue; None if Slurm does not know it any more. Raises SlurmError if it cannot be asked."""
    try:
        # All states are asked for: of a job by its id they are shown for as long as Slurm remembers it.
        out = _run("squeue", "--noheader", "--states=all", f"--jobs={job_id}", f"--format={'|'.join(FIELDS)}")
    except SlurmError as error:
        if UNKNOWN_JOB in str(error):
            return None
        raise
    for line in out.splitlines():
        parts = line.strip().split("|")
        if len(parts) == len(FIELDS) and parts[0] == job_id:
            _, state, reason, start, partition, nodes = parts
            return Queued(state, reason, _moment(start), partition, nodes)
    return None


def place(job_id: str, partition: str) -> Place | None:
    """Where the job stands by priority. None where that cannot be told."""
    asked = ("--states=PENDING", f"--partition={partition}", "--sort=-p,i", "--format=%i")
    try:
        waiting = _run("squeue", "--noheader", *asked).split()
    except SlurmError:
        return None
    return Place(waiting.index(job_id) + 1, len(waiting)) if job_id in waiting else None


def how_it_ended(job_id: str) -> JobEnd:
    """How a job ended: from the controller's memory, or from the accounting where there is one."""
    try:
        return _end_by_controller(job_id) or _end_by_accounting(job_id)
    except SlurmError:
        return _end_by_accounting(job_id)


def restarts(job_id: str) -> int | None:
    """How often the job was requeued so far; it counts as soon as Slurm begins to requeue it."""
    count = _job_fields(job_id).get("Restarts", "")
    return int(count) if count.isdigit() else None


def cancel(job_id: str, only_waiting: bool = False) -> None:
    """`scancel`; with `only_waiting` a job that has begun is left alone. Raises SlurmError."""
    _run("scancel", *(["--state=PENDING"] if only_waiting else []), job_id)


def signal_batch(job_id: str, name: str) -> None:
    """Send a signal to the batch script, which is the run's supervisor. Raises SlurmError."""
    _run("scancel", f"--signal={name}", "--batch", job_id)


def requeue(job_id: str) -> None:
    """Put a job back in the queue; one that runs is ended. Raises SlurmError."""
    _run("scontrol", "requeue", job_id)


def _end_by_controller(job_id: str) -> JobEnd | None:
    job = _job_fields(job_id)
    if job.get("JobState") not in ENDED_STATES:
        return None
    code, _, number = job.get("ExitCode", "").partition(":")
    nodes = job.get("NodeList", "").replace("(null)", "")
    return JobEnd(job["JobState"], _whole(code), _whole(number) or None, nodes, began=bool(nodes))


def _end_by_accounting(job_id: str) -> JobEnd:
    asked = ("--noheader", "--parsable2", "--allocations", f"--jobs={job_id}", "--format=State,ExitCode,NodeList,Start")
    try:
        lines = _run("sacct", *asked).splitlines()
    except SlurmError:  # many small clusters keep no accounting
        return JobEnd("")
    parts = lines[-1].split("|") if lines else []
    if len(parts) != 4 or not parts[0]:
        return JobEnd("")
    state, exit_code, nodes, start = parts
    code, _, number = exit_code.partition(":")
    # `CANCELLED by 1000` is one of its states.
    return JobEnd(state.split()[0], _whole(code), _whole(number) or None, nodes, began=start not in ("", "None"))


def _job_fields(job_id: str) -> dict[str, str]:
    """What `scontrol show job` says, by the names it gives. Raises SlurmError."""
    words = _run("scontrol", "show", "job", job_id, "--oneliner").split()
    return {name: value for name, separator, value in (word.partition("=") for word in words) if separator}


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _moment(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    """A command's output. Raises SlurmError with what it said."""
    environment = {**(os.environ if environment is None else environment), "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, env=environment
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on this machine's PATH: is Slurm installed here?") from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"it ended with code {done.returncode}"
        raise SlurmError(said if said.startswith(command[0]) else f"{command[0]}: {said}")
    return done.stdout
