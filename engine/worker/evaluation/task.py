"""Task `evaluate`: losses, then choices, then answers, by the base and by the adapter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.evaluation.plan import HELD_OUT, Answer, AnswerPart, LossPart, ModelName, Request, Result, RowLoss
from engine.worker.evaluation.ending import run_at_once_ended
from engine.worker.job import Tell

if TYPE_CHECKING:
    from engine.worker.evaluation.questions import Question

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
LOSS_ROWS, ANSWER_ROWS = 64, 32
"""Rows in a pass at most."""
LOSS_TOKENS = {"cpu": 2048, "cuda": 8192}
"""In a pass, padding included: enough to keep the device busy, and some hundred MB for a model of 8 billion weights."""
ANSWER_TOKENS = {"cpu": 16_384, "cuda": 32_768}
"""Keys and values of so many tokens, prompts and answers together: 2 to 4 GiB for a model of 8 billion weights."""


def main() -> int:
    return run_at_once_ended(evaluate)


def evaluate(raw: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Do what `raw` (`engine.evaluation.plan.Request`) asks; the result is a `Result` as JSON.

    Raises BadSpec, OSError, and out of memory where not even one row fits.
    """
    return Evaluation(Request.from_json(raw), tell).run()


class Evaluation:
    """One evaluation under way."""

    def __init__(self, request: Request, tell: Tell) -> None:
        from engine.worker.evaluation.batches import Batches
        from engine.worker.evaluation.loss_rows import held_out_rows
        from engine.worker.evaluation.losses import prepare_for_losses
        from engine.worker.evaluation.models import Models
        from engine.worker.evaluation.progress import Progress
        from engine.worker.evaluation.questions import Writer
        from engine.worker.limit import keep_within_limit, large_blocks_apart
        from engine.worker.loaded import load_tokenizer_of

        began = time.monotonic()
        self.request = request
        self._tell = tell
        self._progress = Progress(tell)
        self._progress.say("load", None, "", 0, None)
        spec = request.spec
        # Rows are read before the model is loaded: where one is wrong it need not be.
        needs_held_out = any(part.rows == HELD_OUT for part in request.losses)
        self._held_out = held_out_rows(spec) if needs_held_out else None
        adapter = Path(request.adapter)
        tokenizer = load_tokenizer_of(spec, adapter)
        self._writer = Writer(spec, tokenizer)
        self._questions = [(part, self._writer.questions(Path(part.path), part.limit)) for part in request.answers]
        keep_within_limit(spec)
        with large_blocks_apart(spec):
            self.models = Models(spec, adapter, tokenizer)
        prepare_for_losses(self.models.base)
        self._progress.say("load", None, "", 1, 1)

        device, is_timed = self.models.device.type, request.time_limit_s is not None
        self._loss_batches = Batches(request.batch_size or LOSS_ROWS, LOSS_TOKENS[device], is_timed)
        self._answer_batches = Batches(request.batch_size or ANSWER_ROWS, ANSWER_TOKENS[device], is_timed)
        self._seconds = {"load": time.monotonic() - began, "loss": 0.0, "answers": 0.0}
        self._deadline = None if request.time_limit_s is None else time.monotonic() + request.time_limit_s
        self._is_whole = True

    def run(self) -> dict[str, Any]:
        """Do all parts. Returns a `Result` as JSON."""
        from engine.worker.loaded import answer_fast

        began = time.monotonic()
        for loss_part in self.request.losses:
            self._measure(loss_part)
        self._seconds["loss"], began = time.monotonic() - began, time.monotonic()
        for part, questions in self._questions:  # before `answer_fast`, which is not for measuring
            self._choose(part, [question for question in questions if question.choices is not None], questions)
        answer_fast(self.models.base)
        for part, questions in self._questions:
            self._answer(part, [question for question in questions if question.choices is None], questions)
        self._seconds["answers"] = time.monotonic() - began
        result = Result(
            {library: version(library) for library in LIBRARIES},
            {name: round(seconds, 2) for name, seconds in self._seconds.items()},
            not self._is_whole,
            self._answer_batches.largest or self._loss_batches.largest,
            self.request.spec.hardware.device,
        )
        return asdict(result)

    def _measure(self, part: LossPart) -> None:
        from engine.worker.evaluation.loss_rows import loss_rows
        from engine.worker.evaluation.losses import tell_losses

        rows = loss_rows(part, self._held_out, self.models.tokenizer, self.models.context_tokens)
        on_rows = self._on_rows("loss", part.models, part.part, 0, len(rows.lengths))
        whole = tell_losses(self.models, part, rows, self._loss_batches, self._tell_loss, on_rows, self._is_over)
        self._is_whole &= whole

    def _choose(self, part: AnswerPart, chosen: list[Question], all_of_it: list[Question]) -> None:
        from engine.worker.evaluation.choices import tell_choices

        if chosen:
            on_rows = self._on_rows("answers", part.models, part.part, 0, len(all_of_it))
            self._is_whole &= tell_choices(
                self.models, self._writer, part, chosen, self._loss_batches, self._tell_answer, on_rows, self._is_over
            )

    def _answer(self, part: AnswerPart, answered: list[Question], all_of_it: list[Question]) -> None:
        from engine.worker.evaluation.answers import tell_answers

        if answered:
            before = len(all_of_it) - len(answered)
            on_rows = self._on_rows("answers", part.models, part.part, before, len(all_of_it))
            self._is_whole &= tell_answers(
                self.models, part, answered, self._answer_batches, self._tell_answer, on_rows, self._is_over
            )

    def _on_rows(
        self, doing: Any, models: tuple[ModelName, ...], part: str, before: int, total: int
    ) -> Callable[[int], None]:
        """Tells how many rows of a part are done, `before` of them already. Of each batch all models do their part, so
        none of several is named."""
        name = models[0] if len(models) == 1 else None

        def on_rows(done: int) -> None:
            self._progress.say(doing, name, part, before + done, total)

        on_rows(0)
        return on_rows

    def _tell_loss(self, loss: RowLoss) -> None:
        self._tell("row_loss", **asdict(loss))

    def _tell_answer(self, answer: Answer) -> None:
        self._tell("answer", **asdict(answer))

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
