"""A benchmark set: a JSONL file of rows to answer, each with what is expected and a scorer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec, Problem
from engine.data.faults import described, is_nested_too_deeply, shortened, text_fault
from engine.data.turns import Turn, TurnFault, check_order, turns_of
from engine.evaluation.expected import SCORERS, Scorer, Wrong, checked, recognised

SHOWN_PROBLEMS = 20
RENAMED = {
    "prompt": ("question", "instruction", "input", "query", "text"),
    "expected": ("answer", "completion", "target", "output", "response", "label", "solution", "gold"),
}
"""Names that other tools give to these columns."""


@dataclass(frozen=True)
class BenchmarkRow:
    """One row, checked."""

    where: str
    """`gsm8k.jsonl, line 17`."""
    prompt: str | None
    messages: tuple[Turn, ...] | None
    """One of the two is there."""
    expected: Any
    scorer: Scorer
    choices: tuple[str, ...] | None = None
    """With scorer `choice`, whose `expected` is the place of the right one, from 0."""

    @property
    def question(self) -> str:
        """For a person: the prompt, or what the last turn says."""
        if self.prompt is not None:
            return self.prompt
        assert self.messages
        return str(self.messages[-1].get("content") or "")

    @property
    def expected_text(self) -> str:
        """For a person."""
        if self.choices is not None:
            right: str = self.choices[self.expected]
            return right
        if isinstance(self.expected, str):
            return self.expected
        return json.dumps(self.expected, ensure_ascii=False)

    def asked(self) -> dict[str, Any]:
        """What the worker needs: nothing that tells the answer."""
        asked: dict[str, Any] = {"prompt": self.prompt} if self.prompt is not None else {"messages": self.messages}
        return asked if self.choices is None else {**asked, "choices": self.choices}


@dataclass(frozen=True)
class BenchmarkSet:
    """All rows of a file."""

    path: Path
    rows: tuple[BenchmarkRow, ...]
    reason: str
    """How the scorer was chosen, for a person."""

    @property
    def title(self) -> str:
        """`gsm8k.jsonl, scored by number`."""
        counts = Counter(row.scorer for row in self.rows)
        return f"{self.path.name}, scored by {', '.join(scorer for scorer, _ in counts.most_common())}"

    def first(self, limit: int | None) -> BenchmarkSet:
        return self if limit is None else BenchmarkSet(self.path, self.rows[:limit], self.reason)

    def questions(self) -> str:
        """JSONL for the worker: a row a line, in this order; in ASCII, as U+2028 ends a line for some readers."""
        return "".join(json.dumps(row.asked()) + "\n" for row in self.rows)


def read_benchmark(path: Path, scorer: str | None = None) -> BenchmarkSet:
    """The rows of `path`; `scorer` is for those that name none, and is recognised from them where it is None.

    Raises InvalidSpec with what is wrong in the first SHOWN_PROBLEMS lines that are wrong, and how many more are.
    """
    if scorer is not None and scorer not in SCORERS:
        raise InvalidSpec([Problem("--scorer", f"there is no scorer {scorer!r}", f"write one of {', '.join(SCORERS)}")])
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "there is no such file" if gone else f"cannot be read: {error.strerror}"
        raise InvalidSpec([Problem(str(path), reason, "name a JSONL file of rows with prompt and expected")]) from None
    problems: list[Problem] = []
    raw_rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path.name}, line {number}"
            try:
                raw_rows.append((where, _object(line)))
            except Wrong as wrong:
                problems.append(Problem(where, wrong.reason, wrong.hint))
    default, reason = _default(scorer, [raw for _, raw in raw_rows])
    rows = []
    for where, raw in raw_rows:
        try:
            rows.append(_row(where, raw, default))
        except Wrong as wrong:
            problems.append(Problem(where, wrong.reason, wrong.hint))
    if problems:
        raise InvalidSpec(list(_shown(problems, path)))
    if not rows:
        raise InvalidSpec([Problem(str(path), "holds no rows", "write a JSON object with prompt and expected a line")])
    return BenchmarkSet(path, tuple(rows), reason)


def _shown(problems: list[Problem], path: Path) -> Iterator[Problem]:
    yield from problems[:SHOWN_PROBLEMS]
    if (more := len(problems) - SHOWN_PROBLEMS) > 0:
        lines = "line is" if more == 1 else "lines are"
        yield Problem(str(path), f"{more:,} more {lines} wrong", "correct these first")


def _object(line: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Wrong(f"is not UTF-8 text (byte {error.start + 1})", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Wrong(f"is not JSON: {error.msg} at character {error.pos + 1}", "write one object a line") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists
        raise Wrong("is JSON that cannot be read: a number too long, or too many lists in each other") from None
    if not isinstance(raw, dict):
        raise Wrong(f"is {described(raw)}", 'write an object: {"prompt": ..., "expected": ...}')
    if is_nested_too_deeply(raw):
        raise Wrong("has too many lists and objects in each other")
    if fault := text_fault(raw, "the row"):
        raise Wrong(fault[1], "take that character out")
    return raw


def _default(scorer: str | None, rows: Sequence[dict[str, Any]]) -> tuple[Scorer, str]:
    own = sum("scorer" in row for row in rows)
    if scorer is not None:
        chosen: Scorer = next(each for each in SCORERS if each == scorer)
        return chosen, f"--scorer {chosen}" + (f", and {own:,} rows name their own" if own else "")
    left = [row for row in rows if row.get("scorer") is None]
    if not left:
        return "exact", "the rows name their scorers"
    recognised_scorer, reason = recognised(left)
    return recognised_scorer, f"{recognised_scorer}, as {reason}; --scorer chooses another"


def _row(where: str, raw: dict[str, Any], default: Scorer) -> BenchmarkRow:
    named = raw.get("scorer")
    if named is not None and named not in SCORERS:
        raise Wrong(f"has the scorer {shortened(named)!r}", f"write one of {', '.join(SCORERS)}")
    scorer: Scorer = default if named is None else named
    prompt, messages = _asked(raw)
    if "expected" not in raw:
        raise Wrong("has no `expected`", _renaming("expected", raw) or "write what a right answer is")
    expected, choices = checked(scorer, raw)
    return BenchmarkRow(where, prompt, messages, expected, scorer, choices)


def _asked(raw: dict[str, Any]) -> tuple[str | None, tuple[Turn, ...] | None]:
    prompt, messages = raw.get("prompt"), raw.get("messages")
    if prompt is not None and messages is not None:
        raise Wrong("has both `prompt` and `messages`", "keep one of the two")
    if messages is not None:
        dropped: list[str] = []
        try:
            turns = turns_of(messages, "messages", ("role", "content"), dropped)
        except TurnFault as fault:
            raise Wrong(str(fault)) from None
        if order := check_order(turns, "messages"):
            raise Wrong(order[1])
        if turns[-1]["role"] not in ("user", "tool"):
            last = turns[-1]["role"]
            raise Wrong(f"ends with a turn of the {last}", "end with the user's turn that is to be answered")
        return None, tuple(turns)
    if prompt is None:
        hint = _renaming("prompt", raw) or "write the question into `prompt`, or turns into `messages`"
        raise Wrong("has neither `prompt` nor `messages`", hint)
    if not isinstance(prompt, str):
        raise Wrong(f"has a `prompt` that is {described(prompt)}", "write text")
    if not prompt.strip():
        raise Wrong("has an empty `prompt`", "write what is asked")
    return prompt, None


def _renaming(wanted: str, raw: dict[str, Any]) -> str:
    other = next((name for name in RENAMED[wanted] if name in raw), None)
    return "" if other is None else f"rename `{other}` to `{wanted}`"
