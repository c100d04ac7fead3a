"""Which chat template is taken, and what is saved with the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.spec import DataSection
from engine.worker.data.encode import Encoder
from engine.worker.data.template import Template, apply_to, chatml, choose_template, families, twin_of, without_marks
from engine.worker.failures import BadSpec
from tests.engine.worker import chat_tokenizers

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are kind"},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
]


def chosen(tokenizer: PreTrainedTokenizerFast, conversations: bool = True, **settings: Any) -> Template:
    return choose_template(tokenizer, DataSection(train="rows.jsonl", **settings), conversations)


def rendered(tokenizer: PreTrainedTokenizerFast, template: Template, turns: list[dict[str, Any]], **row: Any) -> str:
    return Encoder(tokenizer, DataSection(train="rows.jsonl"), template).render(turns, row)[0]


def test_the_models_own_template_is_taken_where_it_marks_turns() -> None:
    template = chosen(chat_tokenizers.chatml())
    assert (template.text, template.marks_turns, template.saved) == (chat_tokenizers.CHATML, True, None)


def test_trls_training_template_marks_the_turns_of_a_known_one() -> None:
    template = chosen(chat_tokenizers.llama3())
    assert template.source == "TRL's training template"
    assert template.marks_turns
    assert "generation" in (template.text or "")


@pytest.mark.parametrize("settings", [{"assistant_only_loss": False}, {"completion_only_loss": False}])
def test_without_a_need_for_marks_a_known_template_stays_as_it_is(settings: dict[str, bool]) -> None:
    assert chosen(chat_tokenizers.llama3(), **settings).source == "the model's own"


def test_every_training_template_is_the_one_that_trl_would_take() -> None:
    from trl.chat_template_utils import get_training_chat_template

    marked = 0
    for text in families().values():
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=chat_tokenizers.chatml().backend_tokenizer)
        tokenizer.chat_template = text
        try:
            expected = get_training_chat_template(tokenizer)
        except ValueError:
            expected = None
        assert twin_of(text) == expected
        marked += expected is not None
    assert marked > 20


def test_a_template_of_plain_text_is_none() -> None:
    assert chosen(chat_tokenizers.base(), conversations=False) == Template(None, "")


def test_conversations_without_a_template_are_refused_with_a_way_out() -> None:
    with pytest.raises(BadSpec, match="no chat template") as error:
        chosen(chat_tokenizers.base())
    assert "chatml" in error.value.hint


def test_assistant_only_loss_is_refused_where_turns_cannot_be_marked() -> None:
    assert not chosen(chat_tokenizers.mistral()).marks_turns
    with pytest.raises(BadSpec, match="nothing would be learnt"):
        chosen(chat_tokenizers.mistral(), assistant_only_loss=True)


def test_chatml_ends_a_turn_with_the_end_of_sequence_where_its_own_end_is_no_token() -> None:
    base = chat_tokenizers.base()
    text = rendered(base, chosen(base, chat_template_path="chatml"), TURNS)
    assert text == (
        "<|im_start|>system\nYou are kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|><|endoftext|>\n"
    )
    qwen = chat_tokenizers.qwen3()
    assert "endoftext" not in rendered(qwen, chosen(qwen, chat_template_path="chatml"), TURNS)


def test_chatml_writes_tools_calls_and_reasoning() -> None:
    tokenizer = chat_tokenizers.chatml()
    call = {"type": "function", "function": {"name": "sum", "arguments": {"one": 2}}}
    turns = [
        *TURNS[:2],
        {"role": "assistant", "content": "see", "tool_calls": [call, call], "reasoning_content": "think"},
        {"role": "tool", "content": "three"},
    ]
    text = rendered(tokenizer, chosen(tokenizer, chat_template_path="chatml"), turns, tools=[{"name": "sum"}])
    written = '<tool_call>\n{"name": "sum", "arguments": {"one": 2}}\n</tool_call>'
    assert text == (
        '<|im_start|>system\nYou are kind\n\nYou may call these functions:\n<tools>\n{"name": "sum"}\n</tools>\n\n'
        'A call is written as <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\nthink\n</think>\n\nsee\n{written}\n{written}<|im_end|>\n"
        "<|im_start|>tool\nthree<|im_end|>\n"
    )


@pytest.mark.parametrize("ends_in_eos", [True, False])
def test_chatml_writes_the_same_without_its_marks(ends_in_eos: bool) -> None:
    tokenizer = chat_tokenizers.chatml()
    marked = chatml(ends_in_eos)
    plain = without_marks(marked)
    assert "generation %" not in plain
    one, other = (rendered(tokenizer, Template(text, ""), TURNS) for text in (marked, plain))
    assert one == other


def test_a_familys_name_takes_its_training_template_and_saves_its_own() -> None:
    template = chosen(chat_tokenizers.base(), chat_template_path="llama3")
    assert template.text == twin_of(families()["llama3"])
    assert template.saved == families()["llama3"]


def test_a_file_and_a_tokenizers_folder_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(chat_tokenizers.MISTRAL_MARKED)
    template = chosen(chat_tokenizers.base(), chat_template_path=str(file))
    assert (template.text, template.source, template.marks_turns) == (file.read_text(), "mine.jinja", True)
    chat_tokenizers.gemma().save_pretrained(tmp_path / "other")
    template = chosen(chat_tokenizers.base(), chat_template_path=str(tmp_path / "other"))
    assert (template.text, template.saved) == (twin_of(families()["gemma"]), families()["gemma"])


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(BadSpec, match="llamma3 is no template") as error:
        chosen(chat_tokenizers.base(), chat_template_path="llamma3")
    assert "llama3" in error.value.hint


def test_a_file_that_is_no_template_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.jinja"
    file.write_text("{% for message in messages %}\n{{ message.content }")
    with pytest.raises(BadSpec, match="line 2"):
        chosen(chat_tokenizers.base(), chat_template_path=str(file))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="no tokenizer with a chat template"):
        chosen(chat_tokenizers.base(), chat_template_path=str(tmp_path))


def test_what_was_learnt_is_saved_with_the_adapters_tokenizer(tmp_path: Path) -> None:
    for path, expected in (("chatml", without_marks(chatml(ends_in_eos=True))), ("llama3", families()["llama3"])):
        tokenizer = chat_tokenizers.base()
        apply_to(tokenizer, chosen(tokenizer, chat_template_path=path))
        tokenizer.save_pretrained(tmp_path / path)
        assert PreTrainedTokenizerFast.from_pretrained(tmp_path / path).chat_template == expected
    own = chat_tokenizers.llama3()
    apply_to(own, chosen(own))
    assert own.chat_template == families()["llama3"]
