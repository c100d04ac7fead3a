"""What is learnt, and what it is measured on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.spec.section import Positive, Section, Share

SamplePrompt = Annotated[str, Field(min_length=1, max_length=20_000)]


class DataSection(Section):
    """What is learnt, and what it is measured on. Relative paths are relative to the spec's folder."""

    train: str | list[str]
    """Files (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow`, `.txt`, also gzipped or with zstd), a pattern
    such as `chats/*.jsonl`, a folder saved by `datasets`, or the id of a dataset on the hub."""

    eval: str | list[str] | None = None
    """Held-out rows, named like `train`. Falling training loss proves nothing; this does."""

    eval_fraction: Share = 0.0
    """Share of the training rows to hold out instead of a file. Chosen by a hash of each row and `training.seed`,
    so the same rows stay held out when the file grows."""

    name: str | None = None
    """Configuration of a dataset on the hub, such as `main`; files have none."""

    split: str = "train"
    """Split of a hub dataset, or of a saved folder that has several, to train on."""

    eval_split: str | None = None
    """Split of the same dataset to hold out instead of a file."""

    format: Literal["auto", "text", "prompt-completion", "messages", "alpaca", "sharegpt"] = "auto"
    """Shape of a row: `text`; `prompt` and `completion`; `messages` (role and content, as OpenAI writes them);
    `alpaca` (instruction, input, output); `sharegpt` (conversations of from and value). auto looks at the rows."""

    columns: dict[str, str] = {}
    """Renames columns to the names a format needs: `{prompt: question, completion: answer}`."""

    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be learnt from (no JSON, no answer, roles out of order ...): error names it and starts
    nothing, skip leaves it out and counts it."""

    chat_template_path: str | None = None
    """How conversations are written, in place of the model's own chat template: `chatml`, a family's name such as
    `llama3`, a file of Jinja, or a folder with a tokenizer. Saved with the adapter."""

    max_length: Positive | None = 1024
    """Longest row in tokens; longer ones are cut at the end, and told. Activations and logits grow with it,
    attention with its square under `eager`."""

    packing: bool = False
    """Joins short rows into blocks of max_length, so that no batch is padded. Faster on short rows; every batch is
    then as large as the largest, and steps are counted in blocks."""

    packing_strategy: Literal["bfd", "bfd_split"] = "bfd"
    """How rows are packed: `bfd` never splits a row, and cuts those longer than max_length; `bfd_split` splits these
    instead. Rows in a block never see each other."""

    completion_only_loss: bool | None = None
    """Learn the answer only (true), or the prompt as well (false). Unset: the answer only, where a row has one."""

    assistant_only_loss: bool | None = None
    """Learn every assistant turn of a conversation (true), or only the last (false). Unset: every turn, where the chat
    template can mark them. A turn with `train: false` or `weight: 0` is never learnt."""

    samples: Annotated[int, Field(ge=0, le=64)] = 0
    """After training, answer this many held-out prompts with the base and with the adapter, side by side."""

    samples_at_eval: bool = False
    """Answer these held-out prompts at each evaluation too, with the adapter as it is by then. Takes time: training
    waits meanwhile."""

    sample_prompts: Annotated[list[SamplePrompt], Field(max_length=64)] = []
    """Prompts of your own, answered at each evaluation with the adapter as it is by then, and after training with the
    base too. For conversations each is what a user says; for other rows the text that is to be continued."""

    samples_max_new_tokens: Positive = 128
    """Longest such answer in tokens."""


SAMPLE_SETTINGS = frozenset({"samples", "samples_at_eval", "sample_prompts", "samples_max_new_tokens"})
"""Settings of the data that say what is answered: nothing that is learnt or measured depends on them."""
