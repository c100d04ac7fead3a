"""How long the rows of a spec are in tokens, by TRL's own preparation of them. No model is loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
from transformers import AutoTokenizer
from trl import SFTTrainer

from engine.rows import load_rows
from engine.spec import RunSpec
from engine.worker.data import check_chat_template, to_dataset
from engine.worker.train import sft_config

SAMPLE = 4000
"""Rows that are tokenized, evenly over the data: about a second."""
IGNORED = -100
"""The label of a token that is not learnt."""


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The inspector's task `lengths` for the resolved `spec`: an `engine.memory.lengths.Lengths`.

    Raises InvalidSpec for bad rows, BadSpec without a chat template, OSError where no tokenizer is on this machine.
    """
    spec = RunSpec.model_validate(request["spec"])
    model = spec.model
    rows = load_rows(spec.data, spec.training.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        model.name_or_path, revision=model.revision or "main", trust_remote_code=False, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_chat_template(rows, tokenizer)
    count = len(rows.train)
    every = -(-count // SAMPLE)
    dataset = to_dataset(rows.train[::every], spec.data)
    columns = dataset.column_names
    learns_completion = spec.data.completion_only_loss
    if learns_completion is None:
        learns_completion = "prompt" in columns and "completion" in columns
    uncut = spec.data.model_copy(update={"max_length": None, "packing": False})
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        arguments = sft_config(spec.model_copy(update={"data": uncut}), Path(folder))
        # All that this method asks of its trainer.
        trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=learns_completion)
        prepared = SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, arguments, False, None, "train")
    tokens = sorted(map(len, prepared["input_ids"]))
    learnt = sum(label != IGNORED for labels in prepared["labels"] for label in labels)
    return {"tokens": tokens, "rows": count, "labelled_share": learnt / max(1, sum(tokens))}
