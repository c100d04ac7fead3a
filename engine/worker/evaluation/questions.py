"""Rows of a benchmark as a model gets them: written as the rows that the run learnt from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from engine.spec import RunSpec
from engine.worker.chat.prompt import learnt_plain_text
from engine.worker.data.encode import IGNORED
from engine.worker.evaluation.loss_rows import Tokens
from engine.worker.failures import BadSpec


@dataclass(frozen=True)
class Question:
    """A row to answer."""

    row: int
    """From 0: the line of the file."""
    text: str
    is_plain: bool
    """Whether the tokenizer adds to it what it adds to a text of its own; a chat template has written it already."""
    ids: list[int]
    choices: list[str] | None


class Writer:
    """Writes prompts by the template of the run, as the tokenizer beside its adapter holds it."""

    def __init__(self, spec: RunSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._has_template = tokenizer.chat_template is not None
        self._prompts_are_plain = not self._has_template or learnt_plain_text(spec)

    def questions(self, path: Path, limit: int | None) -> list[Question]:
        """Of the file's rows. Raises BadSpec for one that cannot be written, OSError."""
        # Not splitlines: texts may hold other ends of lines, which JSON need not escape.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return [self.question(row, json.loads(line)) for row, line in enumerate(lines[:limit])]

    def question(self, row: int, raw: dict[str, Any]) -> Question:
        """Raises BadSpec."""
        if "messages" in raw:
            is_plain, turns = not self._has_template, raw["messages"]
        else:
            is_plain, turns = self._prompts_are_plain, [{"role": "user", "content": raw["prompt"]}]
        if not is_plain:
            text = self._written(row, turns)
        elif "messages" in raw:
            raise BadSpec(
                f"Row {row + 1:,} of the benchmark has `messages`, and the run's model has no chat template to write "
                "them with.",
                "Write what it is to go on from into `prompt`.",
            )
        else:
            text = raw["prompt"]
        return Question(row, text, is_plain, self._ids(text, is_plain), raw.get("choices"))

    def with_choice(self, question: Question, choice: str) -> Tokens:
        """The question with one of its choices directly behind it, whose tokens are what is measured."""
        ids = np.asarray(self._ids(question.text + choice, question.is_plain), dtype=np.int64)
        common = 0
        while common < min(len(ids) - 1, len(question.ids)) and ids[common] == question.ids[common]:
            common += 1
        labels = ids.copy()
        labels[: max(common, 1)] = IGNORED
        return ids, labels

    def _written(self, row: int, turns: list[dict[str, Any]]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever the template's code runs into, it is about this row
            words = " ".join(str(error).split())[:500] or type(error).__name__
            raise BadSpec(
                f"The chat template does not take row {row + 1:,} of the benchmark: {words}.", "Correct the row."
            ) from error
        return text

    def _ids(self, text: str, adds_special_tokens: bool) -> list[int]:
        tokenizer = self._tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=adds_special_tokens, verbose=False)["input_ids"]
        if adds_special_tokens and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
            ids.pop()  # some tokenizers end every text, and this one goes on
        return ids
