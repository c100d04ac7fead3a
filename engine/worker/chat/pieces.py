"""From tokens to text as they come, in pieces that are whole characters.

A character can be made of several tokens; until the last of them is there, a tokenizer writes U+FFFD for what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

HALF = "\N{REPLACEMENT CHARACTER}"
MOST_BYTES = 4
"""Of one character in UTF-8."""


class Pieces(BaseStreamer):  # type: ignore[misc]
    """Takes the tokens of one answer from `generate` and hands its text on, piece by piece."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int], on_piece: Callable[[str], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._on_piece = on_piece
        self._ids: list[int] = []
        self._begin = 0
        """The first token that is decoded with the next one: what a token writes depends on those just before it."""
        self._told = 0
        """Tokens whose text was handed on."""
        self._is_prompt = True
        self.text = ""
        """All that was handed on."""
        self.ended = False
        """Whether the model has ended its answer."""

    @property
    def tokens(self) -> int:
        """Those of the answer, without the one that ends it."""
        return len(self._ids)

    def put(self, value: torch.Tensor) -> None:
        """The prompt first, then token after token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            if token in self._ends:
                self.ended = True
                return
            self._ids.append(token)
            self._hand_on(self._new_text())

    def end(self) -> None:
        """`generate` is done. What is left is handed on by `finish`, which also runs where `generate` was stopped."""

    def finish(self) -> None:
        """Hand on what was held back. Of a character that the answer's end has cut off nothing is."""
        text = self._new_text()
        if not self.ended and len(self._ids) - self._told < MOST_BYTES:  # with more tokens the model wrote no UTF-8
            text = text.rstrip(HALF)
        self._hand_on(text, is_last=True)

    def _new_text(self) -> str:
        before = self._decoded(self._ids[self._begin : self._told])
        return self._decoded(self._ids[self._begin :])[len(before) :]

    def _hand_on(self, text: str, is_last: bool = False) -> None:
        if not is_last and (not text or text.endswith(HALF)):
            return
        self._begin, self._told = self._told, len(self._ids)
        if text:
            self.text += text
            self._on_piece(text)

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
