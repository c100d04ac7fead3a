"""Turns in every way that people write them, and what is wrong with some."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.data.turns import TurnFault, check_learnt, check_order, turns_of

CONTENT = ("role", "content")
VALUE = ("from", "value")


def turns(*raw: Any, keys: tuple[str, str] = CONTENT, dropped: list[str] | None = None) -> list[dict[str, Any]]:
    return turns_of(list(raw), "messages", keys, [] if dropped is None else dropped)


def refusal(raw: Any, keys: tuple[str, str] = CONTENT) -> tuple[str, str]:
    with pytest.raises(TurnFault) as caught:
        turns_of(raw, "messages", keys, [])
    return caught.value.fault


ASKED = {"role": "user", "content": "天気は 🌦️"}
ANSWERED = {"role": "assistant", "content": "ممطر اليوم"}


def test_plain_turns_stay_as_they_are() -> None:
    talk = [{"role": "system", "content": ""}, ASKED, ANSWERED, {"role": "developer", "content": "Be brief."}]
    assert turns(*talk) == talk
    assert turns_of(json.dumps(talk), "messages", CONTENT, []) == talk


def test_sharegpt_names_of_roles_become_ours() -> None:
    talk = turns(
        {"from": "system", "value": "s"},
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "b"},
        {"from": "user", "value": "c"},
        {"from": "chatgpt", "value": "d"},
        {"from": "observation", "value": "e"},
        {"from": "model", "value": "f"},
        keys=VALUE,
    )
    assert [turn["role"] for turn in talk] == ["system", "user", "assistant", "user", "assistant", "tool", "assistant"]
    assert [turn["content"] for turn in talk] == list("sabcdef")


def test_a_function_call_turn_is_a_call_of_the_assistant() -> None:
    call = {"name": "weather", "arguments": {"city": "大阪"}}
    expected = [{"type": "function", "function": call}]
    for value in (
        json.dumps(call),
        json.dumps([call]),
        json.dumps({**call, "arguments": json.dumps(call["arguments"])}),
    ):
        (turn,) = turns({"from": "function_call", "value": value}, keys=VALUE)
        assert turn == {"role": "assistant", "content": "", "tool_calls": expected}
    assert refusal([{"from": "function_call", "value": "weather(Osaka)"}], VALUE) == (
        "wrong-type",
        "the calls of turn 1 of messages cannot be read as JSON",
    )


def test_tool_calls_keep_their_ids_and_arguments_become_objects() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2]}'}},
        {"name": "now", "arguments": ""},
    ]
    _, called, result, _ = turns(
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": {"sum": 3, "note": "和"}},
        ANSWERED,
    )
    assert called == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2]}}, "id": "c1"},
            {"type": "function", "function": {"name": "now", "arguments": {}}},
        ],
    }
    assert result == {"role": "tool", "content": '{"sum": 3, "note": "和"}', "tool_call_id": "c1", "name": "add"}
    (old,) = turns({"role": "assistant", "function_call": {"name": "add", "arguments": "{}"}})
    assert old["tool_calls"] == [{"type": "function", "function": {"name": "add", "arguments": {}}}]


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([{"name": "add", "arguments": "{a: 1}"}], "the arguments of call 1 of turn 1 of messages cannot be read"),
        ([{"name": "add", "arguments": "[1]"}], "are a list; they must be an object"),
        ([{"arguments": {}}], "call 1 of turn 1 of messages names no function"),
        ([3], "is a number"),
        (True, "are true or false"),
        ([{"name": "add", "arguments": '{"a":' + "[" * 300 + "]" * 300 + "}"}], "cannot be read as JSON"),
    ],
)
def test_calls_that_no_template_can_write_are_told(calls: Any, said: str) -> None:
    kind, message = refusal([{"role": "assistant", "content": "", "tool_calls": calls}])
    assert kind == "wrong-type"
    assert said in message


def test_parts_of_text_are_joined_and_other_parts_named() -> None:
    dropped: list[str] = []
    (turn,) = turns(
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "this?"},
                {"type": "input_audio", "input_audio": {}},
            ],
        },
        dropped=dropped,
    )
    assert turn == {"role": "user", "content": "What is this?"}
    assert dropped == ["image parts", "audio parts"]


def test_a_turn_of_pictures_alone_has_no_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    assert refusal([{"role": "user", "content": [image]}]) == (
        "no-text",
        "turn 1 of messages has no text, only other parts",
    )
    assert refusal([{"role": "user", "content": [{"type": "text"}]}])[1] == (
        "part 1 of turn 1 of messages has no text that is text"
    )
    assert refusal([{"role": "user", "content": [{"text": "a"}]}])[0] == "wrong-type"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_under_one_name(key: str) -> None:
    assert turns({**ANSWERED, key: "It rains."}) == [{**ANSWERED, "reasoning_content": "It rains."}]
    parts = [{"type": "thinking", "thinking": "It rains."}, {"type": "text", "text": "Rain."}]
    assert turns({"role": "assistant", "content": parts}) == [
        {"role": "assistant", "content": "Rain.", "reasoning_content": "It rains."}
    ]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0}])
def test_a_turn_can_be_marked_not_to_be_learnt(mark: dict[str, Any]) -> None:
    assert turns({**ANSWERED, **mark}) == [{**ANSWERED, "train": False}]


def test_marks_that_change_nothing_or_cannot_be_honoured() -> None:
    dropped: list[str] = []
    talk = turns(
        {**ASKED, "weight": 0},
        {**ANSWERED, "weight": 1},
        {**ASKED, "train": True},
        {**ANSWERED, "weight": 0.5},
        dropped=dropped,
    )
    assert talk == [ASKED, ANSWERED, ASKED, ANSWERED]
    assert dropped == ["train of user turns", "weight other than 0 and 1"]
    assert refusal([{**ANSWERED, "train": "no"}]) == (
        "wrong-type",
        "turn 1 of messages has the train 'no'; it must be true or false, 1 or 0",
    )


def test_what_is_not_used_of_a_turn_is_named_and_nulls_are_not_there() -> None:
    dropped: list[str] = []
    raw = {**ASKED, "name": "Aiko", "id": 7, "tool_calls": None, "thinking": None, "extra": []}
    assert turns(raw, dropped=dropped) == [{**ASKED, "name": "Aiko"}]
    assert dropped == ["id of user turns"]


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        (None, "missing", "messages is missing"),
        ([], "empty", "messages is empty"),
        ({}, "wrong-type", "messages is an object; it must be a list of turns"),
        ("[not json", "wrong-type", "messages is text that begins like a list, and is no JSON"),
        ([ASKED, "hello"], "wrong-type", "turn 2 of messages is text; it must be an object with role and content"),
        ([ASKED, {"content": "a"}], "missing", "turn 2 of messages has no role"),
        (
            [{"role": 3, "content": "a"}],
            "wrong-type",
            "turn 1 of messages has a role that is a number; it must be text",
        ),
        (
            [ASKED, ANSWERED, {"role": "bot", "content": "a"}],
            "unknown-role",
            "turn 3 of messages has the role 'bot'; it must be one of system, developer, user, assistant, tool",
        ),
        (
            [ASKED, {"from": "gpt", "value": "a"}],
            "missing",
            "turn 2 of messages has from and value; the other rows have role and content",
        ),
        ([{"role": "user"}], "missing", "turn 1 of messages has no content"),
        ([{"role": "system", "content": None}], "missing", "turn 1 of messages has no content"),
        ([{"role": "user", "content": " \n"}], "empty", "turn 1 of messages is empty"),
        ([{"role": "assistant", "content": ""}], "empty", "turn 1 of messages is empty"),
        (
            [{"role": "user", "content": 3}],
            "wrong-type",
            "turn 1 of messages has a content that is a number; it must be text",
        ),
    ],
)
def test_a_turn_that_cannot_be_learnt_from_is_told_by_its_number(raw: Any, kind: str, message: str) -> None:
    assert refusal(raw) == (kind, message)


ROLE_OF_LETTER = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}


@pytest.mark.parametrize("order", ["ua", "sua", "dua", "suaua", "uatta", "uatua", "uau", "u", "uat"])
def test_orders_that_templates_take(order: str) -> None:
    assert check_order([{"role": ROLE_OF_LETTER[letter]} for letter in order], "messages") is None


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("usa", "turn 2 of messages is a system turn; it can only be the first"),
        ("sdua", "turn 2 of messages is a developer turn; it can only be the first"),
        ("uua", "turns 1 and 2 of messages are both the user's"),
        ("suaaa", "turns 3 and 4 of messages are both the assistant's"),
        ("aua", "turn 1 of messages is the assistant's; the user speaks first"),
        ("sta", "turn 2 of messages is the tool's; the user speaks first"),
        ("uta", "turn 2 of messages is the tool's; it can only follow a turn of the assistant or of a tool"),
    ],
)
def test_orders_that_templates_refuse(order: str, message: str) -> None:
    turns = [{"role": ROLE_OF_LETTER[letter]} for letter in order]
    assert check_order(turns, "messages") == ("role-order", message)


def test_nothing_to_learn_is_told() -> None:
    kind, message = check_learnt([ASKED], "messages") or ("", "")
    assert (kind, message) == (
        "no-assistant-turn",
        "no turn of messages is the assistant's: there is nothing to learn",
    )
    assert "marked not to be learnt" in str(check_learnt([ASKED, {**ANSWERED, "train": False}], "messages"))
    assert check_learnt([ASKED, {**ANSWERED, "train": False}, ASKED, ANSWERED], "messages") is None
