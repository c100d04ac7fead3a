"""The ways out for a run that does not fit: each change priced like the run itself, best first.

Savings do not add up: once activations are checkpointed, fewer rows save a fraction of what they would have saved
before. So what is chosen together is priced together (`combined`), and after a choice the rest is priced anew
(`next_remedies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.checks import InvalidSpec
from engine.inspector import Inspector
from engine.memory.card import smallest_card_with
from engine.memory.footprint import Footprint, Tier, Verdict
from engine.memory.predict import NotPredicted, Question, by_formula
from engine.memory.ways_out.candidate import (
    ALLOCATOR,
    NOT_MEASURED,
    Candidate,
    changed,
    gib,
    such_as,
    value_of,
    with_values,
)
from engine.memory.ways_out.changing_training import LEAST_TOKENS, changing_training
from engine.memory.ways_out.failing import ALL, Failure
from engine.memory.ways_out.keeping_training import keeping_training
from engine.memory.ways_out.pricing import is_traceable, price, refused, room_bytes, staying_bytes
from engine.spec import RunSpec

MOST_TRACED = 14
"""Settings that are traced, the run itself included, at one to a few seconds each; further ones get the formula."""
RENTED = "Cards of 24 and 48 GB are rented by the hour by cloud providers."

Progress = Callable[[str, int, int], None]
"""Told what is priced now, how many are done, and how many there are."""
VERDICTS: tuple[Verdict, ...] = ("fits", "tight", "does not fit")


@dataclass(frozen=True)
class Remedy:
    """One way out. Every number of bytes is predicted."""

    id: str
    changes: dict[str, tuple[Any, Any]]
    """Full name of a field -> what it is and what it becomes; empty where there is nothing to set."""
    predicted_peak_bytes: int | None
    """`Footprint.device_bytes` with the changes, after a failure that of the phase that failed. None where it cannot be
    told."""
    saves_bytes: int | None
    """What the run takes as it is, less that. Like is compared with like: where one was traced in full and the other in
    a few layers, what tensors take, which both have exactly. Of a paged optimizer what can leave the card."""
    fits: bool | None
    """Whether it is predicted to run, tightly or not."""
    verdict: Verdict | None
    effective_batch_size: int
    """Rows that a step learns from, with the changes."""
    changes_training: bool
    slowdown: float | None
    """Expected factor on the time of a trained token: 1.24 is 24 % slower. None where nobody has measured it."""
    slowdown_source: str
    note: str
    tier: Tier | None
    continues: bool = True
    """Whether the run's checkpoints can be continued from with it."""
    cards: tuple[str, ...] = ()
    """Of the larger card: those that would do, the smallest first."""

    def to_json(self) -> dict[str, Any]:
        changes = {field: list(values) for field, values in self.changes.items()}
        return {**asdict(self), "changes": changes, "cards": list(self.cards)}

    def apply(self, spec: RunSpec) -> RunSpec:
        """`spec` with the changes; one of the environment is no part of it. Raises InvalidSpec."""
        return with_values(spec, self._values)

    @property
    def _values(self) -> dict[str, Any]:
        return {field: new for field, (_, new) in self.changes.items()}


def remedies(
    question: Question,
    inspector: Inspector | None,
    *,
    capacity_bytes: int | None = None,
    least_tokens: int = LEAST_TOKENS,
    most_traced: int = MOST_TRACED,
    progress: Progress | None = None,
    failure: Failure | None = None,
) -> list[Remedy]:
    """What would help, best first: what leaves training the same, what changes it, a larger card.

    In each, what fits comes first and the cheapest in time before others. `capacity_bytes` is the memory that the run
    may have, by default what is free on the card. `least_tokens` is the shortest `max_length` to offer. After a
    `failure` it is the phase that failed that has to come down, into what the run really had. Raises KeyError for a
    config without the usual sizes, ValueError where it is not known what is free.
    """
    if failure is None:
        failure = Failure(ALL, room_bytes(question, capacity_bytes))
    tell = progress or _say_nothing
    tell("the run as it is", 0, 1)
    now, inspector = _as_it_is(question, inspector)
    candidates = [*keeping_training(question, failure.alone(now)), *changing_training(question, least_tokens)]
    by_formula_now = now if inspector is None else by_formula(question)
    traced_left = most_traced - 1
    found: list[Remedy] = []
    for done, candidate in enumerate(candidates, start=1):
        tell(candidate.id, done, len(candidates) + 1)
        try:
            then = changed(question, candidate.values)
            if refused(then) and not refused(question):
                continue
            pricer = inspector if traced_left > 0 and is_traceable(then) else None
            traced_left -= pricer is not None
            footprint = _priced_alike(then, pricer, now, candidate.id)
        except (InvalidSpec, NotPredicted):
            continue  # settings that do not go together, or that the libraries cannot run
        before = now if pricer is not None else by_formula_now
        saves = _saving(candidate.id, failure.alone(before), failure.alone(footprint))
        if failure.saves_enough(saves, before):
            seen = failure.seen(footprint)
            found.append(_remedy(candidate, question, then, seen, saves, failure.verdict(seen)))
    found.sort(key=_rank_of)
    return [*found, _smaller_model(question), _larger_card(question, failure.seen(now), failure)]


