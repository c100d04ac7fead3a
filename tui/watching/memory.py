"""Memory and load of a run over time, from the supervisor's `hardware` events and the trainer's own figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from engine.runs.events import Event
from engine.runs.fields import objects
from engine.runs.store import STATES, State
from tui.watching.rank_memory import RankMemory
from tui.watching.run_clock import RunClock
from tui.widgets.pyramid import Pyramid

MOST_BYTES = 2**60
LATEST_TIME = 1e12
MOST_GPUS = 1024
MOST_INSTANCES = 64
MOST_PID = 2**32
LONGEST_NAME = 200
"""Characters of a process's user or name that are kept."""
LONGEST_LIST = 1000
"""Processes of a GPU that are kept."""
NOTHING_TOLD = (None, None)
NO_RANKS: Mapping[int, int] = {}
SAME_S = 10.0
"""Of PyTorch's figures that do not change, one in so many seconds is enough for a line."""
MOST_FIGURES = 4000
"""While what the allocator has taken stays the same, so many figures of what it has given out are enough for a run."""
MOST_WAITING = 20_000
"""Figures that wait for a sample of their time: seconds' worth. A run without any samples keeps no more."""
MOST_MARKS = 400
FIRST_MARKS = 20
"""Of too many marks the first ones, which hold loading and the first steps, and the newest stay."""


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU now. What may not be read of it is None."""

    pid: int
    user: str | None
    name: str | None
    used_bytes: int | None
    is_own: bool
    """Whether it is of this run."""
    rank: int | None = None
    """Of which of several processes of this run it is."""


@dataclass
class GpuHistory:
    """One GPU, or one MIG instance of it: memory in bytes over the run's time in seconds, and its latest load.

    The latest values are None where the driver does not tell them, and all of them once the GPU no longer answers.
    """

    index: int
    name: str
    mig: int | None = None
    """Number of the MIG instance on GPU `index`; None for the whole card."""
    uuid: str | None = None
    total_bytes: int | None = None
    """As last known: it stays when the GPU no longer answers."""
    used: Pyramid = field(default_factory=Pyramid)
    """By all processes together."""
    by_run: Pyramid = field(default_factory=Pyramid)
    """By this run's processes."""
    by_others: Pyramid = field(default_factory=Pyramid)
    """The rest: other processes, and what the driver keeps."""
    used_bytes: int | None = None
    run_bytes: int | None = None
    others_bytes: int | None = None
    seen_run: bool = False
    """Whether this run's processes were ever seen here. In a container the driver may hide whose memory it is."""
    ranks: list[int] = field(default_factory=list)
    """Of several processes of this run those that hold memory here, or did when any was last seen."""
    utilization: int | None = None
    """Per cent."""
    temperature_c: float | None = None
    power_w: float | None = None
    throttling: tuple[str, ...] | None = None
    """Why it runs slower than it could, in words; empty where nothing slows it down."""
    utilization_over_time: Pyramid = field(default_factory=Pyramid)
    temperature_over_time: Pyramid = field(default_factory=Pyramid)
    power_over_time: Pyramid = field(default_factory=Pyramid)
    processes: list[GpuProcess] = field(default_factory=list)
    """Now, those that hold most first."""
    instances: dict[int, GpuHistory] = field(default_factory=dict)
    """Its MIG instances by number."""

    @property
    def label(self) -> str:
        """`GPU 1`, or `GPU 1 MIG 0`."""
        return f"GPU {self.index}" if self.mig is None else f"GPU {self.index} MIG {self.mig}"

    @property
    def answers(self) -> bool:
        """Whether the driver tells anything of it now."""
        return any(value is not None for value in (self.used_bytes, self.utilization, self.temperature_c, self.power_w))

    @property
    def lines(self) -> tuple[Pyramid, ...]:
        memory = (self.used, self.by_run, self.by_others)
        return (*memory, self.utilization_over_time, self.temperature_over_time, self.power_over_time)

    def apply(
        self, sample: dict[str, Any], elapsed_s: float, own_pids: set[int], ranks: Mapping[int, int] = NO_RANKS
    ) -> None:
        """Take in what a `hardware` event says of it; nothing said is nothing known. `ranks` are those of processes."""
        self.total_bytes = size(sample.get("total_bytes")) or self.total_bytes
        self.uuid = _name(sample.get("uuid")) or self.uuid
        utilization = within(sample.get("utilization"), 0, 100)
        self.utilization = None if utilization is None else int(utilization)
        self.temperature_c = within(sample.get("temperature_c"), -100, 1000)
        self.power_w = within(sample.get("power_w"), 0, 1e6)
        reasons = sample.get("throttling")
        self.throttling = (
            tuple(word[:LONGEST_NAME] for word in reasons if isinstance(word, str))
            if isinstance(reasons, list)
            else None
        )
        self.processes = list(_processes(sample.get("processes"), own_pids, ranks))
        self.ranks = sorted({one.rank for one in self.processes if one.rank is not None}) or self.ranks
        self._apply_memory(size(sample.get("used_bytes")))
        now = (self.used_bytes, self.run_bytes, self.others_bytes, utilization, self.temperature_c, self.power_w)
        for line, value in zip(self.lines, now, strict=True):
            line.append(elapsed_s, value)

    def _apply_memory(self, used_bytes: int | None) -> None:
        held = [process.used_bytes for process in self.processes if process.is_own]
        known = [size_bytes for size_bytes in held if size_bytes is not None]
        self.seen_run = self.seen_run or bool(known)
        self.used_bytes = used_bytes
        if known:
            self.run_bytes = sum(known)
        else:  # nothing of it is here, or nobody can tell
            self.run_bytes = None if held or used_bytes is None else 0
        unknown = used_bytes is None or self.run_bytes is None
        self.others_bytes = None if unknown else max(0, (used_bytes or 0) - (self.run_bytes or 0))


