"""What a model reads: the template's writing of a conversation, or plain text for a run that learnt plain text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.spec import RunSpec
from engine.worker.chat.prompt import learnt_plain_text, room_for_answer, tokens_of
from engine.worker.failures import BadSpec
from tests.engine.worker import chat_tokenizers
from tests.engine.worker.chat_tokenizers import spec_for

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": " there"},
]


def test_a_conversation_is_written_by_the_template_up_to_the_answer() -> None:
    tokenizer = chat_tokenizers.llama3()
    ids = tokens_of(TURNS, tokenizer, as_plain_text=False)
    text = tokenizer.decode(ids)
    assert text.count("<|begin_of_text|>") == 1, "the template writes it, and the tokenizer not again"
    assert "Hello<|eot_id|>" in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_plain_text_goes_on_as_one_text() -> None:
    tokenizer = chat_tokenizers.llama3()
    assert tokenizer.decode(tokens_of(TURNS, tokenizer, as_plain_text=True)) == "<|begin_of_text|>HiHello there"


def test_a_tokenizer_that_ends_every_text_does_not_end_this_one() -> None:
    from tokenizers import processors

    tokenizer = chat_tokenizers.words_only()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    assert tokenizer("Hi")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokens_of(TURNS[:1], tokenizer, as_plain_text=True) == tokenizer.convert_tokens_to_ids(["Hi"])


def test_what_a_template_does_not_take_is_refused_in_its_words() -> None:
    system = [{"role": "system", "content": "Be brief"}, *TURNS]
    with pytest.raises(BadSpec, match="Only user and assistant roles are supported!") as refused:
        tokens_of(system, chat_tokenizers.mistral(), as_plain_text=False)
    assert "leave it out" in refused.value.hint
    with pytest.raises(BadSpec, match="nothing to go on from"):
        tokens_of([{"role": "user", "content": ""}], chat_tokenizers.base(), as_plain_text=True)


def test_text_of_a_broken_terminal_is_still_text() -> None:
    assert tokens_of([{"role": "user", "content": "a\udcffb"}], chat_tokenizers.base(), as_plain_text=True)


def test_an_answer_gets_what_the_conversation_leaves() -> None:
    assert room_for_answer(10, None, 50) == 50
    assert room_for_answer(10, 100, 50) == 50
    assert room_for_answer(90, 100, 50) == 10
    with pytest.raises(BadSpec, match="has 1,000 tokens, and this model takes 1,000"):
        room_for_answer(1000, 1000, 1)


CONVERSATION = {"messages": TURNS[:2]}
PAIR = {"prompt": "Hi", "completion": " there"}


@pytest.mark.parametrize(
    ("row", "plain"),
    [
        (CONVERSATION, False),
        ({"prompt": TURNS[:1], "completion": TURNS[1:2]}, False),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, False),
        (PAIR, True),
        ({"text": "Hi there"}, True),
    ],
)
def test_the_rows_say_what_a_run_learnt(row: dict[str, Any], plain: bool, tmp_path: Path) -> None:
    assert learnt_plain_text(spec_for(tmp_path, chat_tokenizers.chatml(), [row] * 3)) is plain


def test_without_its_rows_the_format_tells_and_else_the_template() -> None:
    def spec(**data: Any) -> RunSpec:
        from engine.checks import parse_spec

        return parse_spec({"model": {"name_or_path": "m"}, "data": {"train": "/gone/rows.jsonl", **data}})

    assert learnt_plain_text(spec(format="text"))
    assert not learnt_plain_text(spec(format="messages"))
    assert not learnt_plain_text(spec())
    assert not learnt_plain_text(spec(train="owner/dataset", format="prompt-completion")), "the hub is not asked"


def test_rows_that_changed_since_are_looked_at_again(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CONVERSATION])
    Path(str(spec.data.train)).write_text(json.dumps(PAIR) + "\n")
    assert learnt_plain_text(spec)
