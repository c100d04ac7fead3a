"""Which parts of an evaluation the base model has done before, for this adapter or another one of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from engine.evaluation import base_cache
from engine.evaluation.collected import Collected
from engine.evaluation.plan import ADAPTER, BASE, BENCHMARK, BOTH, Answer, LossPart, ModelName, RowLoss, TaskResult
from engine.jobs.subject import Subject


class KnownBase:
    """Fills a Collected with what is kept of the base, and keeps what was computed now."""

    def __init__(self, subject: Subject, batch_size: int | None) -> None:
        self._subject = subject
        self._batch_size = batch_size
        self._new_losses: list[LossPart] = []
        self._new_answers: list[tuple[str, int]] = []
        self._new_tasks: tuple[tuple[str, ...], Path | None, int | None] | None = None
        self._asked = 0
        self._found = 0

    @property
    def is_all_known(self) -> bool:
        """Whether nothing of the base had to be computed."""
        return 0 < self._asked == self._found

    def models_for_losses(self, part: LossPart, collected: Collected) -> tuple[ModelName, ...]:
        """Those that have to do `part`."""
        self._asked += 1
        key = base_cache.losses_key(self._subject, part, self._batch_size)
        losses = None if key is None else base_cache.read(key, RowLoss)
        if not losses:
            self._new_losses.append(part)
            return BOTH
        collected.losses[part.part, BASE] = {loss.row: loss for loss in losses}
        self._found += 1
        return (ADAPTER,)

    def models_for_answers(self, questions: str, max_new_tokens: int, collected: Collected) -> tuple[ModelName, ...]:
        """Those that have to answer."""
        self._asked += 1
        key = base_cache.answers_key(self._subject, questions, max_new_tokens, self._batch_size)
        answers = None if key is None else base_cache.read(key, Answer)
        if not answers:
            self._new_answers.append((questions, max_new_tokens))
            return BOTH
        collected.answers[BENCHMARK, BASE] = {answer.row: answer for answer in answers}
        self._found += 1
        return (ADAPTER,)

    def models_for_tasks(
        self, tasks: tuple[str, ...], include_path: Path | None, limit: int | None, collected: Collected
    ) -> tuple[ModelName, ...]:
        """Those that have to do the tasks of lm-eval."""
        self._asked += 1
        key = base_cache.tasks_key(self._subject, tasks, include_path, limit)
        results = None if key is None else base_cache.read(key, TaskResult)
        if not results:
            self._new_tasks = (tasks, include_path, limit)
            return BOTH
        collected.task_results += results
        self._found += 1
        return (ADAPTER,)

    def keep_new(self, collected: Collected, totals: Mapping[str, int]) -> None:
        """Keep the base's losses and answers that are new and whole; `totals` are the rows of each part where the time
        may have been over before all were done.

        Names are made again: rows that had not been read before have been now.
        """
        for part in self._new_losses:
            losses = collected.losses_of(part.part, BASE)
            key = base_cache.losses_key(self._subject, part, self._batch_size)
            if key is not None and losses and len(losses) >= totals.get(part.part, 0):
                base_cache.keep(key, map(asdict, losses.values()))
        for questions, max_new_tokens in self._new_answers:
            answers = collected.answers_of(BENCHMARK, BASE)
            key = base_cache.answers_key(self._subject, questions, max_new_tokens, self._batch_size)
            if key is not None and answers and len(answers) >= totals.get(BENCHMARK, 0):
                base_cache.keep(key, map(asdict, answers.values()))

    def keep_tasks(self, collected: Collected) -> None:
        """Keep the base's figures of lm-eval that are new."""
        if self._new_tasks is None:
            return
        if (key := base_cache.tasks_key(self._subject, *self._new_tasks)) is not None:
            base_cache.keep(key, (asdict(result) for result in collected.task_results if result.model == BASE))
