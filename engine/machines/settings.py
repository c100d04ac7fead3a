"""`hardware.machines`: the machines that train together, under accelerate's names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
"""A name, or an address of version 4 or 6."""
EVERY_INTERFACE = ("0.0.0.0", "::")
PORT = 29500
"""accelerate's own main_process_port."""


class Machine(BaseModel):
    """One of the machines of a run."""

    model_config = ConfigDict(extra="forbid")

    address: str
    """By which the others reach it; of machine 0 it is accelerate's main_process_ip."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where machine 0 listens for the others."""
    machine_rank: Annotated[int, Field(ge=0, le=63)] | None = None
    """Its number; unset is its place in the list."""

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if not ADDRESS.fullmatch(address) or address in EVERY_INTERFACE:
            raise ValueError("should be a name or an address by which the other machines reach it")
        return address

    @property
    def rank(self) -> int:
        """`machine_rank`, once it is filled in."""
        assert self.machine_rank is not None, "only of `in_order`"
        return self.machine_rank

    @property
    def name(self) -> str:
        """`machine 1 (10.0.0.2)`"""
        return f"machine {self.rank} ({self.address})"

    @property
    def as_subject(self) -> str:
        """`Machine 1 (10.0.0.2)`, to begin a sentence with."""
        return f"M{self.name[1:]}"


def checked(raw: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`raw` as machines, of each only what is set. Raises ValueError with words for a person."""
    machines = []
    for place, entry in enumerate(raw):
        try:
            machines.append(Machine.model_validate(entry))
        except ValidationError as error:
            raise ValueError(_words_of(error, place)) from None
    ranks = [place if machine.machine_rank is None else machine.machine_rank for place, machine in enumerate(machines)]
    if sorted(ranks) != list(range(len(ranks))):
        numbers = ", ".join(map(str, ranks))
        raise ValueError(f"should number {len(ranks)} machines from 0 on, each once, and they are {numbers}")
    for rank, machine in zip(ranks, machines, strict=True):
        if rank > 0 and machine.port is not None:
            raise ValueError(f"gives machine {rank} a port, and only machine 0 is listened at: leave it out")
    return [machine.model_dump(exclude_none=True) for machine in machines]


def in_order(raw: Sequence[dict[str, Any]]) -> list[Machine]:
    """Machines as `checked` returns them, by their numbers, all numbered, and machine 0 with its port."""
    machines = [Machine.model_validate({"machine_rank": place, **entry}) for place, entry in enumerate(raw)]
    machines.sort(key=lambda machine: machine.rank)
    return [machine.model_copy(update={"port": machine.port or PORT}) if not machine.rank else machine
            for machine in machines]  # fmt: skip


def _words_of(error: ValidationError, place: int) -> str:
    item = error.errors(include_url=False)[0]
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"knows no {name}: a machine has {', '.join(Machine.model_fields)}"
    if item["type"] == "missing":
        return f"should give each machine an address, and number {place} of the list has none"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"gives a machine the {name} {item['input']!r}; it {message[0].lower()}{message[1:]}"
