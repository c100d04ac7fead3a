"""Settings that fit a card and cost least: what keeps training the same before what changes it, the fastest first.

The formula looks through the settings, a few milliseconds each, and learns from every trace how far off it is; what it
finds is traced before it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from engine.checks import InvalidSpec
from engine.inspector import Inspector
from engine.memory.card import smallest_card_with
from engine.memory.footprint import Footprint, Tier, Verdict
from engine.memory.predict import NotPredicted, Question
from engine.memory.ways_out.candidate import ATTENTION, CHECKPOINTING, LOAD_IN, can_have_sdpa, changed
from engine.memory.ways_out.changing_training import LEAST_TOKENS
from engine.memory.ways_out.fit_words import changes_between, reasons_for, summary
from engine.memory.ways_out.pricing import (
    evaluation_is_highest,
    is_traceable,
    price,
    refused,
    room_bytes,
    staying_bytes,
    verdict_on,
)
from engine.memory.ways_out.ways import Values, leanest, sacrifices, ways
from engine.spec import RunSpec

MOST_SHALLOW = 4
"""One of them is kept for the leanest settings that learn the same: no estimate alone makes a run learn less."""
MOST_FULL = 2
"""Traces of all layers, at up to 25 seconds each."""
FORMULA_MAY_EXCEED = 1.15
"""The formula's largest error against a trace is 13 %: what it puts this far above the room is worth a first trace."""
SCALED_MAY_EXCEED = 1.05
"""The same once a trace of like settings has set it right: the allocator's holes differ from batch to batch."""

Progress = Callable[[str, int, int], None]
"""Told what is looked at, how many traces were made, and how many there can be."""


@dataclass(frozen=True)
class Fit:
    """Settings for a card."""

    spec: RunSpec
    """With the changes; where nothing fits, the settings that need least."""
    changes: dict[str, tuple[Any, Any]]
    """Full name of a field -> what it was and what it is."""
    reasons: dict[str, str]
    """A sentence for every field that changed, and for others that matter here and stay."""
    footprint: Footprint
    """Predicted for `spec`."""
    fits: bool
    verdict: Verdict
    changes_training: bool
    """Whether what is learnt comes out differently, rounding apart."""
    room_bytes: int
    """What it was to fit into."""
    summary: str
    needed_bytes: int | None = None
    """Where nothing fits: what must be free for `spec`."""
    smallest_cards: list[str] = field(default_factory=list)
    """Where nothing fits: cards that have it, the smallest first."""

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(mode="json"),
            "changes": {name: list(values) for name, values in self.changes.items()},
            "reasons": self.reasons,
            "footprint": self.footprint.to_json(),
            "fits": self.fits,
            "verdict": self.verdict,
            "changes_training": self.changes_training,
            "effective_batch_size": self.spec.effective_batch_size,
            "room_bytes": self.room_bytes,
            "summary": self.summary,
            "needed_bytes": self.needed_bytes,
            "smallest_cards": self.smallest_cards,
        }


def fit(
    question: Question,
    inspector: Inspector | None,
    *,
    capacity_bytes: int | None = None,
    least_tokens: int = LEAST_TOKENS,
    progress: Progress | None = None,
) -> Fit:
    """The settings that fit `capacity_bytes`, by default what is free on the card, and cost least.

    The effective batch stays. Rows are cut, to `least_tokens` at the shortest, only where nothing else fits. Raises
    KeyError for a config without the usual sizes, ValueError where it is not known what is free.
    """
    room = room_bytes(question, capacity_bytes)
    search = _Search(question, inspector, room, progress)
    search.replace_eager_attention()
    return search.run(least_tokens)


