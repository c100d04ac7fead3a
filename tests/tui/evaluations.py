"""Evaluations as `engine.evaluation` keeps them, with figures of our own choice, and the screen that shows them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from textual.pilot import Pilot

from engine.evaluation.asked import Progress
from engine.evaluation.results import FILE, FOLDER, ROWS, Evaluation, Interval, Measure, Outcome, Part, Row, Verdict
from engine.jobs.process import JobCancelled
from engine.runs.store import Run
from tests.tui.conftest import BEGAN, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.evaluating.asked import Asked
from tui.evaluating.for_real import evaluated
from tui.screens.evaluation import EvaluationScreen
from tui.widgets.answer_pair import AnswerPair
from tui.widgets.changed_rows import ChangedRows
from tui.widgets.line import Line
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.evaluating.under_way import Evaluate

FIRST, SECOND = "20261124-061500", "20261124-081000"
"""Ids of a run's evaluations, the older first."""


def measure(
    name: str,
    base: float,
    adapter: float,
    spread: float,
    verdict: Verdict,
    p_value: float | None = 0.0004,
    lower_is_better: bool = True,
) -> Measure:
    difference = adapter - base
    return Measure(
        name,
        Interval(base, base - spread, base + spread),
        Interval(adapter, adapter - spread, adapter + spread),
        Interval(difference, difference - spread, difference + spread),
        p_value,
        lower_is_better,
        verdict,
    )


HELD_OUT = Part(
    "held_out",
    "held-out rows",
    120,
    4113,
    (
        measure("loss", 1.931, 1.412, 0.061, "better"),
        measure("perplexity", 6.896, 4.104, 0.402, "better"),
        measure("token_accuracy", 0.581, 0.668, 0.021, "better", lower_is_better=False),
    ),
    "",
)
BENCHMARK = Part(
    "benchmark",
    "gsm8k.jsonl, scored by number",
    24,
    None,
    (measure("score", 0.25, 0.333, 0.148, "no difference shown", 0.38, False),),
    "Only 24 rows: the intervals are rough. Cut off at max_new_tokens: 3 answers of the base, 0 of the adapter.",
)
GENERAL = Part(
    "general_text",
    "general text",
    42,
    6120,
    (
        measure("loss", 3.102, 3.141, 0.018, "worse", 0.003),
        measure("perplexity", 22.24, 23.13, 0.411, "worse", 0.003),
        measure("token_accuracy", 0.421, 0.419, 0.009, "no difference shown", 0.61, False),
    ),
    "",
)
TASK = Part(
    "lm-eval:arc_easy",
    "lm-eval arc_easy, version 1.0",
    0,
    None,
    (measure("acc_norm", 0.512, 0.521, 0.029, "no difference shown", 0.54, False),),
    "lm-eval gives standard errors and no rows.",
)
EVALUATION = Evaluation(
    SECOND,
    "",
    None,
    "/models/SmolLM2-135M-Instruct",
    "/runs/adapter",
    BEGAN + 7_800,
    (HELD_OUT, BENCHMARK, GENERAL),
    {
        **{"benchmark": "/data/gsm8k.jsonl", "scorer": "number, as every `expected` is a number", "tasks": []},
        **{"limit": 120, "max_new_tokens": 200, "time_limit_s": None, "device": "cuda:0", "load_in": "4bit"},
        "dtype": "bfloat16",
    },
    {"torch": "2.9.0"},
    {"load": 4.2, "total": 193.0},
    True,
    False,
)
PROMPT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?"
)


def answered(text: str, score: float | None, cut: bool = False) -> Outcome:
    return Outcome(None, len(text.split()), 0, text, score, cut)


def lost(loss: float | None, correct: int, tokens: int = 40) -> Outcome:
    return Outcome(loss, tokens, correct, None, None, False)


def benchmark_row(row: int, base: Outcome | None, adapter: Outcome | None, prompt: str = "", expected: str = "") -> Row:
    return Row("benchmark", row, f"gsm8k.jsonl, line {row + 1}", prompt or f"Question {row}?", expected, base, adapter)


def loss_row(part: str, row: int, base: float | None, adapter: float | None) -> Row:
    prompt = f"Translate sentence {row}." if part == "held_out" else ""
    file = "rows.jsonl" if part == "held_out" else "general_text.jsonl"
    text = f"Satz {row}" if prompt else f"Water of kind {row} is heaviest at about four degrees Celsius."
    outcomes = (None if loss is None else lost(loss, round(40 / (1 + loss))) for loss in (base, adapter))
    return Row(part, row, f"{file}, line {row + 1}", prompt, text, *outcomes)


