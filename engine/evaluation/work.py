"""The jobs of one evaluation, and what comes of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.evaluation.asked import Options, Progress
from engine.evaluation.benchmark_set import BenchmarkSet
from engine.evaluation.collected import Collected
from engine.evaluation.comparing import Compared, compare_answers, compare_losses
from engine.evaluation.comparing_tasks import compare_tasks
from engine.evaluation.general_text import GENERAL_TEXT_FILE, general_text_rows
from engine.evaluation.known_base import KnownBase
from engine.evaluation.plan import (
    ADAPTER,
    BASE,
    BENCHMARK,
    BOTH,
    GENERAL_TEXT,
    HELD_OUT,
    AnswerPart,
    LmEvalRequest,
    LossPart,
    Request,
)
from engine.evaluation.results import Part, Row
from engine.jobs.process import JobCancelled, run_job
from engine.jobs.subject import Subject


class Work:
    """What is done for one evaluation, and what came of it so far."""

    def __init__(
        self,
        subject: Subject,
        options: Options,
        benchmark: BenchmarkSet | None,
        on_event: Callable[[Progress], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self._subject = subject
        self._options = options
        self._benchmark = benchmark
        self._on_event = on_event
        self._is_cancelled = is_cancelled
        self._collected = Collected()
        self._totals: dict[str, int] = {}
        """Rows of a part, as the worker counts them."""
        self._notes: dict[str, str] = {}
        self.known = KnownBase(subject, options.batch_size)
        self.versions: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.timed_out = False
        self._batch_size: int | None = None
        self._began_s = time.monotonic()

    def measure(self) -> None:
        """Losses and answers."""
        options, known = self._options, self.known
        losses = []
        if options.held_out and self._subject.spec.has_eval:
            losses.append(LossPart(HELD_OUT, "held_out", options.limit))
        if options.general_text:
            losses.append(LossPart(GENERAL_TEXT, str(GENERAL_TEXT_FILE)))
            self._totals[GENERAL_TEXT] = general_text_rows()
        losses = [replace(part, models=known.models_for_losses(part, self._collected)) for part in losses]
        if not losses and self._benchmark is None:
            return
        with tempfile.TemporaryDirectory(prefix="loradeck-eval-") as scratch:
            answers = []
            if self._benchmark is not None:
                self._totals[BENCHMARK] = len(self._benchmark.rows)
                questions = self._benchmark.questions()
                path = Path(scratch) / "questions.jsonl"
                path.write_text(questions, encoding="utf-8")
                models = known.models_for_answers(questions, options.max_new_tokens, self._collected)
                answers.append(AnswerPart(BENCHMARK, str(path), options.max_new_tokens, models=models))
            wanted = [*(part.models for part in losses), *(part.models for part in answers)]
            request = Request(
                self._subject.spec,
                str(self._subject.adapter),
                BOTH if any(BASE in models for models in wanted) else (ADAPTER,),
                tuple(losses),
                tuple(answers),
                options.batch_size,
                options.time_limit_s,
            )
            result = self._run("evaluate", request.to_json())
        self._add(result)
        self.timed_out = result["timed_out"]
        self._batch_size = result.get("batch_size")
        known.keep_new(self._collected, self._totals if self.timed_out else {})

    def measure_tasks(self) -> None:
        """Tasks of lm-eval, until the time is over."""
        options = self._options
        models = self.known.models_for_tasks(options.tasks, options.include_path, options.limit, self._collected)
        include_path = None if options.include_path is None else str(options.include_path.absolute())
        request = LmEvalRequest(
            self._subject.spec,
            str(self._subject.adapter),
            models,
            options.tasks,
            include_path,
            options.limit,
            options.batch_size,
        )
        try:
            result = self._run("lm_eval", request.to_json(), self._is_over)
        except _TimeIsOver:
            self.timed_out = True
            return
        self._add(result)
        self.known.keep_tasks(self._collected)

    def _add(self, result: dict[str, Any]) -> None:
        self.versions |= result["versions"]
        for name, seconds in result["seconds"].items():
            self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)

    def compared(self) -> list[tuple[Part, list[Row]]]:
        """Parts and their rows: held-out rows, the benchmark, general text, tasks."""
        found: list[Compared] = []
        if self._options.held_out and self._subject.spec.has_eval:
            found.append(self._losses(HELD_OUT, "held-out rows"))
        if self._benchmark is not None:
            base, adapter = (self._collected.answers_of(BENCHMARK, model) for model in BOTH)
            found.append(compare_answers(self._benchmark, base, adapter))
        if self._options.general_text:
            found.append(self._losses(GENERAL_TEXT, "general text"))
        parts: list[tuple[Part, list[Row]]] = [(each.part, each.rows) for each in found]
        return parts + [(part, []) for part in compare_tasks(self._collected.task_results)]

    def _losses(self, name: str, title: str) -> Compared:
        base, adapter = (self._collected.losses_of(name, model) for model in BOTH)
        return compare_losses(name, title, base, adapter, self._totals.get(name) if self.timed_out else None)

    def settings(self) -> dict[str, Any]:
        """What it was asked, to be read beside the figures."""
        options, spec = self._options, self._subject.spec
        return {
            "benchmark": None if options.benchmark is None else str(options.benchmark.absolute()),
            "scorer": None if self._benchmark is None else self._benchmark.reason,
            "tasks": list(options.tasks),
            "include_path": None if options.include_path is None else str(options.include_path.absolute()),
            "limit": options.limit,
            "max_new_tokens": options.max_new_tokens,
            "batch_size": self._batch_size,
            "time_limit_s": options.time_limit_s,
            "device": spec.hardware.device,
            "load_in": spec.quantization.load_in,
            "dtype": spec.model.dtype,
        }

    def _is_over(self) -> bool:
        limit_s = self._options.time_limit_s
        return limit_s is not None and time.monotonic() - self._began_s > limit_s + self.seconds.get("load", 0.0)

    def _run(self, task: str, request: dict[str, Any], is_over: Callable[[], bool] | None = None) -> dict[str, Any]:
        """The result of a job. Raises _TimeIsOver where it was ended because `is_over`."""
        over = False

        def ends() -> bool:
            nonlocal over
            if self._is_cancelled is not None and self._is_cancelled():
                return True
            over = is_over is not None and is_over()
            return over

        try:
            result: dict[str, Any] = run_job(
                task, request, "Evaluating", self._subject.spec.hardware.device, self._take, ends
            )
        except JobCancelled:
            if over:
                raise _TimeIsOver from None
            raise
        return result

    def _take(self, event: dict[str, Any]) -> None:
        self._collected.take(event)
        if event["type"] != "progress":
            return
        if event["doing"] == "loss" and event.get("total"):
            self._totals[event["part"]] = event["total"]
        if self._on_event is not None:
            self._on_event(
                Progress(event["doing"], event.get("model"), event.get("part") or "", event["done"], event.get("total"))
            )


class _TimeIsOver(Exception):
    """A job without a limit of its own was ended at the time limit."""
