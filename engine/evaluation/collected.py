"""What the worker said of each model, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.evaluation.plan import Answer, ModelName, RowLoss, TaskResult, reported

RowLosses = dict[int, RowLoss]
Answers = dict[int, Answer]


@dataclass
class Collected:
    """Rows by part and model."""

    losses: dict[tuple[str, ModelName], RowLosses] = field(default_factory=dict)
    answers: dict[tuple[str, ModelName], Answers] = field(default_factory=dict)
    task_results: list[TaskResult] = field(default_factory=list)

    def take(self, event: Mapping[str, Any]) -> None:
        """Keep what an event of the worker tells of rows and tasks; others are left aside."""
        if event["type"] == "row_loss":
            loss = reported(RowLoss, event)
            self.losses.setdefault((loss.part, loss.model), {})[loss.row] = loss
        elif event["type"] == "answer":
            answer = reported(Answer, event)
            self.answers.setdefault((answer.part, answer.model), {})[answer.row] = answer
        elif event["type"] == "task_result":
            self.task_results.append(reported(TaskResult, event))

    def losses_of(self, part: str, model: ModelName) -> RowLosses:
        return self.losses.get((part, model), {})

    def answers_of(self, part: str, model: ModelName) -> Answers:
        return self.answers.get((part, model), {})
