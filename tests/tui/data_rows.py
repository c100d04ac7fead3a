"""Answers of an inspector about rows that are written here: their tokens are words, so that screens can be read."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.architecture import Architecture
from engine.checks import typed_spec
from engine.data import client
from engine.inspector import InspectorError
from engine.memory.card import Card
from engine.spec import RunSpec
from tests.tui.conftest import until
from tests.tui.models import KnownModels, llama
from tests.tui.planning import FREE, planned, planning_app
from tui.app import LoradeckApp
from tui.data_view.asking import located
from tui.screens.data import DataScreen

WORDS = re.compile(r"<\|[^|]*\|>|\s?[^\s<]+|\s")
TURNS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]
TEMPLATE = "the model's own"


def chatml(messages: Sequence[Mapping[str, str]]) -> list[list[Any]]:
    """The pieces of a conversation: words as tokens, what an assistant says and its end trained."""
    pieces: list[list[Any]] = []
    for turn in messages:
        trained = int(turn["role"] == "assistant")
        pieces += [["<|im_start|>", 0, 1], [turn["role"], 0, 0], ["\n", 0, 0]]
        pieces += [[word, trained, 0] for word in WORDS.findall(turn["content"])]
        pieces += [["<|im_end|>", trained, 1], ["\n", 0, 0]]
    return pieces


class KnownRows(KnownModels):
    """An inspector that has prepared answers about data: `previews` by side, lengths of a sample, notes."""

    def __init__(self, *known: Architecture) -> None:
        super().__init__(*known)
        self.train: list[dict[str, Any]] = [{"messages": TURNS}]
        self.held_out: list[dict[str, Any]] = []
        self.fields: dict[str, Any] = {}
        """What of a preview is another than usual."""
        self.notes: list[dict[str, Any]] = []
        self.sample: dict[str, Any] | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def request(self, task: str, timeout_s: float, **fields: Any) -> Any:
        self.requests.append((task, fields))
        if task == "data_preview":
            return self._preview(RunSpec.model_validate(fields["spec"]), fields["index"], fields["side"])
        if task == "data_notes":
            return self.notes
        if task == "lengths" and self.sample is not None:
            return self.sample
        raise InspectorError(f"There is no answer to {task}.")

    def _preview(self, spec: RunSpec, index: int, side: str) -> dict[str, Any]:
        rows = self.train if side == "train" else self.held_out
        raw = rows[index % len(rows)]
        pieces = chatml(raw["messages"]) if "messages" in raw else []
        return {
            "format": "messages",
            "reason": "it has messages",
            "rows": len(rows),
            "index": index % len(rows),
            "where": f"chat.jsonl, line {index % len(rows) + 1}",
            "raw": raw,
            "pieces": pieces,
            "tokens": len(pieces),
            "trained": sum(trained for _, trained, _ in pieces),
            "cut_at": spec.data.max_length,
            "eos_trained": True,
            "template": TEMPLATE,
            "columns": {name: str(value)[:40] for name, value in raw.items()},
            "problem": None,
            **self.fields,
        }


def data_app(inspector: KnownRows, model: str, train: str, **settings: Any) -> LoradeckApp:
    """An app whose plan has a model and data chosen already."""
    free: Card = settings.pop("free", FREE)
    app = planning_app(llama(model), free=free, data=train, inspector=inspector, **settings.pop("options", {}))
    assert app.plan_screen().draft.change_all(settings) == []
    return app


async def data_screen(pilot: Pilot[None]) -> DataScreen:
    """The data screen, opened from the plan by its key, once the first row is there."""
    await planned(pilot)
    await pilot.press("d")
    await until(pilot, lambda: isinstance(pilot.app.screen, DataScreen), "the data screen is open")
    screen = pilot.app.screen
    assert isinstance(screen, DataScreen)
    await until(pilot, lambda: screen.preview or screen.trouble, "the first row is there")
    return screen


def sample_of(tokens: Sequence[int], rows: int, prompt: int = 20) -> dict[str, Any]:
    """The reply to `lengths` for a sample with these lengths, of which the first `prompt` tokens are not learnt."""
    learnt = [max(0, count - prompt) for count in tokens]
    return {
        "tokens": list(array("I", tokens)),
        "learnt": learnt,
        "first_learnt": [prompt if each else 2**32 - 1 for each in learnt],
        "rows": rows,
        "labelled_share": sum(learnt) / max(1, sum(tokens)),
    }


def write_rows(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Chat:
    """A file of conversations, checked and counted for a model, and what was found is kept in a cache of its own."""

    file: Path
    rows: list[dict[str, Any]]
    """The good ones."""
    model: Path
    cache: Path

    def inspector(self) -> KnownRows:
        known = KnownRows(llama(str(self.model), layers=2))
        known.train = self.rows
        known.sample = sample_of([200, 340, 1200, 90], len(self.rows))
        return known

    def app(self, inspector: KnownRows | None = None, **settings: Any) -> LoradeckApp:
        settings = {"data.on_bad_row": "skip", "data.max_length": 512, **settings}
        return data_app(inspector or self.inspector(), str(self.model), str(self.file), **settings)


@cache
def chat_of(folder: Path, model: Path) -> Chat:
    """Made once in a session, with the real scan and the real count of tokens: some seconds."""
    folder.mkdir()
    lines, rows = [], []
    for number, words in enumerate([6, 12, 150, 40, 25, 80, 4, 18, 60, 33, 9, 220] * 5):
        answer = " ".join(f"word{word % 7}" for word in range(words))
        question = TURNS[1]["content"] if number % 11 else "Why? " * 120
        rows.append({"id": number, "messages": [TURNS[0], {"role": "user", "content": f"{number}: {question}"}]})
        rows[-1]["messages"].append({"role": "assistant", "content": answer})
        lines.append(json.dumps(rows[-1]))
    lines[20] = "{broken"
    lines[40] = json.dumps({"id": 40, "messages": TURNS[:2]})
    lines.append(lines[3])
    file = write_rows(folder / "chat.jsonl", lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        spec = typed_spec(
            {
                "model": {"name_or_path": str(model)},
                "data": {"train": str(file), "on_bad_row": "skip", "max_length": 512},
            }
        )
        found = located(spec, folder)
        assert found.spec is not None
        client.tokenize(found.spec)
    good = [row for number, row in enumerate(rows) if number not in (20, 40)]
    return Chat(file, [*good, rows[3]], model, folder / "cache")
