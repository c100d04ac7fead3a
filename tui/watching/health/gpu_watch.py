"""What GPUs do to a run: one that waits, is slowed down or is gone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.runs.fields import objects
from tui.watching.health.ledger import Code, Ledger, Moment
from tui.watching.memory import within

IDLE = 25.0
"""Per cent of the time. A small model on a large card keeps it busy for 40 to 60, which is how it is."""
BUSY = 45.0
IDLE_SAMPLES = 60
"""Samples come once a second, and only those while training count."""
BUSY_SAMPLES = 30
THROTTLED_SAMPLES = 10
LOOKED_AT = 30
"""Throttling comes and goes within seconds: it is told once it was there in 10 of 30 samples."""
COOL_S = 60.0
"""Without throttling, after which it is over."""
SLOWING = ("thermal", "power brake", "hardware slowdown")
"""Only these are trouble: a card at full load is at its power cap most of the time."""
GONE_SAMPLES = 5
LONGEST_WORD = 40


class Gpu(NamedTuple):
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

    @property
    def key(self) -> tuple[int, int | None]:
        return self.number, self.mig


def gpu_of(sample: dict[str, object], own_pids: set[int]) -> Gpu | None:
    """A GPU's part of a `hardware` event; None where it is none."""
    index, mig = within(sample.get("index"), 0, 1024), within(sample.get("mig"), 0, 64)
    if index is None:
        return None
    utilization, temperature_c = within(sample.get("utilization"), 0, 100), within(sample.get("temperature_c"), 0, 1000)
    reasons = sample.get("throttling")
    return Gpu(
        int(index),
        None if mig is None else int(mig),
        any(process.get("pid") in own_pids for process in objects(sample.get("processes"))),
        any(sample.get(name) is not None for name in ("used_bytes", "utilization", "temperature_c", "power_w")),
        utilization,
        temperature_c,
        tuple(word[:LONGEST_WORD] for word in reasons if isinstance(word, str)) if isinstance(reasons, list) else (),
    )


@dataclass
class _Seen:
    """What the newest samples said of one GPU."""

    busy: deque[float] = field(default_factory=lambda: deque(maxlen=IDLE_SAMPLES))
    throttled: deque[bool] = field(default_factory=lambda: deque(maxlen=LOOKED_AT))
    throttled_at: float = 0.0
    silent_samples: int = 0
    has_answered: bool = False
    ails: dict[Code, str] = field(default_factory=dict)
    """What is wrong with it, in words."""


class GpuWatch:
    """Finds `idle`, `throttled` and `gpu-lost`. Of several GPUs with the same trouble the first is told."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._seen: dict[tuple[int, int | None], _Seen] = {}

    def restart(self) -> None:
        """Another trainer, perhaps on another machine."""
        self._seen.clear()

    def judge(self, gpu: Gpu, time: float, is_training: bool) -> None:
        """Take in what a sample of this time says of one of the run's GPUs."""
        seen = self._seen.setdefault(gpu.key, _Seen())
        self._judge_answer(seen, gpu, time)
        self._judge_throttling(seen, gpu, time)
        if gpu.utilization is not None and is_training:
            self._judge_idle(seen, gpu, gpu.utilization, time)

    def _begin(self, seen: _Seen, code: Code, words: str, advice: str, time: float) -> None:
        if code not in seen.ails:
            seen.ails[code] = words
            self.ledger.begin(code, words, advice, Moment(time))

    def _end(self, seen: _Seen, code: Code, words: str, time: float) -> None:
        if seen.ails.pop(code, None) is None:
            return
        of_others = next((other.ails[code] for other in self._seen.values() if code in other.ails), None)
        if of_others is None:
            self.ledger.end(code, words, Moment(time))
        else:
            self.ledger.update(code, of_others)

    def _judge_answer(self, seen: _Seen, gpu: Gpu, time: float) -> None:
        if gpu.answers:
            seen.has_answered, seen.silent_samples = True, 0
            self._end(seen, "gpu-lost", f"{gpu.label} answers again.", time)
            return
        seen.silent_samples += 1
        if seen.has_answered and seen.silent_samples >= GONE_SAMPLES:
            self._begin(
                seen,
                "gpu-lost",
                f"{gpu.label} no longer answers: it has fallen off the bus, or its driver hangs.",
                "The kernel's log (dmesg) names the reason as an Xid. It often takes a reboot; the checkpoints are on "
                "the disk.",
                time,
            )

    def _judge_throttling(self, seen: _Seen, gpu: Gpu, time: float) -> None:
        slowing = [word for word in SLOWING if word in gpu.throttling]
        seen.throttled.append(bool(slowing))
        if not slowing:
            if time - seen.throttled_at > COOL_S:
                self._end(seen, "throttled", f"{gpu.label} is no longer slowed down.", time)
            return
        seen.throttled_at = time
        if sum(seen.throttled) < THROTTLED_SAMPLES:
            return
        warmth = "" if gpu.temperature_c is None else f" at {gpu.temperature_c:.0f} degrees"
        if slowing[0] == "thermal":
            words = f"{gpu.label} is slowed down by its heat{warmth}."
            advice = "See to fans and air, or lower its power limit (nvidia-smi -pl): it is then often no slower."
        else:
            words = f"{gpu.label} slows itself down ({', '.join(slowing)})."
            advice = "See to its power supply and cables; nvidia-smi -q -d PERFORMANCE says more."
        self._begin(seen, "throttled", words, advice, time)

    def _judge_idle(self, seen: _Seen, gpu: Gpu, utilization: float, time: float) -> None:
        busy = seen.busy
        busy.append(utilization)
        if len(busy) < IDLE_SAMPLES:
            return
        if "idle" in seen.ails:
            newest = list(busy)[-BUSY_SAMPLES:]
            share = sum(newest) / BUSY_SAMPLES
            if share > BUSY:
                self._end(seen, "idle", f"{gpu.label} is busy again, {share:.0f} % of the time.", time)
        elif (share := sum(busy) / IDLE_SAMPLES) < IDLE:
            self._begin(
                seen,
                "idle",
                f"{gpu.label} works {share:.0f} % of the time: it waits for batches.",
                "dataloader_num_workers: 2 or more prepares them beside the training, and a larger "
                "per_device_train_batch_size gives more work at once. See also what else uses the CPU.",
                time,
            )
