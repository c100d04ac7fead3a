"""A regular expression that matches given module names and no other name of the model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

NUMBER = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.|$)")
"""A part of a name that is a number: a layer's or an expert's."""


def regex_for(names: Collection[str], universe: Collection[str]) -> str:
    """A pattern that matches every one of `names` in full, and nothing else of `universe`.

    >>> regex_for(["h.0.q", "h.1.q", "h.1.v"], ["h.0.q", "h.0.v", "h.1.q", "h.1.v"])
    'h\\\\.(?:\\\\d+\\\\.q|1\\\\.v)'
    """
    wanted = _by_head(names)
    known = _by_head(universe)
    alternatives = [_literals(wanted.pop(None))] if None in wanted else []
    for head, tails in wanted.items():
        assert head is not None
        rest = _numbered(tails, known[head])
        alternatives.append(re.escape(head) + rest)
    return _either(alternatives)


def numbers_regex(numbers: Iterable[int]) -> str:
    """A pattern for exactly these numbers.

    >>> numbers_regex(range(16))
    '(?:\\\\d|1[0-5])'
    """
    last_digits: defaultdict[str, set[str]] = defaultdict(set)
    for text in map(str, numbers):
        last_digits[text[:-1]].add(text[-1])
    beginnings: defaultdict[str, list[str]] = defaultdict(list)
    for beginning, digits in sorted(last_digits.items(), key=lambda item: (len(item[0]), item[0])):
        beginnings[_digit(digits)].append(beginning)
    alternatives = []
    for last, texts in beginnings.items():
        for length in sorted({len(text) for text in texts}):
            same_length = [int(text) for text in texts if len(text) == length and text]
            alternatives.append((numbers_regex(same_length) if same_length else "") + last)
    return _either(alternatives)


Tails = dict[str, frozenset[int]]
"""What follows a number in names -> the numbers it follows."""


def _by_head(names: Iterable[str]) -> dict[str | None, dict[str, set[int]]]:
    """Names by what comes before their first number; those without one are under None."""
    heads: dict[str | None, dict[str, set[int]]] = {}
    for name in names:
        number = NUMBER.search(name)
        if number is None:
            heads.setdefault(None, {}).setdefault(name, set())
        else:
            tails = heads.setdefault(name[: number.start()], {})
            tails.setdefault(name[number.end() :], set()).add(int(number[1]))
    return heads


def _numbered(tails: dict[str, set[int]], known: dict[str, set[int]]) -> str:
    """`\\d+.tail|3.other`: numbers with the same tails together, or tails with the same numbers, if that is shorter."""
    by_numbers: defaultdict[frozenset[int], list[str]] = defaultdict(list)
    for tail, numbers in tails.items():
        by_numbers[frozenset(numbers)].append(tail)
    tails_of: defaultdict[int, list[str]] = defaultdict(list)
    for tail, numbers in tails.items():
        for number in numbers:
            tails_of[number].append(tail)
    by_tails: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, its_tails in tails_of.items():
        by_tails[tuple(its_tails)].append(number)
    groupings = [
        [(numbers, same) for numbers, same in by_numbers.items()],
        [(frozenset(numbers), list(same)) for same, numbers in by_tails.items()],
    ]
    return min((_either([_group(*group, tails, known) for group in grouping]) for grouping in groupings), key=len)


def _group(numbers: frozenset[int], tails: list[str], wanted: dict[str, set[int]], known: dict[str, set[int]]) -> str:
    # Any number will do where no number has one of these tails unwanted.
    any_number = all(wanted[tail] == known[tail] for tail in tails) and all(wanted[tail] == numbers for tail in tails)
    number = r"\d+" if any_number else numbers_regex(numbers)
    if tails == [""]:
        return number
    dot = r"\." if all(tail.startswith(".") for tail in tails) else ""
    cut = 1 if dot else 0
    if not any(NUMBER.search(tail) for tail in tails):
        return number + dot + _literals(tail[cut:] for tail in tails)
    neighbours = [
        tail[cut:] for tail, its_numbers in known.items() if its_numbers & numbers and tail[:cut] == "."[:cut]
    ]
    return number + dot + regex_for([tail[cut:] for tail in tails], neighbours)


def _literals(names: Iterable[str]) -> str:
    """`a\\.(?:b|c)`: alternatives with what they begin with in common, up to a dot, written once."""
    by_parent: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        parent, dot, leaf = name.rpartition(".")
        by_parent[parent + dot].append(leaf)
    return _either([re.escape(parent) + _either(list(map(re.escape, leaves))) for parent, leaves in by_parent.items()])


def _either(alternatives: list[str]) -> str:
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


def _digit(digits: Iterable[str]) -> str:
    ordered = sorted(map(int, digits))
    if len(ordered) == 10:
        return r"\d"
    if len(ordered) == 1:
        return str(ordered[0])
    ranges: list[list[int]] = []
    for digit in ordered:
        if ranges and digit == ranges[-1][1] + 1:
            ranges[-1][1] = digit
        else:
            ranges.append([digit, digit])
    return "[" + "".join(_range(first, last) for first, last in ranges) + "]"


def _range(first: int, last: int) -> str:
    if last - first < 2:
        return "".join(map(str, range(first, last + 1)))
    return f"{first}-{last}"
