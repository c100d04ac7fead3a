"""Which words of two answers differ."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

WORD = re.compile(r"\w+|[^\w\s]")
LEAST_SHARE = 0.25
"""With fewer words in common than this share, marks would cover nearly everything and show nothing."""
MOST_WORDS = 2_000
"""Of each answer."""
Words = list[re.Match[str]]


@dataclass(frozen=True)
class Span:
    """A stretch of an answer."""

    text: str
    differs: bool
    """Whether the other answer has something else here, or nothing."""


@dataclass(frozen=True)
class Compared:
    """Both answers in stretches; joined they are the answers."""

    base: tuple[Span, ...]
    adapter: tuple[Span, ...]
    note: str
    """Why nothing is marked; empty where something is."""


def compared(base: str, adapter: str) -> Compared:
    """The two answers with what differs, word by word. White space is not compared."""
    if base == adapter:
        return _unmarked(base, adapter, "word for word the same")
    one, other = list(WORD.finditer(base)), list(WORD.finditer(adapter))
    if max(len(one), len(other)) > MOST_WORDS:
        return _unmarked(base, adapter, f"longer than {MOST_WORDS:,} words: differences are not marked")
    common = [False] * len(one), [False] * len(other)
    for start, other_start, size in _blocks([word[0] for word in one], [word[0] for word in other]):
        common[0][start : start + size] = common[1][other_start : other_start + size] = [True] * size
    if sum(common[0]) < LEAST_SHARE * max(len(one), len(other)):
        return _unmarked(base, adapter, "few words in common: differences are not marked")
    return Compared(_spans(base, one, common[0]), _spans(adapter, other, common[1]), "")


def _blocks(one: list[str], other: list[str]) -> Iterator[tuple[int, int, int]]:
    """Stretches that are in both: where they start in each, and how long they are."""
    shortest = min(len(one), len(other))
    head = next((place for place in range(shortest) if one[place] != other[place]), shortest)
    left = shortest - head
    tail = next((place for place in range(left) if one[-1 - place] != other[-1 - place]), left)
    yield 0, 0, head
    yield len(one) - tail, len(other) - tail, tail
    # autojunk leaves words aside that come again and again: a model that turns in circles else costs many seconds.
    matcher = SequenceMatcher(None, one[head : len(one) - tail], other[head : len(other) - tail], autojunk=True)
    for block in matcher.get_matching_blocks():
        yield head + block.a, head + block.b, block.size


def _spans(text: str, words: Words, common: list[bool]) -> tuple[Span, ...]:
    """`text` in stretches; white space between two words that differ differs too."""
    found: list[Span] = []
    end = 0
    for word, is_common in zip(words, common, strict=True):
        gap, differs = text[end : word.start()], not is_common
        if found and found[-1].differs == differs:
            found[-1] = Span(found[-1].text + gap + word[0], differs)
        elif differs or not found:
            if gap:
                found = [*found[:-1], Span(found[-1].text + gap, False)] if found else [Span(gap, False)]
            found.append(Span(word[0], differs))
        else:
            found.append(Span(gap + word[0], differs))
        end = word.end()
    if text[end:]:
        found.append(Span(text[end:], False))
    return tuple(found)


def _unmarked(base: str, adapter: str, note: str) -> Compared:
    return Compared((Span(base, False),) if base else (), (Span(adapter, False),) if adapter else (), note)
