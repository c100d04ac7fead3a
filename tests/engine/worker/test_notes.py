"""What is said of tokenizer, template and rows before a run, and the settings that set it right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.data import client
from engine.spec import RunSpec
from engine.worker.data.notes import notes
from engine.worker.meta import NotInspectable
from tests.engine.worker import chat_tokenizers
from tests.engine.worker.chat_tokenizers import spec_for

HI = {"role": "user", "content": "Hi there"}
HELLO = {"role": "assistant", "content": "Hello you"}
CHAT = {"messages": [HI, HELLO]}
LONG_CHAT = {"messages": [HI, HELLO, HI, HELLO]}
CALL = {"type": "function", "function": {"name": "see", "arguments": {}}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of this test only."""
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


def said(spec: RunSpec) -> list[dict[str, Any]]:
    return notes({"spec": spec.model_dump()})


def codes(spec: RunSpec) -> list[str]:
    return [note["code"] for note in said(spec)]


def only(spec: RunSpec, code: str) -> dict[str, Any]:
    (note,) = [note for note in said(spec) if note["code"] == code]
    return note


def as_family(folder: Path, model_type: str) -> None:
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": model_type}))


def without_template(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer.save_pretrained(folder / "bare")
    bare = PreTrainedTokenizerFast.from_pretrained(folder / "bare")
    bare.chat_template = None
    return bare


def test_nothing_is_said_where_nothing_is_to_be_known(tmp_path: Path) -> None:
    assert codes(spec_for(tmp_path, chat_tokenizers.chatml(), [LONG_CHAT])) == []


def test_a_base_model_is_offered_chatml_and_with_it_all_is_well(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.base(), [CHAT])
    as_family(tmp_path, "llama")  # but not with the tokens of a Llama 3
    note = only(spec, "no-chat-template")
    assert note["changes"] == {"data.chat_template_path": "chatml"}
    assert codes(spec_for(tmp_path, chat_tokenizers.base(), [CHAT], chat_template_path="chatml")) == ["pad-is-eos"]


def test_a_base_model_with_a_familys_tokens_is_offered_the_familys_template_too(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, without_template(chat_tokenizers.llama3(), tmp_path), [CHAT])
    as_family(tmp_path, "llama")
    offered = [note["changes"] for note in said(spec) if note["code"] == "no-chat-template"]
    assert offered == [{"data.chat_template_path": "chatml"}, {"data.chat_template_path": "llama3"}]


def test_plain_text_needs_no_template(tmp_path: Path) -> None:
    assert codes(spec_for(tmp_path, chat_tokenizers.base(), [{"text": "Hi there"}])) == ["pad-is-eos"]


def test_a_wrong_name_of_a_template_is_said(tmp_path: Path) -> None:
    note = only(spec_for(tmp_path, chat_tokenizers.base(), [CHAT], chat_template_path="llamma3"), "no-such-template")
    assert "llama3" in note["hint"]


def test_earlier_turns_that_are_not_learnt_are_counted(tmp_path: Path) -> None:
    mistral = chat_tokenizers.mistral()
    assert codes(spec_for(tmp_path, mistral, [CHAT])) == ["pad-is-eos"]
    note = only(spec_for(tmp_path, mistral, [CHAT, LONG_CHAT]), "turns-not-marked")
    assert "1 earlier turn" in note["message"]
    assert "turns-not-marked" not in codes(spec_for(tmp_path, mistral, [LONG_CHAT], assistant_only_loss=False))


def test_assistant_only_loss_that_would_learn_nothing_is_said_before_the_run_refuses_it(tmp_path: Path) -> None:
    note = only(spec_for(tmp_path, chat_tokenizers.mistral(), [CHAT], assistant_only_loss=True), "turns-not-marked")
    assert "nothing would be learnt" in note["message"]
    assert note["changes"] == {"data.assistant_only_loss": False}


def test_trls_training_template_is_named_with_what_it_writes_otherwise(tmp_path: Path) -> None:
    same = only(spec_for(tmp_path, chat_tokenizers.llama3(), [LONG_CHAT]), "training-template")
    assert "the same text" in same["message"]
    other = only(spec_for(tmp_path, chat_tokenizers.qwen3(), [CHAT, LONG_CHAT]), "training-template")
    assert "1 of 2 rows" in other["message"]


def test_answers_without_an_end_are_said(tmp_path: Path) -> None:
    endless = tmp_path / "endless.jinja"
    endless.write_text(chat_tokenizers.CHATML.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"))
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT], chat_template_path=str(endless))
    note = only(spec, "end-not-trained")
    assert "' you'" in note["message"]
    assert note["changes"] == {"data.chat_template_path": "chatml"}


