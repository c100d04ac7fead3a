"""From a config to its model on the meta device: no weights are read, and no code of the model's own is run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from engine.architecture import installed_versions


class NotInspectable(Exception):
    """The config makes no model that can be fine-tuned here; the message says why, for a person."""


def read_config(folder: Path, name: str) -> PreTrainedConfig:
    """The config.json in `folder` as transformers reads it, never by the model's own code. Raises NotInspectable."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        transformers_version = installed_versions()["transformers"]
        if "auto_map" in raw:
            raise NotInspectable(
                f"{name} is made of Python code of its own (auto_map in its config.json), which is not run here, and "
                f"transformers {transformers_version} does not know model type {model_type!r}. It would take a model "
                "whose type transformers knows; with model.trust_remote_code: true in a spec a run executes that code, "
                "so read it first. Its module tree is not shown either way."
            )
        if model_type is None:
            raise NotInspectable(f"The config.json of {name} names no model_type. Fetch the model again.")
        raise NotInspectable(
            f"transformers {transformers_version} does not know model type {model_type!r}. A newer transformers may "
            "know it, if its spelling is right."
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise NotInspectable(f"transformers cannot read the config.json of {name}: {one_line(error)}") from error
    return config


def auto_class(config: PreTrainedConfig) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText where only that keeps the model's vision tower.

    Raises NotInspectable for encoders and encoder-decoders, which train on other rows with other losses.
    """
    name = config.model_type
    if config.is_encoder_decoder:
        raise NotInspectable(f"{name} is an encoder-decoder; only models that continue text (decoders) can be trained.")
    if hasattr(config, "vision_config") and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return AutoModelForImageTextToText
        raise NotInspectable(f"{name} does not continue text: transformers has no causal language model of it.")
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise NotInspectable(f"{name} is an encoder; only models that continue text (decoders) can be trained.")
    return AutoModelForCausalLM


def build_meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config` in bf16 on the meta device: shapes and ties as trained, without memory.

    `config` is left as it is. Raises NotInspectable, and what transformers raises for a config that it cannot build.
    """
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(
            copy.deepcopy(config), dtype=torch.bfloat16, trust_remote_code=False
        )
    return model


def one_line(error: Exception) -> str:
    """What `error` says, on one line of bearable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
