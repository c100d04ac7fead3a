"""Named sets of values to start from: by what a run is for, and by the memory of the card it runs on.

A preset by card sets only what trades memory for time, so that it can follow one by goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from engine.spec import RunSpec

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Setting:
    """One value of a preset."""

    field: str
    """Full name, such as `lora.r`."""
    value: Any
    reason: str
    """Why, in one sentence."""


@dataclass(frozen=True)
class Preset:
    """A set of values that belong together."""

    name: str
    kind: Literal["goal", "card"]
    summary: str
    """What it is for."""
    settings: tuple[Setting, ...]


def differences(preset: Preset, spec: RunSpec) -> Iterator[tuple[Setting, Any]]:
    """The settings that `preset` would change in `spec`, each with the value that it has now."""
    for setting in preset.settings:
        section, name = setting.field.split(".")
        now = getattr(getattr(spec, section), name)
        if now != setting.value:
            yield setting, now


def _batch(size: int, accumulation: int, why: str) -> tuple[Setting, Setting]:
    return (
        Setting("training.per_device_train_batch_size", size, why),
        Setting(
            "training.gradient_accumulation_steps",
            accumulation,
            f"{size} x {accumulation} is an effective batch of {size * accumulation}, as on every other card.",
        ),
    )


CHECKPOINTING = Setting(
    "training.activation_checkpointing",
    True,
    "A fifth of the speed for most of the activations' memory.",
)
FOUR_BITS = Setting("quantization.load_in", "4bit", "Half a byte a weight leaves the memory to activations.")
DOUBLE_QUANT = Setting("quantization.bnb_4bit_use_double_quant", True, "0.37 bit a weight less, at no measured loss.")
EIGHT_BIT_STATE = Setting(
    "training.optim", "paged_adamw_8bit", "2 bytes of state a trained parameter, and spikes move to host memory."
)
AUTO_STATE = Setting("training.optim", "auto", "paged_adamw_32bit on a GPU: a spike moves to host memory.")

GOALS = (
    Preset(
        "quick try",
        "goal",
        "20 steps, to see that model, data and memory work",
        (
            Setting("training.max_steps", 20, "Enough for the loss to move and for memory to reach its peak."),
            Setting("lora.r", 8, "A small adapter is enough to see that it learns."),
            Setting("lora.lora_alpha", 16, "Twice r."),
            Setting("data.max_length", 512, "Short rows make quick steps."),
            Setting("training.eval_strategy", "no", "Nothing worth measuring is learnt in 20 steps."),
            Setting("training.eval_on_start", False, "No evaluation at all."),
            Setting("training.save_strategy", "no", "There is nothing to resume; the adapter is saved at the end."),
        ),
    ),
    Preset(
        "standard QLoRA",
        "goal",
        "4-bit NF4, attention adapters, 3 epochs: the guide's values",
        (
            FOUR_BITS,
            Setting("quantization.bnb_4bit_quant_type", "nf4", "More accurate than fp4 at the same size."),
            DOUBLE_QUANT,
            Setting("lora.r", 16, "The middle of the usual 8 to 32."),
            Setting("lora.lora_alpha", 32, "Twice r."),
            Setting("lora.lora_dropout", 0.05, "A little, against overfitting on small data."),
            Setting("lora.target_modules", ATTENTION, "The attention projections: the lean start."),
            Setting("training.learning_rate", 2e-4, "The QLoRA paper's rate for models up to 13B."),
            Setting("training.num_train_epochs", 3.0, "Usual for a few thousand rows."),
            Setting("training.max_steps", -1, "The epochs decide how long it trains."),
            *_batch(4, 4, "Fits 8B models with rows of 1,024 tokens on 16 GB."),
            CHECKPOINTING,
            Setting("training.optim", "auto", "paged_adamw_32bit on a GPU, adamw_torch on a CPU."),
        ),
    ),
    Preset(
        "all-linear",
        "goal",
        "adapters on every linear layer: best quality",
        (
            Setting(
                "lora.target_modules",
                "all-linear",
                "What matched full fine-tuning in the QLoRA paper, where attention alone did not.",
            ),
            Setting("lora.layers_to_transform", None, "All layers; peft takes a choice of layers only with names."),
            Setting("lora.rank_pattern", {}, "One rank for all of them."),
            Setting("lora.alpha_pattern", {}, "One scale for all of them."),
            Setting("lora.r", 16, "With all layers adapted, a higher rank gains little."),
            Setting("lora.lora_alpha", 32, "Twice r."),
        ),
    ),
    Preset(
        "long context",
        "goal",
        "rows of up to 8,192 tokens",
        (
            Setting("data.max_length", 8192, "Rows are cut only beyond this."),
            *_batch(1, 16, "Activations grow with the tokens in a batch: one long row is as much as eight short ones."),
            CHECKPOINTING,
            Setting(
                "training.train_sampling_strategy",
                "group_by_length",
                "Long rows meet long rows, so short ones are not padded to 8,192.",
            ),
            Setting("training.per_device_eval_batch_size", 1, "An evaluation meets the longest rows, too."),
        ),
    ),
)

CARDS = (
    Preset(
        "12 GB card",
        "card",
        "models up to 8B in 4 bits: RTX 3060, 4070",
        (
            FOUR_BITS,
            DOUBLE_QUANT,
            *_batch(1, 16, "8B weights take half of the card: one row at a time leaves room."),
            CHECKPOINTING,
            EIGHT_BIT_STATE,
            Setting("data.max_length", 1024, "A row of 1,024 tokens fits beside an 8B model."),
        ),
    ),
    Preset(
        "16 GB card",
        "card",
        "models up to 8B in 4 bits: RTX 4060 Ti 16GB, T4, A4000",
        (
            FOUR_BITS,
            DOUBLE_QUANT,
            *_batch(2, 8, "Two rows beside an 8B model, with some memory to spare."),
            CHECKPOINTING,
            AUTO_STATE,
            Setting("data.max_length", 1024, "Two rows of this length fit beside an 8B model."),
        ),
    ),
    Preset(
        "24 GB card",
        "card",
        "models up to 14B in 4 bits: RTX 3090, 4090, A10, L4",
        (
            FOUR_BITS,
            DOUBLE_QUANT,
            *_batch(4, 4, "Four rows keep such a card busy."),
            CHECKPOINTING,
            AUTO_STATE,
            Setting("data.max_length", 2048, "Four rows of this length fit beside a 14B model."),
        ),
    ),
    Preset(
        "48 GB card",
        "card",
        "models up to 32B in 4 bits: A6000, L40S",
        (
            FOUR_BITS,
            DOUBLE_QUANT,
            *_batch(4, 4, "Four long rows keep such a card busy."),
            CHECKPOINTING,
            AUTO_STATE,
            Setting("data.max_length", 4096, "Most rows are not cut; a 70B model needs 1,024 and one row at a time."),
        ),
    ),
    Preset(
        "80 GB card",
        "card",
        "models up to 70B in 4 bits: A100, H100",
        (
            FOUR_BITS,
            DOUBLE_QUANT,
            *_batch(8, 2, "Eight rows keep such a card busy; a 70B model takes one or two."),
            CHECKPOINTING,
            AUTO_STATE,
            Setting("data.max_length", 4096, "Most rows are not cut."),
        ),
    ),
)

PRESETS = (*GOALS, *CARDS)