def rows() -> list[Row]:
    """Rows of all parts that changed in every way."""
    return [
        *(loss_row("held_out", row, 1.9 + row / 10, 1.5 - row / 20 + (0.9 if row == 3 else 0)) for row in range(8)),
        benchmark_row(
            0,
            answered("Natalia sold 48 / 2 = 20 clips in May. Altogether she sold 48 + 20 = 68 clips.", 0.0, cut=True),
            answered("Natalia sold 48 / 2 = 24 clips in May. Altogether she sold 48 + 24 = 72 clips.", 1.0),
            PROMPT,
            "72",
        ),
        benchmark_row(1, answered("It is 9.", 1.0), answered("It is 8.", 0.0), "What is 4 + 5?", "9"),
        benchmark_row(2, answered("It is 4.", 1.0), answered("It is 4.", 1.0), "What is 2 + 2?", "4"),
        benchmark_row(3, answered("About ten.", 0.0), answered("Perhaps eleven or so.", 0.0), "What is 6 + 6?", "12"),
        *(loss_row("general_text", row, 3.1, 3.1 + (row - 1) / 50) for row in range(4)),
    ]


def keep(run: Run, evaluation: Evaluation = EVALUATION, of_rows: Sequence[Row] | None = None) -> Evaluation:
    """Have `evaluation` in the folder of `run` under its own id."""
    folder = run.folder / FOLDER / evaluation.id
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(replace(evaluation, run_id=run.id).to_json()))
    lines = (json.dumps(asdict(row)) + "\n" for row in (rows() if of_rows is None else of_rows))
    (folder / ROWS).write_text("".join(lines))
    return evaluation


def older(**changes: Any) -> Evaluation:
    """One of a checkpoint, that a time limit ended, with nothing that can be told from chance."""
    unsure = replace(HELD_OUT, rows=31, measures=(measure("loss", 1.931, 1.900, 0.09, "no difference shown", 0.41),))
    known: dict[str, Any] = {
        **{"id": FIRST, "step": 412, "created": BEGAN + 900, "parts": (unsure,), "timed_out": True},
        **{"base_from_cache": False, "settings": {**EVALUATION.settings, "time_limit_s": 600.0, "limit": None}},
    }
    return replace(EVALUATION, **{**known, **changes})


def finished(folder: RunFolder, *, holds_out: bool = True) -> Run:
    """A run that has left an adapter."""
    folder.status(state="finished", loss=1.1)
    data = "{train: /data/rows.jsonl, eval_fraction: 0.1}" if holds_out else "{train: /data/rows.jsonl}"
    folder.run.spec_path.write_text(
        f"model: {{name_or_path: /models/SmolLM2-135M-Instruct}}\nhardware: {{device: cpu}}\ndata: {data}\n"
    )
    folder.run.adapter_folder.mkdir()
    (folder.run.adapter_folder / "adapter_config.json").write_text("{}")
    return folder.run


@dataclass
class Script:
    """An evaluation that does what a test says; `script.evaluate` takes the place of the real one."""

    result: Evaluation | None = None
    """Kept at the end; None: nothing comes of it but `error`."""
    error: Exception | None = None
    progress: list[Progress] = field(default_factory=list)
    """Told before anything else."""
    ends: threading.Event = field(default_factory=threading.Event)
    """It goes on until this is set, or it is stopped."""
    asked: list[Asked] = field(default_factory=list)

    def evaluate(
        self, run: Run, asked: Asked, on_event: Callable[[Progress], None], is_cancelled: Callable[[], bool]
    ) -> Evaluation:
        self.asked.append(asked)
        for progress in self.progress:
            on_event(progress)
        while not self.ends.wait(0.01):
            if is_cancelled():
                raise JobCancelled
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return keep(run, self.result)


def app_of(ascii: bool = False) -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False, ascii=ascii)


async def evaluation_screen(pilot: Pilot[None], run: Run, evaluate: Evaluate = evaluated) -> EvaluationScreen:
    """The screen on `run`, once it has read what there is."""
    app = pilot.app
    assert isinstance(app, LoradeckApp)
    screen = EvaluationScreen(run, app.glyphs, evaluate)
    await app.push_screen(screen)
    await read(pilot)
    return screen


async def read(pilot: Pilot[None]) -> None:
    screen = screen_of(pilot)

    def is_read() -> bool:
        return screen.looked is not None and not any(
            worker.group == "read" and not worker.is_finished for worker in screen.workers
        )

    await until(pilot, is_read, "the evaluations are read")


def screen_of(pilot: Pilot[None]) -> EvaluationScreen:
    return next(screen for screen in pilot.app.screen_stack if isinstance(screen, EvaluationScreen))


def said(pilot: Pilot[None], where: str) -> str:
    widget = screen_of(pilot).query_one(f"#{where}")
    assert isinstance(widget, (Line, Words))
    return str(widget.words)


def table_text(pilot: Pilot[None]) -> str:
    return str(screen_of(pilot).query_one("#figures Words", Words).words)


def list_text(pilot: Pilot[None]) -> list[str]:
    listed = screen_of(pilot).query_one(ChangedRows)
    return [listed.render_line(y).text.rstrip() for y in range(min(listed.size.height, len(listed.changes)))]


def answers(pilot: Pilot[None]) -> AnswerPair:
    return screen_of(pilot).query_one(AnswerPair)
