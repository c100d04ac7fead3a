"""How a run fares, in a word or two for the line of its newest numbers. The list of events says more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content

from engine.runs.store import State
from tui.glyphs import Glyphs
from tui.watching.health import Ailment, Code

WORDS: Mapping[Code, str] = {
    "no-heartbeat": "no heartbeat",
    "gpu-lost": "the GPU is lost",
    "nan-loss": "loss not a number",
    "diverging": "loss diverges",
    "gradients": "gradients explode",
    "silent": "no step comes",
    "slow": "slower than it was",
    "slow-rank": "one rank is slow",
    "throttled": "GPU throttled",
    "idle": "GPU idle",
    "disk": "disk nearly full",
    "flat": "loss does not fall",
}
GOING: frozenset[State] = frozenset({"training", "evaluating", "saving"})


def health_word(ailments: Sequence[Ailment], state: State, glyphs: Glyphs) -> Content | None:
    """The gravest ailment and how many more there are, or that there is none; nothing before training."""
    if not ailments:
        return Content.styled("healthy", "$success") if state in GOING else None
    more = f" and {len(ailments) - 1} more" if len(ailments) > 1 else ""
    return Content.styled(f"{glyphs.attention} {WORDS[ailments[0].code]}{more}", "$warning")
