"""Rows in the shape that TRL trains on."""

from __future__ import annotations

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from engine.rows import Row, Rows
from engine.spec import DataSection
from engine.worker.failures import BadSpec


def to_dataset(rows: list[Row], data: DataSection) -> Dataset:
    """A dataset of `messages`, `prompt` and `completion`, or `text`.

    Conversations whose answer alone is learnt are split at the last turn: TRL masks a prompt, not an earlier turn.
    """
    if rows and "messages" in rows[0] and learns_last_turn_only(data):
        rows = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
    return Dataset.from_list(rows)


def learns_last_turn_only(data: DataSection) -> bool:
    """Whether, of a conversation, only the last turn is learnt."""
    return not data.assistant_only_loss and data.completion_only_loss is not False


def turns_left_out(rows: Rows, data: DataSection) -> int:
    """Assistant turns of the training rows that are context only, for want of `assistant_only_loss`."""
    if rows.format != "messages" or not learns_last_turn_only(data):
        return 0
    return sum(turn["role"] == "assistant" for row in rows.train for turn in row["messages"][:-1])


def check_chat_template(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises BadSpec if conversations are to be learnt by a model that has no chat template."""
    is_conversation = rows.format == "messages" or isinstance(rows.train[0].get("prompt"), list)
    if is_conversation and tokenizer.chat_template is None:
        raise BadSpec(
            "The rows are conversations, and this model's tokenizer has no chat template to write them with.",
            "Take the model's chat (instruct) variant, or give rows of prompt and completion as text.",
        )
