"""Which of a run's machines this one is, told by its addresses, and what of it the others reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence

import psutil

from engine.checks import InvalidSpec, Problem
from engine.machines.settings import Machine
from engine.spec import HardwareSection


def own_rank(hardware: HardwareSection) -> int | None:
    """Number of this machine among those of a run; None where it is the only one.

    Raises InvalidSpec where its addresses do not tell, or tell otherwise than `hardware.machine_rank`.
    """
    said, count = hardware.machine_rank, hardware.num_machines
    if count == 1 or len(hardware.machines) != count or (said is not None and said >= count):
        return said  # the last two are told with all that does not go together
    machines, own = hardware.machines_in_order, own_addresses()
    found = [machine.rank for machine in machines if any(is_own(address, own) for address in resolved(machine.address))]
    hint = "name each machine by an address of its own, or say which one this is: train SPEC --machine-rank N"
    if said is None and len(found) != 1:
        here = ", ".join(address for address in own if not ipaddress.ip_address(address).is_loopback)
        named = ", ".join(machine.address for machine in machines)
        reason = f"this machine ({here or 'without an address'}) is none of {named}"
        if found:
            reason = f"this machine has the addresses of several: {', '.join(map(str, found))}"
        raise InvalidSpec([Problem("hardware.machines", reason, hint)])
    if said is not None and found and said not in found:
        reason = f"{said} is asked for, and this one has the address of {machines[found[0]].name}"
        raise InvalidSpec([Problem("hardware.machine_rank", reason, "leave it unset: it is found by the addresses")])
    rank = found[0] if said is None else said
    if not _is_an_address(name := machines[rank].address) and (at := _only_loopback(name)) is not None:
        reason = f"here {name} is {at} (/etc/hosts), where no other machine reaches it"
        raise InvalidSpec([Problem("hardware.machines", reason, "write its address in the network")])
    return rank


def own_addresses() -> dict[str, str]:
    """Addresses of this machine -> the interface that has them."""
    return {
        entry.address.partition("%")[0]: interface
        for interface, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }


def resolved(address: str) -> list[str]:
    """The addresses that a name stands for; none where nobody here knows it."""
    try:
        return list(
            dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(address, None, type=socket.SOCK_STREAM))
        )
    except OSError:
        return []


def is_own(address: str, own: Mapping[str, str]) -> bool:
    return address in own or ipaddress.ip_address(address).is_loopback


def interface_of(machine: Machine) -> str | None:
    """The network interface by which the others reach this machine; None where none has its address."""
    own = own_addresses()
    for address in resolved(machine.address):
        if ipaddress.ip_address(address).is_loopback:
            return next((name for at, name in own.items() if ipaddress.ip_address(at).is_loopback), None)
        if address in own:
            return own[address]
    return None


def _is_an_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _only_loopback(name: str) -> str | None:
    addresses: Sequence[str] = resolved(name)
    return addresses[0] if addresses and all(ipaddress.ip_address(at).is_loopback for at in addresses) else None
