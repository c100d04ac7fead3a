"""accelerate's launcher, with the one socket of its own at its own address: `python -m engine.worker launch ...`."""

from __future__ import annotations

import socket
from datetime import timedelta

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import static_tcp_rendezvous


def main(arguments: list[str]) -> int:
    """Launch as `accelerate launch` does with `arguments`."""
    static_tcp_rendezvous.TCPStore = store_at_its_address  # type: ignore[attr-defined,assignment]
    launch_command(launch_command_parser().parse_args(arguments))
    return 0


def store_at_its_address(
    host: str, port: int, world_size: int, is_master: bool, timeout: timedelta, multi_tenant: bool = False
) -> TCPStore:
    """The store by which processes find each other. torch 2.13 would listen on every interface of the machine, and
    take what anybody writes."""
    if not is_master:
        return TCPStore(host, port, world_size, False, timeout, multi_tenant=multi_tenant)
    ((family, _, _, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    listener = socket.create_server(address[:2], family=family, backlog=1024)
    return TCPStore(
        host, port, world_size, True, timeout, multi_tenant=multi_tenant, master_listen_fd=listener.detach()
    )