class Mark(NamedTuple):
    """Where on the run's time a state began."""

    elapsed_s: float
    state: State


class _OwnFigures(NamedTuple):
    """PyTorch's figures in a `step` event."""

    time: float
    allocated_bytes: int | None
    reserved_bytes: int | None


class MemoryHistory:
    """What the machine did while the run was on it."""

    def __init__(self, trainer_pids: set[int] | None = None) -> None:
        self.trainer_pids = trainer_pids or set()
        """Every process that has trained for this run."""
        self.gpus: dict[int, GpuHistory] = {}
        """Whole cards by their index; MIG instances are within them."""
        self.trainer_resident = Pyramid()
        """Bytes of the trainer in the host's memory, over the run's time."""
        self.host_used = Pyramid()
        """Bytes of the host's memory that all processes use, over the run's time."""
        self.allocated = Pyramid()
        """Bytes in tensors as PyTorch counts them, after each step, over the run's time; empty on the CPU."""
        self.reserved = Pyramid()
        """Bytes that PyTorch's allocator had taken of the card."""
        self.ranks = RankMemory()
        """Of several processes what each holds."""
        self.marks: list[Mark] = []
        """Where loading, training, evaluating, saving ... began, in order."""
        self.host_used_bytes: int | None = None
        self.host_total_bytes: int | None = None
        self.trainer_resident_bytes: int | None = None
        self.cpu_percent: float | None = None
        self.disk_free_bytes: int | None = None
        """Of the disk that the run writes to."""
        self._clock = RunClock()
        self._waiting_figures: deque[_OwnFigures] = deque(maxlen=MOST_WAITING)
        """Those later than the newest sample: only samples tell where on the run's time a moment is."""
        self._waiting_states: deque[tuple[float, State]] = deque(maxlen=MOST_MARKS)
        self._figures_at: float | None = None
        self._told: tuple[object, object] = NOTHING_TOLD
        self._told_at = 0.0

    @property
    def elapsed_s(self) -> float:
        """The run's time at the newest sample, without the time between a stop and a resume."""
        return self._clock.elapsed_s

    def apply(self, event: Event) -> None:
        """Take in one `hardware` event. What it does not know leaves a gap."""
        time = within(event.get("time"), 0, LATEST_TIME)
        if time is not None and self._clock.tick(time):
            lines = (line for gpu in self.in_order for line in gpu.lines)
            for line in (self.trainer_resident, self.host_used, *self.ranks.lines, *lines):
                line.append(self.elapsed_s, None)
        pids = event.get("trainer_pids")
        if isinstance(pids, list):
            self.trainer_pids.update(pid for pid in pids if isinstance(pid, int))
        self.ranks.apply(event.get("ranks"), self.elapsed_s)
        self._apply_gpus(event.get("gpus"))
        host = event.get("host")
        if isinstance(host, dict):
            self._apply_host(host)
        self._place_what_waits()

    def apply_step(self, event: Event) -> None:
        """Take in PyTorch's own figures of a `step` event. They appear once a sample has reached their time."""
        self.apply_steps([event])

    def apply_steps(self, events: Sequence[Event]) -> None:
        """Take in the figures of many `step` events in order: of those that say the same the first and the last, and of
        a long run no more than a chart can show."""
        newest = len(events) - 1
        finest_s = self.elapsed_s / MOST_FIGURES
        for place, event in enumerate(events):
            told = (event.get("allocated_bytes"), event.get("reserved_bytes"))
            if told == NOTHING_TOLD:
                continue
            time = within(event.get("time"), 0, LATEST_TIME)
            if time is None:
                continue
            alike_s = SAME_S if told == self._told else finest_s if told[1] == self._told[1] else 0.0
            if 0 <= time - self._told_at < alike_s and place < newest:
                continue
            self._told, self._told_at = told, time
            self._waiting_figures.append(_OwnFigures(time, size(told[0]), size(told[1])))
        self._place_what_waits()

    def apply_state(self, event: Event) -> None:
        """Mark where a state began. The mark appears once a sample has reached its time."""
        state, time = event.get("state"), within(event.get("time"), 0, LATEST_TIME)
        if time is not None and state in STATES:
            self._waiting_states.append((time, cast(State, state)))
            self._place_what_waits()

    def gpus_of(self, device: str | None, gpu_ids: Sequence[int] = ()) -> list[GpuHistory]:
        """The GPUs to show for a run on `device` (`cpu`, `cuda:1`; None while it is not known), or of several processes
        on `gpu_ids`: those it holds memory on, else those that are named, else all. Of a card that is split, its
        instances."""
        if device == "cpu":
            return []
        holding = [gpu for gpu in self.in_order if gpu.seen_run]
        if holding or device is None:
            return holding or list(self.in_order)
        numbers = [*map(str, gpu_ids)] or [device.partition(":")[2] or "0"]
        named = [gpu for _, gpu in sorted(self.gpus.items()) if str(gpu.index) in numbers]
        split = [instance for gpu in named for instance in gpu.instances.values()]
        return split or named or list(self.in_order)

    def ranks_of(self, gpu: GpuHistory, gpu_ids: Sequence[int] = ()) -> list[int]:
        """Which of several processes use a GPU: as seen, or where the driver hides that, as they were given it."""
        if gpu.ranks or self.ranks.on_gpu or gpu.index not in gpu_ids:
            return gpu.ranks
        return [gpu_ids.index(gpu.index)]

    @property
    def in_order(self) -> Iterator[GpuHistory]:
        """Every card by its index, followed by its MIG instances."""
        for _, gpu in sorted(self.gpus.items()):
            yield gpu
            yield from (instance for _, instance in sorted(gpu.instances.items()))

    @property
    def peak_bytes(self) -> int | None:
        """Most that the run was seen to hold on one GPU, or resident where it was never seen on one."""
        lines = [gpu.by_run for gpu in self.in_order if gpu.seen_run]
        lines = lines or [self.ranks.fullest_resident if self.ranks.are_several else self.trainer_resident]
        ranges = [extent for line in lines if (extent := line.y_range())]
        return int(max(high for _, high in ranges)) if ranges else None

    def _apply_gpus(self, samples: object) -> None:
        silent = {(gpu.index, gpu.mig): gpu for gpu in self.in_order}
        for sample in objects(samples):
            index, mig = within(sample.get("index"), 0, MOST_GPUS), within(sample.get("mig"), 0, MOST_INSTANCES)
            if index is None:
                continue
            gpu = self._gpu(int(index), None if mig is None else int(mig), _name(sample.get("name")) or "GPU")
            silent.pop((gpu.index, gpu.mig), None)
            gpu.apply(sample, self.elapsed_s, self.trainer_pids, self.ranks.of_pids)
        for gpu in silent.values():
            gpu.apply({}, self.elapsed_s, self.trainer_pids)

    def _gpu(self, index: int, mig: int | None, name: str) -> GpuHistory:
        if index not in self.gpus:
            self.gpus[index] = GpuHistory(index, name if mig is None else "GPU")
        card = self.gpus[index]
        if mig is None:
            if card.name == "GPU":
                card.name = name
            return card
        return card.instances.setdefault(mig, GpuHistory(index, name, mig))

    def _apply_host(self, host: dict[str, Any]) -> None:
        self.host_used_bytes = size(host.get("used_bytes"))
        self.host_total_bytes = size(host.get("total_bytes"))
        self.trainer_resident_bytes = size(host.get("trainer_rss_bytes"))
        self.cpu_percent = within(host.get("cpu_percent"), 0, 1e6)
        self.disk_free_bytes = size(host.get("disk_free_bytes"))
        self.trainer_resident.append(self.elapsed_s, self.trainer_resident_bytes)
        self.host_used.append(self.elapsed_s, self.host_used_bytes)

    def _place_what_waits(self) -> None:
        # The files of a run are read in turns, so steps may come long before the samples of their time.
        reached = self._clock.latest
        if reached is None:
            return
        while self._waiting_figures and self._waiting_figures[0].time <= reached:
            self._place(self._waiting_figures.popleft())
        while self._waiting_states and self._waiting_states[0][0] <= reached:
            time, state = self._waiting_states.popleft()
            if not self.marks or self.marks[-1].state != state:
                elapsed_s = self._clock.at(time)
                self.marks.append(Mark(max(elapsed_s, self.marks[-1].elapsed_s) if self.marks else elapsed_s, state))
                if len(self.marks) > MOST_MARKS:
                    del self.marks[FIRST_MARKS]

    def _place(self, figures: _OwnFigures) -> None:
        elapsed_s = self._clock.at(figures.time)
        if self._figures_at is not None and self._clock.paused_between(self._figures_at, figures.time):
            self.allocated.append(elapsed_s, None)
            self.reserved.append(elapsed_s, None)
        self._figures_at = figures.time
        for line, size_bytes in ((self.allocated, figures.allocated_bytes), (self.reserved, figures.reserved_bytes)):
            last = line.last
            line.append(max(elapsed_s, last[0]) if last else elapsed_s, size_bytes)


def size(value: object) -> int | None:
    """Bytes, as far as they can be true: files may hold anything."""
    number = within(value, 0, MOST_BYTES)
    return None if number is None else int(number)


def within(value: object, low: float, high: float) -> float | None:
    """A number from low to high, or None."""
    # NaN is in no range; a whole number too large for a float is compared without one.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    return None


def _name(value: object) -> str | None:
    return value[:LONGEST_NAME] if isinstance(value, str) and value else None


def _processes(listed: object, own_pids: set[int], ranks: Mapping[int, int]) -> Iterator[GpuProcess]:
    found = []
    for process in list(objects(listed))[:LONGEST_LIST]:
        pid = within(process.get("pid"), 0, MOST_PID)
        if pid is not None:
            user, name = _name(process.get("user")), _name(process.get("name"))
            used_bytes, is_own = size(process.get("used_bytes")), int(pid) in own_pids
            found.append(GpuProcess(int(pid), user, name, used_bytes, is_own, ranks.get(int(pid))))
    yield from sorted(found, key=lambda process: -(process.used_bytes or 0))
