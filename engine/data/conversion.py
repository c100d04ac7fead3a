"""From a row as it is to one of three forms that are learnt from: text, prompt and completion, or messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.data.faults import Fault, described, parsed_json, shortened, text_fault
from engine.data.report import Format
from engine.data.tool_calls import InvalidCall, tools_of
from engine.data.turns import Turn, TurnFault, check_learnt, check_order, turns_of

Row = dict[str, Any]
Example = dict[str, Any]
"""`{"text"}`, or `{"prompt", "completion"}`, all text; or `{"messages": [...]}` with turns as `engine.data.turns`
writes them, and where the row has them `tools` and `chat_template_kwargs`."""

EXTRA_COLUMNS = ("system", "tools", "functions", "chat_template_kwargs")
"""Used beside the turns, where a row has them."""

ROLE_AND_CONTENT = ("role", "content")
FROM_AND_VALUE = ("from", "value")


@dataclass(frozen=True)
class Shape:
    """How rows are read."""

    format: Format
    reason: str
    """Why they are taken for that, for a person."""
    columns: tuple[str, ...]
    """Columns that are used where a row has them, after renaming. Of `messages` and `sharegpt` the first holds the
    turns; of `prompt-completion` the first two are prompt and completion; of `alpaca` they are instruction, input,
    output, system, history."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a row."""

    example: Example | None
    faults: tuple[Fault, ...]
    """Why there is no example; at most one of each kind."""
    dropped: tuple[str, ...]
    """What of the row is not learnt from: `column id`, `image parts`, each once."""


def to_example(row: Row, shape: Shape, columns: Mapping[str, str]) -> Converted:
    """`row` in the form that `shape` says; `columns` renames first, as `data.columns`. Never raises for any row."""
    if columns:
        row = renamed(row, columns)
    dropped = [f"column {shortened(name, 40)}" for name in row if name not in shape.columns]
    try:
        if shape.format == "text":
            (name,) = shape.columns
            example: Example = {"text": _text(row, name)}
        elif shape.format == "prompt-completion":
            example = _prompt_completion(row, shape, dropped)
        else:
            example = _conversation(row, shape, dropped)
    except TurnFault as error:
        return Converted(None, (error.fault,), tuple(dict.fromkeys(dropped)))
    faults = _faults_of(example, shape)
    return Converted(None if faults else example, faults, tuple(dict.fromkeys(dropped)) if dropped else ())


def is_conversation(example: Example) -> bool:
    return "messages" in example


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """`row` with the columns of `data.columns` (new name -> name in the data) under their new names."""
    moved = {to: row[of] for to, of in columns.items() if of in row}
    if not moved:
        return row
    left = set(columns.values())
    return {**{name: value for name, value in row.items() if name not in left}, **moved}


def _faults_of(example: Example, shape: Shape) -> tuple[Fault, ...]:
    found: list[Fault | None] = []
    if "messages" in example:
        turns, name = example["messages"], _name_of_turns(shape)
        found = [check_order(turns, name), check_learnt(turns, name)]
    found += [fault for name, value in example.items() if (fault := text_fault(value, name))]
    return tuple({fault[0]: fault for fault in reversed(found) if fault}.values())


def _name_of_turns(shape: Shape) -> str:
    if shape.format == "prompt-completion":
        return f"{shape.columns[0]} and {shape.columns[1]}"
    return "the conversation" if shape.format == "alpaca" else shape.columns[0]


