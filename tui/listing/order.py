"""In which order runs are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.runs.store import State
from tui.listing.catalog import RunRow

Key = float | str | tuple[float, float]
STATE_ORDER: tuple[State, ...] = (
    "training", "evaluating", "saving", "preflight", "loading", "starting", "queued", "paused", "failed", "lost",
    "stopped", "finished",
)  # fmt: skip
"""What may need a look comes first."""


@dataclass(frozen=True)
class Order:
    """What the list is sorted by."""

    name: str
    """Title of the column."""
    key: Callable[[RunRow, float], Key | None]
    """What is compared, from a row and the time now; None where the run does not have it, and it then comes last."""
    down: bool = False
    """Whether the greatest comes first, until a person turns it round."""


def started(row: RunRow) -> float:
    """When the run was started last, in Unix seconds; 0 where nobody knows."""
    return row.status.started or row.status.created


def took_s(row: RunRow, now: float) -> float | None:
    """How long the run has been going since it was last started; of a lost one, until it was last heard."""
    status = row.status
    end = now if row.is_going else status.ended or status.heartbeat
    return max(0.0, end - status.started) if status.started and end else None


ORDERS = (
    Order("started", lambda row, now: started(row) or None, down=True),
    Order("state", lambda row, now: (STATE_ORDER.index(row.status.state), row.status.place or 0)),
    Order("model", lambda row, now: row.status.model.casefold() or None),
    Order("loss", lambda row, now: row.status.loss),
    Order("eval", lambda row, now: row.status.eval_loss),
    Order("tokens", lambda row, now: row.status.tokens, down=True),
    Order("took", took_s, down=True),
    Order("peak", lambda row, now: row.status.peak_bytes, down=True),
)


def in_order(rows: Iterable[RunRow], order: Order, turned: bool, now: float) -> list[RunRow]:
    """`rows` sorted by `order`, or the other way round where `turned`. Equal ones stay as they are."""
    known: list[tuple[Key, RunRow]] = []
    unknown: list[RunRow] = []
    for row in rows:
        key = order.key(row, now)
        if key is None:
            unknown.append(row)
        else:
            known.append((key, row))
    known.sort(key=lambda pair: pair[0], reverse=order.down != turned)
    return [row for _, row in known] + unknown
