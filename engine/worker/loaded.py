"""A run's model as it answers: the base of its spec, quantized as it was trained on, and adapters of it on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, load_peft_weights
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import load_model

PACKED_ROWS = 32
"""bitsandbytes packs this many outputs of a layer together (functional.py, `_convert_weight_packed_for_cpu`)."""


def load_base(spec: RunSpec) -> PreTrainedModel:
    """The base model of `spec` for inference, on the spec's device. Raises what `load_model` does, and BadSpec where
    it is gone."""
    name = spec.model.name_or_path
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise BadSpec(f"The base model is gone: {name} is no folder.", "Put it back where the run found it.")
    model = load_model(spec)
    model.eval()
    model.config.use_cache = True
    return model


def load_tokenizer_of(spec: RunSpec, adapter: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with `adapter`, with the chat template that it was trained by."""
    tokenizer = AutoTokenizer.from_pretrained(
        adapter, trust_remote_code=spec.model.trust_remote_code, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def put_on(model: PreTrainedModel | PeftModel, adapter: Path, name: str = "default") -> PeftModel:
    """`model` with the adapter of the folder `adapter`, frozen, in the type in which it was trained.

    A second adapter is added beside the first; `PeftModel.set_adapter` chooses. Raises BadSpec where the folder holds
    no adapter, a broken one, or one of another base.
    """
    _refuse_other_base(model, adapter)
    try:
        weights = load_peft_weights(str(adapter), device="cpu")
    except Exception as error:  # safetensors raises classes of its own for a file that is cut or garbled
        raise BadSpec(f"The adapter in {adapter} cannot be read: {error}.", "Take another checkpoint.") from error
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=False)
            adapted = model
        else:
            adapted = PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        if "size mismatch" in text or "Target modules" in text or "not found in the base model" in text:
            raise BadSpec(
                f"The adapter in {adapter} does not fit the base model: {text[:300]}",
                "It was trained on another model.",
            ) from error
        raise
    # PEFT makes fp32 of what was trained in 16 bits; both are exact, but one is what training and evaluation saw.
    trained_in = {tensor.dtype for tensor in weights.values()}
    if len(trained_in) == 1:
        for full_name, parameter in adapted.named_parameters():
            if f".{name}." in f"{full_name}.":
                parameter.data = parameter.data.to(next(iter(trained_in)))
    adapted.eval()
    return adapted


def _refuse_other_base(model: PreTrainedModel | PeftModel, adapter: Path) -> None:
    try:
        config = json.loads((adapter / "adapter_config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadSpec(f"There is no adapter in {adapter}: {error}.") from error
    if config.get("peft_type") != "LORA":
        raise BadSpec(f"The adapter in {adapter} is {config.get('peft_type')}, and only LoRA is known here.")


def answer_fast(model: torch.nn.Module) -> None:
    """Let bitsandbytes repack its 4-bit weights for inference on the CPU. The model must not be trained afterwards, and
    as the scales become 16-bit its losses move in the third digit: measure them before.

    See `engine.worker.model.keep_trainable_on_cpu`.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            fits = (
                state is not None
                and module.out_features % PACKED_ROWS == 0
                and module.in_features % state.blocksize == 0
            )
            module.support_avx512bf16_for_cpu = fits and has_avx512bf16()


def generation_ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the model's own and the tokenizer's, which a chat template may have made another."""
    own = model.generation_config.eos_token_id
    ends = [] if own is None else [own] if isinstance(own, int) else list(own)
    return sorted({*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
