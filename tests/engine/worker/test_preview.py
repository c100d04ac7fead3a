"""A row as a person is shown it: as it is, and as the model sees it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data import client
from engine.inspector import Inspector
from engine.spec import RunSpec
from engine.worker.data.preview import encoder_of, preview
from engine.worker.data.shown import pieces_of
from tests.engine.worker import chat_tokenizers
from tests.engine.worker.chat_tokenizers import spec_for

HI = {"role": "user", "content": "Hi there"}
HELLO = {"role": "assistant", "content": "Hello you"}
CHAT = {"messages": [HI, HELLO]}
NAMES = ["chatml", "llama3", "qwen3", "gemma", "mistral"]
# An e and its accent apart; a family held together by zero-width joiners; right-to-left text; half of nothing.
WRITINGS = "Hi 日本語を話す مرحبا بالعالم 👨‍👩‍👧 e\u0301 and \u00e9 \ufffd  two  spaces\n\tand a tab "


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of this test only."""
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))


def shown(spec: RunSpec, index: int = 0, side: str = "train") -> dict[str, Any]:
    return preview({"spec": spec.model_dump(), "index": index, "side": side})


def text_of(reply: dict[str, Any], trained_only: bool = False) -> str:
    return "".join(text for text, trained, _ in reply["pieces"] if trained or not trained_only)


def test_a_row_is_shown_as_it_is_and_token_by_token(tmp_path: Path) -> None:
    reply = shown(spec_for(tmp_path, chat_tokenizers.llama3(), [CHAT]))
    assert reply["raw"] == CHAT
    assert (reply["format"], reply["rows"], reply["where"]) == ("messages", None, "rows.jsonl, line 1")
    assert "role and content" in reply["reason"]
    assert (reply["problem"], reply["template"]) == (None, "TRL's training template")
    assert reply["pieces"][:3] == [["<|begin_of_text|>", 0, 1], ["<|start_header_id|>", 0, 1], ["user", 0, 0]]
    assert reply["pieces"][-3:] == [["Hello", 1, 0], [" you", 1, 0], ["<|eot_id|>", 1, 1]]
    assert (reply["tokens"], reply["trained"], reply["cut_at"]) == (len(reply["pieces"]), 3, 1024)
    assert reply["eos_trained"] is True


def test_a_cut_row_does_not_learn_its_end(tmp_path: Path) -> None:
    length = shown(spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT]))["tokens"]
    # Behind the end is a line's end, which is not learnt.
    for max_length, trained, learns_end in ((length - 1, 3, True), (length - 2, 2, False), (length - 4, 0, None)):
        reply = shown(spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT], max_length=max_length))
        assert (reply["trained"], reply["eos_trained"]) == (trained, learns_end)
        assert reply["tokens"] == length


def test_a_row_that_is_split_over_blocks_is_not_cut(tmp_path: Path) -> None:
    packed = {"packing": True, "packing_strategy": "bfd_split", "max_length": 4}
    reply = shown(spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT], **packed))
    assert (reply["cut_at"], reply["trained"], reply["eos_trained"]) == (None, 3, True)


def test_after_a_scan_the_checked_rows_are_shown(tmp_path: Path) -> None:
    rows = ["no json", CHAT, {"messages": [HI, {**HELLO, "content": "see you"}]}]
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), rows, on_bad_row="skip")
    assert "JSON" in shown(spec)["problem"]
    client.scan(spec.data, spec.training.seed)
    reply = shown(spec, 1)
    assert (reply["rows"], reply["where"], reply["problem"]) == (2, "rows.jsonl, line 3", None)
    assert text_of(reply, trained_only=True) == "see you<|im_end|>"
    assert "there are 2 rows" in shown(spec, 2)["problem"]


def test_held_out_rows_are_shown_apart(tmp_path: Path) -> None:
    rows = [{"messages": [{**HI, "content": f"Hi {number}"}, HELLO]} for number in range(40)]
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), rows, eval_fraction=0.5)
    assert "known when the data was checked" in shown(spec, 0, "held_out")["problem"]
    client.scan(spec.data, spec.training.seed)
    train, held_out = shown(spec, 0, "train"), shown(spec, 0, "held_out")
    assert train["rows"] + held_out["rows"] == 40
    assert train["raw"] != held_out["raw"]


def test_a_row_that_cannot_be_learnt_says_what_is_wrong(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT, {"messages": [HI]}, {"messages": "Hi"}])
    reply = shown(spec, 1)
    assert "assistant" in reply["problem"]
    assert reply["raw"] == {"messages": [HI]}
    assert reply["pieces"] == []
    assert shown(spec, 2)["problem"]


