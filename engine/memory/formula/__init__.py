"""The formula tier: a closed form over the architecture, quick enough for every keystroke.

It follows one training step of TRL's SFTTrainer as installed (trl 1.16, transformers 5.23, bitsandbytes 0.50) through
the moments at which most memory can be held, and takes the highest. Terms are named after the tensors that PyTorch
keeps; bytes, not MiB. The trace is what it is checked against: tests/benchmarks/formula_accuracy.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.architecture import DTYPE_BYTES, LAYER_INDEX, Architecture, Target
from engine.memory.footprint import Category, Footprint, Phase
from engine.memory.formula.decoder import Decoder, Shape, decoder_of
from engine.memory.formula.layer_bytes import Batch, LayerBytes, Setting
from engine.memory.formula.loss_bytes import LOSS_COLUMNS, LossBytes, loss_bytes
from engine.memory.lengths import ASSUMED_TOKENS
from engine.spec import QuantizationSection, RunSpec
from engine.targets import Selection, selected, trainable_parameters

__all__ = [
    "CPU_LIBRARIES_BYTES",
    "LOSS_COLUMNS",
    "Shape",
    "adapter_number_bytes",
    "layer_bytes",
    "predict",
    "quantized_bytes",
    "row_length",
    "state_bytes",
    "weight_bytes",
]

LAYER = re.compile(LAYER_INDEX)
NF4_BLOCK = 64
"""Weights that share one scale (bitsandbytes functional.quantize_4bit, default blocksize)."""
DOUBLE_QUANT_BLOCK = 256
"""Scales that share one scale of their own with double quantization."""
BLOCK = 512
"""PyTorch rounds each block on CUDA up to so many bytes (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)."""
CUBLAS_WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
CUBLAS_WORKSPACE_HOPPER_BYTES = 4096 * 1024 * 8
"""PyTorch's own for each cuBLAS handle (aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize)."""
CUBLAS_HANDLES = 2
"""A process that trains has two: each thread takes one, and autograd runs backward on a thread of its own."""
PAGED_FROM = 100_000
"""Numbers from which bitsandbytes pages a parameter's state (optim/optimizer.py, get_state_buffer)."""
FLASH_FROM = (8, 0)
"""Compute capability from which PyTorch has flash attention kernels, for heads up to FLASH_WIDEST."""
FLASH_WIDEST = 256
FLASH_LIBRARIES = ("flash_attention_2", "flash_attention_3")
"""They take rows of several lengths as they are, without a mask."""

CPU_LIBRARIES_BYTES = 539 * 2**20
"""Resident memory of a trainer on the CPU before any model: imports, tokenizer, the check of targets (measured: torch
2.13, transformers 5.23, trl 1.16, peft 0.21, bitsandbytes 0.50)."""
FILE_BYTES = 2
"""Of a weight in a checkpoint: nearly all are in 16 bits."""

STATE_BYTES = {
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "ademamix": 12,
    "adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "paged_adamw_8bit": 2,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "paged_lion_32bit": 4,
    "paged_lion_8bit": 1,
    "ademamix_8bit": 3,
    "paged_ademamix_32bit": 12,
    "paged_ademamix_8bit": 3,
    "adafactor": 0,
    "rmsprop": 4,
    "sgd": 0,
}
"""Optimizer state in bytes a trained parameter; None is two moments in the parameter's own type (torch)."""


@dataclass(frozen=True)
class Trained:
    """What is trained, and what the optimizer keeps of it."""

    weights: int
    state: int
    """On the device whatever happens."""
    paged: int
    """On the device while there is room: not among what PyTorch allocates."""
    scratch: int
    """What the optimizer's step makes and frees."""
    before_layers: int
    """Of `weights`, what stands before the layers, an embedding that is trained in full: its gradient comes last."""
    head: int
    """Numbers of a head that is trained in full."""
    half_copies: int
    """Autocast's copies in 16 bits of adapters in float32: kept while its context is open, and by what is to come
    backward through them."""


@dataclass(frozen=True)
class Moment:
    """A point of a step at which memory can be highest; what is fixed is left out."""

    phase: Phase
    gradients: int = 0
    activations: int = 0
    logits: int = 0
    workspaces: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.activations + self.logits + self.workspaces


