"""Which shape rows have, told from the rows themselves, with the reason said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.data.conversion import EXTRA_COLUMNS, Converted, Example, Row, Shape, is_conversation, renamed, to_example
from engine.data.faults import shortened
from engine.spec import DataSection

__all__ = ["Converted", "Example", "NotRecognised", "Row", "Shape", "is_conversation", "recognise", "to_example"]

TURN_COLUMNS = ("messages", "conversations", "conversation")
PAIRS = (
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("input", "output"),
    ("source", "target"),
    ("problem", "solution"),
)
"""Two columns that are a prompt and its completion, whatever else a row has; the first that fit."""
ALPACA = ("instruction", "input", "output", "system", "history")
DOLLY = ("instruction", "context", "response", "system", "history")
"""The same under the names of Databricks' Dolly."""
TEXT_COLUMNS = ("text", "content")

SHOWN_COLUMNS = 40
WAYS = (
    "text; prompt and completion; messages of role and content; instruction, input and output; "
    "or conversations of from and value"
)


class NotRecognised(Exception):
    """Rows of which nobody can tell what is asked and what is answered."""

    def __init__(self, message: str, columns: dict[str, str]) -> None:
        self.columns = columns
        """Name of each column -> one of its values, shortened."""
        super().__init__(message)


def recognise(rows: Sequence[Row], data: DataSection) -> Shape:
    """The shape that most of `rows` have, or the one that `data.format` tells. Raises NotRecognised."""
    rows = [renamed(row, data.columns) for row in rows]
    if data.format != "auto":
        shapes = [shape for row in rows for shape in _shapes_of(row) if shape.format == data.format]
        shape = Counter(shapes).most_common(1)[0][0] if shapes else _standard(data.format)
        return Shape(data.format, "told in data.format", shape.columns)
    if not rows:
        raise NotRecognised("there are no rows to look at", {})
    likeliest = [shapes[0] for row in rows if (shapes := _shapes_of(row))]
    # Rows of one shape may lack columns that others have, such as Alpaca's input.
    votes = Counter((shape.format, shape.columns) for shape in likeliest).most_common(1)
    if not votes or len(rows) - len(likeliest) > votes[0][1]:
        raise _not_recognised(rows, data)
    winner, count = votes[0]
    alike = [shape for shape in likeliest if (shape.format, shape.columns) == winner]
    shape = Counter(alike).most_common(1)[0][0]
    if len(rows) == 1:
        told = "the first row has"
    elif count == len(rows):
        told = f"all of the first {count} rows have"
    else:
        told = f"{count} of the first {len(rows)} rows have"
    return Shape(shape.format, f"{told} {shape.reason}", shape.columns)


def _standard(format: str) -> Shape:
    """The shape of that format with the names it asks for. Raises KeyError for no format."""
    return {
        "text": Shape("text", "text", ("text",)),
        "prompt-completion": Shape(
            "prompt-completion", "prompt and completion", ("prompt", "completion", *EXTRA_COLUMNS)
        ),
        "messages": Shape("messages", "messages of role and content", ("messages", *EXTRA_COLUMNS)),
        "alpaca": Shape("alpaca", "instruction, input and output", ALPACA),
        "sharegpt": Shape("sharegpt", "conversations of from and value", ("conversations", *EXTRA_COLUMNS)),
    }[format]


def _shapes_of(row: Row) -> list[Shape]:
    """The shapes that `row` can be read as, the likeliest first; their `reason` is what it has for them."""
    shapes: list[Shape] = []
    for name in TURN_COLUMNS:
        if name in row:
            shapes.append(_shape_of_turns(name, row[name]))
    if "prompt" in row and "completion" in row:
        shapes.append(_standard("prompt-completion"))
    if "instruction" in row:
        if "output" in row:
            told = ", ".join(name for name in ALPACA[:2] if name in row) + " and output"
            shapes.append(Shape("alpaca", told, ALPACA))
        elif "response" in row and "context" in row:
            shapes.append(Shape("alpaca", "instruction, context and response", DOLLY))
    for asked, answered in PAIRS:
        if asked in row and answered in row:
            told = f"{asked} and {answered}, read as prompt and completion"
            shapes.append(Shape("prompt-completion", told, (asked, answered, *EXTRA_COLUMNS)))
    for name in TEXT_COLUMNS:
        if name in row and "role" not in row:
            shapes.append(Shape("text", name, (name,)))
    return shapes


def _shape_of_turns(name: str, turns: object) -> Shape:
    first = turns[0] if isinstance(turns, list) and turns else None
    has_from = isinstance(first, dict) and "from" in first and "role" not in first
    has_from = has_from or (isinstance(turns, str) and '"from"' in turns[:200])
    if has_from or (name != "messages" and not isinstance(first, dict)):
        return Shape("sharegpt", f"{name} of from and value", (name, *EXTRA_COLUMNS))
    return Shape("messages", f"{name} of role and content", (name, *EXTRA_COLUMNS))


def _not_recognised(rows: Sequence[Row], data: DataSection) -> NotRecognised:
    columns: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if len(columns) < SHOWN_COLUMNS and (name not in columns or not columns[name]):
                columns[name] = "" if value is None else shortened(value)
    missing = [of for of in data.columns.values() if not any(of in row for row in rows)]
    found = ", ".join(shortened(name, 40) for name in columns) or "(none)"
    message = f"the rows have the columns {found}; a row needs {WAYS}"
    if missing and not any(to in row for row in rows for to in data.columns):
        message = f"no row has the column {missing[0]!r} that data.columns names; {message}"
    return NotRecognised(
        f"{message}. Rename columns in data.columns, such as {{prompt: question, completion: answer}}", columns
    )