def next_remedies(
    question: Question,
    chosen: Sequence[Remedy],
    inspector: Inspector | None,
    *,
    capacity_bytes: int | None = None,
    least_tokens: int = LEAST_TOKENS,
    most_traced: int = MOST_TRACED,
    progress: Progress | None = None,
) -> list[Remedy]:
    """What would help beyond `chosen`, priced on top of it."""
    then = with_choices(question, chosen)
    return remedies(
        then,
        inspector,
        capacity_bytes=capacity_bytes,
        least_tokens=least_tokens,
        most_traced=most_traced,
        progress=progress,
    )


def combined(question: Question, chosen: Sequence[Remedy], inspector: Inspector | None) -> Footprint:
    """What the run takes with all of `chosen`; of two that set the same field, the later one counts."""
    return _as_it_is(with_choices(question, chosen), inspector)[0]


def with_choices(question: Question, chosen: Sequence[Remedy]) -> Question:
    """`question` about the run with all of `chosen`. Raises InvalidSpec where they do not go together."""
    values = {field: new for remedy in chosen for field, (_, new) in remedy.changes.items()}
    return changed(question, values)


def _say_nothing(words: str, done: int, total: int) -> None:
    pass


def _as_it_is(question: Question, inspector: Inspector | None) -> tuple[Footprint, Inspector | None]:
    """The run's price, and the inspector if it was of use: a run that it cannot trace, it cannot with fewer rows."""
    if inspector is None or not is_traceable(question):
        return price(question, None), None
    try:
        return price(question, inspector), inspector
    except NotPredicted:
        return price(question, None), None


def _priced_alike(then: Question, inspector: Inspector | None, now: Footprint, id: str) -> Footprint:
    # What two depths extrapolate of the allocator's holes is no match for a replay of all layers.
    in_full = id == "expandable-segments" and now.tier == "full"
    return price(then, inspector, "full" if in_full else "shallow")


def _saving(id: str, before: Footprint, after: Footprint) -> int:
    tensors = before.allocated_bytes + before.paged_bytes - after.allocated_bytes - after.paged_bytes
    saves = before.device_bytes - after.device_bytes
    if id == "expandable-segments":
        return saves
    if id == "optimizer-paged":
        return max(tensors, staying_bytes(before) - staying_bytes(after))
    # Where tensors take as much as before, the rest is what extrapolating the allocator's holes is wrong by.
    return saves if before.tier == after.tier and tensors > 0 else tensors


def _remedy(
    candidate: Candidate, now: Question, then: Question, footprint: Footprint, saves: int, verdict: Verdict
) -> Remedy:
    changes = {
        field: (None if field == ALLOCATOR else value_of(now.spec, field), new)
        for field, new in candidate.values.items()
    }
    return Remedy(
        id=candidate.id,
        changes=changes,
        predicted_peak_bytes=footprint.device_bytes,
        saves_bytes=saves,
        fits=verdict != "does not fit",
        verdict=verdict,
        effective_batch_size=then.spec.effective_batch_size,
        changes_training=candidate.changes_training,
        slowdown=candidate.slowdown,
        slowdown_source=candidate.slowdown_source,
        note=candidate.note,
        tier=footprint.tier,
        continues=candidate.continues,
    )


def _rank_of(remedy: Remedy) -> tuple[Any, ...]:
    """Candidates come in the order of their cost, which sorting keeps; among those that do not fit, the smallest first.

    A slowdown that nobody has measured has the place that its candidate was given.
    """
    assert remedy.verdict is not None
    misses = remedy.predicted_peak_bytes if remedy.verdict == "does not fit" else 0
    return remedy.changes_training, VERDICTS.index(remedy.verdict), misses


def _smaller_model(question: Question) -> Remedy:
    return _without_price(
        question,
        "smaller-model",
        "A smaller model of the same family: fewer weights, and fewer layers to keep activations of.",
        changes_training=True,
        continues=False,
    )


def _larger_card(question: Question, now: Footprint, failure: Failure) -> Remedy:
    """The run as it is, elsewhere."""
    needed, room = now.needed_bytes + failure.short_of(now), failure.wall_bytes
    needs = f"The run as it is needs {gib(needed)}"
    if needed <= room:  # it was predicted to fit, and yet somebody asks
        needed, needs = room + 1, f"The run as it is may need more than the {gib(room)} that it has"
    if question.card.on_cpu:
        return _without_price(question, "larger-card", f"{needs}: a machine with more memory, or one with a GPU.")
    cards = smallest_card_with(needed)
    if not cards:
        return _without_price(question, "larger-card", f"{needs}, and no single card that is known has that.")
    note = f"{needs}: {such_as(cards)}. {RENTED}"
    names = tuple(card.name for card in cards)
    return _without_price(question, "larger-card", note, fits=True, cards=names)


def _without_price(
    question: Question,
    id: str,
    note: str,
    *,
    changes_training: bool = False,
    continues: bool = True,
    fits: bool | None = None,
    cards: tuple[str, ...] = (),
) -> Remedy:
    return Remedy(
        id=id,
        changes={},
        predicted_peak_bytes=None,
        saves_bytes=None,
        fits=fits,
        verdict=None if fits is None else "fits",
        effective_batch_size=question.spec.effective_batch_size,
        changes_training=changes_training,
        slowdown=None,
        slowdown_source=NOT_MEASURED,
        note=note,
        tier=None,
        continues=continues,
        cards=cards,
    )