def predict(
    spec: RunSpec,
    architecture: Architecture,
    longest_row_tokens: int | None = None,
    on_cpu: bool | None = None,
    labelled_share: float = 1.0,
    capability: tuple[int, int] = FLASH_FROM,
) -> Footprint:
    """Peak memory of a step on rows as long as `max_length`, or as the longest row where that is known and shorter.

    `on_cpu` says what `hardware.device: auto` comes to; by default only a spec for the CPU is one. `labelled_share` is
    the part of the tokens that is learnt, `capability` the GPU's. Raises KeyError for a config without the usual sizes.
    """
    decoder, training = decoder_of(architecture), spec.training
    on_cpu = spec.hardware.device == "cpu" if on_cpu is None else on_cpu
    length = row_length(spec, longest_row_tokens)
    batch = _batch(spec, training.per_device_train_batch_size, length)
    evaluated = _batch(spec, training.per_device_eval_batch_size, length) if spec.has_eval else None
    layers = layer_bytes(spec, decoder, on_cpu, capability)
    chosen = selected(spec.lora, architecture)
    trained = _trained(spec, architecture, chosen, on_cpu)

    weights = weight_bytes(spec, architecture, BLOCK if not on_cpu else 1)
    workspace = 0
    if not on_cpu:
        hopper = capability[0] in (9, 10)
        workspace = CUBLAS_HANDLES * (CUBLAS_WORKSPACE_HOPPER_BYTES if hopper else CUBLAS_WORKSPACE_BYTES)
    fixed = weights + trained.weights + trained.state + workspace

    def loss(of: Batch) -> LossBytes:
        return loss_bytes(
            rows=of.rows,
            length=of.length,
            labelled_share=labelled_share,
            width=architecture.config.get("word_embed_proj_dim") or decoder.shape.hidden,
            vocabulary=decoder.shape.vocabulary,
            each=layers.last_each,
            compute=layers.setting.each,
            on_cpu=on_cpu,
            softcap=architecture.config.get("final_logit_softcapping") is not None,
        )

    moments = list(_training_moments(spec, architecture, chosen, layers, batch, trained, loss(batch)))
    if evaluated is not None:
        moments += _evaluation_moments(decoder, layers, evaluated, loss(evaluated))
    phases: dict[Phase, int] = {"load": weights + trained.weights}
    for moment in moments:
        phases[moment.phase] = max(phases.get(moment.phase, 0), fixed + moment.total)
    peak = max(moments, key=lambda moment: moment.total)
    categories: dict[Category, int] = {
        "weights": weights,
        "adapters": trained.weights,
        "gradients": peak.gradients,
        "optimizer": trained.state + trained.paged,
        "activations": peak.activations,
        "logits": peak.logits,
        "workspaces": peak.workspaces + workspace,
        "context": resident_beside_tensors(spec, architecture) if on_cpu else 0,
    }
    return Footprint(
        tier="formula",
        versions=architecture.versions,
        categories=categories,
        phases=phases,
        allocated_bytes=fixed + peak.total,
        device_bytes=sum(categories.values()),
        paged_bytes=trained.paged,
        not_modelled=(
            "heap that the C library keeps" if on_cpu else "the CUDA context, 0.1 to 0.6 GiB by card",
            "fragmentation",
        ),
    )


def resident_beside_tensors(spec: RunSpec, architecture: Architecture) -> int:
    """On the CPU: the libraries, and the pages of the weights' file that quantized weights were read from. The file is
    mapped (safetensors) as long as any weight of it, such as the embedding, is used as it is."""
    read = 0
    if spec.quantization.load_in != "none":
        quantized = (module for module in architecture.modules if module.quantized)
        read = sum(p.count for module in quantized for p in module.parameters if p.name == "weight")
    return CPU_LIBRARIES_BYTES + read * FILE_BYTES


def row_length(spec: RunSpec, longest_row_tokens: int | None) -> int:
    """Tokens in the longest row of a batch."""
    limits = [length for length in (spec.data.max_length, longest_row_tokens) if length is not None]
    length = min(limits, default=ASSUMED_TOKENS)
    return _up(length, spec.training.pad_to_multiple_of or 1)


def _batch(spec: RunSpec, rows: int, length: int) -> Batch:
    flash = spec.model.attn_implementation in FLASH_LIBRARIES
    if spec.data.packing:
        # TRL is then padding-free: its collator joins the rows of a batch into one (DataCollatorForLanguageModeling).
        return Batch(1, rows * length, masked=not flash)
    return Batch(rows, length, masked=rows > 1 and not flash)


