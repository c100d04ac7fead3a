"""The inspector's task `data_notes`: what a person should know of tokenizer, template and rows before a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.checks import InvalidSpec
from engine.data import client
from engine.data.shapes import Example, NotRecognised, is_conversation
from engine.data.sources import sources_of
from engine.spec import RunSpec
from engine.worker.data.encode import Encoded, Encoder, RowRefused
from engine.worker.data.preview import TokenizerUnreadable, encoder_of, head, recognised, tokenizer_of, with_example
from engine.worker.data.remarks import REMARKS, Note, Sample, of_rows
from engine.worker.data.shown import end_ids, is_end_learnt
from engine.worker.data.store import open_rows
from engine.worker.data.tables import SourceError
from engine.worker.data.template import choose_template, families
from engine.worker.failures import BadSpec
from engine.worker.meta import NotInspectable

SAMPLE_ROWS = 200
"""Rows that are looked at, evenly over the data where it was scanned, else its first ones."""

FAMILY_OF_TYPE = {
    "cohere": "cohere",
    "cohere2": "cohere2",
    "deepseek_v3": "deepseekv3",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "glm4_moe": "glm4moe",
    "gpt_oss": "gptoss",
    "lfm2": "lfm2",
    "llama": "llama3",
    "phi3": "phi3",
    "qwen2": "qwen2_5",
    "qwen3": "qwen3",
}
"""`model_type` of a config.json -> the family's name among TRL's templates. It is offered only where the vocabulary has
the tokens that the template ends a turn with: not every Llama is a Llama 3."""


def notes(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers for the resolved `spec`; the most serious come first.

    Raises NotInspectable where the rows or the tokenizer cannot be read.
    """
    spec = RunSpec.model_validate(request["spec"])
    try:
        examples = sample_of(spec)
        return [asdict(note) for note in notes_of(spec, examples)] if examples else []
    except InvalidSpec as error:
        raise NotInspectable("; ".join(map(str, error.problems))) from error
    except (NotRecognised, SourceError, TokenizerUnreadable, OSError) as error:
        raise NotInspectable(str(error)) from error


def sample_of(spec: RunSpec) -> list[Example]:
    """Good training rows. Raises InvalidSpec, NotRecognised, SourceError and OSError."""
    report = client.kept_report(spec.data, spec.training.seed)
    if report is not None:
        view = open_rows(report, spec.data, spec.training.seed).train
        every = max(1, math.ceil(len(view) / SAMPLE_ROWS))
        return [view[index] for index in range(0, len(view), every)]
    sources, _ = sources_of(spec.data)
    shape = recognised(sources, spec.data)
    rows = (with_example(row, shape, spec.data.columns) for row in head(sources)[:SAMPLE_ROWS])
    return [row.example for row in rows if row.example is not None]


def notes_of(spec: RunSpec, examples: list[Example]) -> Iterator[Note]:
    """What is to be said of `examples`. Raises TokenizerUnreadable."""
    conversations = is_conversation(examples[0])
    try:
        encoder = encoder_of(spec, conversations)
    except BadSpec as error:
        yield from _about_no_template(spec, error)
        return
    try:
        attempts = encoder.attempt_all(examples)
    except BadSpec as error:
        yield Note("turn-not-told-apart", str(error), error.hint)
        return
    written = [(example, row) for example, row in zip(examples, attempts, strict=True) if isinstance(row, Encoded)]
    refusals = [str(row) for row in attempts if isinstance(row, RowRefused)]
    if refusals:
        yield Note(
            "rows-refused",
            f"The chat template does not take {of_rows(len(refusals), len(examples))}: {refusals[0]}",
            "Correct these rows, or leave them out with data.on_bad_row: skip.",
            {} if spec.data.on_bad_row == "skip" else {"data.on_bad_row": "skip"},
        )
    if not written:
        return
    sample = Sample(encoder, spec.data, *map(list, zip(*written, strict=True)))
    for each in REMARKS:
        yield from each(sample)


def _about_no_template(spec: RunSpec, error: BadSpec) -> Iterator[Note]:
    data, tokenizer = spec.data, tokenizer_of(spec)
    if data.chat_template_path is not None:
        yield Note("no-such-template", str(error), error.hint, {"data.chat_template_path": None})
        return
    if tokenizer.chat_template is not None:
        yield Note("turns-not-marked", str(error), error.hint, {"data.assistant_only_loss": False})
        return
    yield Note(
        "no-chat-template",
        f"{error} ChatML writes <|im_start|>role, the text, <|im_end|>; the model then answers in that form only.",
        "It learns the form itself from these rows, so a few hundred are needed. The template is saved with the "
        "adapter.",
        {"data.chat_template_path": "chatml"},
    )
    if (family := _family_of(spec, tokenizer)) is not None:
        yield Note(
            "no-chat-template",
            f"The chat models of this family write conversations with the template {family}, whose marks are tokens "
            "of this vocabulary.",
            "Programs that run the family's chat models then run this one. The template is saved with the adapter.",
            {"data.chat_template_path": family},
        )


def _family_of(spec: RunSpec, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The name of the template of the model's family, where its vocabulary has the tokens for it."""
    try:
        config = json.loads((Path(spec.model.name_or_path) / "config.json").read_text(encoding="utf-8"))
        family = FAMILY_OF_TYPE.get(config["model_type"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if family is None or family not in families():
        return None
    named = spec.data.model_copy(update={"chat_template_path": family})
    try:
        encoder = Encoder(tokenizer, named, choose_template(tokenizer, named, conversations=True))
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}]
        row = encoder.encode({"messages": turns})
    except (BadSpec, RowRefused):
        return None
    return family if is_end_learnt(tokenizer, row, end_ids(encoder), None) else None
