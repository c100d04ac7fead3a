"""What Slurm says of a job, in words for a person: why it waits, and how it ended."""

from __future__ import annotations

import re
import signal
import time

from engine.runs.store import Cause, State
from engine.slurm.commands import JobEnd, Place, Queued

REASONS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "it is the next, as soon as enough is free",
    "Priority": "others are before it",
    "Dependency": "it waits for another job",
    "BeginTime": "its time has not come yet",
    "JobHeldUser": "it is held: `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "JobRequeueHold": "it was put back, and is held: `scontrol release` lets it go",
    "launch failed requeued held": "its node could not start it, and it is held: `scontrol release` lets it go",
    "PartitionConfig": "it asks for more than a node of the partition has: it will not start as it is",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives: it will not start as it is",
    "PartitionTimeLimit": "it asks for more time than the partition gives: it will not start as it is",
    "PartitionDown": "the partition takes no jobs now",
    "PartitionInactive": "the partition is switched off",
    "BadConstraints": "no node has what it asks for: it will not start as it is",
    "Licenses": "it waits for a license",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "Reservation": "its reservation has not begun",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the QOS is not valid",
    "NodeDown": "a node that it needs is down",
}
"""Reasons of `squeue` that are met most (man squeue, JOB REASON CODES)."""
LIMITS = re.compile(r"^(Assoc|QOS|MaxJobs|MaxMem|MaxCpu|MaxNode|MaxSubmit)")
DAY_S = 24 * 3600
FAR_S = 30 * DAY_S
"""What Slurm expects later than that follows from jobs without a time limit."""
NOT_SOON = " When it starts cannot be told: jobs before it have no time limit that is near."


def why_it_waits(job_id: str, job: Queued, place: Place | None, now: float) -> str:
    """`Slurm job 17 waits in debug, place 2 of 5 (Priority: others are before it). Expected to start at 14:05.`"""
    reason = job.reason.partition(",")[0].strip()
    meaning = REASONS.get(reason) or ("a limit of the account or QOS is reached" if LIMITS.match(reason) else "")
    where = f" in {job.partition}" if job.partition else ""
    stands = f", place {place.place} of {place.waiting}" if place is not None else ""
    said = meaning if reason == "None" else f"{job.reason}: {meaning}" if meaning else job.reason
    sentence = f"Slurm job {job_id} waits{where}{stands} ({said})."
    if job.start is not None and job.start > now:
        sentence += f" Expected to start {_when(job.start, now)}." if job.start - now < FAR_S else NOT_SOON
    return sentence


def starts(job_id: str, job: Queued) -> str:
    """Of a job that has begun, and whose supervisor has not written yet."""
    return f"Slurm job {job_id} has begun{f' on {job.nodes}' if job.nodes else ''}."


def how_it_ended(
    job_id: str, end: JobEnd, stop_asked: bool, was_running: bool, last_line: str
) -> tuple[State, Cause | None, str]:
    """State, cause and message of a run whose job has ended without its supervisor saying how.

    `last_line` is the last of what the job printed.
    """
    job, on = f"Slurm job {job_id}", f" ({end.nodes})" if end.nodes else ""
    lost = " What was saved before is intact." if was_running else ""
    if end.state == "CANCELLED" and not was_running:
        return "stopped", None, f"{job} was taken out of the queue."
    if stop_asked and not was_running:
        return "stopped", None, f"{job} was stopped before training began."
    match end.state:
        case "CANCELLED":
            message = f"{job} was cancelled, and Slurm killed it before the trainer had saved."
        case "TIMEOUT" | "DEADLINE":
            message = f"{job} came to its time limit, and Slurm killed it before the trainer had saved."
        case "PREEMPTED":
            message = f"{job} had to make room for another, and Slurm killed it before the trainer had saved."
        case "NODE_FAIL" | "BOOT_FAIL":
            message = f"The node of {job} failed{on}."
        case "OUT_OF_MEMORY":
            message = f"{job} took more host memory than it had asked for, and was killed{on}."
            return "failed", "host-oom", f"{message} Set hardware.slurm.mem higher.{lost}"
        case "FAILED" | "COMPLETED":
            how = f"signal {_signal_name(end.signal)}" if end.signal else f"exit code {end.exit_code or 0}"
            message = f"{job} ended with {how}{on}, and the run's supervisor could not say why."
            if last_line:
                message += f" Its last words: {last_line}"
            return "failed", "killed" if end.signal else "error", message + lost
        case _:
            return "lost", None, f"Slurm does not know {job} any more, and the run's supervisor is gone.{lost}"
    return "failed", "killed", message + lost


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _when(moment: float, now: float) -> str:
    pattern = "at %H:%M" if moment - now < DAY_S / 2 else "on %d %b at %H:%M"
    return time.strftime(pattern, time.localtime(moment))
