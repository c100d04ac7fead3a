"""This process among those of its run: which one it is, what all of them agree on, and how it ends.

With a single process everything here does nothing. torch is imported by what talks to the others only: the first
thing that a process does is to take its place.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from engine.runs.ranks import WELL, Beat, RankFiles, rank_log_path
from engine.runs.store import Run
from engine.spec import RunSpec

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NO_LIMIT = timedelta(days=30)
"""Others may wait as long as rank 0 tokenizes, saves or answers; the supervisor sees who hangs."""
LOST = re.compile(
    r"gloo/|Connection (closed|reset) by peer|connection was (closed|reset)|Broken pipe|NCCL (error|communicator)"
    r"|ncclRemoteError|ncclSystemError|DistNetworkError|DistStoreError|store->(get|set)|recvValue failed",
    re.IGNORECASE,
)
"""What an exception says in a process whose others are gone."""


@dataclass(frozen=True)
class Place:
    """Where this process is among all, as torchrun's variables say it."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        if "TORCHELASTIC_RUN_ID" not in environment:  # leftovers in a shell are no launcher
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(environment[name]) for name in names))


@dataclass
class Work:
    """What a process has computed in some steps."""

    seconds: float = 0.0
    """Of its own forward and backward passes (`own_work`), in `timed_steps`."""
    timed_steps: int = 0
    places: int = 0
    """For tokens, padding included, in its batches."""

    def add(self, seconds: float, timed_steps: int, places: int) -> None:
        self.seconds += seconds
        self.timed_steps += timed_steps
        self.places += places


class Ranks:
    """This process and the others. Without a run it is the only one. Raises OSError where its record cannot be
    written."""

    def __init__(self, run: Run | None = None, place: Place | None = None) -> None:
        self.place = place = place or Place()
        self._files = RankFiles(run, place.rank) if run is not None and place.count > 1 else None
        self._group: ProcessGroup | None = None
        self._has_own_folder = run is None or run.whole is run
        self.work = Work()
        """What this process has computed since the others were told; `any_of` tells them."""
        self._work_of_all = [Work() for _ in range(place.count)]
        if run is not None and place.local_rank > 0:
            log = os.open(rank_log_path(run, place.rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number in (1, 2):
                os.dup2(log, number)
            os.close(log)

    @property
    def is_main(self) -> bool:
        """Whether this process is the first of all."""
        return self.place.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this process is the first of its machine, which writes the events there and takes requests."""
        return self.place.local_rank == 0

    @property
    def keeps(self) -> bool:
        """Whether this process writes checkpoints and adapter: the first of each machine, but where the machines share
        a run folder, the first of all."""
        return self.is_first_here and (self.is_main or self._has_own_folder)

    @property
    def are_several(self) -> bool:
        return self.place.count > 1

    def own(self, spec: RunSpec) -> RunSpec:
        """`spec` with the GPU of this process as its device."""
        if not spec.hardware.gpu_ids or not self.are_several:
            return spec
        device = f"cuda:{spec.hardware.gpu_ids[self.place.local_rank]}"
        return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"device": device})})

    def join(self, spec: RunSpec) -> None:
        """Meet the others; returns when all are there."""
        if not self.are_several:
            return
        import torch
        import torch.distributed as dist

        on_gpu = spec.hardware.device != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(self.place.local_rank)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=NO_LIMIT)
        # Requests are asked for after each step: on the CPU, so that no GPU has to be waited for.
        self._group = dist.new_group(backend="gloo", timeout=NO_LIMIT)
        if spec.hardware.num_machines > 1:
            notice_dead_links()

    def beat(self, step: int) -> None:
        """Let the supervisor know that this process goes on."""
        if self._files is not None:
            self._files.beat(step)

    def sign(self) -> None:
        """Let it know the same from what the others do not do."""
        if self._files is not None:
            self._files.sign()

    @property
    def last_beat(self) -> Beat | None:
        """What the supervisor was let know last; None for the only process."""
        return None if self._files is None else self._files.last_beat

    def wait(self) -> None:
        """Return when all processes are here."""
        if self._group is not None:
            import torch.distributed as dist

            dist.barrier(self._group)

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag whether any process has set it. To be called by all. What each has computed goes along."""
        if self._group is None:
            return list(flags)
        import torch
        import torch.distributed as dist

        own, self.work = self.work, Work()
        numbers = [0] * (len(flags) + 3 * self.place.count)
        numbers[: len(flags)] = map(int, flags)
        at = len(flags) + 3 * self.place.rank
        numbers[at : at + 3] = round(own.seconds * 1e6), own.timed_steps, own.places
        summed = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(summed, group=self._group)
        counts, of_all = summed[: len(flags)].tolist(), summed[len(flags) :].reshape(-1, 3).tolist()
        for work, (microseconds, timed_steps, places) in zip(self._work_of_all, of_all, strict=True):
            work.add(microseconds / 1e6, timed_steps, places)
        return [bool(count) for count in counts]

    def work_of_all(self) -> list[Work]:
        """What each process has computed since the last call, as far as `any_of` has told."""
        if not self.are_several:
            self._work_of_all, self.work = [self.work], Work()
        taken, self._work_of_all = self._work_of_all, [Work() for _ in range(self.place.count)]
        return taken

    def gathered(self, value: Any) -> list[Any]:
        """The plain data and tensors of all processes, in their order. To be called by all."""
        if self._group is None:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.place.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def sent(self, content: bytes | None, source: int) -> bytes:
        """`content` of the process `source`, in all. To be called by all; the others' own is not looked at."""
        assert self._group is not None, "there is nobody to send to"
        import torch
        import torch.distributed as dist

        size = torch.tensor([len(content or b"")])
        dist.broadcast(size, source, group=self._group)
        data = torch.empty(int(size), dtype=torch.uint8)
        if self.place.rank == source:
            data = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: int(size)]
        if int(size):
            dist.broadcast(data, source, group=self._group)
        return data.numpy().tobytes()

    def leave(self, exit_code: int, **record: Any) -> int:
        """Write how this process ends, and return what it has to exit with; of several only rank 0 returns, and only
        where it did not fail."""
        if self._files is None:
            return exit_code
        self._files.end(exit_code, **record)
        if exit_code not in WELL:
            exit_now(exit_code)
        if not self.is_main:
            exit_now(0)  # rank 0 has yet to save: the launcher would end it where this one fails in its last moments
        return 0  # a stop is no failure for the launcher, which would end the others


def notice_dead_links() -> None:
    """Let the kernel end the connections of this process to others from which nothing comes any more.

    A cut link says nothing by itself, and gloo would wait as long as it may. While a machine lives its kernel answers,
    however long its processes are silent. Where there is no /proc, their supervisors still notice.
    """
    if sys.platform != "linux":
        return
    # tcp(7): asked after 5 s of silence, and dead 15 s after the last answer, a little before supervisors say so.
    options = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 2, socket.TCP_USER_TIMEOUT: 15_000}
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed by now
            continue
        with connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in options.items():
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)


def exit_now(exit_code: int) -> NoReturn:
    """What is left to tear down may wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def is_lost(error: BaseException) -> bool:
    """Whether `error` only says that another process is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (
        isinstance(error, (RuntimeError, OSError)) and bool(LOST.search(str(error)))
    )
