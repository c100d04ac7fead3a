"""Ids and labels are those that the installed TRL prepares of the same rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from engine.spec import DataSection
from engine.worker.data.encode import Encoder
from engine.worker.data.template import choose_template
from tests.engine.worker import chat_tokenizers

NAMES = ["chatml", "llama3", "qwen3", "gemma", "mistral"]
TEXTS = ["Hi there", "Hello 日本語 👨‍👩‍👧", "one two three\n\n  x", "ends<|im_end|>"]
CONVERSATIONS = [
    [("user", "Hi there"), ("assistant", "Hello you")],
    [("user", "Hi"), ("assistant", " Hello "), ("user", "one\ntwo"), ("assistant", "مرحبا see you")],
    [("user", "x"), ("assistant", "日本"), ("user", "y"), ("assistant", "three"), ("user", "z"), ("assistant", "Bye")],
]
MESSAGES = [[{"role": role, "content": content} for role, content in each] for each in CONVERSATIONS]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def by_trl(
    rows: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    assistant_only_loss: bool = False,
    learns_completion: bool = False,
) -> list[tuple[list[int], list[int]]]:
    """What TRL's own preparation makes of `rows`."""
    arguments = SFTConfig(
        str(folder),
        max_length=None,
        assistant_only_loss=assistant_only_loss,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    template = None
    if assistant_only_loss and not has_generation_markers(tokenizer.chat_template):
        template = get_training_chat_template(tokenizer)
    # All that this method asks of its trainer.
    trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=template, completion_only_loss=learns_completion)
    dataset = datasets.Dataset.from_list(rows)
    prepared = SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, arguments, False, None, "train")
    return list(zip(prepared["input_ids"], prepared["labels"], strict=True))


def ours(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, conversations: bool, **settings: Any
) -> list[tuple[list[int], list[int]]]:
    data = DataSection(train="rows.jsonl", **settings)
    encoder = Encoder(tokenizer, data, choose_template(tokenizer, data, conversations))
    return [(row.input_ids, row.labels) for row in encoder.encode_all(rows)]


@pytest.mark.parametrize("name", NAMES)
def test_text(name: str, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    rows = [{"text": text} for text in TEXTS]
    assert ours(rows, tokenizer, False) == by_trl(rows, tokenizer, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("completion_only", [None, False])
def test_prompt_and_completion(name: str, completion_only: bool | None, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    rows = [{"prompt": prompt, "completion": text} for prompt in ("Hi ", "see\n") for text in TEXTS]
    expected = by_trl(rows, tokenizer, tmp_path, learns_completion=completion_only is None)
    assert ours(rows, tokenizer, False, completion_only_loss=completion_only) == expected


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "gemma"])
def test_conversations_of_which_every_answer_is_learnt(name: str, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    rows = [{"messages": turns} for turns in MESSAGES]
    assert ours(rows, tokenizer, True) == by_trl(rows, tokenizer, tmp_path, assistant_only_loss=True)


@pytest.mark.parametrize("name", NAMES)
def test_conversations_of_which_the_last_answer_is_learnt(name: str, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    split = [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in MESSAGES]
    expected = by_trl(split, tokenizer, tmp_path, learns_completion=True)
    assert ours([{"messages": turns} for turns in MESSAGES], tokenizer, True, assistant_only_loss=False) == expected


@pytest.mark.parametrize("name", NAMES)
def test_conversations_of_which_everything_is_learnt(name: str, tmp_path: Path) -> None:
    tokenizer = getattr(chat_tokenizers, name)()
    rows = [{"messages": turns} for turns in MESSAGES]
    assert ours(rows, tokenizer, True, completion_only_loss=False) == by_trl(rows, tokenizer, tmp_path)


def test_padding_with_the_end_of_sequence_token_masks_no_end() -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = chat_tokenizers.base()
    tokenizer.pad_token = tokenizer.eos_token
    rows = ours([{"text": "Hi"}, {"text": "one two three"}], tokenizer, False)
    collator = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    batch = collator([{"input_ids": ids, "labels": labels} for ids, labels in rows])
    end = tokenizer.eos_token_id
    assert batch["input_ids"][0].tolist()[1:] == [end, end, end]
    assert batch["labels"][0].tolist() == [rows[0][0][0], end, -100, -100]
