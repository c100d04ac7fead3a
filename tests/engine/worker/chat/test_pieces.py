"""Text in pieces of whole characters, by tokenizers of every kind."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from engine.worker.chat.pieces import Pieces
from tests.engine.worker import chat_tokenizers

TEXT = "Hello there,\n\tこんにちは世界 — 🇯🇵 👩‍👩‍👧 naïve ￼ end  "
TOKENIZERS = [chat_tokenizers.chatml, chat_tokenizers.llama3, chat_tokenizers.mistral]


def told(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int] | None = None) -> tuple[list[str], Pieces]:
    """The pieces of an answer of `ids`, as `generate` gives them."""
    told: list[str] = []
    pieces = Pieces(tokenizer, ends or [], told.append)
    pieces.put(torch.tensor([[5, 6, 7]]))  # the prompt
    for token in ids:
        pieces.put(torch.tensor([token]))
    pieces.end()
    pieces.finish()
    return told, pieces


@pytest.mark.parametrize("make", TOKENIZERS, ids=lambda make: str(make.__name__))
def test_characters_of_several_tokens_come_whole(make: type) -> None:
    tokenizer = make()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert len(ids) > len(TEXT), "characters are split over tokens"
    pieces, answer = told(tokenizer, ids)
    assert "".join(pieces) == answer.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert answer.text.strip() == TEXT.strip()
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "世" in pieces
    assert len(pieces) > 30, "each is told as soon as it is there"


def bytes_of(text: bytes) -> list[int]:
    """Tokens of the tokenizer `chatml`, one a byte, also of what is no text."""
    written_as_itself = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's letters for bytes
    others = [byte for byte in range(256) if byte not in written_as_itself]
    tokenizer = chat_tokenizers.chatml()
    letters = (chr(byte if byte in written_as_itself else 256 + others.index(byte)) for byte in text)
    ids: list[int] = [tokenizer.convert_tokens_to_ids(letter) for letter in letters]
    return ids


def test_half_a_character_at_the_end_is_left_out() -> None:
    half = "ok 🎉".encode()[:-1]
    pieces, answer = told(chat_tokenizers.chatml(), bytes_of(half))
    assert "".join(pieces) == answer.text == "ok "
    assert answer.tokens == 6
    byte_fallback = chat_tokenizers.mistral()
    ids = [byte_fallback.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in half]
    assert told(byte_fallback, ids)[0] == ["o", "k", " "]


def test_what_is_no_text_is_told_as_such_once_it_is_known() -> None:
    pieces, answer = told(chat_tokenizers.chatml(), bytes_of(b"a\xff\xfeb\xc3"), ends=[])
    assert pieces == ["a", "\N{REPLACEMENT CHARACTER}" * 2 + "b"]
    pieces, answer = told(chat_tokenizers.chatml(), bytes_of(b"\xff" * 9))
    assert answer.text == "\N{REPLACEMENT CHARACTER}" * 9, "a model that writes nothing else is not silent"


def test_the_token_that_ends_an_answer_is_no_part_of_it() -> None:
    tokenizer = chat_tokenizers.qwen3()
    end = tokenizer.convert_tokens_to_ids("</think>")  # one that is not special
    ids = tokenizer("Hi", add_special_tokens=False)["input_ids"]
    pieces, answer = told(tokenizer, [*ids, end], ends=[end])
    assert pieces == ["Hi"]
    assert (answer.tokens, answer.ended) == (len(ids), True)
