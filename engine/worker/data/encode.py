"""From canonical examples to token ids and labels: the one place where it is decided what a model learns from a row.

The ids and labels are those that TRL 1.16 makes of the same rows (trl/trainer/sft_trainer.py, `_prepare_dataset`; the
tests compare), but for two of its faults: a marked turn that begins or ends inside what a tokenizer joins or strips
keeps all its tokens, and a turn that the row does not want learnt is left out.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from engine.data.shapes import Example
from engine.spec import DataSection, ModelSection, RunSpec
from engine.worker.data.template import Template, choose_template
from engine.worker.failures import BadSpec

IGNORED = -100
"""The label of a token that is not learnt."""
VERSION = 1
"""Raised when the same rows, tokenizer and settings would give other tokens than before."""

Span = tuple[int, int]
"""A stretch of text: its first character, and the one after its last."""
Turn = dict[str, Any]


class RowRefused(ValueError):
    """The chat template does not take this row; the message is the template's own."""


@dataclass(frozen=True)
class Encoded:
    """A row as the model gets it, never cut."""

    input_ids: list[int]
    labels: list[int]
    """Of each token its id, or IGNORED where it is not learnt."""


@dataclass(frozen=True)
class _Written:
    """A row as text, before it is tokens."""

    text: str
    prompt: str | None = None
    """Text of its own that the row begins with; learnt is what comes after the tokens that both have in common."""
    learnt: tuple[Span, ...] | None = None
    """What is learnt, where it is not everything, or everything after a prompt."""
    adds_special_tokens: bool = False
    """Whether the tokenizer adds what it adds to a text of its own, such as a beginning-of-sequence token."""


def load_tokenizer(model: ModelSection, trusted: bool, only_here: bool = False) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with a padding token. It runs no code of the model's unless it is `trusted`.

    `only_here` asks the hub for nothing. Raises OSError where there is no tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model.name_or_path, revision=model.revision or "main", trust_remote_code=trusted, local_files_only=only_here
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_encoder(spec: RunSpec, rows_are_conversations: bool) -> Encoder:
    """The encoder of a run's rows. Raises BadSpec as `choose_template` does, OSError where there is no tokenizer."""
    tokenizer = load_tokenizer(spec.model, spec.model.trust_remote_code)
    return Encoder(tokenizer, spec.data, choose_template(tokenizer, spec.data, rows_are_conversations))