class _Search:
    def __init__(self, asked: Question, inspector: Inspector | None, room: int, progress: Progress | None) -> None:
        self.asked = asked
        self.question = asked
        """What the search starts from: the run that was asked about, but for eager attention."""
        self.inspector = inspector
        self.room = room
        self.progress = progress
        self.left: dict[Tier, int] = {"shallow": MOST_SHALLOW - 1, "full": MOST_FULL}
        self.scales: dict[tuple[bool, str], float] = {}
        """Trace over formula, by checkpointing and bits of a weight, which decide what the formula leaves out."""
        self.estimates: dict[str, Footprint] = {}
        self.small_evaluation = False
        self.made = 0

    def replace_eager_attention(self) -> None:
        """Eager attention holds what no other kernel does, for the same result: start from `sdpa` if there is one."""
        if not can_have_sdpa(self.asked):
            return
        with_sdpa = {ATTENTION: "sdpa"}
        if self.can_trace(with_sdpa):
            self.tell(with_sdpa)
            self.left["shallow"] -= 1
            self.made += 1
            try:
                price(changed(self.asked, with_sdpa), self.inspector)
            except NotPredicted:
                return  # this model has none, or nothing of it can be traced
        self.question = changed(self.asked, with_sdpa)

    def run(self, least_tokens: int) -> Fit:
        sacrifice: Values = {}
        for possible in filter(self.is_possible, sacrifices(self.question, least_tokens)):
            sacrifice = possible
            lean = leanest(self.question, sacrifice)
            answer = self.within(sacrifice) if self.may_fit(lean) else None
            if not sacrifice:
                self.left["shallow"] += 1
                answer = answer or self.after_all(lean)
            if answer:
                return self.answer(*answer, sacrifice)
        values = leanest(self.question, sacrifice)
        return self.answer(values, self.traced(values, "shallow") or self.estimate(values), sacrifice)

    def after_all(self, values: Values) -> tuple[Values, Footprint] | None:
        """`values` if a trace says that they fit, where an estimate puts them just above the room."""
        if not self.may_fit(values) or (footprint := self.traced(values, "shallow")) is None:
            return None
        return (values, footprint) if verdict_on(footprint, self.room) != "does not fit" else None

    def within(self, sacrifice: Values) -> tuple[Values, Footprint] | None:
        """The fastest settings that fit; failing that the leanest that are tight."""
        tight: list[tuple[Values, Footprint]] = []
        for values in ways(self.question, sacrifice, small_evaluation=self.small_evaluation):
            if not self.may_fit(values):
                continue
            footprint = self.priced(values)
            verdict = verdict_on(footprint, self.room)
            if verdict == "fits":
                return values, footprint
            if verdict == "tight":
                tight.append((values, footprint))
            elif not self.small_evaluation and evaluation_is_highest(footprint):
                self.small_evaluation = True
                return self.within(sacrifice)
        return min(tight, key=lambda found: found[1].device_bytes, default=None)

    def priced(self, values: Values) -> Footprint:
        """The best prediction that is left to make: a trace of few layers and, where that fits, one of all."""
        footprint = self.traced(values, "shallow")
        if footprint is None:
            return self.estimate(values)
        if footprint.tier == "shallow" and verdict_on(footprint, self.room) != "does not fit":
            return self.traced(values, "full") or footprint
        return footprint

    def is_possible(self, values: Values) -> bool:
        try:
            return not refused(changed(self.question, values)) or refused(self.question)
        except InvalidSpec:
            return False

    def may_fit(self, values: Values) -> bool:
        """Whether it is worth a closer look."""
        margin = 1.0
        if self.can_trace(values):
            margin = SCALED_MAY_EXCEED if self.kind(values) in self.scales else FORMULA_MAY_EXCEED
        return staying_bytes(self.estimate(values)) <= self.room * margin

    def estimate(self, values: Values) -> Footprint:
        """The formula's answer, set right by what traces have taught."""
        key = repr(sorted(values.items()))
        if key not in self.estimates:
            self.estimates[key] = price(changed(self.question, values), None)
        return scaled(self.estimates[key], self.scales.get(self.kind(values), 1.0))

    def kind(self, values: Values) -> tuple[bool, str]:
        spec = self.question.spec
        return (
            values.get(CHECKPOINTING, spec.training.activation_checkpointing),
            values.get(LOAD_IN, spec.quantization.load_in),
        )

    def can_trace(self, values: Values) -> bool:
        return self.inspector is not None and self.left["shallow"] > 0 and is_traceable(changed(self.question, values))

    def traced(self, values: Values, tier: Tier) -> Footprint | None:
        """The trace of `values`; None where there is none to be had, or no more are to be made."""
        if self.inspector is None or self.left[tier] == 0 or not is_traceable(changed(self.question, values)):
            return None
        self.tell(values)
        self.left[tier] -= 1
        self.made += 1
        before = self.estimate(values)
        try:
            footprint = price(changed(self.question, values), self.inspector, tier)
        except NotPredicted:
            self.inspector = None
            return None
        if footprint.tier != "formula":  # not where offloading was taken off by count
            kind, exact = self.kind(values), exact_bytes(before)
            factor = (footprint.device_bytes - exact) / max(1, before.device_bytes - exact)
            self.scales[kind] = self.scales.get(kind, 1.0) * max(0.0, factor)
        return footprint

    def tell(self, values: Values) -> None:
        if self.progress is not None:
            made = self.made
            words = ", ".join(f"{field} {value}" for field, value in values.items() if not isinstance(value, dict))
            self.progress(words or "the run as it is", made, MOST_SHALLOW + MOST_FULL)

    def answer(self, values: Values, footprint: Footprint, sacrifice: Values) -> Fit:
        spec = changed(self.question, values).spec
        verdict = verdict_on(footprint, self.room)
        fits = verdict != "does not fit"
        without = None if not spec.training.activation_checkpointing else {**values, CHECKPOINTING: False}
        unrecomputed = None if without is None else max(self.estimate(without).device_bytes, footprint.device_bytes)
        needed = None if fits else footprint.needed_bytes
        cards = [] if needed is None or self.asked.card.on_cpu else smallest_card_with(needed)
        return Fit(
            spec=spec,
            changes=changes_between(self.asked.spec, spec),
            reasons=reasons_for(self.asked, spec, unrecomputed),
            footprint=footprint,
            fits=fits,
            verdict=verdict,
            changes_training=bool(sacrifice),
            room_bytes=self.room,
            summary=summary(footprint, verdict, self.room, cards),
            needed_bytes=needed,
            smallest_cards=[card.name for card in cards],
        )


def exact_bytes(footprint: Footprint) -> int:
    """What the formula does not get wrong: stored weights, and the context, which is not its own."""
    return footprint.categories.get("weights", 0) + footprint.categories.get("context", 0)


def scaled(footprint: Footprint, scale: float) -> Footprint:
    """The same prediction with all that varies `scale` times as large."""
    if scale == 1:
        return footprint
    weights, exact = footprint.categories.get("weights", 0), exact_bytes(footprint)
    return replace(
        footprint,
        categories={
            name: size if name in ("weights", "context") else round(size * scale)
            for name, size in footprint.categories.items()
        },
        phases={phase: weights + round((size - weights) * scale) for phase, size in footprint.phases.items()},
        allocated_bytes=weights + round((footprint.allocated_bytes - weights) * scale),
        device_bytes=exact + round((footprint.device_bytes - exact) * scale),
        paged_bytes=round(footprint.paged_bytes * scale),
        range_bytes=None,
        notes=(*footprint.notes, "set right by the traces of like settings"),
    )
