"""How a model is asked: the settings, what is typed for them, and what is wrong with that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.chat.session import Sampling

LARGEST_SEED = 2**32 - 1
"""numpy's, whose generator transformers seeds too."""
HIGHEST_TEMPERATURE = 5
"""At 2 most models already write noise."""
FIELDS: dict[str, str] = {
    "temperature": "0 always takes the likeliest token; 0.7 is usual for chat, 1 is the model's own spread",
    "top_p": "draws from the likeliest tokens that together have this share; 1 is all",
    "seed": "the same seed gives the same answer, where temperature is not 0",
    "max_new_tokens": "an answer is cut off after so many tokens",
    "system": "what the model is told before the first question; empty is nothing",
}
"""What each setting means."""


@dataclass(frozen=True)
class Settings:
    """What a question is asked with."""

    sampling: Sampling = field(default_factory=Sampling)
    system: str = ""

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0

    def with_another_seed(self) -> Settings:
        seed = self.sampling.seed
        return replace(self, sampling=replace(self.sampling, seed=0 if seed >= LARGEST_SEED else seed + 1))


def texts(settings: Settings) -> dict[str, str]:
    """The settings as they are typed."""
    sampling = settings.sampling
    return {
        "temperature": f"{sampling.temperature:g}",
        "top_p": f"{sampling.top_p:g}",
        "seed": str(sampling.seed),
        "max_new_tokens": str(sampling.max_new_tokens),
        "system": settings.system,
    }


def parse(typed: Mapping[str, str], context_tokens: int | None = None) -> Settings | dict[str, str]:
    """The settings that were typed, or of each that cannot be meant what is wrong with it.

    `context_tokens` is what the model can look at, question and answer together; None where it does not say.
    """
    temperature, top_p = _number(typed["temperature"]), _number(typed["top_p"])
    seed, length = _whole(typed["seed"]), _whole(typed["max_new_tokens"])
    wrong: dict[str, str] = {}
    if temperature is None or not 0 <= temperature <= HIGHEST_TEMPERATURE:
        wrong["temperature"] = f"write a number from 0 to {HIGHEST_TEMPERATURE}, such as 0.7"
    if top_p is None or not 0 < top_p <= 1:
        wrong["top_p"] = "write a number above 0, up to 1"
    if seed is None or seed > LARGEST_SEED:
        wrong["seed"] = f"write a whole number from 0 to {LARGEST_SEED}"
    if length is None or length < 1:
        wrong["max_new_tokens"] = "write a whole number from 1"
    elif context_tokens is not None and length >= context_tokens:
        wrong["max_new_tokens"] = f"the model looks at {context_tokens:,} tokens, question and answer together"
    if wrong or temperature is None or top_p is None or seed is None or length is None:
        return wrong
    return Settings(Sampling(temperature, top_p, seed, length), typed["system"].strip())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    text = text.strip().replace(",", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