def _prompt_completion(row: Row, shape: Shape, dropped: list[str]) -> Example:
    prompt_name, completion_name = shape.columns[:2]
    prompt, completion = row.get(prompt_name), row.get(completion_name)
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = turns_of(prompt, prompt_name, ROLE_AND_CONTENT, dropped)
        for turn in turns:
            if turn["role"] == "assistant":
                turn["train"] = False
        answers = turns_of(completion, completion_name, ROLE_AND_CONTENT, dropped)
        if fault := check_learnt(answers, completion_name):
            raise TurnFault(fault)
        return _with_extras([*turns, *answers], row, dropped)
    if isinstance(prompt, list) or isinstance(completion, list):
        kinds = f"{prompt_name} is {described(prompt)} and {completion_name} is {described(completion)}"
        raise TurnFault(("wrong-type", f"{kinds}; both must be text, or both lists of turns"))
    dropped += [f"column {name}" for name in EXTRA_COLUMNS if row.get(name)]
    return {"prompt": _text(row, prompt_name), "completion": _text(row, completion_name)}


def _conversation(row: Row, shape: Shape, dropped: list[str]) -> Example:
    if shape.format == "alpaca":
        return {"messages": _alpaca_turns(row, shape)}
    keys = FROM_AND_VALUE if shape.format == "sharegpt" else ROLE_AND_CONTENT
    name = shape.columns[0]
    return _with_extras(turns_of(row.get(name), name, keys, dropped), row, dropped)


def _with_extras(turns: list[Turn], row: Row, dropped: list[str]) -> Example:
    example: Example = {"messages": turns}
    if len(row) == 1:
        return example
    if system := _optional_text(row, "system"):
        if turns[0]["role"] in ("system", "developer"):
            dropped.append("column system, where the turns have their own")
        else:
            turns.insert(0, {"role": "system", "content": system})
    try:
        if tools := tools_of(row.get("tools"), "tools") or tools_of(row.get("functions"), "functions"):
            example["tools"] = tools
    except InvalidCall as error:
        raise TurnFault(("wrong-type", str(error))) from None
    if settings := row.get("chat_template_kwargs"):
        if not isinstance(settings, dict):
            message = f"chat_template_kwargs is {described(settings)}; it must be an object"
            raise TurnFault(("wrong-type", message))
        example["chat_template_kwargs"] = settings
    return example


def _alpaca_turns(row: Row, shape: Shape) -> list[Turn]:
    """System, history, then instruction and input with a blank line between them, and the output.

    As Stanford's `{instruction, input, output}`; `system` and `history` (pairs of what was asked and answered before)
    are those of LLaMA-Factory's Alpaca format.
    """
    instruction_name, input_name, output_name, system_name, history_name = shape.columns
    turns: list[Turn] = []
    if system := _optional_text(row, system_name):
        turns.append({"role": "system", "content": system})
    for asked, answered in _history(row.get(history_name), history_name):
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    given = _optional_text(row, input_name)
    # With an input the instruction may be empty, but not missing.
    instruction = _optional_text(row, instruction_name) if given else _text(row, instruction_name)
    turns.append({"role": "user", "content": "\n\n".join(part for part in (instruction, given) if part)})
    turns.append({"role": "assistant", "content": _text(row, output_name)})
    return turns


def _history(raw: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(raw, str) and raw.strip():
        try:
            raw = parsed_json(raw)
        except ValueError:
            raise TurnFault(("wrong-type", f"{name} is text that is no JSON list of pairs")) from None
    if not raw:
        return []
    if not isinstance(raw, list):
        raise TurnFault(("wrong-type", f"{name} is {described(raw)}; it must be a list of pairs"))
    pairs: list[tuple[str, str]] = []
    for number, pair in enumerate(raw, 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise TurnFault(("wrong-type", f"pair {number} of {name} must be two texts: asked and answered"))
        if not pair[0].strip() or not pair[1].strip():
            raise TurnFault(("empty", f"pair {number} of {name} is empty"))
        pairs.append((pair[0], pair[1]))
    return pairs


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        raise TurnFault(("missing", f"{name} is missing"))
    if not isinstance(value, str):
        raise TurnFault(("wrong-type", f"{name} is {described(value)}; it must be text"))
    if not value or value.isspace():
        raise TurnFault(("empty", f"{name} is empty"))
    return value


def _optional_text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TurnFault(("wrong-type", f"{name} is {described(value)}; it must be text"))
    return "" if value.isspace() else value
