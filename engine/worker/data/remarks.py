"""What a sample of rows, as a model's tokenizer and template make them, says of a run to come."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.data.shapes import Example
from engine.spec import DataSection
from engine.worker.data.encode import IGNORED, Encoded, Encoder, RowRefused
from engine.worker.data.preview import ends_of
from engine.worker.data.shown import is_end_learnt
from engine.worker.data.template import TRAINING_TEMPLATE, Template

MOST_BYTES_SHARE = 0.5
"""Text of a tokenizer's own language has a tenth or less of its tokens for single bytes."""
MOST_UNKNOWN_SHARE = 0.001
KEPT_SHARE = 0.99
"""A longer `max_length` is proposed that leaves so many rows whole."""
LENGTH_STEP = 64

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Note:
    """Something to know, and what to do about it."""

    code: str
    message: str
    hint: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    """Field of the spec -> the value that sets it right."""


@dataclass(frozen=True)
class Sample:
    """Rows as they are learnt from, and their tokens; rows that the template refuses are left out of both."""

    encoder: Encoder
    data: DataSection
    examples: list[Example]
    rows: list[Encoded]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.encoder.tokenizer


def of_rows(count: int, of: int) -> str:
    return f"{count:,} of {of:,} rows looked at" if of > 1 else "the row looked at"


def _end_not_trained(sample: Sample) -> Iterator[Note]:
    ends = ends_of(sample.encoder)
    missing = [row for row in sample.rows if is_end_learnt(sample.tokenizer, row, ends, None) is False]
    if not missing:
        return
    last = next(label for label in reversed(missing[0].labels) if label != IGNORED)
    shown = sample.tokenizer.decode([last])
    conversations = sample.encoder.template.text is not None
    yield Note(
        "end-not-trained",
        f"In {of_rows(len(missing), len(sample.rows))} the last thing learnt is {shown!r}, which is no end of "
        "sequence: the model does not learn to stop.",
        "The chat template has to end an assistant's turn with such a token, inside its marks."
        if conversations
        else "The tokenizer has no end-of-sequence token; take another one.",
        {"data.chat_template_path": "chatml"} if conversations and sample.data.chat_template_path != "chatml" else {},
    )


def _prompt_too_long(sample: Sample) -> Iterator[Note]:
    most = sample.data.max_length
    if most is None:
        return
    begins = [next((place for place, label in enumerate(row.labels) if label != IGNORED), -1) for row in sample.rows]
    count = sum(begin >= most for begin in begins)
    if count:
        lengths = sorted(len(row.input_ids) for row in sample.rows)
        holds = lengths[min(len(lengths) - 1, math.ceil(KEPT_SHARE * len(lengths)) - 1)]
        holds = max(holds, min(begin for begin in begins if begin >= most) + 1)
        longer = math.ceil(holds / LENGTH_STEP) * LENGTH_STEP
        yield Note(
            "prompt-too-long",
            f"In {of_rows(count, len(sample.rows))} what is learnt begins behind max_length {most:,}: nothing is "
            "learnt from such a row.",
            f"{longer:,} tokens hold {100 * KEPT_SHARE:.0f} % of these rows; it takes more memory.",
            {"data.max_length": longer},
        )


def _turns_not_marked(sample: Sample) -> Iterator[Note]:
    if sample.encoder.learns_every_turn or sample.data.assistant_only_loss is False:
        return
    context = [sum(turn["role"] == "assistant" for turn in example["messages"]) - 1 for example in sample.examples]
    if any(count > 0 for count in context):
        yield Note(
            "turns-not-marked",
            f"The chat template does not mark assistant turns, so only the last one of a row is learnt: "
            f"{sum(context):,} earlier turns of the rows looked at are context only.",
            "Copy the template into a .jinja file, put {% generation %} and {% endgeneration %} around what an "
            "assistant's turn writes, and name it in data.chat_template_path. data.assistant_only_loss: false says "
            "that the last turn alone is meant.",
            {"data.assistant_only_loss": False},
        )


def _left_out_by_template(sample: Sample) -> Iterator[Note]:
    """Parts of conversations that a template takes, and writes nowhere."""
    if sample.encoder.template.text is None:
        return
    for name, parts_of in (("tools", _tools_in), ("tool calls", _calls_in), ("reasoning", _reasoning_in)):
        having = [(example, parts) for example in sample.examples if (parts := parts_of(example))]
        count = sum(_lacks(sample.encoder, example, parts) for example, parts in having)
        if count:
            yield Note(
                "left-out-by-template",
                f"The chat template leaves out the {name} of {of_rows(count, len(having))} that have any.",
                "The model is not shown what is left out. Another data.chat_template_path, such as chatml, writes it; "
                "some templates leave out the reasoning of earlier turns on purpose.",
            )


def _tools_in(example: Example) -> list[str]:
    tools = [tool.get("function", tool) for tool in example.get("tools") or [] if isinstance(tool, dict)]
    return [tool["name"] for tool in tools if isinstance(tool.get("name"), str)]


