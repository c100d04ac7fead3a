"""Shapes recognised from rows, rows made into examples, and faults of those that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.readers import read
from engine.data.report import FAULT_KINDS, Format
from engine.data.shapes import Converted, NotRecognised, Shape, is_conversation, recognise, to_example
from engine.data.sources import find_sources
from engine.data.turns import ROLES
from engine.spec import DataSection

TALK = [
    {"role": "system", "content": "短く答えて。"},
    {"role": "user", "content": "What is 2+2? 🤔"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "و 3+3؟"},
    {"role": "assistant", "content": "٦"},
]
SHARED = [
    {"from": "system", "value": "短く答えて。"},
    {"from": "human", "value": "What is 2+2? 🤔"},
    {"from": "gpt", "value": "4"},
    {"from": "human", "value": "و 3+3؟"},
    {"from": "gpt", "value": "٦"},
]
TOOL = {"name": "weather", "description": "天気", "parameters": {"type": "object", "properties": {}}}
WRAPPED_TOOL = {"type": "function", "function": TOOL}


def data(**changes: Any) -> DataSection:
    return DataSection(train="rows.jsonl", **changes)


def converted(row: dict[str, Any], *others: dict[str, Any], **changes: Any) -> Converted:
    section = data(**changes)
    return to_example(row, recognise([row, *others], section), section.columns)


def example(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    result = converted(row, **changes)
    assert result.faults == ()
    assert result.example is not None
    return result.example


def fault(row: dict[str, Any], like: dict[str, Any]) -> tuple[str, str]:
    """Of a row in a file of rows like `like`."""
    result = to_example(row, recognise([like], data()), {})
    assert result.example is None
    return result.faults[0]


# ---- recognised


@pytest.mark.parametrize(
    ("row", "format", "reason"),
    [
        ({"text": "a"}, "text", "text"),
        ({"content": "a", "path": "b.py"}, "text", "content"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion", "prompt and completion"),
        ({"prompt": TALK[:2], "completion": TALK[2:3]}, "prompt-completion", "prompt and completion"),
        ({"question": "a", "answer": "b"}, "prompt-completion", "question and answer, read as prompt and completion"),
        ({"input": "a", "output": "b"}, "prompt-completion", "input and output, read as prompt and completion"),
        ({"instruction": "a", "response": "b"}, "prompt-completion", "instruction and response, read as prompt and"),
        ({"query": "a", "response": "b"}, "prompt-completion", "query and response, read as prompt and completion"),
        ({"source": "a", "target": "b"}, "prompt-completion", "source and target, read as prompt and completion"),
        ({"messages": TALK}, "messages", "messages of role and content"),
        ({"conversations": TALK}, "messages", "conversations of role and content"),
        ({"prompt": "a", "prompt_id": "b", "messages": TALK}, "messages", "messages of role and content"),
        ({"conversations": SHARED}, "sharegpt", "conversations of from and value"),
        ({"messages": SHARED}, "sharegpt", "messages of from and value"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca", "instruction, input and output"),
        ({"instruction": "a", "output": "b", "text": "c"}, "alpaca", "instruction and output"),
        ({"instruction": "a", "context": "c", "response": "b"}, "alpaca", "instruction, context and response"),
    ],
)
def test_the_shape_is_recognised_with_its_reason(row: dict[str, Any], format: str, reason: str) -> None:
    shape = recognise([row] * 64, data())
    assert shape.format == format
    assert shape.reason.startswith(f"all of the first 64 rows have {reason}")
    assert to_example(row, shape, {}).faults == ()


def test_most_rows_decide_and_the_others_are_faults_of_their_own() -> None:
    good, broken = {"conversations": SHARED}, {"conversation": "lost"}
    shape = recognise([*[good] * 40, {"text": "a"}, *[broken] * 3, {}], data())
    assert shape.format == "sharegpt"
    assert shape.reason == "40 of the first 45 rows have conversations of from and value"
    assert to_example({"text": "a"}, shape, {}).faults == (("missing", "conversations is missing"),)


def test_rows_with_and_without_an_input_are_one_shape() -> None:
    with_input = {"instruction": "a", "input": "b", "output": "c"}
    without = {"instruction": "a", "output": "c"}
    shape = recognise([*[without] * 3, *[with_input] * 2, *[{"text": "a"}] * 4], data())
    assert (shape.format, shape.reason) == ("alpaca", "5 of the first 9 rows have instruction and output")


def test_the_format_that_is_told_wins() -> None:
    row = {"messages": TALK, "text": "a", "prompt": "b", "completion": "c"}
    for format in ("messages", "text", "prompt-completion"):
        shape = recognise([row], data(format=format))
        assert (shape.format, shape.reason) == (format, "told in data.format")
        assert to_example(row, shape, {}).faults == ()
    assert converted({"messages": TALK}, format="alpaca").faults[0][0] == "missing"
    assert recognise([], data(format="text")).columns == ("text",)


def test_columns_are_renamed_and_any_two_can_be_mapped() -> None:
    mapping = {"prompt": "frage", "completion": "antwort"}
    result = converted({"frage": "a", "antwort": "b", "prompt": "old", "id": 1}, columns=mapping)
    assert result.example == {"prompt": "a", "completion": "b"}
    assert result.dropped == ("column id",)
    swapped = {"prompt": "completion", "completion": "prompt"}
    assert example({"prompt": "a", "completion": "b"}, columns=swapped) == {"prompt": "b", "completion": "a"}
    assert example({"dialog": TALK}, columns={"messages": "dialog"}) == {"messages": TALK}
    assert example({"body": "a"}, columns={"text": "body"}) == {"text": "a"}


def test_what_is_not_recognised_shows_its_columns_and_what_to_do() -> None:
    rows = [{"frage": None, "antwort": "x" * 200}, {"frage": "Was?\nWo?", "antwort": "b"}]
    with pytest.raises(NotRecognised) as caught:
        recognise(rows, data())
    assert caught.value.columns == {"frage": "Was? Wo?", "antwort": "x" * 59 + "…"}
    assert "the rows have the columns frage, antwort; a row needs text; prompt and completion" in str(caught.value)
    assert "data.columns" in str(caught.value)
    with pytest.raises(NotRecognised, match="no row has the column 'fragen'"):
        recognise(rows, data(columns={"prompt": "fragen"}))
    with pytest.raises(NotRecognised, match="no rows"):
        recognise([], data())


def test_one_row_that_looks_right_does_not_speak_for_many_that_do_not() -> None:
    with pytest.raises(NotRecognised):
        recognise([{"text": "a"}, {"frage": "b"}, {"frage": "c"}], data())


# ---- converted


def test_conversations_survive_whole() -> None:
    assert example({"messages": TALK}) == {"messages": TALK}
    assert example({"conversations": SHARED}) == {"messages": TALK}
    assert example({"messages": json.dumps(TALK)}) == {"messages": TALK}
    assert example({"conversations": json.dumps(SHARED)}) == {"messages": TALK}
    assert is_conversation(example({"messages": TALK}))


def test_tools_calls_and_reasoning_survive() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "天気は"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "I must look.",
                "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": '{"city": "京都"}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "雨"},
            {"role": "assistant", "content": "雨です。", "weight": 1},
        ],
        "tools": [TOOL],
        "chat_template_kwargs": {"enable_thinking": True},
        "source": "made here",
    }
    result = converted(row)
    assert result.faults == ()
    assert result.dropped == ("column source",)
    assert result.example == {
        "messages": [
            {"role": "user", "content": "天気は"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "I must look.",
                "tool_calls": [
                    {"type": "function", "function": {"name": "weather", "arguments": {"city": "京都"}}, "id": "1"}
                ],
            },
            {"role": "tool", "content": "雨", "tool_call_id": "1"},
            {"role": "assistant", "content": "雨です。"},
        ],
        "tools": [WRAPPED_TOOL],
        "chat_template_kwargs": {"enable_thinking": True},
    }


def test_sharegpt_tools_and_system_may_be_columns() -> None:
    row = {
        "system": "Use tools.",
        "tools": json.dumps([TOOL]),
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    made = example(row)
    assert made["tools"] == [WRAPPED_TOOL]
    assert [turn["role"] for turn in made["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    both = converted({"system": "x", "conversations": SHARED})
    assert both.dropped == ("column system, where the turns have their own",)
    assert both.example == {"messages": TALK}
    assert example({"conversations": SHARED, "tools": "[]", "system": ""}) == {"messages": TALK}
    assert fault({"messages": TALK, "tools": "{"}, {"messages": TALK}) == (
        "wrong-type",
        "tools cannot be read as JSON",
    )
    assert fault({"messages": TALK, "tools": [1]}, {"messages": TALK})[1].startswith("tool 1 of tools is a number")
    assert fault({"messages": TALK, "chat_template_kwargs": [1]}, {"messages": TALK})[0] == "wrong-type"


def test_alpaca_becomes_a_conversation() -> None:
    row = {
        "instruction": "Translate into Japanese.",
        "input": "Good morning",
        "output": "おはよう",
        "system": "You translate.",
        "history": [["Hello", "こんにちは"], ["Thanks", "ありがとう"]],
    }
    expected = [
        {"role": "system", "content": "You translate."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "こんにちは"},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "ありがとう"},
        {"role": "user", "content": "Translate into Japanese.\n\nGood morning"},
        {"role": "assistant", "content": "おはよう"},
    ]
    assert example(row) == {"messages": expected}
    assert example({**row, "history": json.dumps(row["history"])}) == {"messages": expected}
    bare = {"instruction": "Say hi.", "input": "", "output": "hi", "system": None, "history": None}
    assert example(bare) == {
        "messages": [{"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "hi"}]
    }
    assert example({"instruction": "", "input": "Hi?", "output": "hi"})["messages"][0]["content"] == "Hi?"
    dolly = {"instruction": "Who?", "context": "It was Ann.", "response": "Ann", "category": "qa"}
    assert example(dolly)["messages"][0]["content"] == "Who?\n\nIt was Ann."


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"output": None}, "missing", "output is missing"),
        ({"output": " "}, "empty", "output is empty"),
        ({"output": 3}, "wrong-type", "output is a number; it must be text"),
        ({"instruction": ""}, "empty", "instruction is empty"),
        ({"input": ["a"]}, "wrong-type", "input is a list; it must be text"),
        ({"history": "said"}, "wrong-type", "history is text that is no JSON list of pairs"),
        ({"history": 3}, "wrong-type", "history is a number; it must be a list of pairs"),
        ({"history": [["a"]]}, "wrong-type", "pair 1 of history must be two texts: asked and answered"),
        ({"history": [["a", "b"], ["a", ""]]}, "empty", "pair 2 of history is empty"),
    ],
)
def test_faults_of_alpaca_rows(change: dict[str, Any], kind: str, message: str) -> None:
    row = {"instruction": "a", "input": "", "output": "b"}
    assert fault({**row, **change}, row) == (kind, message)


def test_a_prompt_of_turns_is_context_and_its_completion_is_learnt() -> None:
    assert example({"prompt": TALK[:4], "completion": TALK[4:], "tools": [TOOL]}) == {
        "messages": [*TALK[:2], {**TALK[2], "train": False}, *TALK[3:]],
        "tools": [WRAPPED_TOOL],
    }


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"prompt": "a", "completion": ""}, "empty", "completion is empty"),
        ({"prompt": "a"}, "missing", "completion is missing"),
        ({"prompt": 1, "completion": "b"}, "wrong-type", "prompt is a number; it must be text"),
        (
            {"prompt": "a", "completion": TALK[2:3]},
            "wrong-type",
            "prompt is text and completion is a list; both must be text, or both lists of turns",
        ),
        (
            {"prompt": TALK[:4], "completion": TALK[1:2]},
            "no-assistant-turn",
            "no turn of completion is the assistant's: there is nothing to learn",
        ),
        (
            {"prompt": TALK[:3], "completion": TALK[4:]},
            "role-order",
            "turns 3 and 4 of prompt and completion are both the assistant's",
        ),
    ],
)
def test_faults_of_prompts_and_completions(row: dict[str, Any], kind: str, message: str) -> None:
    assert fault(row, {"prompt": "a", "completion": "b"}) == (kind, message)


def test_a_row_can_have_several_faults_one_of_each_kind() -> None:
    row = {"messages": [{"role": "user", "content": "a\0"}, {"role": "user", "content": "b\0"}]}
    result = converted(row)
    assert {kind for kind, _ in result.faults} == {"role-order", "no-assistant-turn", "nul"}
    assert len(result.faults) == 3


def test_characters_that_no_tokenizer_takes_are_found_in_decoded_arguments_too() -> None:
    call = {"name": "add", "arguments": '{"a": "\\u0000"}'}
    row = {"messages": [TALK[1], {"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert fault(row, {"messages": TALK}) == ("nul", "messages holds a NUL character")
    assert fault({"text": "\ud83d"}, {"text": "a"})[0] == "surrogate"


def test_a_user_turn_after_the_last_answer_is_no_fault() -> None:
    assert example({"messages": TALK[:4]}) == {"messages": TALK[:4]}


def test_a_table_of_conversations_as_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talks.csv"
    cell = json.dumps(TALK, ensure_ascii=False).replace('"', '""')
    path.write_text(f'id,messages,tools\n1,"{cell}",\n')
    (source,) = find_sources("data.train", str(path), None, None)
    rows = [each.row for each in read(source) if each.row is not None]
    result = converted(rows[0])
    assert (result.example, result.faults, result.dropped) == ({"messages": TALK}, (), ("column id",))


# ---- anything

TEXTS = st.sampled_from(
    ["", " ", "a", "[", "[]", '[{"role": "user", "content": "a"}]', "user", "gpt", "\0", "\ud83d", "字"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | TEXTS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "thinking", "x"])}, optional={"text": TEXTS}),
    max_size=2,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": TEXTS, "arguments": st.sampled_from(["", "{}", '{"a": "\\u0000"}', "[", "[1]"]) | ANYTHING}
    ),
    max_size=2,
)
NAMES = st.sampled_from([*ROLES, "human", "gpt", "function_call", "observation", "bot"])
PLAIN = st.sampled_from(["a", "b\n", "字"])
SAID = PLAIN | PLAIN | TEXTS | PARTS | ANYTHING
TURN = st.fixed_dictionaries(
    {"role": NAMES, "content": SAID},
    optional={"tool_calls": CALLS, "train": ANYTHING, "weight": st.sampled_from([0, 1, 0.5]), "thinking": SAID},
)
SHARED_TURN = st.fixed_dictionaries({"from": NAMES, "value": SAID}, optional={"train": st.booleans()})
PLAIN_TURN = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": PLAIN})
GOOD_TURNS = st.integers(1, 5).map(lambda count: TALK[1 : 1 + count])
GOOD_SHARED = st.integers(1, 5).map(lambda count: SHARED[1 : 1 + count])
TURNS = (
    GOOD_TURNS | st.lists(PLAIN_TURN, max_size=4) | st.lists(TURN, max_size=3) | st.lists(TURN | ANYTHING, max_size=2)
)
SHARED_TURNS = GOOD_SHARED | st.lists(SHARED_TURN, max_size=3) | st.lists(SHARED_TURN | TURN, max_size=3)
BESIDE: dict[str, st.SearchStrategy[Any]] = {
    "system": SAID,
    "tools": CALLS | ANYTHING,
    "chat_template_kwargs": ANYTHING,
    "id": ANYTHING,
    "text": SAID,
}
HISTORY = st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=2) | ANYTHING
ROWS = st.one_of(
    st.fixed_dictionaries({"messages": TURNS}, optional=BESIDE),
    st.fixed_dictionaries({"messages": TURNS}),
    st.fixed_dictionaries({"conversations": SHARED_TURNS}, optional=BESIDE),
    st.fixed_dictionaries({"prompt": TURNS | SAID, "completion": TURNS | SAID}, optional=BESIDE),
    st.fixed_dictionaries({"question": SAID, "answer": SAID}, optional=BESIDE),
    st.fixed_dictionaries({"instruction": SAID, "output": SAID}, optional={"input": SAID, "history": HISTORY}),
    st.fixed_dictionaries({"text": SAID}),
    st.dictionaries(st.text(max_size=3), ANYTHING, max_size=3),
)


@given(rows=st.lists(ROWS, min_size=1, max_size=2), told=st.sampled_from(["auto"] * 10 + list(get_args(Format))))
@settings(max_examples=400, deadline=None)
def test_any_row_is_an_example_that_can_be_learnt_from_or_has_a_fault(rows: list[dict[str, Any]], told: str) -> None:
    try:
        shape = recognise(rows, data(format=told))
    except NotRecognised as error:
        str(error).encode()
        return
    for row in rows:
        result = to_example(row, shape, {})
        assert (result.example is None) == bool(result.faults)
        assert len({kind for kind, _ in result.faults}) == len(result.faults)
        for kind, message in result.faults:
            assert kind in FAULT_KINDS
            message.encode()
        for name in result.dropped:
            name.encode()
        assert len(set(result.dropped)) == len(result.dropped)
        if result.example is not None:
            check(result.example, shape)


def check(example: dict[str, Any], shape: Shape) -> None:
    for text in texts(example):
        assert "\0" not in text
        text.encode()
    json.dumps(example)
    if shape.format == "text":
        assert set(example) == {"text"}
        assert example["text"].strip()
        return
    if "messages" not in example:
        assert shape.format == "prompt-completion"
        assert set(example) == {"prompt", "completion"}
        assert example["prompt"].strip()
        assert example["completion"].strip()
        return
    assert set(example) <= {"messages", "tools", "chat_template_kwargs"}
    learnt = 0
    before = None
    for number, turn in enumerate(example["messages"]):
        role = turn["role"]
        assert role in ROLES
        assert isinstance(turn["content"], str)
        assert role not in ("system", "developer") or number == 0
        assert role == "tool" or role != before
        assert set(turn) <= {"role", "content", "train", "tool_calls", "reasoning_content", "name", "tool_call_id"}
        if role == "user":
            assert turn["content"].strip()
        if role == "assistant":
            assert turn["content"].strip() or turn["tool_calls"]
            learnt += turn.get("train", True)
        for call in turn.get("tool_calls", []):
            assert isinstance(call["function"]["arguments"], dict)
            assert call["function"]["name"].strip()
        before = role
    assert learnt


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts(name)
            yield from texts(item)