def test_a_second_beginning_of_sequence_is_found_in_plain_text(tmp_path: Path) -> None:
    llama = chat_tokenizers.llama3()
    rows = [{"text": "<|begin_of_text|>Hi"}, {"text": "Hi"}]
    assert "1 of 2 rows" in only(spec_for(tmp_path, llama, rows), "double-bos")["message"]
    assert "double-bos" not in codes(spec_for(tmp_path, llama, [{"prompt": "Hi", "completion": " you"}]))
    assert "double-bos" not in codes(spec_for(tmp_path, llama, [CHAT]))


def test_prompts_longer_than_a_row_may_be_are_counted_with_a_length_that_holds(tmp_path: Path) -> None:
    long_prompt = {"prompt": "Hi there" * 50, "completion": " you"}
    rows = [{"prompt": "Hi", "completion": " you"}, long_prompt]
    note = only(spec_for(tmp_path, chat_tokenizers.chatml(), rows, max_length=64), "prompt-too-long")
    assert "1 of 2 rows" in note["message"]
    longer = note["changes"]["data.max_length"]
    assert longer % 64 == 0
    assert codes(spec_for(tmp_path, chat_tokenizers.chatml(), rows, max_length=longer)) == []


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_a_language_that_becomes_bytes_is_said(name: str, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    note = only(spec_for(tmp_path, tokenizer, [{"text": "日本語を話す"}]), "mostly-bytes")
    assert note["message"][:3] > "50%"
    assert "mostly-bytes" not in codes(spec_for(tmp_path, tokenizer, [{"text": "Hi there you see one two 1, 2, 3."}]))


def test_characters_that_the_vocabulary_lacks_are_said(tmp_path: Path) -> None:
    tokenizer = chat_tokenizers.words_only()
    note = only(spec_for(tmp_path, tokenizer, [{"text": "Hi 日本語 there"}]), "unknown-tokens")
    assert "<unk>" in note["message"]
    assert "unknown-tokens" not in codes(spec_for(tmp_path, tokenizer, [{"text": "Hi there"}]))


def test_what_a_template_leaves_out_is_named(tmp_path: Path) -> None:
    row = {"messages": [HI, {**HELLO, "tool_calls": [CALL]}, {"role": "tool", "content": "one"}, HELLO]}
    note = only(spec_for(tmp_path, chat_tokenizers.chatml(), [row]), "left-out-by-template")
    assert "tool calls" in note["message"]
    assert codes(spec_for(tmp_path, chat_tokenizers.chatml(), [row], chat_template_path="chatml")) == []


def test_rows_that_the_template_refuses_are_counted_with_its_words(tmp_path: Path) -> None:
    refused = {"messages": [{"role": "system", "content": "You"}, HI, HELLO]}
    note = only(spec_for(tmp_path, chat_tokenizers.gemma(), [CHAT, refused]), "rows-refused")
    assert "System role not supported" in note["message"]
    assert note["changes"] == {"data.on_bad_row": "skip"}


def test_a_turn_that_cannot_be_left_out_is_said(tmp_path: Path) -> None:
    row = {"messages": [HI, {**HELLO, "weight": 0, "reasoning_content": "think"}, HI, HELLO]}
    spec = spec_for(tmp_path, chat_tokenizers.qwen3(), [row], completion_only_loss=False)
    assert codes(spec) == ["turn-not-told-apart"]


def test_after_a_scan_the_rows_looked_at_are_spread_over_the_data(tmp_path: Path) -> None:
    rows = [{"text": "Hi"}] * 500 + [{"text": "<|begin_of_text|>Hi"}] * 500
    rows = [{"text": f"{row['text']} {number}"} for number, row in enumerate(rows)]
    spec = spec_for(tmp_path, chat_tokenizers.llama3(), rows)
    assert "double-bos" not in codes(spec)
    client.scan(spec.data, spec.training.seed)
    assert "100 of 200 rows" in only(spec, "double-bos")["message"]


def test_data_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [{"frage": "Hi", "antwort": "Hello"}])
    with pytest.raises(NotInspectable, match="frage"):
        said(spec)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(NotInspectable, match="there is no file"):
        said(spec)
