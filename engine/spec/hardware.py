"""Where it runs: device, memory, processes, machines, and who starts it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from engine.machines import settings as machine_settings
from engine.machines.settings import Machine
from engine.slurm.settings import SlurmSettings, checked
from engine.spec.section import Section

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([gm])i?b?|(\d{8,})", re.IGNORECASE)
"""`12GiB`, `900 MB` (units are powers of 2, as in the names of cards), or a number of bytes."""


def _size_bytes(text: str) -> int:
    """Bytes of a written size; 0 where it is none."""
    written = SIZE.fullmatch(text.strip())
    if written is None:
        return 0
    number, unit, plain = written.groups()
    return int(plain) if plain else int(float(number) * 2 ** (30 if unit in "gG" else 20))


class HardwareSection(Section):
    """Where it runs."""

    device: str = "auto"
    """`auto` (the first GPU, or the CPU where there is none), `cpu`, `cuda` or `cuda:1`."""

    memory_limit: str | None = None
    """The most memory that training may take, such as `12GiB`: to share a GPU, or to rehearse a smaller card. On the
    CPU it is the trainer's resident memory. Of several processes it is what each may take. Unset is all there is."""

    preflight: bool | None = None
    """Run the largest batches and a save once before the first step, and put everything back: memory that does not
    suffice is then known in the first minute. Unset does so on a GPU only."""

    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train together, on all machines, each on a GPU of its own. They share the rows of each step: the
    effective batch is batch size x accumulation x this."""

    num_machines: Annotated[int, Field(ge=1, le=64)] = 1
    """Machines that train together, each with the same number of processes. The run is started on each of them."""

    machines: Annotated[list[dict[str, Any]], Field(max_length=64)] = []
    """The machines in the order of their numbers, by the addresses at which they reach each other, such as
    `[{address: 10.0.0.1, port: 29500}, {address: 10.0.0.2}]`. Machine 0 listens at its port for the others."""

    machine_rank: Annotated[int, Field(ge=0, le=63)] | None = None
    """Which of `machines` this one is. Unset finds it by its addresses."""

    strategy: Literal["none", "ddp", "fsdp"] | None = None
    """How several processes share the work: `ddp` gives each a whole copy of the model, and adds up their gradients;
    `fsdp` gives each a share of every weight, for models that fit no single card, and is slower. Unset is ddp where
    there are several, and none where there is one."""

    gpu_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    """Numbers of the GPUs, one for each process of a machine, such as `[0, 2]`. Unset takes `device` and those after
    it."""

    launcher: Literal["local", "slurm"] = "local"
    """Who starts it: `local` is this machine, at once; `slurm` submits it as a batch job, and the run is `queued` until
    Slurm starts it."""

    slurm: dict[str, Any] = {}
    """What the job asks of Slurm, with `launcher: slurm`: partition, account, qos, time, gpus, cpus_per_task, mem,
    requeue, and extra, a list of more options of sbatch. Write times between quotes."""

    @field_validator("slurm")
    @classmethod
    def _is_a_job(cls, slurm: dict[str, Any]) -> dict[str, Any]:
        return checked(slurm)

    @field_validator("machines")
    @classmethod
    def _are_machines(cls, machines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return machine_settings.checked(machines)

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("should be auto, cpu, cuda or cuda:1 (the number of a GPU)")
        return device

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _written_in_bytes(cls, limit: Any) -> Any:
        return str(limit) if type(limit) is int else limit  # YAML reads a bare number of bytes as one

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, limit: str | None) -> str | None:
        if limit is not None and not _size_bytes(limit):
            raise ValueError("should be a size such as 12GiB or 900MiB")
        return limit

    @property
    def processes_here(self) -> int:
        """Processes on each machine."""
        return self.num_processes // self.num_machines

    @property
    def machines_in_order(self) -> list[Machine]:
        """`machines`, typed, by their numbers."""
        return machine_settings.in_order(self.machines)

    @property
    def slurm_settings(self) -> SlurmSettings:
        """`slurm`, typed."""
        return SlurmSettings.model_validate(self.slurm)

    @property
    def memory_limit_bytes(self) -> int | None:
        """`memory_limit` as a number."""
        return None if self.memory_limit is None else _size_bytes(self.memory_limit)

    @property
    def wants_preflight(self) -> bool:
        """`preflight` of a resolved spec, where it is not said: on a GPU."""
        return self.device != "cpu" if self.preflight is None else self.preflight
