"""What the machine does to a run: a GPU that waits, is slowed down or is gone, and a disk that fills."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from engine.runs.events import Event
from engine.runs.fields import objects
from engine.units import amount
from tui.watching.health.gpu_watch import Gpu, GpuWatch, gpu_of
from tui.watching.health.ledger import Ledger, Moment
from tui.watching.memory import size, within

FIRST_S = 30.0
"""Of each trainer's training, which load kernels and fill caches."""
AFTER_PAUSE_S = 5.0
"""The same after each evaluation and save."""
DISK_LEAST_BYTES = 256 * 2**20
DISK_CHECKPOINTS = 3
"""Room for so many checkpoints, and at least so many bytes, is enough."""
DISK_RECOVERED = 1.5
CHECKPOINT_BYTES_A_PARAMETER = 12
"""At most: adapters in fp32 and Adam's two moments."""
MOST_WAITING = 100_000


class _Sample(NamedTuple):
    time: float
    gpus: tuple[Gpu, ...]
    disk_free_bytes: int | None


class Machine:
    """Finds `idle`, `throttled`, `gpu-lost` and `disk`.

    The hardware's samples and the trainer's events come from two files that are read in turns, so either may be ahead.
    A sample waits until the events have reached its time, or until `judge`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.device: str | None = None
        """The run's, such as `cuda:1`."""
        self._waiting: deque[_Sample] = deque(maxlen=MOST_WAITING)
        self._phases: deque[tuple[float, bool]] = deque(maxlen=MOST_WAITING)
        """When the run began to train, and when to do something else."""
        self._training_since: float | None = None
        self._has_trained = False
        self._own: set[tuple[int, int | None]] = set()
        """Number and MIG instance of the GPUs that the run was seen on."""
        self._gpu_ids: list[str] = []
        self._are_several = False
        self._gpus = GpuWatch(ledger)
        self._checkpoint_bytes: int | None = None
        self.restart()

    def restart(self) -> None:
        """Another trainer, perhaps on another machine."""
        self._gpus.restart()
        if self._are_several:
            self._own = set()
        self._has_trained = False

    def take_plan(self, event: Event) -> None:
        """What the run set out to do."""
        device, parameters = event.get("device"), size(event.get("trainable_parameters"))
        self.device = device if isinstance(device, str) else None
        ids = event.get("gpu_ids")
        self._gpu_ids = [str(each) for each in ids if isinstance(each, int)] if isinstance(ids, list) else []
        self._are_several = len(self._gpu_ids) > 1
        if parameters is not None:
            self._checkpoint_bytes = CHECKPOINT_BYTES_A_PARAMETER * parameters

    def take_phase(self, time: float, is_training: bool) -> None:
        """The run began to train at this time, or to do something else."""
        self._phases.append((time, is_training))

    def take_sample(self, event: Event) -> None:
        """A `hardware` event."""
        time, host = within(event.get("time"), 0, 1e12), event.get("host")
        if time is None:
            return
        pids = event.get("trainer_pids")
        own = {pid for pid in pids if isinstance(pid, int)} if isinstance(pids, list) else set()
        gpus = tuple(gpu for sample in objects(event.get("gpus")) if (gpu := gpu_of(sample, own)) is not None)
        disk_free_bytes = size(host.get("disk_free_bytes")) if isinstance(host, dict) else None
        self._waiting.append(_Sample(time, gpus, disk_free_bytes))

    def catch_up(self, time: float | None = None) -> None:
        """Judge the samples up to a time that the trainer's events have reached; all without one."""
        while self._waiting and (time is None or self._waiting[0].time <= time):
            sample = self._waiting.popleft()
            while self._phases and self._phases[0][0] <= sample.time:
                began, is_training = self._phases.popleft()
                if is_training and self._training_since is None:
                    self._training_since = began + (AFTER_PAUSE_S if self._has_trained else FIRST_S)
                    self._has_trained = True
                elif not is_training:
                    self._training_since = None
            self._judge(sample)

    def _judge(self, sample: _Sample) -> None:
        if sample.disk_free_bytes is not None:
            self._judge_disk(sample.disk_free_bytes, sample.time)
        is_training = self._training_since is not None and sample.time >= self._training_since
        for gpu in self._own_gpus(sample):
            self._gpus.judge(gpu, sample.time, is_training)

    def _own_gpus(self, sample: _Sample) -> list[Gpu]:
        """One that fell off the bus is held by nobody any more, and still the run's."""
        if self.device == "cpu":
            return []
        if held := {gpu.key for gpu in sample.gpus if gpu.is_held}:
            self._own = self._own | held if self._are_several else held
        if not self._own and self.device is not None:
            # In a container the driver may hide whose memory it is.
            numbers = self._gpu_ids or [self.device.partition(":")[2] or "0"]
            return [gpu for gpu in sample.gpus if str(gpu.number) in numbers and gpu.mig is None]
        return [gpu for gpu in sample.gpus if gpu.key in self._own]

    def _judge_disk(self, free_bytes: int, time: float) -> None:
        needed_bytes = max(DISK_LEAST_BYTES, DISK_CHECKPOINTS * (self._checkpoint_bytes or 0))
        if free_bytes < needed_bytes:
            needs = self._checkpoint_bytes
            checkpoint = "" if needs is None else f"; a checkpoint takes up to {amount(needs)}"
            words = f"The run's disk is nearly full: {amount(free_bytes)} free{checkpoint}."
            advice = "Free some space, or keep fewer checkpoints (save_total_limit). A full disk ends the run."
            self.ledger.begin("disk", words, advice, Moment(time))
            self.ledger.update("disk", words)
        elif free_bytes > DISK_RECOVERED * needed_bytes:
            self.ledger.end("disk", f"The run's disk has {amount(free_bytes)} free again.", Moment(time))
