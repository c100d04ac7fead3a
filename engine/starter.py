"""`loradeck new`: a spec to start from, every setting with its help beside it."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.spec import SPEC_VERSION, TOP_SETTINGS, RunSpec, Section

MAIN_SETTINGS = {
    "model": ["name_or_path"],
    "quantization": ["load_in", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"],
    "lora": ["r", "lora_alpha", "lora_dropout", "target_modules"],
    "data": ["train", "eval_fraction", "max_length", "samples"],
    "training": [
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_train_epochs",
        "learning_rate",
        "optim",
        "activation_checkpointing",
        "eval_strategy",
        "save_strategy",
    ],
    "hardware": ["device"],
}
"""The settings that a starter spec sets; the others follow as comments."""

WIDTH = 110


def starter_spec(model: str, train: str) -> str:
    """YAML text of a whole spec: common settings set, the rest commented out at their defaults."""
    chosen: dict[str, Any] = {
        "model.name_or_path": model,
        "data.train": train,
        "data.eval_fraction": 0.05,
        "data.samples": 3,
        "training.eval_strategy": "epoch",
    }
    lines = [
        "# A Loradeck run. Start it with: loradeck train THIS_FILE",
        "# Relative paths start at this file's folder. A line that begins with #| shows a setting at its default.",
        f"version: {SPEC_VERSION}",
    ]
    for section_name, info in RunSpec.model_fields.items():
        section = info.annotation
        if section_name in TOP_SETTINGS:
            lines += ["", *_comment(info, "# "), f"#| {section_name}: {_inline(info.default)}"]
            continue
        if not (isinstance(section, type) and issubclass(section, Section)):
            continue
        lines += ["", f"# {section.__doc__}", f"{section_name}:"]
        main = MAIN_SETTINGS[section_name]
        for name in [*main, *(name for name in section.model_fields if name not in main)]:
            field = section.model_fields[name]
            full_name = f"{section_name}.{name}"
            default = field.get_default(call_default_factory=True)
            value = chosen.get(full_name, default)
            assert value is not PydanticUndefined, full_name
            lines += _comment(field, "  # ")
            lines.append(f"  {'' if name in main else '#| '}{name}: {_inline(value)}")
    return "\n".join(lines) + "\n"


def _comment(field: FieldInfo, prefix: str) -> list[str]:
    """A setting's help as comment lines."""
    words = " ".join((field.description or "").split())
    return textwrap.wrap(words, WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
