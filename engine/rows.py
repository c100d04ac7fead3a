"""Rows of training data: read, checked line by line, and told apart by shape. Nothing here knows a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.checks import InvalidSpec, Problem
from engine.spec import DataSection

Row = dict[str, Any]
Format = Literal["messages", "prompt-completion", "text"]

SHOWN_BAD_ROWS = 5
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Rows:
    """Checked rows, renamed to the columns of their format: `messages`, or `prompt` and `completion`, or `text`."""

    format: Format
    train: list[Row]
    held_out: list[Row]


def load_rows(data: DataSection, seed: int) -> Rows:
    """Every row that `data` names. Raises InvalidSpec naming file and line of the first bad ones.

    With `eval_fraction`, a row is held out by a hash of its content and `seed`: adding rows moves none of the others.
    """
    problems: list[Problem] = []
    train = list(_read_files("data.train", data.train, data.columns, problems))
    held_out = list(_read_files("data.eval", data.eval, data.columns, problems)) if data.eval is not None else []
    if problems:
        raise InvalidSpec(problems)
    shape = data.format if data.format != "auto" else _recognise(train[0])
    for placed in (*train, *held_out):
        if reason := _fault(placed.row, shape):
            problems.append(Problem(placed.where, reason))
    if problems:
        more = len(problems) - SHOWN_BAD_ROWS
        shown = problems[:SHOWN_BAD_ROWS]
        if more > 0:
            shown.append(Problem("data", f"{more:,} more rows are not in the format {shape}"))
        raise InvalidSpec(shown)
    train_rows = [_columns_of(placed.row, shape) for placed in train]
    held_out_rows = [_columns_of(placed.row, shape) for placed in held_out]
    if data.eval_fraction:
        chosen = [_is_held_out(row, data.eval_fraction, seed) for row in train_rows]
        held_out_rows = [row for row, out in zip(train_rows, chosen, strict=True) if out]
        train_rows = [row for row, out in zip(train_rows, chosen, strict=True) if not out]
        if not held_out_rows or not train_rows:
            raise InvalidSpec(
                [
                    Problem(
                        "data.eval_fraction",
                        f"{data.eval_fraction} of {len(chosen)} rows leaves {len(train_rows)} to train on "
                        f"and {len(held_out_rows)} held out",
                        "hold out another share, or name a file in data.eval",
                    )
                ]
            )
    return Rows(shape, train_rows, held_out_rows)


@dataclass(frozen=True)
class _Placed:
    where: str
    row: Row


def _read_files(
    field: str, paths: str | list[str], columns: dict[str, str], problems: list[Problem]
) -> Iterator[_Placed]:
    found_rows = False
    for name in [paths] if isinstance(paths, str) else paths:
        path = Path(name)
        if path.suffix != ".jsonl":
            problems.append(Problem(field, f"{path} is not a .jsonl file", "write one JSON object a line"))
            continue
        try:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    found_rows = True
                    where = f"{path}, line {number}"
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        problems.append(Problem(where, f"is not JSON: {error}"))
                    else:
                        if isinstance(row, dict):
                            yield _Placed(where, {**row, **{to: row[of] for to, of in columns.items() if of in row}})
                        else:
                            problems.append(Problem(where, f"is a {type(row).__name__}, not a JSON object"))
                    if len(problems) >= SHOWN_BAD_ROWS:
                        return
        except FileNotFoundError:
            problems.append(Problem(field, f"there is no file {path}", "relative paths start at the spec's folder"))
        except UnicodeDecodeError as error:
            problems.append(Problem(str(path), f"is not UTF-8 text: {error.reason}", "save it as UTF-8"))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
    if not found_rows and not problems:
        problems.append(Problem(field, f"{paths} holds no rows"))


def _recognise(placed: _Placed) -> Format:
    row = placed.row
    if "messages" in row:
        return "messages"
    if "prompt" in row and "completion" in row:
        return "prompt-completion"
    if "text" in row:
        return "text"
    raise InvalidSpec(
        [
            Problem(
                placed.where,
                f"has the columns {', '.join(map(str, row)) or '(none)'}; "
                "a row needs messages, or prompt and completion, or text",
                "rename them in data.columns, such as {prompt: question, completion: answer}",
            )
        ]
    )


def _fault(row: Row, shape: Format) -> str | None:
    """What keeps `row` from being one of `shape`, or None."""
    if shape == "messages":
        return _fault_in_turns(row.get("messages"), "messages")
    if shape == "text":
        text = row.get("text")
        return None if isinstance(text, str) and text.strip() else "text is missing or empty"
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _fault_in_turns([*prompt, *completion], "prompt and completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return "prompt and completion must both be text, or both be lists of turns"
    return None if completion.strip() else "completion is empty: there is nothing to learn"


def _fault_in_turns(turns: Any, name: str) -> str | None:
    if not isinstance(turns, list) or not turns:
        return f"{name} is missing, or not a list of turns"
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return f"turn {number} of {name} needs a role and a content in text"
        if turn.get("role") not in ROLES:
            return f"turn {number} of {name} has the role {turn.get('role')!r}; it must be one of {', '.join(ROLES)}"
    if turns[-1]["role"] != "assistant":
        return f"the last turn of {name} is not the assistant's: there is nothing to learn"
    return None


def _columns_of(row: Row, shape: Format) -> Row:
    if shape == "messages":
        return {"messages": row["messages"]}
    if shape == "text":
        return {"text": row["text"]}
    return {"prompt": row["prompt"], "completion": row["completion"]}


def _is_held_out(row: Row, share: float, seed: int) -> bool:
    content = json.dumps([seed, row], sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") < share * 2**64