def layer_bytes(spec: RunSpec, decoder: Decoder, on_cpu: bool, capability: tuple[int, int] = FLASH_FROM) -> LayerBytes:
    """What layers take in this run."""
    attention = spec.model.attn_implementation
    # Without a choice, transformers runs Gemma 2's capped scores in eager code, and Bloom has no other.
    eager = attention == "eager" or (attention is None and decoder.softcap) or decoder.only_eager
    return LayerBytes(
        decoder,
        Setting(
            on_cpu=on_cpu,
            flash=capability >= FLASH_FROM and decoder.shape.query_width // decoder.shape.heads <= FLASH_WIDEST,
            eager=eager,
            quantized=spec.quantization.load_in != "none" and decoder.largest_quantized > 0,
            adapters_in_float32=adapter_number_bytes(spec) == DTYPE_BYTES["float32"],
            each=4 if spec.quantization.bnb_4bit_compute_dtype == "float32" else 2,
            dropout=spec.lora.lora_dropout > 0,
            dora=spec.lora.use_dora,
        ),
    )


def _training_moments(
    spec: RunSpec,
    architecture: Architecture,
    chosen: Selection,
    layers: LayerBytes,
    batch: Batch,
    trained: Trained,
    loss: LossBytes,
) -> Iterator[Moment]:
    decoder, training = layers.decoder, spec.training
    count = decoder.shape.layers
    adapted, in_weights, unmasked = 0.0, 0, 0
    for name in chosen.targets:
        target = architecture.targets[name]
        adapted += layers.adapter_each_token(target, chosen.ranks.get(name, spec.lora.r))
        in_weights += layers.adapter_weights(target)
        if name in decoder.first_readers:
            unmasked += target.in_features
    in_adapters = int(adapted * batch.tokens) + in_weights
    in_layers = sum(layers.kept(layer, batch) * number for layer, number in decoder.layers.items())
    expanded = decoder.largest_quantized * layers.setting.each if layers.setting.quantized else 0
    stream = layers.stream(batch)
    largest = max(layers.kept(layer, batch) for layer in decoder.layers)
    mlp = max(layers.mlp_backward(layer, batch, expanded) for layer in decoder.layers)
    scores = max(
        layers.attention_backward(layer, batch) - layers.mlp(layer, batch) + stream for layer in decoder.layers
    )
    in_backward = max(mlp, scores)
    # The mask of padding is a tensor of booleans for all layers: [B, 1, S, S].
    mask = batch.rows * batch.length**2 if batch.masked else 0
    accumulated = trained.weights if training.gradient_accumulation_steps > 1 else 0

    in_layers_trained = trained.weights - (0 if accumulated else trained.before_layers)
    if training.activation_checkpointing:
        kept = count * stream + mask  # each layer's input
        at_loss, half_copies = kept + layers.final_norm(batch), 0
        one = largest + in_adapters // count
        last = Moment("backward", accumulated, kept + one + in_backward)
        first = Moment("backward", in_layers_trained, stream + mask + one + in_backward)
    else:
        # Below the first adapter nothing needs a gradient, and nothing is kept; nor for the input of that layer.
        first_layer = 0
        if not chosen.modules_to_save:
            first_layer = min((decoder.layer_of.get(name, 0) for name in chosen.targets), default=0)
            in_layers = in_layers * (count - first_layer) // count
            in_layers -= layers.kept_for_input(next(iter(decoder.layers)), batch)
            if layers.setting.dropout and not first_layer:  # a mask is kept for the input's gradient alone
                in_layers -= unmasked * layers.adapter_mask_each * batch.tokens
        kept = in_layers + in_adapters + mask
        at_loss, half_copies = kept + layers.final_norm(batch), trained.half_copies
        last = Moment("backward", accumulated, kept + in_backward)
        first = Moment("backward", in_layers_trained, largest + in_adapters // count + mask + in_backward)
    yield Moment("forward", accumulated, at_loss + loss.forward_activations + trained.half_copies, loss.forward_logits)
    logits = loss.backward_logits + 4 * trained.head  # grad_weight, in float32
    yield Moment("backward", accumulated, at_loss + loss.backward_activations + half_copies, logits)
    yield last
    yield first
    yield Moment("backward", trained.weights, stream)  # the embedding's own, behind all layers
    yield Moment("optimizer", trained.weights, workspaces=trained.scratch)


def _evaluation_moments(decoder: Decoder, layers: LayerBytes, batch: Batch, loss: LossBytes) -> Iterator[Moment]:
    """Nothing is kept for a backward."""
    expanded = decoder.largest_quantized * layers.setting.each if layers.setting.quantized else 0
    yield Moment("evaluation", 0, loss.forward_activations, loss.forward_logits)
    for layer in decoder.layers:
        held = max(layers.mlp_forward(layer, batch, expanded), layers.attention_forward(layer, batch))
        yield Moment("evaluation", 0, held)


def _trained(spec: RunSpec, architecture: Architecture, chosen: Selection, on_cpu: bool) -> Trained:
    each = adapter_number_bytes(spec)
    optim = "adamw_torch" if on_cpu else "paged_adamw_32bit"
    optim = optim if spec.training.optim == "auto" else spec.training.optim
    per_number = state_bytes(optim, each, on_cpu)
    numbers = trainable_parameters(spec.lora, architecture)
    sizes = list(_tensor_sizes(spec, architecture, chosen))
    paged = sum(size for size in sizes if size >= PAGED_FROM)
    paged = paged if optim.startswith("paged") and not on_cpu else 0
    scratch = 0
    if optim == "adamw_torch":
        # torch/optim/adamw.py: on CUDA one temporary for all parameters at once (_multi_tensor_adamw), on the CPU two
        # for one after the other (_single_tensor_adamw, denom).
        scratch = each * (2 * max(sizes, default=0) if on_cpu else numbers)
    embeddings = {name: sum(p.count for p in architecture.by_name[name].parameters) for name in chosen.modules_to_save}
    head = embeddings.pop(architecture.output_embedding or "", 0)
    return Trained(
        weights=numbers * each,
        state=(numbers - paged) * per_number,
        paged=paged * per_number,
        scratch=scratch,
        before_layers=each * sum(size for name, size in embeddings.items() if LAYER.search(name) is None),
        head=head,
        half_copies=numbers * 2 if each == DTYPE_BYTES["float32"] else 0,
    )


def _tensor_sizes(spec: RunSpec, architecture: Architecture, chosen: Selection) -> Iterator[int]:
    for name in chosen.targets:
        target: Target = architecture.targets[name]
        r = chosen.ranks.get(name, spec.lora.r) * target.experts
        yield r * target.in_features
        yield r * target.out_features
    for name in chosen.modules_to_save:
        for parameter in architecture.by_name[name].parameters:
            yield parameter.count


def adapter_number_bytes(spec: RunSpec) -> int:
    """Of one trained number: TRL casts the adapters of a quantized base to bfloat16, float16's loss scaler needs
    float32, and PEFT leaves others in float32."""
    return DTYPE_BYTES["bfloat16" if spec.quantization.load_in != "none" and not spec.training.fp16 else "float32"]


def state_bytes(optim: str, parameter_bytes: int, on_cpu: bool) -> int:
    """Optimizer state for one trained parameter. `auto` is what `engine.prepare` makes of it."""
    if optim == "auto":
        optim = "adamw_torch" if on_cpu else "paged_adamw_32bit"
    state = STATE_BYTES.get(optim, 8)
    return 2 * parameter_bytes if state is None else state


def weight_bytes(spec: RunSpec, architecture: Architecture, round_to: int = 1) -> int:
    """Bytes of the frozen weights as they are stored, each tensor rounded up to a multiple of `round_to`."""
    plain = DTYPE_BYTES[spec.model.dtype if spec.model.dtype != "auto" else "bfloat16"]
    stored = spec.quantization.load_in != "none"
    total = 0
    for (shape, quantized, float32), number in decoder_of(architecture).matrices.items():
        count = math.prod(shape)
        if quantized and stored:
            total += number * quantized_bytes(count, shape[0], spec.quantization, round_to)
        else:
            total += number * _up(count * (DTYPE_BYTES["float32"] if float32 else plain), round_to)
    return total


def quantized_bytes(count: int, rows: int, settings: QuantizationSection, round_to: int = 1) -> int:
    """Bytes of one quantized weight with its scales (bitsandbytes: QuantState in 4 bits, SCB in 8)."""
    if settings.load_in == "8bit":
        return _up(count, round_to) + _up(4 * rows, round_to)
    blocks = -(-count // NF4_BLOCK)
    packed, code = _up(count // 2, round_to), _up(16 * 4, round_to)
    if not settings.bnb_4bit_use_double_quant:
        return packed + _up(blocks * 4, round_to) + code
    # absmax in a byte each, absmax of those, their common offset; the 8-bit code is one tensor for all weights
    scales = _up(blocks, round_to) + _up(-(-blocks // DOUBLE_QUANT_BLOCK) * 4, round_to) + _up(4, round_to)
    return packed + scales + code


def _up(size_bytes: int, round_to: int) -> int:
    return -(-size_bytes // round_to) * round_to