def _calls_in(example: Example) -> list[str]:
    return [call["function"]["name"] for turn in example["messages"] for call in turn.get("tool_calls") or []]


def _reasoning_in(example: Example) -> list[str]:
    texts = [str(turn.get("reasoning_content") or "").strip() for turn in example["messages"]]
    return [text for text in texts if text]


def _lacks(encoder: Encoder, example: Example, parts: list[str]) -> bool:
    text = encoder.written(example)
    return any(part not in text for part in parts)


def _double_bos(sample: Sample) -> Iterator[Note]:
    bos = sample.tokenizer.bos_token_id
    count = sum(row.input_ids[:2] == [bos, bos] for row in sample.rows) if bos is not None else 0
    if count:
        yield Note(
            "double-bos",
            f"{of_rows(count, len(sample.rows)).capitalize()} begin with {sample.tokenizer.bos_token} twice: the text "
            "has it, and the tokenizer adds it.",
            f"Take {sample.tokenizer.bos_token} out of the beginning of the rows.",
        )


def _mostly_bytes(sample: Sample) -> Iterator[Note]:
    single = _byte_ids(sample.tokenizer)
    tokens = [token for row in sample.rows for token in row.input_ids]
    share = sum(token in single for token in tokens) / max(1, len(tokens))
    if share > MOST_BYTES_SHARE:
        yield Note(
            "mostly-bytes",
            f"{100 * share:.0f} % of the tokens stand for single bytes: the vocabulary hardly knows this text.",
            "Rows get several times longer, and are learnt worse. Take a model whose tokenizer knows the language, "
            "and check that the tokenizer is the model's own.",
        )


def _byte_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens for one byte: of byte fallback, or of a byte-level vocabulary.

    Of the latter only letters and parts of characters count: digits and signs have tokens of their own everywhere.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids = {number for token, number in vocabulary.items() if BYTE_TOKEN.fullmatch(token)}
    if tokenizer.is_fast and "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder):
        ids |= {number for token, number in vocabulary.items() if len(token) == 1 and _is_letter_or_part(token)}
    return frozenset(ids)


def _is_letter_or_part(token: str) -> bool:
    # Byte-level vocabularies write printable ASCII as itself, and white space from U+0100 on (GPT-2's encoder).
    return token.isalpha() and token not in ("Ġ", "Ċ", "č", "ĉ")


def _unknown_tokens(sample: Sample) -> Iterator[Note]:
    unknown = sample.tokenizer.unk_token_id
    if unknown is None or unknown in (sample.tokenizer.eos_token_id, sample.tokenizer.pad_token_id):
        return
    total = sum(len(row.input_ids) for row in sample.rows)
    share = sum(row.input_ids.count(unknown) for row in sample.rows) / max(1, total)
    if share > MOST_UNKNOWN_SHARE:
        yield Note(
            "unknown-tokens",
            f"{share:.1%} of the tokens are {sample.tokenizer.unk_token}: text that the vocabulary does not have.",
            "The model cannot learn what it cannot see. Take a model whose tokenizer knows this text.",
        )


def _training_template(sample: Sample) -> Iterator[Note]:
    if sample.encoder.template.source == TRAINING_TEMPLATE:
        yield Note(
            "training-template",
            "The model's own chat template does not mark assistant turns; TRL's training template for it does, and is "
            f"used.{_difference(sample)}",
            "The adapter is saved with the model's own template.",
        )


def _difference(sample: Sample) -> str:
    """What is said where TRL's template does not write these rows as the model's own does."""
    encoder, tokenizer = sample.encoder, sample.tokenizer
    own = Encoder(tokenizer, sample.data, Template(tokenizer.get_chat_template(), "the model's own"))
    differing = sum(_text(own, example) != _text(encoder, example) for example in sample.examples)
    if not differing:
        return " It writes the same text."
    return (
        f" It writes {of_rows(differing, len(sample.rows))} in another way than the model's own, such as the "
        "thoughts of earlier turns."
    )


def _text(encoder: Encoder, example: Example) -> str | None:
    try:
        return encoder.render(example["messages"], example)[0]
    except RowRefused:
        return None


def _pad_is_eos(sample: Sample) -> Iterator[Note]:
    if sample.tokenizer.pad_token_id is not None and sample.tokenizer.pad_token_id == sample.tokenizer.eos_token_id:
        yield Note(
            "pad-is-eos",
            f"Rows are padded with the end-of-sequence token, {sample.tokenizer.eos_token}. The end is learnt all the "
            "same: labels are made before padding, and padding is masked by its place, not by its token.",
        )


REMARKS: Sequence[Callable[[Sample], Iterator[Note]]] = (
    _end_not_trained,
    _prompt_too_long,
    _unknown_tokens,
    _mostly_bytes,
    _turns_not_marked,
    _left_out_by_template,
    _double_bos,
    _training_template,
    _pad_is_eos,
)
