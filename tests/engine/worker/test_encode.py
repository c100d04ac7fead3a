"""What is learnt of a row, token by token, against expectations written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.spec import DataSection
from engine.worker.data.encode import IGNORED, Encoder, RowRefused
from engine.worker.data.shown import pieces_of
from engine.worker.data.template import choose_template
from engine.worker.failures import BadSpec
from tests.engine.worker import chat_tokenizers

Tokens = list[tuple[str, bool]]

SYSTEM = {"role": "system", "content": "You are kind"}
HI = {"role": "user", "content": "Hi there"}
HELLO = {"role": "assistant", "content": "Hello you"}
BYE = {"role": "user", "content": "Bye"}
SEE = {"role": "assistant", "content": "see you"}
ONE_TURN = {"messages": [HI, HELLO]}
TWO_TURNS = {"messages": [HI, HELLO, BYE, SEE]}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "sum", "arguments": {"one": 2}}}],
}
SUM = {"type": "function", "function": {"name": "sum", "parameters": {}}}


def masked(*texts: str) -> Tokens:
    return [(text, False) for text in texts]


def learnt(*texts: str) -> Tokens:
    return [(text, True) for text in texts]


def encoder(tokenizer: PreTrainedTokenizerFast, conversations: bool = True, **settings: Any) -> Encoder:
    data = DataSection(train="rows.jsonl", **settings)
    return Encoder(tokenizer, data, choose_template(tokenizer, data, conversations))


def tokens(encoder: Encoder, example: dict[str, Any]) -> Tokens:
    row = encoder.encode(example)
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    texts = pieces_of(encoder.tokenizer, row.input_ids)
    return [(text, label != IGNORED) for text, label in zip(texts, row.labels, strict=True)]


def learnt_text(encoder: Encoder, example: dict[str, Any]) -> str:
    return "".join(text for text, is_learnt in tokens(encoder, example) if is_learnt)


def test_chatml_learns_each_answer_with_its_end() -> None:
    assert tokens(encoder(chat_tokenizers.chatml()), {"messages": [SYSTEM, *TWO_TURNS["messages"]]}) == [
        *masked("<|im_start|>", "system", "\n", "You", " are", " kind", "<|im_end|>", "\n"),
        *masked("<|im_start|>", "user", "\n", "Hi", " there", "<|im_end|>", "\n"),
        *masked("<|im_start|>", "assistant", "\n"),
        *learnt("Hello", " you", "<|im_end|>"),
        *masked("\n", "<|im_start|>", "user", "\n", "Bye", "<|im_end|>", "\n"),
        *masked("<|im_start|>", "assistant", "\n"),
        *learnt("see", " you", "<|im_end|>"),
        *masked("\n"),
    ]


def test_llama3_learns_each_answer_by_trls_training_template() -> None:
    header = ("<|end_header_id|>", "\n", "\n")
    assert tokens(encoder(chat_tokenizers.llama3()), TWO_TURNS) == [
        *masked("<|begin_of_text|>", "<|start_header_id|>", "user", *header, "Hi", " there", "<|eot_id|>"),
        *masked("<|start_header_id|>", "assistant", *header),
        *learnt("Hello", " you", "<|eot_id|>"),
        *masked("<|start_header_id|>", "user", *header, "Bye", "<|eot_id|>"),
        *masked("<|start_header_id|>", "assistant", *header),
        *learnt("see", " you", "<|eot_id|>"),
    ]


def test_gemma_learns_each_answer_with_its_end_and_the_line_end_behind() -> None:
    assert tokens(encoder(chat_tokenizers.gemma()), TWO_TURNS) == [
        *masked("<bos>", "<start_of_turn>", "user", "\n", "Hi", " there", "<end_of_turn>", "\n"),
        *masked("<start_of_turn>", "model", "\n"),
        *learnt("Hello", " you", "<end_of_turn>", "\n"),
        *masked("<start_of_turn>", "user", "\n", "Bye", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n"),
        *learnt("see", " you", "<end_of_turn>", "\n"),
    ]


def test_mistral_without_marks_learns_the_last_answer_only() -> None:
    assert tokens(encoder(chat_tokenizers.mistral()), TWO_TURNS) == [
        *masked("<s>", "[INST]", " ", " Hi", " there", "[/INST]", " ", " Hello", " you", "</s>"),
        *masked("[INST]", " ", " Bye", "[/INST]"),
        *learnt(" ", " see", " you", "</s>"),
    ]


def test_mistral_with_marks_learns_each_answer(tmp_path: Any) -> None:
    file = tmp_path / "mistral.jinja"
    file.write_text(chat_tokenizers.MISTRAL_MARKED)
    assert tokens(encoder(chat_tokenizers.mistral(), chat_template_path=str(file)), TWO_TURNS) == [
        *masked("<s>", "[INST]", " ", " Hi", " there", "[/INST]"),
        *learnt(" ", " Hello", " you", "</s>"),
        *masked("[INST]", " ", " Bye", "[/INST]"),
        *learnt(" ", " see", " you", "</s>"),
    ]


def test_qwen_learns_reasoning_calls_and_answers_but_no_tool_reply() -> None:
    conversation = [
        HI,
        {**CALL, "reasoning_content": "think one"},
        {"role": "tool", "content": "three"},
        {**SEE, "reasoning_content": "think two"},
    ]
    thought = ("<think>", "\n", "think")
    assert tokens(encoder(chat_tokenizers.qwen3()), {"messages": conversation}) == [
        *masked("<|im_start|>", "user", "\n", "Hi", " there", "<|im_end|>", "\n"),
        *masked("<|im_start|>", "assistant", "\n"),
        *learnt(*thought, " one", "\n", "</think>", "\n", "\n"),
        *learnt("<tool_call>", "\n", "{", '"', "n", "a", "m", "e", '"', ":", " ", '"', "sum", '"', ","),
        *learnt(" ", '"', "a", "r", "g", "u", "m", "e", "n", "t", "s", '"', ":"),
        *learnt(" ", "{", '"', "one", '"', ":", " ", "2", "}", "}", "\n", "</tool_call>", "<|im_end|>", "\n"),
        *masked("<|im_start|>", "user", "\n", "<tool_response>", "\n", "three", "\n", "</tool_response>"),
        *masked("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
        *learnt(*thought, " two", "\n", "</think>", "\n", "\n", "see", " you", "<|im_end|>", "\n"),
    ]


def test_tools_are_written_before_the_conversation_and_not_learnt() -> None:
    qwen = encoder(chat_tokenizers.qwen3())
    shown = tokens(qwen, {**ONE_TURN, "tools": [SUM]})
    text = "".join(text for text, _ in shown)
    assert '<tools>\n{"type": "function", "function": {"name": "sum", "parameters": {}}}\n</tools>' in text
    assert learnt_text(qwen, {**ONE_TURN, "tools": [SUM]}) == "<think>\n\n</think>\n\nHello you<|im_end|>\n"


def test_settings_of_the_template_that_a_row_has_are_used() -> None:
    qwen = encoder(chat_tokenizers.qwen3(), assistant_only_loss=False)
    thinking, silent = ONE_TURN, {**ONE_TURN, "chat_template_kwargs": {"enable_thinking": False}}
    assert learnt_text(qwen, thinking) == "<think>\n\n</think>\n\nHello you<|im_end|>\n"
    # TRL's rule: without thoughts these tokens belong to the prompt.
    assert learnt_text(qwen, silent) == "Hello you<|im_end|>\n"


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "gemma", "mistral"])
def test_assistant_only_loss_false_learns_the_last_answer_only(name: str) -> None:
    last_only = encoder(getattr(chat_tokenizers, name)(), assistant_only_loss=False)
    text = learnt_text(last_only, TWO_TURNS)
    assert "see you" in text
    assert "Hello" not in text
    assert "Bye" not in text


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "gemma", "mistral"])
def test_completion_only_loss_false_learns_everything(name: str) -> None:
    everything = encoder(getattr(chat_tokenizers, name)(), completion_only_loss=False)
    row = everything.encode(TWO_TURNS)
    assert row.labels == row.input_ids


def test_a_turn_with_train_false_is_context_only() -> None:
    unwanted = {"messages": [HI, {**HELLO, "train": False}, BYE, SEE]}
    for name, expected in (
        ("chatml", "see you<|im_end|>"),
        ("llama3", "see you<|eot_id|>"),
        ("gemma", "see you<end_of_turn>\n"),
        ("mistral", "  see you</s>"),
    ):
        assert learnt_text(encoder(getattr(chat_tokenizers, name)()), unwanted) == expected


def test_where_only_the_last_answer_counts_train_false_moves_on_to_the_one_before() -> None:
    unwanted = {"messages": [HI, HELLO, BYE, {**SEE, "train": False}]}
    mistral = encoder(chat_tokenizers.mistral())
    assert tokens(mistral, unwanted) == tokens(mistral, ONE_TURN)


def test_train_false_holds_where_everything_else_is_learnt() -> None:
    everything = encoder(chat_tokenizers.chatml(), completion_only_loss=False)
    assert tokens(everything, {"messages": [HI, {**HELLO, "train": False}, BYE]}) == [
        *learnt("<|im_start|>", "user", "\n", "Hi", " there", "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
        *masked("Hello", " you", "<|im_end|>", "\n"),
        *learnt("<|im_start|>", "user", "\n", "Bye", "<|im_end|>", "\n"),
    ]


def test_a_row_of_which_no_turn_is_wanted_has_no_labels() -> None:
    row = encoder(chat_tokenizers.chatml()).encode({"messages": [HI, {**HELLO, "train": False}]})
    assert set(row.labels) == {IGNORED}


def test_turns_are_told_apart_where_a_template_marks_more_than_turns(tmp_path: Any) -> None:
    # As Phi-3's: an end-of-sequence token of its own behind the whole conversation.
    file = tmp_path / "ends_twice.jinja"
    file.write_text(
        chat_tokenizers.CHATML.replace(
            "{% if add_gen", "{% generation %}{{ eos_token }}{% endgeneration %}{% if add_gen"
        )
    )
    ends_twice = encoder(chat_tokenizers.chatml(), chat_template_path=str(file))
    assert learnt_text(ends_twice, TWO_TURNS) == "Hello you<|im_end|>see you<|im_end|><|im_end|>"
    first, last = ({**HELLO, "train": False}, SEE), (HELLO, {**SEE, "train": False})
    assert learnt_text(ends_twice, {"messages": [HI, first[0], BYE, first[1]]}) == "see you<|im_end|><|im_end|>"
    assert learnt_text(ends_twice, {"messages": [HI, last[0], BYE, last[1]]}) == "Hello you<|im_end|>"


def test_a_turn_that_cannot_be_told_apart_is_refused_in_words() -> None:
    everything = encoder(chat_tokenizers.qwen3(), completion_only_loss=False)
    with pytest.raises(BadSpec, match="where in the text that turn is"):
        everything.encode({"messages": [HI, {**HELLO, "train": False, "reasoning_content": "think"}, BYE, SEE]})


def test_a_row_that_the_template_refuses_says_why_and_leaves_the_others() -> None:
    gemma = encoder(chat_tokenizers.gemma())
    with pytest.raises(RowRefused, match="System role not supported"):
        gemma.encode({"messages": [SYSTEM, HI, HELLO]})
    refused, taken = gemma.attempt_all([{"messages": [SYSTEM, HI, HELLO]}, ONE_TURN])
    assert isinstance(refused, RowRefused)
    assert taken == gemma.encode(ONE_TURN)


def test_plain_text_is_learnt_with_an_end_and_what_the_tokenizer_adds() -> None:
    plain = encoder(chat_tokenizers.llama3(), conversations=False)
    assert tokens(plain, {"text": "Hi there"}) == learnt("<|begin_of_text|>", "Hi", " there", "<|eot_id|>")
    assert tokens(plain, {"text": "Hi<|eot_id|>"}) == learnt("<|begin_of_text|>", "Hi", "<|eot_id|>")


def test_of_prompt_and_completion_the_completion_is_learnt() -> None:
    row = {"prompt": "Hi there", "completion": " Hello"}
    llama = chat_tokenizers.llama3()
    assert tokens(encoder(llama, conversations=False), row) == [
        *masked("<|begin_of_text|>", "Hi", " there"),
        *learnt(" Hello", "<|eot_id|>"),
    ]
    everything = encoder(llama, conversations=False, completion_only_loss=False)
    assert all(is_learnt for _, is_learnt in tokens(everything, row))


def test_a_token_over_the_border_of_a_prompt_is_learnt() -> None:
    row = {"prompt": "Hi ", "completion": "there"}
    assert tokens(encoder(chat_tokenizers.chatml(), conversations=False), row) == [
        *masked("Hi"),
        *learnt(" there", "<|im_end|>"),
    ]


def test_an_answer_that_begins_with_a_space_is_learnt_where_offsets_leave_spaces_out() -> None:
    chatml = encoder(chat_tokenizers.llama3(), chat_template_path="chatml")
    shown = tokens(chatml, {"messages": [HI, {"role": "assistant", "content": "  Hello "}]})
    assert "".join(text for text, is_learnt in shown if is_learnt).startswith("  Hello ")


def test_the_fingerprint_changes_with_what_decides_and_with_nothing_else() -> None:
    def of(**settings: Any) -> str:
        return encoder(chat_tokenizers.chatml(), **settings).fingerprint

    assert of() == of(max_length=7, packing=True, on_bad_row="skip")
    assert (
        len({of(), of(completion_only_loss=False), of(assistant_only_loss=False), of(chat_template_path="chatml")}) == 4
    )
    used = encoder(chat_tokenizers.chatml())
    used.tokenizer("Hi there", padding="max_length", truncation=True, max_length=1)
    assert used.fingerprint == of()
    assert encoder(chat_tokenizers.qwen3(), conversations=False).fingerprint != of()
