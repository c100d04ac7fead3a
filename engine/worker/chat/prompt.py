"""What a model reads of a conversation: written by the chat template it was trained by, or its plain text."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.checks import InvalidSpec
from engine.data import client
from engine.data.shapes import NotRecognised, is_conversation
from engine.data.sources import sources_of
from engine.spec import RunSpec
from engine.worker.data.hub import SourceError
from engine.worker.data.notes import sample_of
from engine.worker.failures import BadSpec

OF_CONVERSATIONS = ("messages", "alpaca", "sharegpt")
"""Values of `data.format`."""


def learnt_plain_text(spec: RunSpec) -> bool:
    """Whether the run's rows were texts, around which nothing was written. False where the rows are gone."""
    if spec.data.format != "auto":
        if spec.data.format in OF_CONVERSATIONS:
            return False
        if spec.data.format == "text":
            return True
    try:
        if client.kept_report(spec.data, spec.training.seed) is None:
            train, _ = sources_of(spec.data)
            if any(source.kind == "hub" for source in train):
                return False  # who wants to chat does not wait for rows from there
        examples = sample_of(spec)
    except (InvalidSpec, NotRecognised, SourceError, OSError):
        return False
    return bool(examples) and not is_conversation(examples[0])


def tokens_of(conversation: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, as_plain_text: bool) -> list[int]:
    """The ids that the answer goes on from. Raises BadSpec for a conversation that the chat template does not take, or
    in which nothing is said."""
    if as_plain_text:
        text = "".join(str(turn["content"]) for turn in conversation)
        ids = _ids(tokenizer, text, adds_special_tokens=True)
        if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
            ids.pop()  # some tokenizers end every text, and this one goes on
    else:
        ids = _ids(tokenizer, _written(conversation, tokenizer), adds_special_tokens=False)
    if not ids:
        raise BadSpec("There is nothing to go on from.", "Write some text first.")
    return ids


def room_for_answer(tokens: int, context_tokens: int | None, max_new_tokens: int) -> int:
    """How many tokens an answer to so many can have. Raises BadSpec where the context is full."""
    if context_tokens is None:
        return max_new_tokens
    if tokens >= context_tokens:
        raise BadSpec(
            f"The conversation has {tokens:,} tokens, and this model takes {context_tokens:,} with its answer.",
            "Begin a new one, or leave turns out.",
        )
    return min(max_new_tokens, context_tokens - tokens)


def _written(conversation: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text: str = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever the template's code runs into, it is about this conversation
        words = " ".join(str(error).split())[:500] or type(error).__name__
        has_system = any(turn["role"] == "system" for turn in conversation)
        hint = "Some templates take no system prompt: leave it out." if has_system else ""
        raise BadSpec(f"The chat template does not take this conversation: {words}.", hint) from error
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, adds_special_tokens: bool) -> list[int]:
    # Halves of surrogate pairs, as a terminal in another encoding can leave them, are no text that a tokenizer takes.
    text = text.encode("utf-8", "replace").decode("utf-8")
    ids: list[int] = tokenizer(text, add_special_tokens=adds_special_tokens, verbose=False)["input_ids"]
    return ids
