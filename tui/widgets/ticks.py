"""Where an axis has its ticks, and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

NICE = (1.0, 2.0, 5.0, 10.0)
NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

Format = Callable[[float, float], str]
"""Text of a tick from its value and the distance to the next tick, which says how many digits matter."""


def number(value: float, step: float) -> str:
    """`1.25`, `1,200`, `2e-4`: as many decimals as the step needs."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if 0 < step < 1 else 0
    return f"{value:,.{decimals}f}"


def gibibytes(value: float, step: float) -> str:
    """Bytes as GiB, without the unit: the title names it."""
    return number(value / 2**30, step / 2**30)


def elapsed(value: float, step: float) -> str:
    """Seconds as `45 s`, `12 min` or `1:30 h`, by what the step needs."""
    seconds = round(value)
    if seconds == 0:
        return "0"
    if step < 60:
        return f"{seconds} s" if seconds < 120 else f"{seconds // 60}:{seconds % 60:02} min"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 3600}:{seconds // 60 % 60:02} h"


@dataclass(frozen=True)
class Axis:
    """How the values along one side of a chart are shown."""

    format: Format = number
    unit: float = 1.0
    """Ticks are round numbers of this: 2**30 for bytes shown as GiB."""
    name: str = ""
    """Unit or name, written at the right end of an x axis. That of a y axis goes into the legend's title."""
    log: bool = False
    """Equal distances are equal factors; values of 0 and below are not drawn."""
    from_zero: bool = False
    """Whether 0 is always in sight."""
    seconds: bool = False
    """Ticks are round numbers of seconds, minutes or hours."""
    whole: bool = False
    """Ticks are whole numbers."""

    def step(self, low: float, high: float, most: int) -> float:
        """Distance between ticks such that at most `most` of them lie in low ... high."""
        span = max(high - low, 1e-12)
        raw = span / max(1, most) / self.unit
        if self.seconds and raw <= NICE_SECONDS[-1]:
            return next(step for step in NICE_SECONDS if step >= raw) * self.unit
        power = 10.0 ** math.floor(math.log10(raw))
        step = next((nice for nice in NICE if nice * power >= raw * (1 - 1e-9)), 10.0) * power
        return (max(1.0, step) if self.whole else step) * self.unit

    def ticks(self, low: float, high: float, most: int) -> list[tuple[float, str]]:
        """Values and texts of the ticks in low ... high."""
        if self.log:
            return self._log_ticks(low, high, most)
        step = self.step(low, high, most)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [(i * step, self.format(i * step, step)) for i in range(first, last + 1)]

    def _log_ticks(self, low: float, high: float, most: int) -> list[tuple[float, str]]:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
            values = [digit * 10.0**power for power in decades for digit in digits]
            values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
            if len(values) <= most:
                break
        values = values[:: -(-len(values) // max(1, most))] if values else []
        return [(value, self.format(value, value)) for value in values]
