"""Tiny runs that were really trained, and evaluations of them in this process."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checks import parse_spec
from engine.evaluation.plan import BOTH, Answer, AnswerPart, LossPart, ModelName, Request, RowLoss, reported
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.evaluation.task import evaluate
from tests.engine.worker.training import events_of, fit, new_run

HELD_OUT = LossPart("held_out", "held_out")


def spec_of(base: Path, rows: Path, **sections: dict[str, Any]) -> RunSpec:
    raw: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": str(base), "dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {"target_modules": "all-linear"},
        "data": {"train": str(rows), "eval_fraction": 0.4, "max_length": 64, "samples": 0},
        "training": {
            "bf16": True,
            "fp16": False,
            "optim": "adamw_torch",
            "gradient_accumulation_steps": 1,
            "max_steps": 12,
            "learning_rate": 1e-2,
            "per_device_eval_batch_size": 64,
            "save_strategy": "no",
        },
        "hardware": {"device": "cpu"},
    }
    for section, values in sections.items():
        raw[section] |= values
    return parse_spec(raw)


def trained_run(folder: Path, spec: RunSpec) -> Run:
    run = new_run(folder, spec)
    assert fit(run)
    return run


def eval_of(run: Run) -> dict[str, Any]:
    """The run's last evaluation of its own."""
    return events_of(run, "eval")[-1]


@dataclass
class Evaluated:
    """What the worker said."""

    losses: dict[tuple[str, str], dict[int, RowLoss]]
    answers: dict[tuple[str, str], dict[int, Answer]]
    progress: list[dict[str, Any]]
    events: list[dict[str, Any]]
    result: dict[str, Any]

    def mean_loss(self, part: str, model: ModelName) -> float:
        rows = self.losses[part, model].values()
        return sum(row.loss_sum for row in rows) / sum(row.tokens for row in rows)


def evaluated(
    spec: RunSpec,
    adapter: Path,
    losses: tuple[LossPart, ...] = (),
    answers: tuple[AnswerPart, ...] = (),
    **settings: Any,
) -> Evaluated:
    events: list[dict[str, Any]] = []

    def tell(type: str, **fields: Any) -> None:
        events.append(json.loads(json.dumps({"type": type, **fields})))

    result = evaluate(Request(spec, str(adapter), BOTH, losses, answers, **settings).to_json(), tell)
    found = Evaluated(defaultdict(dict), defaultdict(dict), [], events, result)
    for event in events:
        if event["type"] == "row_loss":
            loss = reported(RowLoss, event)
            assert loss.row not in found.losses[loss.part, loss.model], "a row is told once"
            found.losses[loss.part, loss.model][loss.row] = loss
        elif event["type"] == "answer":
            answer = reported(Answer, event)
            assert answer.row not in found.answers[answer.part, answer.model], "a row is told once"
            found.answers[answer.part, answer.model][answer.row] = answer
        else:
            found.progress.append(event)
    return found


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
