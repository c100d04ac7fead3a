"""The best prediction of a draft's memory that is at hand, and what to trace next. Plain Python, without Textual."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from engine.architecture import Architecture
from engine.memory.footprint import Footprint, Tier
from engine.memory.predict import Question, dressed, kept, request_for
from engine.memory.request import TraceRequest
from tui.planning.draft import Draft

TRACES_KEPT = 32
"""Traces of a session at hand without a look at the disk: so many steps of undo show theirs at once."""
ANY_FOLDER = Path("/")
"""Stands for the config's folder where two states of one model are compared."""

Key = tuple[TraceRequest, str, "int | None", int, "str | None"]
"""What a prediction depends on: the trace; for the CUDA context the card by its name and size; how many processes share
the work, and how."""


@dataclass(frozen=True)
class Trace:
    """A traced prediction."""

    footprint: Footprint
    layers: int | None = None
    """Most that were traced at a time, where not all were."""


@dataclass(frozen=True)
class Asked:
    """One request for a trace."""

    key: Key
    question: Question
    tier: Tier


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    trace: Trace | None
    why_not: str = ""
    """Why there is none, for a person."""
    config_folder: Path | None = None
    """Where the model's config was found."""


class PlanMemory:
    """Follows one draft after another. It asks nobody itself: `next` says what to ask, `take` takes the answer."""

    def __init__(self) -> None:
        self.in_flight: Asked | None = None
        """The request that is being answered; there is one at a time."""
        self._formula: Footprint | None = None
        self._question: Question | None = None
        self._key: Key | None = None
        self._complete: Key | None = None
        """What a full trace was made for: with offloading even that leaves something to the formula."""
        self._architecture: Architecture | None = None
        self._config_folder: Path | None = None
        self._traces: deque[tuple[Key, Trace]] = deque(maxlen=TRACES_KEPT)
        self._why_not = ""

    @property
    def trace(self) -> Trace | None:
        """The best trace of the draft as it is."""
        traces = [trace for key, trace in self._traces if key == self._key]
        return next((trace for trace in traces if trace.footprint.tier == "full"), traces[-1] if traces else None)

    @property
    def footprint(self) -> Footprint | None:
        """The best prediction at hand. None where nothing can be said, as while the model is not known."""
        trace = self.trace
        return self._formula if trace is None else trace.footprint

    @property
    def why_not(self) -> str:
        """Why the draft as it is has no trace, or no full one, where that was tried; for a person."""
        return self._why_not

    @property
    def is_tracing(self) -> bool:
        """Whether the draft as it is, and not an earlier state of it, is being traced."""
        return self.in_flight is not None and self.in_flight.key == self._key

    def follow(self, draft: Draft) -> bool:
        """Take in what the draft is now. Returns whether its memory may be another than before."""
        self._formula = draft.footprint
        before, self._question = self._question, draft.question
        now = self._question
        if now is None:
            changed, self._key = self._key is not None, None
            return changed
        if now.architecture is not self._architecture:
            self._architecture, self._config_folder = now.architecture, None
            self._traces.clear()
            self._key = None
        elif before is not None and before.spec is now.spec and before.lengths is now.lengths:
            before_card, card = before.card, now.card
            if replace(before_card, free_bytes=card.free_bytes, others=card.others) == card:
                return False
        hardware = now.resolved.hardware
        request = request_for(replace(now, config_folder=ANY_FOLDER))
        key = (request, now.card.name, now.card.total_bytes, hardware.num_processes, hardware.strategy)
        if key == self._key:
            return False
        self._key, self._why_not = key, ""
        self._look_on_disk(key, now)
        return True

    def next(self) -> Asked | None:
        """What to ask for now; None while an answer is awaited, and where there is nothing more to learn."""
        if self.in_flight is not None or self._question is None or self._key is None or self._why_not:
            return None
        trace = self.trace
        if self._complete == self._key or (trace is not None and trace.footprint.tier == "full"):
            return None
        question = replace(self._question, config_folder=self._config_folder)
        self.in_flight = Asked(self._key, question, "shallow" if trace is None else "full")
        return self.in_flight

    def take(self, asked: Asked, answer: Answer) -> None:
        """Take the answer to `asked`, also where the draft has become another: an edit may lead back."""
        self.in_flight = None
        if asked.question.architecture is not self._architecture:
            return
        self._config_folder = answer.config_folder or self._config_folder
        if answer.trace is not None:
            self._traces.append((asked.key, answer.trace))
            if asked.tier == "full":
                self._complete = asked.key
        elif asked.key == self._key:
            self._why_not = answer.why_not

    def _look_on_disk(self, key: Key, question: Question) -> None:
        """Find a full trace that an earlier session has made: half a millisecond. Only its file is read."""
        if self._config_folder is None or self.trace is not None:
            return
        question = replace(question, config_folder=self._config_folder)
        known = kept(request_for(question))
        if known is not None:
            self._traces.append((key, Trace(dressed(question, "full", known))))
