"""Numbers in answers: `#### 1,234`, `$18.50`, `50 %`, `-3`, `1.5e3`, and the dot that ends a sentence."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import regex

NUMBER = regex.compile(
    r"""
    (?<!\w) (?<!\d\.)               # not the rest of a word, nor of 1.2.3
    (?P<minus>(?<![\w)\]])[-\u2212])?    # a sign: not the minus of 7-3, nor a list's dash before a space
    (?:[$\u20ac\u00a3\u00a5][ ]?)?
    (?P<minus_after>[-\u2212])?     # $-5
    (?P<digits>
        \d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?   # thousands
        | \d+(?:\.\d+)?
        | \.\d+
    )
    (?P<exponent>[eE][+-]?\d+(?!\w))?
    """,
    regex.VERBOSE,
)
MARK = "####"
"""GSM8K writes the result after it (Cobbe et al. 2021, section 2)."""


def last_number(text: str) -> Decimal | None:
    """The number that an answer comes to: the one after the first `####` that has one, else the last; None without any.

    Percent and currency signs are left aside: `50 %` is 50.
    """
    for part in text.split(MARK)[1:]:
        marked = NUMBER.match(part.strip())
        if marked is not None and (value := _value(marked)) is not None:
            return value
    last = None
    for found in NUMBER.finditer(text):
        value = _value(found)
        last = last if value is None else value
    return last


def _value(found: regex.Match[str]) -> Decimal | None:
    digits, exponent = found["digits"].replace(",", ""), found["exponent"] or ""
    negative = bool(found["minus"] or found["minus_after"])
    try:
        value = Decimal(digits + exponent)
    except InvalidOperation:  # an exponent of more digits than Decimal takes
        return None
    return -value if negative else value
