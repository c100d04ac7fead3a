"""The base model as a spec wants it: quantized by bitsandbytes, weights from safetensors only."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import LoraConfig
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from engine.spec import LoraSection, RunSpec
from engine.worker.failures import BadSpec
from engine.worker.meta import NotInspectable, auto_class
from engine.worker.oom import shortfall

HEADS = ["lm_head", "embed_out"]
"""Names that model families give their output embedding."""


def load_tokenizer(spec: RunSpec) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with a padding token."""
    model = spec.model
    tokenizer = AutoTokenizer.from_pretrained(
        model.name_or_path, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(spec: RunSpec, to_share: bool = False) -> PreTrainedModel:
    """The frozen base model on the spec's device; `to_share` among processes in host memory, where FSDP takes it from
    unit by unit: no GPU ever holds more than its share. Raises BadSpec if it has no safetensors weights."""
    model = spec.model
    device = torch_device(spec)
    try:
        base = model_class(spec).from_pretrained(
            model.name_or_path,
            revision=model.revision or "main",
            dtype=getattr(torch, model.dtype),
            quantization_config=quantization_config(spec),
            device_map={"": "cpu" if to_share else device},
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # the other format is pickle, which runs code when it is read
        )
    except OSError as error:
        if "safetensors" in str(error) and shortfall(error) is None:
            raise BadSpec(
                f"{model.name_or_path} has no safetensors weights, and pickle files are not read",
                "Load it where you trust it, and write it again with `save_pretrained`.",
            ) from error
        raise
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise BadSpec(
                f"{model.name_or_path} needs Python code that comes with it, which is not run.",
                "Read that code; if you trust it, write model.trust_remote_code: true.",
            ) from error
        if "does not recognize this architecture" in str(error):
            raise BadSpec(str(error).splitlines()[0], "A newer transformers may know it; `loradeck doctor`.") from error
        raise
    if to_share:
        vars(base).pop("hf_device_map", None)  # accelerate takes it for where a quantized model has to stay
    if spec.hardware.device == "cpu":
        keep_trainable_on_cpu(base)
        give_freed_heap_back()
    return base


def model_class(spec: RunSpec) -> Any:
    """The transformers class that trains this model. Raises BadSpec for encoders and the like."""
    model = spec.model
    if model.trust_remote_code:
        return AutoModelForCausalLM  # the model's own code says what that is
    try:
        return auto_class(AutoConfig.from_pretrained(model.name_or_path, revision=model.revision or "main"))
    except NotInspectable as error:
        raise BadSpec(str(error)) from error


def torch_device(spec: RunSpec) -> str:
    """`cpu`, or this process's GPU as torch counts those that the launcher shows it: `cuda:0` but among several
    processes. Raises BadSpec where torch cannot use it."""
    if spec.hardware.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise BadSpec(
            f"This machine has {spec.hardware.device}, but torch {torch.__version__} ({built}) cannot use it.",
            "Install a CUDA build of torch that fits the driver (`loradeck doctor` says which), or write device: cpu.",
        )
    return f"cuda:{torch.cuda.current_device()}"


def quantization_config(spec: RunSpec) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings, or None for weights in 16 or 32 bits."""
    settings = spec.quantization
    # A list of one's own replaces transformers' default, which keeps the head in 16 bits: keep it there all the same.
    skipped = None if settings.llm_int8_skip_modules is None else [*settings.llm_int8_skip_modules, *HEADS]
    if settings.load_in == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=settings.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=getattr(torch, settings.bnb_4bit_compute_dtype),
            bnb_4bit_quant_storage=getattr(torch, settings.storage_type),
            llm_int8_skip_modules=skipped,
        )
    if settings.load_in == "8bit":
        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=settings.llm_int8_threshold,
            llm_int8_skip_modules=skipped,
        )
    return None


def lora_config(lora: LoraSection) -> LoraConfig:
    """PEFT's form of the adapters. No `target_modules` means none: PEFT would take its own choice for the family."""
    return LoraConfig(task_type="CAUSAL_LM", **{**lora.model_dump(), "target_modules": lora.target_modules or []})


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether bitsandbytes holds any weight: it replaces exactly `nn.Linear`, which some families subclass."""
    return any(isinstance(module, (Linear4bit, Linear8bitLt)) for module in model.modules())


def give_freed_heap_back() -> None:
    """Return what loading has freed to the system: a fifth of a GiB for a small model, which glibc would keep."""
    with suppress(OSError, AttributeError):  # another C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def keep_trainable_on_cpu(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first evaluation.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a `Linear4bit` for inference in its first forward outside
    training (nn/modules.py, `Linear4bit.forward`), and training after it runs through `gemv_4bit`, which has no
    gradient: no error, early layers just learn a fraction of what they should.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
