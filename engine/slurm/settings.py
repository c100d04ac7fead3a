"""`hardware.slurm`: what a run's job asks of Slurm, under the names of sbatch's own options."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

NAME = re.compile(r"[\w.,@:+/-]+")
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d\d?))?(?::(?P<third>\d\d?))?")
MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
GPUS = re.compile(r"(?:[\w.-]+:)?[1-9]\d*")
WARNING_S = 120
"""How long before its time limit a job is told: it has to finish a step and save."""


class SlurmSettings(BaseModel):
    """The job of a run. What is unset is left to the cluster."""

    model_config = ConfigDict(extra="forbid")

    partition: str | None = None
    """One or several, with commas."""
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    """`2:00:00` or `1-12:00:00`; a number alone is minutes."""
    gpus: str | None = None
    """On the node: `1`, or with the kind, `a100:1`."""
    cpus_per_task: Annotated[int, Field(ge=1)] | None = None
    mem: str | None = None
    """Host memory, such as `64G`."""
    requeue: bool = True
    """Whether the job goes back to the queue when it is preempted, its node fails or its time is over."""
    extra: list[str] = []
    """More options of sbatch, as one writes them: `--constraint=h100`."""

    @field_validator("gpus", "mem", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value

    @field_validator("time", mode="before")
    @classmethod
    def _not_read_as_a_number(cls, value: Any) -> Any:
        # YAML 1.1 reads 2:00:00 as 7200, which Slurm would take as minutes.
        if type(value) is int:
            raise ValueError("write it between quotes, such as '2:00:00': without them YAML makes a number of it")
        return value

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None and not TIME.fullmatch(value):
            raise ValueError("should be hours:minutes:seconds or days-hours:minutes:seconds, such as '12:00:00'")
        return value

    @field_validator("partition", "account", "qos")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError("should be a name without blanks")
        return value

    @field_validator("mem")
    @classmethod
    def _is_memory(cls, value: str | None) -> str | None:
        if value is not None and not MEMORY.fullmatch(value):
            raise ValueError("should be a number and a unit, such as 64G")
        return value

    @field_validator("gpus")
    @classmethod
    def _are_gpus(cls, value: str | None) -> str | None:
        if value is not None and not GPUS.fullmatch(value):
            raise ValueError("should be a number of GPUs, or kind:number such as a100:1")
        return value

    @field_validator("extra")
    @classmethod
    def _are_options(cls, options: list[str]) -> list[str]:
        for option in options:
            if not option.startswith("-") or not option.isprintable():
                raise ValueError("should hold options of sbatch, such as --constraint=h100")
        return options

    @property
    def asks_for_gpus(self) -> bool:
        """Whether the job gets a GPU, as far as that can be seen."""
        return self.gpus is not None or any(re.match(r"--(gres|gpus|tres-per)|-G", option) for option in self.extra)

    @property
    def warning_s(self) -> int:
        """How long before its end the job is told that its time runs out; of a short job a tenth."""
        limit_s = None if self.time is None else seconds_of(self.time)
        return WARNING_S if limit_s is None else max(10, min(WARNING_S, limit_s // 10))


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` as settings of a job, only those that are set. Raises ValueError with words for a person."""
    try:
        return SlurmSettings.model_validate(raw).model_dump(exclude_unset=True)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        name = str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, SlurmSettings.model_fields, n=1, cutoff=0.6)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(SlurmSettings.model_fields)}"
            raise ValueError(f"this is no setting of a job: {name}; {meant}") from None
        message = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        raise ValueError(f"this is no value for {name}: {item['input']!r}; it {message}") from None


def seconds_of(time: str) -> int:
    """A time limit as sbatch reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    (man sbatch, --time)
    """
    match = TIME.fullmatch(time)
    assert match is not None, time
    parts = [int(part) for part in match.group("first", "second", "third") if part is not None]
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(parts) == 3:
        return (parts[0] * 60 + parts[1]) * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
