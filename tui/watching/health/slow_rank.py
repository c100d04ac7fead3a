"""Whether one of several processes keeps the others waiting."""

from __future__ import annotations

from collections.abc import Sequence

from engine.runs.events import Event
from engine.runs.fields import number, whole
from engine.units import seconds
from tui.watching.health.blocks import STEPS
from tui.watching.health.ledger import Ledger, Moment
from tui.watching.own_work import OwnWork, Slowest

SLOWER = 4 / 3
RECOVERED = 1.15
BLOCKS_LAST = 3
LASTS_S = 15.0
"""It must last for 3 blocks (24 steps) and so long, as of the throughput (`pace`)."""


class SlowRank:
    """Finds `slow-rank`: the same one takes a third longer for its own passes than the others, block after block."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._block: list[Event] = []
        self._began: Moment | None = None
        """When the block began."""
        self._judged_step: int | None = None
        """The last one of the block before."""
        self._is_warm = False
        self._slow: list[tuple[Moment, Slowest]] = []
        """The newest blocks in which the same one was slow, each with its beginning."""
        self._well = 0
        """The newest blocks in which none was, while one is told."""

    def restart(self) -> None:
        """Another trainer, perhaps on other GPUs."""
        self._block, self._slow, self._well = [], [], 0
        self._began, self._judged_step, self._is_warm = None, None, False

    def take(self, events: Sequence[Event]) -> None:
        """Take in `step` events in their order."""
        if not events or "rank_seconds" not in events[-1]:
            return
        for event in events:
            time, step = number(event.get("time")), whole(event.get("step"))
            if time is None or step is None:
                continue
            moment = Moment(time, step)
            self._began = self._began or moment
            before = step - 1 if self._judged_step is None else self._judged_step
            self._judged_step = before
            self._block.append(event)
            if step - before >= STEPS or len(self._block) >= STEPS:
                self._judge(self._began, moment)
                self._block, self._began, self._judged_step = [], None, step

    def _judge(self, began: Moment, ended: Moment) -> None:
        work = OwnWork(len(self._block))
        work.apply_all(self._block)
        slowest = work.slowest()
        if slowest is None:
            return
        if not self._is_warm:
            self._is_warm = True  # the first block loads kernels and fills caches
            return
        if "slow-rank" in self.ledger.active:
            self._judge_return(slowest, ended)
            return
        if slowest.seconds < SLOWER * slowest.others_seconds:
            self._slow = []
            return
        if self._slow and self._slow[-1][1].rank != slowest.rank:
            self._slow = []
        self._slow.append((began, slowest))
        since = self._slow[0][0]
        if len(self._slow) >= BLOCKS_LAST and ended.time - since.time >= LASTS_S:
            self.ledger.begin("slow-rank", _words(slowest), _advice(slowest), since, ended)
            self._slow, self._well = [], 0

    def _judge_return(self, slowest: Slowest, ended: Moment) -> None:
        if slowest.seconds > RECOVERED * slowest.others_seconds:
            self._well = 0
            self.ledger.update("slow-rank", _words(slowest))
            return
        self._well += 1
        if self._well >= BLOCKS_LAST - 1:
            self._well = 0
            self.ledger.end("slow-rank", "No rank keeps the others waiting any more.", ended)


def _words(slowest: Slowest) -> str:
    return (
        f"Rank {slowest.rank} computes {seconds(slowest.seconds)} a step, the others "
        f"{seconds(slowest.others_seconds)}: they wait for it."
    )


def _advice(slowest: Slowest) -> str:
    if slowest.has_more_to_do:
        return (
            f"Its batches are {slowest.longer_rows:.1f} times as large: with train_sampling_strategy: group_by_length "
            "all ranks get rows of like length."
        )
    return (
        "See in the machine view who else uses its GPU, and whether that is throttled by heat or power; on the CPU, "
        "what else runs there."
    )
