"""The spec that is being planned: edits, undo, and what the choice means. Plain Python, tested without Textual."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.architecture import DTYPE_BYTES, Architecture
from engine.checks import InvalidSpec, Problem, impossible_combinations, read_spec, typed_spec, write_spec
from engine.memory.footprint import Footprint
from engine.memory.formula import predict
from engine.memory.lengths import Lengths, largest_batches
from engine.memory.predict import Question, by_formula
from engine.runs.store import write_atomically
from engine.spec import LoraSection, RunSpec
from engine.targets import (
    Inexpressible,
    Selection,
    problems_of_sharing,
    problems_with,
    selected,
    to_lora,
    trainable_parameters,
)

if TYPE_CHECKING:
    from engine.memory.card import Card

UNDO_DEPTH = 200
UNSET = ""
"""The model's name, and the data's, in a draft that has none yet."""
PLACEHOLDER = "?"
"""Stands for an unset model while the other settings are validated."""


@dataclass(frozen=True)
class Totals:
    """What the draft means. None where the model or the data is not known yet."""

    effective_batch_size: int
    steps_per_epoch: int | None
    total_steps: int | None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    """Size of the adapter on disk."""


def empty_spec() -> RunSpec:
    """Defaults throughout, without model and data."""
    spec = typed_spec({"model": {"name_or_path": PLACEHOLDER}, "data": {"train": UNSET}})
    return _with_model(spec, UNSET)


class Draft:
    """One spec in the making. Every edit can be undone; an edit that is no valid value changes nothing."""

    def __init__(self, spec: RunSpec | None = None, path: Path | None = None) -> None:
        spec = spec or empty_spec()
        self._spec = spec
        self._saved = spec
        self._undone: list[RunSpec] = []
        self._done: list[RunSpec] = []
        self.path = path
        """Where it was read from or last saved to."""
        self.architecture: Architecture | None = None
        """The model's tree, set when the inspector has it."""
        self.train_rows: int | None = None
        """Rows that will be trained on, set when they have been counted."""
        self.lengths: Lengths | None = None
        """Lengths of the training rows, if they are known; else rows are taken to be as long as max_length."""
        self.card: Card | None = None
        """What the run would be on here, set when the machine was looked at."""
        self._limited: tuple[Card, int | None, Card] | None = None
        self._selected: tuple[LoraSection, Architecture, Selection] | None = None
        self._predicted: tuple[tuple[object, ...], Footprint | None] | None = None

    @property
    def spec(self) -> RunSpec:
        return self._spec

    @property
    def is_unsaved(self) -> bool:
        return self._spec != self._saved

    def value(self, field: str) -> Any:
        """The value of a setting by its full name, such as `lora.r`."""
        section, _, name = field.rpartition(".")
        return getattr(getattr(self._spec, section) if section else self._spec, name)

    def change(self, field: str, value: Any) -> list[Problem]:
        """Set one setting. Returns what is wrong with the value, and then nothing has changed."""
        return self.change_all({field: value})

    def change_all(self, values: dict[str, Any]) -> list[Problem]:
        """Set several settings as one edit; all or none."""
        raw = self._spec.model_dump()
        lacks_model = raw["model"]["name_or_path"] == UNSET and not values.get("model.name_or_path")
        if lacks_model:
            raw["model"]["name_or_path"] = PLACEHOLDER
        for field, value in values.items():
            section, _, name = field.partition(".")
            if name:
                raw[section][name] = value
            else:
                raw[section] = value
        try:
            spec = typed_spec(raw)
        except InvalidSpec as error:
            return error.problems
        self._put(_with_model(spec, UNSET) if lacks_model else spec)
        return []

    def undo(self) -> bool:
        """Take the last edit back; False if there is none."""
        return self._step(self._done, self._undone)

    def redo(self) -> bool:
        return self._step(self._undone, self._done)

    @property
    def selection(self) -> Selection:
        """What is adapted; empty while the model is not known."""
        if self.architecture is None:
            return Selection(frozenset())
        known, lora = self._selected, self._spec.lora
        if known is None or known[1] is not self.architecture or known[0] != lora:
            known = self._selected = (lora, self.architecture, selected(lora, self.architecture))
        return known[2]

    def select(self, names: Iterable[str], on: bool) -> str:
        """Put adapters on the targets called `names`, or take them off. Returns why it cannot be, as `adapt` does."""
        chosen = frozenset(names)
        return self._choose(
            lambda s: (
                s.targets | chosen if on else s.targets - chosen,
                s.modules_to_save - chosen if on else s.modules_to_save,
            )
        )

    def choose(self, names: Iterable[str]) -> str:
        """Put adapters on exactly the targets called `names`."""
        chosen = frozenset(names)
        return self._choose(lambda s: (chosen, s.modules_to_save - chosen))

    def save_in_full(self, names: Iterable[str], on: bool) -> str:
        """Train modules in full (`modules_to_save`), or stop doing so."""
        chosen = frozenset(names)

        def choose(s: Selection) -> tuple[frozenset[str], frozenset[str]]:
            return (s.targets - chosen, s.modules_to_save | chosen) if on else (s.targets, s.modules_to_save - chosen)

        return self._choose(choose)

    def set_rank(self, names: Iterable[str], r: int | None) -> str:
        """Another rank for some targets; None gives them the common one."""
        return self._set_pattern("ranks", names, r)

    def set_alpha(self, names: Iterable[str], alpha: int | None) -> str:
        """Another lora_alpha for some targets; None gives them the common one."""
        return self._set_pattern("alphas", names, alpha)

    def adapt(self, selection: Selection) -> str:
        """Adapt exactly `selection`, in the fewest words. Returns why no LoraConfig means it, if none does."""
        if self.architecture is None:
            return "The model is not known yet."
        try:
            lora = to_lora(selection, self.architecture, self._spec.lora)
        except Inexpressible as error:
            return str(error)
        self._put(self._spec.model_copy(update={"lora": lora}))
        return ""

    def problems(self) -> list[Problem]:
        """What would keep this draft from starting, as far as it is known without looking at data or disk."""
        problems = list(self._missing())
        problems += impossible_combinations(self._spec)
        if self.architecture is not None:
            problems += problems_with(
                self._spec.lora, self.architecture, self._spec.quantization
            ) or problems_of_sharing(self._spec, self.architecture)
        return problems

    def totals(self) -> Totals:
        training = self._spec.training
        batch = self._spec.effective_batch_size
        # Packed rows are counted in blocks, whose number only the tokenizer knows.
        per_epoch = math.ceil(self.train_rows / batch) if self.train_rows and not self._spec.data.packing else None
        total = training.max_steps if training.max_steps > 0 else None
        if total is None and per_epoch is not None:
            total = math.ceil(per_epoch * training.num_train_epochs)
        if self.architecture is None:
            return Totals(batch, per_epoch, total)
        trainable = trainable_parameters(self._spec.lora, self.architecture)
        # Adapters of a quantized base are trained and saved in bfloat16 (trl), others in float32 (peft).
        quantized = self._spec.quantization.load_in != "none" and not training.fp16
        return Totals(
            batch,
            per_epoch,
            total,
            trainable,
            self.architecture.total_parameters + trainable,
            trainable * DTYPE_BYTES["bfloat16" if quantized else "float32"],
        )

    @property
    def on_cpu(self) -> bool:
        """Whether `device: auto` comes to the CPU here."""
        return self.card is not None and self.card.on_cpu

    @property
    def card_in_limit(self) -> Card | None:
        """`card`, of whose free memory no more counts than `hardware.memory_limit` allows."""
        if self.card is None:
            return None
        limit = self._spec.hardware.memory_limit_bytes
        known = self._limited  # the same card again for the same limit: predictions are kept by it
        if known is None or known[0] is not self.card or known[1] != limit:
            known = self._limited = self.card, limit, self.card.within(limit)
        return known[2]

    @property
    def longest_row_tokens(self) -> int | None:
        """Longest row of a batch, where the rows' lengths are known."""
        return None if self.lengths is None else largest_batches(self._spec, self.lengths)[0].tokens

    @property
    def question(self) -> Question | None:
        """What to ask a prediction for; None while the model or the card is not known."""
        card = self.card_in_limit
        if self.architecture is None or card is None:
            return None
        return Question(self._spec, self.architecture, card, self.lengths)

    @property
    def footprint(self) -> Footprint | None:
        """The formula's prediction, or None where the model is not known, or is of a kind that it does not know."""
        if self.architecture is None:
            return None
        state = (self._spec, self.architecture, self.lengths, self.card_in_limit)
        if self._predicted is None or any(now is not then for now, then in zip(state, self._predicted[0], strict=True)):
            question = self.question
            try:
                footprint = by_formula(question) if question is not None else predict(self._spec, self.architecture)
            except KeyError:
                footprint = None
            self._predicted = state, footprint
        return self._predicted[1]

    def save(self, path: Path) -> None:
        """Write the spec as YAML. Raises OSError, and then the old file still stands."""
        write_atomically(path, write_spec(self._spec).encode())
        self.path, self._saved = path, self._spec

    @classmethod
    def open(cls, path: Path) -> Draft:
        """The draft of a spec file. Raises InvalidSpec."""
        return cls(read_spec(path), path)

    def _missing(self) -> Iterator[Problem]:
        if self._spec.model.name_or_path == UNSET:
            yield Problem("model.name_or_path", "no model is chosen", "F2 lists those at hand; or write a hub id")
        if self._spec.data.train in (UNSET, []):
            yield Problem("data.train", "no training data is named", "write the path of a .jsonl file")

    def _put(self, spec: RunSpec) -> None:
        if spec == self._spec:
            return
        self._done.append(self._spec)
        del self._done[:-UNDO_DEPTH]
        self._undone.clear()
        self._spec = spec

    def _step(self, back: list[RunSpec], forth: list[RunSpec]) -> bool:
        if not back:
            return False
        forth.append(self._spec)
        self._spec = back.pop()
        return True

    def _choose(self, choose: Callable[[Selection], tuple[frozenset[str], frozenset[str]]]) -> str:
        before = self.selection
        targets, in_full = choose(before)
        keep_ranks = {name: r for name, r in before.ranks.items() if name in targets}
        keep_alphas = {name: alpha for name, alpha in before.alphas.items() if name in targets}
        return self.adapt(Selection(targets, in_full, keep_ranks, keep_alphas))

    def _set_pattern(self, kind: str, names: Iterable[str], value: int | None) -> str:
        before = self.selection
        values = {"ranks": dict(before.ranks), "alphas": dict(before.alphas)}
        for name in names:
            if name in before.targets:
                values[kind].pop(name, None)
                if value is not None:
                    values[kind][name] = value
        return self.adapt(Selection(before.targets, before.modules_to_save, values["ranks"], values["alphas"]))


def _with_model(spec: RunSpec, name_or_path: str) -> RunSpec:
    """`spec` with another model, unchecked: an unset one is no valid spec."""
    return spec.model_copy(update={"model": spec.model.model_copy(update={"name_or_path": name_or_path})})
