"""What a folder of merged weights needs to be a model: config, generation config, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from engine.spec import RunSpec
from engine.worker.loaded import ending_tokens

GENERATION_NAME = "generation_config.json"
PROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""How images and the like are prepared: the base's own, which no training of text changes."""


def finish(
    spec: RunSpec,
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write all but the weights into `folder`. `tokenizer` is the one saved with the adapter. Raises OSError."""
    vars(config).pop("quantization_config", None)
    config.dtype = str(dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_generation_config(spec, folder, config, tokenizer)
    for name in PROCESSOR_NAMES:
        if (path := _of_base(spec, name)) is not None:
            shutil.copyfile(path, folder / name)


def _write_generation_config(
    spec: RunSpec, folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The base's, with the token that ends a turn of the template that was trained."""
    path = _of_base(spec, GENERATION_NAME)
    raw: dict[str, Any]
    if path is not None:
        raw = json.loads(path.read_text(encoding="utf-8"))
    else:
        raw = GenerationConfig.from_model_config(config).to_diff_dict()
    if ends := ending_tokens(raw.get("eos_token_id"), tokenizer):
        raw["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if raw.get("pad_token_id") is None and tokenizer.pad_token_id is not None:
        raw["pad_token_id"] = tokenizer.pad_token_id
    (folder / GENERATION_NAME).write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _of_base(spec: RunSpec, name: str) -> Path | None:
    found = cached_file(
        spec.model.name_or_path,
        name,
        revision=spec.model.revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
