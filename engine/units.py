"""Numbers with their units, as a person reads and writes them."""

from __future__ import annotations

import math
import re

TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)?", re.IGNORECASE)
SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def amount(size_bytes: float) -> str:
    """Bytes as `7.9 GiB` or `412 MiB`: three digits at most."""
    for unit, unit_bytes in UNITS:
        if size_bytes >= unit_bytes * 0.9995:
            value = size_bytes / unit_bytes
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float) -> str:
    """`45 s`, `14 min`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def seconds(seconds: float) -> str:
    """A step's time: `12 ms`, `1.32 s`, `45 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"


def ago(seconds: float) -> str:
    """How long ago something was: `just now`, `45 s ago`, `2 h ago`, `3 d ago`."""
    if seconds < 5:
        return "just now"
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{seconds // unit_s:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def rate(value: float) -> str:
    """A learning rate: `2e-4`, `1.7e-4`, `0.05`."""
    if value == 0:
        return "0"
    if value >= 0.01:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def figures(value: float) -> str:
    """A loss or a norm with four digits: `1.131`, `0.620`, `12.31`; `1.2e-05` where small."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    whole_digits = len(str(int(abs(value))))
    return f"{value:,.{max(0, 4 - whole_digits)}f}"


def percent(share: float) -> str:
    """A share of 1 as `71.2 %`."""
    return f"{share * 100:.1f} %"


def count(number: float) -> str:
    """Parameters as `1.84 M`, `28.3 M`, `405 B`: three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            value = number / size
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    return f"{number:.0f}"


def ordinal(number: int) -> str:
    """A place: `1st`, `2nd`, `3rd`, `11th`."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def tokens_per_s(value: float) -> str:
    """`1,940 tok/s`; with a digit after the point where it is slow."""
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.1f} tok/s"


def seconds_of(text: str) -> float | None:
    """`90`, `90s`, `10 min` or `1.5h` in seconds; None for what is no time, or none at all."""
    written = TIME.fullmatch(text.strip())
    if written is None:
        return None
    value = float(written[1]) * SECONDS[(written[2] or "s").lower()]
    return value if value > 0 and math.isfinite(value) else None
