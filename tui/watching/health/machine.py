"""What the machine does to a run: a GPU that waits, is slowed down or is gone, and a disk that fills."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from engine.runs.events import Event
from engine.runs.fields import objects
from engine.units import amount
from tui.watching.health.ledger import Ledger, Moment
from tui.watching.memory import size, within

IDLE = 25.0
"""Per cent of the time. A small model on a large card keeps it busy for 40 to 60, which is how it is."""
BUSY = 45.0
IDLE_SAMPLES = 60
"""Samples come once a second, and only those while training count."""
BUSY_SAMPLES = 30
FIRST_S = 30.0
"""Of each trainer's training, which load kernels and fill caches."""
AFTER_PAUSE_S = 5.0
"""The same after each evaluation and save."""
THROTTLED_SAMPLES = 10
LOOKED_AT = 30
"""Throttling comes and goes within seconds: it is told once it was there in 10 of 30 samples."""
COOL_S = 60.0
"""Without throttling, after which it is over."""
SLOWING = ("thermal", "power brake", "hardware slowdown")
"""Only these are trouble: a card at full load is at its power cap most of the time."""
GONE_SAMPLES = 5
DISK_LEAST_BYTES = 256 * 2**20
DISK_CHECKPOINTS = 3
"""Room for so many checkpoints, and at least so many bytes, is enough."""
DISK_RECOVERED = 1.5
CHECKPOINT_BYTES_A_PARAMETER = 12
"""At most: adapters in fp32 and Adam's two moments."""
MOST_WAITING = 100_000
LONGEST_WORD = 40


class _Gpu(NamedTuple):
    """What one sample says of one GPU."""

    number: int
    mig: int | None
    is_held: bool
    """Whether this run's processes hold memory of it."""
    answers: bool
    utilization: float | None
    temperature_c: float | None
    throttling: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"GPU {self.number}" if self.mig is None else f"GPU {self.number} MIG {self.mig}"


class _Sample(NamedTuple):
    time: float
    gpus: tuple[_Gpu, ...]
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
        self._own: tuple[int, int | None] | None = None
        """Number and MIG instance of the GPU that the run was seen on."""
        self._checkpoint_bytes: int | None = None
        self.restart()

    def restart(self) -> None:
        """Another trainer, perhaps on another machine."""
        self._busy: deque[float] = deque(maxlen=IDLE_SAMPLES)
        self._throttled: deque[bool] = deque(maxlen=LOOKED_AT)
        self._throttled_at = 0.0
        self._silent_samples = 0
        self._has_answered = False
        self._has_trained = False

    def take_plan(self, event: Event) -> None:
        """What the run set out to do."""
        device, parameters = event.get("device"), size(event.get("trainable_parameters"))
        self.device = device if isinstance(device, str) else None
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
        gpus = tuple(gpu for sample in objects(event.get("gpus")) if (gpu := _gpu(sample, own)) is not None)
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
        gpu = self._own_gpu(sample)
        if gpu is None:
            return
        self._judge_answer(gpu, sample.time)
        self._judge_throttling(gpu, sample.time)
        if gpu.utilization is not None and self._training_since is not None and sample.time >= self._training_since:
            self._judge_idle(gpu, gpu.utilization, sample.time)

    def _own_gpu(self, sample: _Sample) -> _Gpu | None:
        if self.device == "cpu":
            return None
        for gpu in sample.gpus:
            if gpu.is_held:
                self._own = gpu.number, gpu.mig
                return gpu
        if self._own is None and self.device is not None:
            # In a container the driver may hide whose memory it is.
            number = self.device.partition(":")[2] or "0"
            return next((gpu for gpu in sample.gpus if str(gpu.number) == number and gpu.mig is None), None)
        return next((gpu for gpu in sample.gpus if (gpu.number, gpu.mig) == self._own), None)

    def _judge_answer(self, gpu: _Gpu, time: float) -> None:
        if gpu.answers:
            self._has_answered, self._silent_samples = True, 0
            self.ledger.end("gpu-lost", f"{gpu.label} answers again.", Moment(time))
            return
        self._silent_samples += 1
        if self._has_answered and self._silent_samples >= GONE_SAMPLES:
            self.ledger.begin(
                "gpu-lost",
                f"{gpu.label} no longer answers: it has fallen off the bus, or its driver hangs.",
                "The kernel's log (dmesg) names the reason as an Xid. It often takes a reboot; the checkpoints are on "
                "the disk.",
                Moment(time),
            )

    def _judge_throttling(self, gpu: _Gpu, time: float) -> None:
        slowing = [word for word in SLOWING if word in gpu.throttling]
        self._throttled.append(bool(slowing))
        if not slowing:
            if "throttled" in self.ledger.active and time - self._throttled_at > COOL_S:
                self.ledger.end("throttled", f"{gpu.label} is no longer slowed down.", Moment(time))
            return
        self._throttled_at = time
        if sum(self._throttled) < THROTTLED_SAMPLES:
            return
        warmth = "" if gpu.temperature_c is None else f" at {gpu.temperature_c:.0f} degrees"
        if slowing[0] == "thermal":
            words = f"{gpu.label} is slowed down by its heat{warmth}."
            advice = "See to fans and air, or lower its power limit (nvidia-smi -pl): it is then often no slower."
        else:
            words = f"{gpu.label} slows itself down ({', '.join(slowing)})."
            advice = "See to its power supply and cables; nvidia-smi -q -d PERFORMANCE says more."
        self.ledger.begin("throttled", words, advice, Moment(time))

    def _judge_idle(self, gpu: _Gpu, utilization: float, time: float) -> None:
        busy = self._busy
        busy.append(utilization)
        if len(busy) < IDLE_SAMPLES:
            return
        if "idle" in self.ledger.active:
            newest = list(busy)[-BUSY_SAMPLES:]
            share = sum(newest) / BUSY_SAMPLES
            if share > BUSY:
                self.ledger.end("idle", f"{gpu.label} is busy again, {share:.0f} % of the time.", Moment(time))
        elif (share := sum(busy) / IDLE_SAMPLES) < IDLE:
            self.ledger.begin(
                "idle",
                f"{gpu.label} works {share:.0f} % of the time: it waits for batches.",
                "dataloader_num_workers: 2 or more prepares them beside the training, and a larger "
                "per_device_train_batch_size gives more work at once. See also what else uses the CPU.",
                Moment(time),
            )

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


def _gpu(sample: dict[str, object], own_pids: set[int]) -> _Gpu | None:
    index, mig = within(sample.get("index"), 0, 1024), within(sample.get("mig"), 0, 64)
    if index is None:
        return None
    utilization, temperature_c = within(sample.get("utilization"), 0, 100), within(sample.get("temperature_c"), 0, 1000)
    reasons = sample.get("throttling")
    return _Gpu(
        int(index),
        None if mig is None else int(mig),
        any(process.get("pid") in own_pids for process in objects(sample.get("processes"))),
        any(sample.get(name) is not None for name in ("used_bytes", "utilization", "temperature_c", "power_w")),
        utilization,
        temperature_c,
        tuple(word[:LONGEST_WORD] for word in reasons if isinstance(word, str)) if isinstance(reasons, list) else (),
    )
