"""What the worker's tasks `evaluate` and `lm_eval` are asked, and what they say: the JSON of both directions.

The worker reads its request with `Request.from_json`, and writes an event as `tell("row_loss", **asdict(row_loss))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, cast

from engine.spec import RunSpec

ModelName = Literal["base", "adapter"]
BASE: ModelName = "base"
ADAPTER: ModelName = "adapter"
BOTH: tuple[ModelName, ...] = (BASE, ADAPTER)

HELD_OUT = "held_out"
GENERAL_TEXT = "general_text"
BENCHMARK = "benchmark"

Doing = Literal["load", "loss", "answers", "task"]
"""`task` is a task of lm-eval."""

Reported = TypeVar("Reported", "RowLoss", "Answer", "TaskResult")


@dataclass(frozen=True)
class LossPart:
    """Rows of which each model's loss is taken."""

    part: str
    """`held_out` or `general_text`."""
    rows: str
    """`held_out` for those of the spec, or the path of a file of `{"text": ...}` lines."""
    limit: int | None = None
    """Only the first so many rows."""
    models: tuple[ModelName, ...] = BOTH
    """Those that do this part; the others' rows are known."""


@dataclass(frozen=True)
class AnswerPart:
    """Rows that each model answers."""

    part: str
    path: str
    """JSONL, a row a line, none empty: `prompt` (a str) or `messages`; `choices` (a list of str) where the
    log-likelihood of each is wanted and nothing is generated. Other keys are not the worker's."""
    max_new_tokens: int = 256
    limit: int | None = None
    models: tuple[ModelName, ...] = BOTH


@dataclass(frozen=True)
class Request:
    """One process's work: losses first, then answers, the model loaded once."""

    spec: RunSpec
    adapter: str
    """Folder as PEFT reads it."""
    models: tuple[ModelName, ...]
    """All that are needed by any part."""
    losses: tuple[LossPart, ...] = ()
    answers: tuple[AnswerPart, ...] = ()
    batch_size: int | None = None
    """Rows in one pass; None leaves it to the worker. Halved where memory runs out."""
    time_limit_s: float | None = None
    """After loading; what is not done by then is left out, and the result says `timed_out`. None: no limit."""

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(mode="json"),
            "adapter": self.adapter,
            "models": list(self.models),
            "losses": [asdict(part) for part in self.losses],
            "answers": [asdict(part) for part in self.answers],
            "batch_size": self.batch_size,
            "time_limit_s": self.time_limit_s,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Request:
        models = tuple(raw["models"])
        return Request(
            RunSpec.model_validate(raw["spec"]),
            raw["adapter"],
            models,
            tuple(LossPart(**{"models": models, **part, **_models_of(part)}) for part in raw["losses"]),
            tuple(AnswerPart(**{"models": models, **part, **_models_of(part)}) for part in raw["answers"]),
            raw.get("batch_size"),
            raw.get("time_limit_s"),
        )


@dataclass(frozen=True)
class RowLoss:
    """Event `row_loss`: what a model makes of one row."""

    part: str
    model: ModelName
    row: int
    """From 0, in the order of the rows; the same for both models."""
    where: str
    """`chat.jsonl, line 17`."""
    loss_sum: float
    """Nats, over the tokens that are learnt."""
    tokens: int
    """That are learnt."""
    correct: int
    """Of them, those that the model finds most likely."""
    prompt: str | None = None
    """With the first model that does the part only."""
    expected: str | None = None


@dataclass(frozen=True)
class Answer:
    """Event `answer`: what a model said to one row of a benchmark."""

    part: str
    model: ModelName
    row: int
    """From 0: the line of the file."""
    text: str
    """Of a choice, the choice's."""
    tokens: int
    """Generated; 0 for a choice."""
    cut: bool
    """Whether it was still talking at `max_new_tokens`."""
    choice: int | None = None
    """The likeliest of `choices` by the sum of its tokens' log-likelihoods."""
    choice_log_likelihoods: list[float] | None = None
    """Of each of `choices`, summed over its tokens, in nats."""


@dataclass(frozen=True)
class Result:
    """The `result` of task `evaluate`."""

    versions: dict[str, str]
    """torch, transformers, peft and bitsandbytes."""
    seconds: dict[str, float]
    """`load`, `loss`, `answers`."""
    timed_out: bool
    batch_size: int
    """Rows in the last pass."""
    device: str


@dataclass(frozen=True)
class LmEvalRequest:
    """Work for task `lm_eval`."""

    spec: RunSpec
    adapter: str
    models: tuple[ModelName, ...]
    tasks: tuple[str, ...]
    include_path: str | None = None
    """Folder with task files of the person's own."""
    limit: int | None = None
    """Only so many rows of each task."""
    batch_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(mode="json"),
            "adapter": self.adapter,
            "models": list(self.models),
            "tasks": list(self.tasks),
            "include_path": self.include_path,
            "limit": self.limit,
            "batch_size": self.batch_size,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> LmEvalRequest:
        return LmEvalRequest(
            RunSpec.model_validate(raw["spec"]),
            raw["adapter"],
            tuple(raw["models"]),
            tuple(raw["tasks"]),
            raw.get("include_path"),
            raw.get("limit"),
            raw.get("batch_size"),
        )


@dataclass(frozen=True)
class TaskResult:
    """Event `task_result`: one metric of one task of lm-eval for one model."""

    model: ModelName
    task: str
    metric: str
    """With its filter where it has one: `exact_match,strict-match`."""
    value: float
    stderr: float | None
    higher_is_better: bool
    version: str
    """Of the task."""


def reported(kind: type[Reported], event: Mapping[str, Any]) -> Reported:
    """The event as `kind`; keys that it does not know are left aside."""
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in event.items() if key in known})


def _models_of(part: Mapping[str, Any]) -> dict[str, tuple[ModelName, ...]]:
    named = part.get("models")
    return {} if named is None else {"models": cast("tuple[ModelName, ...]", tuple(named))}
