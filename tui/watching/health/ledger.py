"""What ails a run, and since when: each ailment is told once when it begins and once when it is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from engine.runs.events import Event

Code = Literal[
    "no-heartbeat",
    "gpu-lost",
    "nan-loss",
    "diverging",
    "gradients",
    "silent",
    "slow",
    "slow-rank",
    "throttled",
    "idle",
    "disk",
    "flat",
]
CODES: Sequence[Code] = get_args(Code)
"""The gravest first."""

MOST_CHANGES = 200
"""How many changes are kept: the newest."""


class Moment(NamedTuple):
    """When something was: Unix time, and the optimizer step where it belongs to one."""

    time: float
    step: int | None = None


@dataclass(frozen=True)
class Ailment:
    """Something that is not as it should be, in words for a person; no text of others is in them."""

    code: Code
    words: str
    """What is wrong, with the numbers."""
    advice: str
    """What to do about it."""
    since: Moment


@dataclass(frozen=True)
class Change:
    """An ailment began, or is over."""

    moment: Moment
    code: Code
    is_over: bool
    words: str
    advice: str
    """Empty where it is over."""

    def as_event(self) -> Event:
        """As an event for a list of what happened in a run."""
        return {
            "type": "health",
            "time": self.moment.time,
            "step": self.moment.step,
            "code": self.code,
            "message": self.words,
            "hint": self.advice,
            "better": self.is_over,
        }


class Ledger:
    """The ailments of now, and the changes so far."""

    def __init__(self) -> None:
        self.active: dict[Code, Ailment] = {}
        self.changes: deque[Change] = deque(maxlen=MOST_CHANGES)

    def begin(self, code: Code, words: str, advice: str, since: Moment, noticed: Moment | None = None) -> None:
        """`since` is when it began, `noticed` when it was clear (by default, the same). One that is known stays."""
        if code not in self.active:
            self.active[code] = Ailment(code, words, advice, since)
            self.changes.append(Change(noticed or since, code, False, words, advice))

    def update(self, code: Code, words: str) -> None:
        """The numbers have changed."""
        ailment = self.active.get(code)
        if ailment is not None and ailment.words != words:
            self.active[code] = replace(ailment, words=words)

    def end(self, code: Code, words: str, moment: Moment) -> None:
        """It is over; one that is not known stays untold."""
        if self.active.pop(code, None) is not None:
            self.changes.append(Change(moment, code, True, words, ""))

    def forget(self) -> None:
        """The run has ended: nothing ails it any more, and nothing of that is news."""
        self.active.clear()
