"""Whether an answer is right: 1 or 0, by the scorer of its row."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import regex

from engine.evaluation.benchmark_set import BenchmarkRow
from engine.evaluation.last_number import last_number
from engine.evaluation.plan import Answer

PATTERN_LIMIT_S = 1.0
"""How long one regular expression may search one answer: some patterns take years."""
FENCE = regex.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", regex.DOTALL)


@dataclass(frozen=True)
class Score:
    """What an answer is worth."""

    value: float
    """1 where it is right, else 0."""
    by_sum: float | None = None
    """Of a choice: the same, where choices are compared by their whole log-likelihood and not by each byte's."""
    took_too_long: bool = False
    """Whether the row's regular expression was given up."""


def score(row: BenchmarkRow, answer: Answer) -> Score:
    """`answer` by the row's scorer."""
    if row.scorer == "choice":
        return _choice(row, answer)
    text, expected = answer.text, row.expected
    if row.scorer == "json":
        return Score(float(is_json_of(text, expected)))
    if row.scorer == "number":
        found = last_number(text)
        return Score(float(found is not None and found == last_number(str(expected))))
    texts = [str(each) for each in (expected if isinstance(expected, list) else [expected])]
    if row.scorer == "exact":
        return Score(float(any(normalised(text) == normalised(each) for each in texts)))
    if row.scorer == "contains":
        return Score(float(any(normalised(each) in normalised(text) for each in texts)))
    try:
        return Score(float(any(regex.search(each, text, timeout=PATTERN_LIMIT_S) is not None for each in texts)))
    except TimeoutError:
        return Score(0.0, took_too_long=True)


def normalised(text: str) -> str:
    """Unicode's compatible forms made one (NFKC), and each run of white space one space. Case and marks stay."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def is_json_of(text: str, expected: Any) -> bool:
    """Whether `text`, or the first fenced block in it, is JSON with exactly the value `expected`."""
    candidates = [text]
    if (fenced := FENCE.search(text)) is not None:
        candidates.append(fenced[1])
    for candidate in candidates:
        try:
            value = json.loads(candidate, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
        try:
            return equal(value, expected)
        except RecursionError:
            return False
    return False


def equal(value: Any, expected: Any) -> bool:
    """JSON values are equal: objects whatever the order of their keys, numbers by value (1 is 1.0, and is not true)."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(equal(value[key], expected[key]) for key in expected)
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(equal, value, expected))
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, str) and isinstance(expected, str):
        return unicodedata.normalize("NFC", value) == unicodedata.normalize("NFC", expected)
    return bool(value == expected)


def by_bytes(choices: Sequence[str], log_likelihoods: Sequence[float]) -> int:
    """The choice that is likeliest by byte of its text: longer ones are not at a disadvantage.

    As `acc_norm` of the LM evaluation harness (Gao et al. 2021).
    """
    return max(range(len(choices)), key=lambda place: log_likelihoods[place] / len(choices[place].encode()))


def _choice(row: BenchmarkRow, answer: Answer) -> Score:
    sums = answer.choice_log_likelihoods
    if row.choices is None or sums is None or len(sums) != len(row.choices):
        return Score(0.0, 0.0)
    likeliest = max(range(len(sums)), key=lambda place: sums[place])
    return Score(float(by_bytes(row.choices, sums) == row.expected), float(likeliest == row.expected))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