class Encoder:
    """Makes tokens and labels of examples, by the settings that say what is learnt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data: DataSection, template: Template) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.learns: Literal["everything", "turns", "last"]
        """Of a conversation: all its text, every assistant turn, or the last assistant turn."""
        if data.completion_only_loss is False:
            self.learns = "everything"
        elif data.assistant_only_loss is not False and template.marks_turns:
            self.learns = "turns"
        else:
            self.learns = "last"
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._eos_text = tokenizer.eos_token or ""

    @property
    def learns_every_turn(self) -> bool:
        """Whether no assistant turn is context only, but those whose row says so."""
        return self.template.text is None or self.learns != "last"

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the same row could give other tokens or labels.

        A template that writes the day's date is taken as it is: tokens that are kept hold the day they were made.
        """
        if self.tokenizer.is_fast:
            self.tokenizer("")  # takes back any cutting and padding that its file asks for, as every later call does
            vocabulary = self.tokenizer.backend_tokenizer.to_str()
        else:
            vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        decides = [VERSION, self._special_tokens, self.template.text, self.template.with_tools, self.learns]
        return hashlib.sha256((json.dumps(decides) + vocabulary).encode()).hexdigest()

    def encode(self, example: Example) -> Encoded:
        """Raises RowRefused, and BadSpec for a turn that cannot be left out as its row wants."""
        return self.encode_all([example])[0]

    def encode_all(self, examples: Sequence[Example]) -> list[Encoded]:
        """Each example encoded. Raises as `encode` does for the first that cannot be."""
        encoded: list[Encoded] = []
        for each in self.attempt_all(examples):
            if isinstance(each, RowRefused):
                raise each
            encoded.append(each)
        return encoded

    def attempt_all(self, examples: Sequence[Example]) -> list[Encoded | RowRefused]:
        """Each example encoded, or what the template says of it. Raises BadSpec as `encode` does."""
        attempts: list[_Written | RowRefused] = []
        for example in examples:
            try:
                attempts.append(self._write(example))
            except RowRefused as refusal:
                attempts.append(refusal)
        encoded = iter(self._tokenized([each for each in attempts if isinstance(each, _Written)]))
        return [each if isinstance(each, RowRefused) else next(encoded) for each in attempts]

    def written(self, example: Example) -> str:
        """The row as one text, before it is tokens. Raises as `encode` does."""
        return self._write(example).text

    def render(
        self, turns: list[Turn], example: Example, asks: bool = False, marks: bool = False
    ) -> tuple[str, list[Span]]:
        """What the template writes for `turns` with the tools and settings of `example`, and what it marks.

        `asks` adds what comes before an answer. Raises RowRefused.
        """
        tools = example.get("tools")
        text = self.template.with_tools if tools is not None and self.template.with_tools else self.template.text
        if text is None:
            raise RowRefused("it is a conversation among rows of plain text")
        # As `apply_chat_template` does: templates take a missing key, but write "None" for one that is None.
        kept = [{key: value for key, value in turn.items() if value is not None and key != "train"} for turn in turns]
        try:
            rendered, spans = render_jinja_template(
                conversations=[kept],
                tools=tools,
                chat_template=text,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=asks,
                **{**self._special_tokens, **example.get("chat_template_kwargs", {})},
            )
        except Exception as error:  # whatever the template's code runs into, it is about this row
            raise RowRefused(" ".join(str(error).split())[:500] or type(error).__name__) from error
        return rendered[0], spans[0] if marks else []

    def _write(self, example: Example) -> _Written:
        if "text" in example:
            return _Written(self._ended(example["text"]), adds_special_tokens=True)
        if "prompt" in example:
            text = example["prompt"] + self._ended(example["completion"])
            prompt = None if self.learns == "everything" else example["prompt"]
            return _Written(text, prompt, adds_special_tokens=True)
        turns: list[Turn] = example["messages"]
        answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        wanted = [place for place in answers if turns[place].get("train", True)]
        if not wanted and self.learns != "everything":
            return _Written(self.render(turns, example)[0], learnt=())
        if self.learns == "last":
            # What comes after the last answer has no effect on it, and some templates write an answer in another way
            # when more follows.
            before = turns[: wanted[-1]]
            text, _ = self.render(turns[: wanted[-1] + 1], example)
            return _Written(text, self.render(before, example, asks=True)[0] if before else "")
        if self.learns == "turns":
            text, spans = self.render(turns, example, marks=True)
            if len(wanted) < len(answers):
                owners = answers if len(spans) == len(answers) else self._owners(example, text, spans, answers)
                spans = [span for span, owner in zip(spans, owners, strict=True) if owner in wanted]
            return _Written(text, learnt=tuple(spans))
        text, _ = self.render(turns, example)
        unwanted = [place for place in answers if place not in wanted]
        if not unwanted:
            return _Written(text)
        return _Written(text, learnt=_around([self._stretch(example, text, place) for place in unwanted], len(text)))

    def _ended(self, text: str) -> str:
        return text if text.endswith(self._eos_text) else text + self._eos_text

    def _owners(self, example: Example, text: str, spans: list[Span], answers: list[int]) -> list[int]:
        """The assistant turn that each of the marked stretches is of, where a turn has several, or none.

        A turn begins where the text of those before it ends, or where both no longer agree: some templates write
        something behind the last turn. Raises BadSpec where that tells nothing.
        """
        turns = example["messages"]
        begins = [_common_length(self._rendered_part(turns[:place], example, asks=False), text) for place in answers]
        owners = [bisect_right(begins, begin) - 1 for begin, _ in spans]
        if begins != sorted(set(begins)) or -1 in owners:
            raise _cannot_leave_out()
        return [answers[owner] for owner in owners]

    def _stretch(self, example: Example, text: str, place: int) -> Span:
        """Where the text of the assistant turn at `place` is. Raises BadSpec where the template does not say."""
        turns = example["messages"]
        after = self._rendered_part(turns[: place + 1], example, asks=False)
        for asks in (True, False):
            before = self._rendered_part(turns[:place], example, asks)
            if text.startswith(after) and after.startswith(before):
                return len(before), len(after)
        raise _cannot_leave_out()

    def _rendered_part(self, turns: list[Turn], example: Example, asks: bool) -> str:
        try:
            return self.render(turns, example, asks)[0] if turns else ""
        except RowRefused as refusal:
            raise _cannot_leave_out() from refusal

    def _tokenized(self, rows: list[_Written]) -> list[Encoded]:
        encoded: list[Encoded | None] = [None] * len(rows)
        for special in (False, True):
            places = [place for place, row in enumerate(rows) if row.adds_special_tokens is special]
            with_spans = [place for place in places if rows[place].learnt]
            others = [place for place in places if not rows[place].learnt]
            if with_spans:
                ids, offsets = self._ids_and_offsets([rows[place].text for place in with_spans], special)
                for place, row_ids, row_offsets in zip(with_spans, ids, offsets, strict=True):
                    encoded[place] = Encoded(row_ids, _labels(row_ids, row_offsets, rows[place].learnt or ()))
            ids = self._ids([rows[place].text for place in others], special)
            prompts = iter(self._ids([text for place in others if (text := rows[place].prompt) is not None], special))
            for place, row_ids in zip(others, ids, strict=True):
                if rows[place].prompt is not None:
                    common = _common_length(next(prompts), row_ids)
                    labels = [IGNORED] * common + row_ids[common:]
                else:
                    labels = list(row_ids) if rows[place].learnt is None else [IGNORED] * len(row_ids)
                encoded[place] = Encoded(row_ids, labels)
        return [row for row in encoded if row is not None]

    def _ids(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        out = self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = out["input_ids"]
        return ids

    def _ids_and_offsets(self, texts: list[str], special: bool) -> tuple[list[list[int]], list[list[Span]]]:
        out = self.tokenizer(
            texts,
            add_special_tokens=special,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        return out["input_ids"], out["offset_mapping"]


def _labels(ids: list[int], offsets: list[Span], learnt: tuple[Span, ...]) -> list[int]:
    """Labels of the tokens that stand for any of the text in `learnt`; the stretches are in order."""
    ends = [end for _, end in offsets]
    labels = [IGNORED] * len(ids)
    for begin, end in learnt:
        if begin == end:
            continue
        token = bisect_right(ends, begin)
        # Some tokenizers say of a token for a space alone that it stands for the nothing behind it.
        while token < len(ids) and (offsets[token][0] < end or offsets[token] == (end, end)):
            labels[token] = ids[token]
            token += 1
    return labels


def _common_length(one: Sequence[int] | str, other: Sequence[int] | str) -> int:
    """Tokens, or characters, that both begin with."""
    if other[: len(one)] == one:
        return len(one)
    unequal = (place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(unequal, len(other))


def _around(unlearnt: list[Span], length: int) -> tuple[Span, ...]:
    """What is left of a text of `length` characters."""
    edges = [0, *(edge for span in unlearnt for edge in span), length]
    return tuple(span for span in zip(edges[::2], edges[1::2], strict=True) if span[0] < span[1])


def _cannot_leave_out() -> BadSpec:
    return BadSpec(
        "A row has an assistant turn that is not to be learnt (train: false or weight: 0), and the chat template does "
        "not let one tell where in the text that turn is.",
        "Take the flags out of the rows, or name a template with {% generation %} marks in data.chat_template_path, "
        "such as chatml.",
    )
