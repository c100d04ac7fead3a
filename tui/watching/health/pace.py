"""Whether steps come, and as fast as they did."""

from __future__ import annotations

from collections import deque
from operator import sub

from engine.units import duration
from tui.watching.health.blocks import Block, Readings, median
from tui.watching.health.ledger import Ledger, Moment

HALF = 0.5
RECOVERED = 0.7
"""Of the usual throughput, at which a fall is over."""
SLOWER = 1.3
"""The steps must take longer, too: where rows are just shorter, tokens a second fall while steps take less."""
BLOCKS_LAST = 3
LASTS_S = 15.0
"""A fall must last for 3 blocks (24 steps) and so long: a step of 10 ms is halved by anything."""
USUAL_BLOCKS = 64
"""Blocks whose median says what is usual: 512 steps."""
KNOWN_BLOCKS = 6
SILENT_S = 60.0
SILENT_PACES = 10.0
"""No step for so long, and for ten times the usual time between two, is silence."""
SILENT_BEFORE_FIRST_S = 1800.0
"""Before there is a pace to go by: a step of a large model with much accumulation takes many minutes."""


class Pace:
    """Finds `slow` and `silent`. Steps' own times leave out evaluations and saves; silence counts while training."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._intervals: deque[float] = deque(maxlen=32)
        """Seconds between steps, without anything between them."""
        self.heard: Moment | None = None
        """The newest step, or when training began or went on; None while the run does something else."""
        self._has_stepped = False
        """Whether a step came since then."""
        self.restart()

    def restart(self) -> None:
        """Another trainer, perhaps on another machine: what was usual is no measure any more."""
        self._usual: deque[float] = deque(maxlen=USUAL_BLOCKS)
        self._usual_times: deque[float] = deque(maxlen=USUAL_BLOCKS)
        self._slow: list[Block] = []
        """The newest blocks, as many as were slow one after the other."""
        self._is_warm = False
        self._fell_from = 0.0
        self._intervals.clear()

    def begin_training(self, moment: Moment) -> None:
        """Steps are to be expected from now on."""
        if self.heard is None:
            self.heard, self._has_stepped = moment, False

    def leave_training(self, moment: Moment) -> None:
        """No steps are to be expected: the run evaluates, saves, pauses or has ended."""
        self.heard, self._has_stepped = None, False
        self.ledger.end("silent", "The run goes on.", moment)

    def hear(self, known: Readings) -> None:
        """Steps that came one after the other, with nothing else between them."""
        times, steps = known.time, known.step
        before = times[0] if self.heard is None else self.heard.time
        gaps = list(map(sub, times, [before, *times]))
        if len(gaps) > 1 and max(gaps) > SILENT_S:  # one by one, as they came
            for place in range(len(gaps)):
                self.hear(known.piece(place, place + 1))
            return
        if gaps[0] > SILENT_S and gaps[0] > self._longest_silence_s:
            self._tell_silence(Moment(before, steps[0] - 1), gaps[0])
        self.ledger.end("silent", f"Steps come again: step {steps[0]:,}.", Moment(times[0], steps[0]))
        # The first gap of a stretch may hold more than a step.
        self._intervals.extend(gaps[-32:] if self._has_stepped else gaps[1:][-32:])
        self.heard, self._has_stepped = known.last, True

    def judge(self, now: float) -> None:
        """Whether it is silent now."""
        if self.heard is None:
            return
        silence_s = now - self.heard.time
        if silence_s > self._longest_silence_s:
            self._tell_silence(self.heard, silence_s)

    @property
    def _longest_silence_s(self) -> float:
        pace_s = median(self._intervals)
        return SILENT_BEFORE_FIRST_S if pace_s is None else max(SILENT_S, SILENT_PACES * pace_s)

    def _tell_silence(self, since: Moment, silence_s: float) -> None:
        pace_s = median(self._intervals)
        usual = f"; one took {duration(pace_s)}" if pace_s is not None and pace_s >= 1 else ""
        words = f"No step for {duration(silence_s)}{usual}."
        self.ledger.begin(
            "silent",
            words,
            "See the log. A trainer that hangs does not end by itself: stop it, and resume from the last checkpoint.",
            since,
            Moment(since.time + self._longest_silence_s, since.step),
        )
        self.ledger.update("silent", words)

    def take(self, block: Block) -> None:
        """Some steps."""
        speed, time_s = block.tokens_per_s, block.step_time_s
        if speed is None or time_s is None:
            return
        if not self._is_warm:
            self._is_warm = True  # the first block loads kernels and fills caches
            return
        if "slow" in self.ledger.active:
            self._judge_return(speed, block)
            return
        usual = median(self._usual) if len(self._usual) >= KNOWN_BLOCKS else None
        if usual is None or speed > HALF * usual or time_s < SLOWER * (median(self._usual_times) or 0.0):
            self._slow = []
            self._usual.append(speed)
            self._usual_times.append(time_s)
            return
        self._slow.append(block)
        if len(self._slow) >= BLOCKS_LAST and block.end.time - self._slow[0].begin.time >= LASTS_S:
            self._fell_from = usual
            self.ledger.begin(
                "slow",
                self._words(speed),
                "See in the machine view who else uses the GPU, and whether it is throttled; else look for other "
                "programs on the CPU and a slow disk.",
                self._slow[0].begin,
                block.end,
            )
            self._slow = []

    def _judge_return(self, speed: float, block: Block) -> None:
        self._slow = [*self._slow, block] if speed > RECOVERED * self._fell_from else []
        if len(self._slow) >= BLOCKS_LAST - 1:
            self._slow = []
            self.ledger.end("slow", f"Throughput is back at {speed:,.0f} tokens a second.", block.end)
        else:
            self.ledger.update("slow", self._words(speed))

    def _words(self, speed: float) -> str:
        return f"Throughput fell to {speed:,.0f} tokens a second; it was {self._fell_from:,.0f}."