def test_columns_that_nobody_knows_are_listed_with_a_value(tmp_path: Path) -> None:
    row = {"frage": "Hi " * 100, "antwort": "Hello"}
    reply = shown(spec_for(tmp_path, chat_tokenizers.chatml(), [row]))
    assert reply["format"] is None
    assert reply["raw"] == row
    assert reply["columns"]["antwort"] == "Hello"
    assert len(reply["columns"]["frage"]) < 100
    assert "frage" in reply["problem"]
    mapped = spec_for(tmp_path, chat_tokenizers.chatml(), [row], columns={"prompt": "frage", "completion": "antwort"})
    assert text_of(shown(mapped), trained_only=True).endswith("Hello<|im_end|>")


def test_a_row_that_the_template_refuses_is_shown_all_the_same(tmp_path: Path) -> None:
    row = {"messages": [{"role": "system", "content": "You"}, HI, HELLO]}
    reply = shown(spec_for(tmp_path, chat_tokenizers.gemma(), [row]))
    assert reply["raw"] == row
    assert "System role not supported" in reply["problem"]


def test_without_a_chat_template_the_row_is_shown_with_a_way_out(tmp_path: Path) -> None:
    reply = shown(spec_for(tmp_path, chat_tokenizers.base(), [CHAT]))
    assert reply["raw"] == CHAT
    assert "no chat template" in reply["problem"]
    assert "chatml" in reply["problem"]


def test_without_a_tokenizer_the_row_is_shown_as_it_is(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT])
    (tmp_path / "model" / "tokenizer.json").write_text('{"model": 7}')
    broken = shown(spec)
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    for reply in (broken, shown(spec)):
        assert reply["raw"] == CHAT
        assert "the tokenizer of" in reply["problem"]


def test_a_missing_file_is_a_problem_and_no_failure(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT])
    (tmp_path / "rows.jsonl").unlink()
    reply = shown(spec)
    assert "there is no file" in reply["problem"]
    assert reply["raw"] == {}


def test_the_encoder_is_kept_until_the_tokenizer_or_what_is_learnt_changes(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT])
    first = encoder_of(spec, True)
    longer = spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": 7})})
    assert encoder_of(longer, True) is first
    everything = spec.model_copy(update={"data": spec.data.model_copy(update={"completion_only_loss": False})})
    assert encoder_of(everything, True) is not first
    chat_tokenizers.llama3().save_pretrained(tmp_path / "model")
    assert encoder_of(spec, True) is not first


def test_terminal_codes_and_markup_come_through_as_text(tmp_path: Path) -> None:
    hostile = "\x1b[2J[bold red]x[/] \x07"
    reply = shown(spec_for(tmp_path, chat_tokenizers.chatml(), [{"messages": [HI, {**HELLO, "content": hostile}]}]))
    assert text_of(reply, trained_only=True) == hostile + "<|im_end|>"


def test_the_first_row_of_a_large_file_is_there_at_once(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.chatml(), [CHAT])
    shown(spec)  # warm
    line = json.dumps({"messages": [HI, {**HELLO, "content": "Hello you " * 100}]}) + "\n"
    with open(tmp_path / "rows.jsonl", "w") as file:
        for _ in range(200):
            file.write(line * 1000)
    begin = time.perf_counter()
    reply = shown(spec)
    assert time.perf_counter() - begin < 1
    assert reply["problem"] is None
    begin = time.perf_counter()
    assert shown(spec, 150)["where"] == "rows.jsonl, line 151"
    assert time.perf_counter() - begin < 1
    assert "before the data is checked" in shown(spec, 100_000)["problem"]


@pytest.mark.parametrize("name", NAMES)
def test_pieces_together_are_the_decoded_text_in_any_writing(name: str) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    ids = tokenizer(WRITINGS * 2)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert pieces.count("語") == 2
    assert pieces.count("👧") == 2


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_pieces_of_a_character_that_is_cut_off_are_the_decoded_text(name: str) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    ids = tokenizer("Hi 語")["input_ids"][:-1]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
    assert pieces_of(tokenizer, []) == []


def test_words_of_sentencepiece_keep_the_space_before_them() -> None:
    tokenizer = chat_tokenizers.mistral()
    pieces = pieces_of(tokenizer, tokenizer("Hi there you", add_special_tokens=False)["input_ids"])
    assert pieces == ["Hi", " there", " you"]


@given(text=st.text(max_size=60))
def test_pieces_of_any_text_are_the_decoded_text(text: str) -> None:
    for name in NAMES:
        tokenizer = getattr(chat_tokenizers, name)()
        ids = tokenizer(text)["input_ids"]
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_inspector_answers_for_a_row_and_for_the_notes(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chat_tokenizers.llama3(), [CHAT, CHAT])
    with Inspector() as inspector:
        reply = inspector.request("data_preview", 120, spec=spec.model_dump(mode="json"), index=1, side="train")
        assert text_of(reply, trained_only=True) == "Hello you<|eot_id|>"
        notes = inspector.request("data_notes", 120, spec=spec.model_dump(mode="json"))
        assert [note["code"] for note in notes] == ["training-template"]
