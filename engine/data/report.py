"""What a scan of the data found: counts, faults with their places, and where the checked rows are kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Format = Literal["text", "prompt-completion", "messages", "alpaca", "sharegpt"]

FaultKind = Literal[
    "json",  # the line is no JSON
    "not-object",  # JSON, but no object
    "utf-8",  # bytes that are no UTF-8
    "nul",  # a NUL character in text
    "surrogate",  # half of a surrogate pair, which no tokenizer can encode
    "missing",  # a field that the format needs
    "empty",  # it is there, and empty
    "wrong-type",
    "unknown-role",
    "role-order",  # such as two user turns in a row, or a system turn in the middle
    "no-assistant-turn",  # nothing to learn
    "no-text",  # of a turn with content parts, or a column, nothing is text
]
FAULT_KINDS: tuple[str, ...] = get_args(FaultKind)

SHOWN_EXAMPLES = 5
"""Of each kind of fault, so many are kept with their place."""


@dataclass(frozen=True)
class Place:
    """Where a row is, and what was found there."""

    where: str
    """For a person: `chat.jsonl, line 17`, or `chat.parquet, row 17`."""
    message: str


@dataclass(frozen=True)
class BadRows:
    """Rows that cannot be learnt from, of one kind."""

    kind: FaultKind
    count: int
    examples: tuple[Place, ...]


@dataclass(frozen=True)
class Repeated:
    """Rows that are exactly like another one."""

    count: int = 0
    """How many are too many: of three that are the same, two."""
    examples: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Side:
    """Training rows, or held-out ones, as they were read."""

    folder: str
    """Where the good rows are kept (`engine.worker.data.store`)."""
    rows: int
    """Good ones, before any are held out of them."""
    bad_rows: tuple[BadRows, ...] = ()
    """By kind, the most frequent first."""
    duplicates: Repeated = Repeated()
    dropped: dict[str, int] = field(default_factory=dict)
    """What of the rows is not learnt from: `column id`, `image parts` ... -> rows that had it."""
    content: str = ""
    """A hash of all good rows in their order."""
    bytes_read: int = 0

    @property
    def bad_count(self) -> int:
        return sum(bad.count for bad in self.bad_rows)


@dataclass(frozen=True)
class DataReport:
    """The result of `engine.data.client.scan`."""

    format: Format
    reason: str
    """Why it is taken for that format, for a person."""
    train: Side
    eval: Side | None
    """Of a file or a split of its own; rows held out by `eval_fraction` are among those of `train`."""
    train_rows: int
    """What is left to train on after holding out."""
    held_out_rows: int
    shared: Repeated = Repeated()
    """Training rows that are among the held-out ones too."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DataReport:
        """Raises KeyError and TypeError for what `to_json` did not write."""
        sides = {name: None if raw[name] is None else _side(raw[name]) for name in ("train", "eval")}
        return cls(**{**raw, **sides, "shared": _repeated(raw["shared"])})


def _side(raw: dict[str, Any]) -> Side:
    bad = tuple(BadRows(each["kind"], each["count"], _places(each["examples"])) for each in raw["bad_rows"])
    return Side(**{**raw, "bad_rows": bad, "duplicates": _repeated(raw["duplicates"])})


def _repeated(raw: dict[str, Any]) -> Repeated:
    return Repeated(raw["count"], _places(raw["examples"]))


def _places(raw: list[dict[str, str]]) -> tuple[Place, ...]:
    return tuple(Place(**each) for each in raw)
