"""What does not go with FSDP, told before anything starts: (field, what is wrong, what to write instead)."""

from __future__ import annotations

from collections.abc import Iterator

from engine.spec import RunSpec

Words = tuple[str, str, str]
DDP = "write hardware.strategy: ddp"
SHAREABLE_OPTIMIZERS = ("auto", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd")
"""Those of torch that treat every number alike: a share of their state is their state of a share."""


def unshareable(spec: RunSpec) -> Iterator[Words]:
    """Settings that do not go with `hardware.strategy: fsdp`."""
    lora, training, quantization = spec.lora, spec.training, spec.quantization
    if spec.hardware.num_processes == 1:
        yield (
            "hardware.strategy",
            "fsdp shares the model among processes, and there is one",
            "write num_processes: 2 or more, or leave strategy unset",
        )
    if quantization.load_in == "8bit":
        yield "quantization.load_in", "fsdp shares floating-point tensors, and int8 weights are none", "write 4bit"
    elif quantization.load_in == "4bit":
        yield from _of_types(spec)
    if training.optim not in SHAREABLE_OPTIMIZERS:
        yield (
            "training.optim",
            f"fsdp divides the optimizer's state among the processes, and {_why_whole(training.optim)}",
            "write auto or adamw_torch, whose state takes that much less on each",
        )
    if training.fp16:
        yield "training.fp16", "float16's loss scaling is not there for a model that is shared", f"{DDP}, or bf16: true"
    if training.activation_offloading:
        yield (
            "training.activation_offloading",
            "it tells weights by their memory, and fsdp moves them: it would take gathered weights for activations",
            "leave it off; activation_checkpointing saves most of the same",
        )
    if lora.use_dora and quantization.load_in != "none":
        yield (
            "lora.use_dora",
            "DoRA reads a 4-bit weight past its layer, where fsdp leaves it without its scales",
            f"write false, or {DDP}",
        )
    if lora.bias != "none":
        yield "lora.bias", f"fsdp shares a layer as one, all frozen; {lora.bias} trains biases in it", "write none"
    if lora.modules_to_save:
        yield (
            "lora.modules_to_save",
            "fsdp shares a layer or the embeddings as one, all frozen, and these would be trained in it",
            f"leave it out, or {DDP}",
        )
    if lora.target_parameters:
        yield (
            "lora.target_parameters",
            "adapters on bare parameters are read past the modules that fsdp puts together for their forward",
            f"use target_modules, or {DDP}",
        )
    if spec.data.samples or spec.data.sample_prompts:
        yield (
            "data.samples" if spec.data.samples else "data.sample_prompts",
            "the process that answers would need the whole model, and fsdp leaves it a share",
            "leave it out, and ask afterwards: `loradeck chat` or `loradeck eval`",
        )


def _of_types(spec: RunSpec) -> Iterator[Words]:
    """One type for all that fsdp shares as one: packed weights, norms and embeddings."""
    settings, compute = spec.quantization, spec.quantization.bnb_4bit_compute_dtype
    if compute == "auto":
        return
    if settings.bnb_4bit_quant_storage not in (None, compute):
        yield (
            "quantization.bnb_4bit_quant_storage",
            f"fsdp needs 4-bit weights held in the type that is computed in, {compute}, not "
            f"{settings.bnb_4bit_quant_storage}",
            f"leave it unset, or write {compute}",
        )
    if spec.model.dtype not in ("auto", compute):
        yield (
            "model.dtype",
            f"fsdp shares a layer's norms with its 4-bit weights, held as {compute}, and these are {spec.model.dtype}",
            f"leave it unset, or write {compute}",
        )


def _why_whole(optim: str) -> str:
    if "8bit" in optim:
        return f"{optim} compresses it in blocks of 256 numbers that shares would cut"
    if optim.startswith("paged_"):
        return f"{optim} keeps it in memory of bitsandbytes' own, for a card that holds all of it"
    return f"{optim} does not treat every number by itself"
