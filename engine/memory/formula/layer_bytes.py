"""What one decoder layer keeps for backward, and what its forward and backward hold for a moment.

Every term is a tensor of the installed code, seen in traces: transformers' modeling files and sdpa_attention.py, peft's
tuners/lora, bitsandbytes' autograd functions. T is tokens in a batch, S a row's length, h the hidden size, d the bytes
of an activation.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.architecture import Target
from engine.memory.formula.decoder import Decoder, Layer

FLOAT32 = 4


@dataclass(frozen=True)
class Setting:
    """How the layers of a run compute."""

    on_cpu: bool
    flash: bool
    """Whether the GPU has flash attention kernels."""
    eager: bool
    quantized: bool
    """Whether bitsandbytes holds any weight."""
    adapters_in_float32: bool
    each: int
    """Bytes of an activation: d."""
    dropout: bool
    dora: bool


@dataclass(frozen=True)
class Batch:
    """Rows of the same length, padding included."""

    rows: int
    length: int
    masked: bool
    """Whether attention needs a mask as a tensor: rows of several lengths, or packed ones."""

    @property
    def tokens(self) -> int:
        return self.rows * self.length


class LayerBytes:
    """Bytes of a decoder's layers in one setting."""

    def __init__(self, decoder: Decoder, setting: Setting) -> None:
        self.decoder, self.setting = decoder, setting
        # CUDA's autocast runs layer_norm in float32, and bitsandbytes answers in the type that it is given: where it
        # holds the matrices, what flows between layers and through the MLP is then float32.
        wide = decoder.layer_norm and not setting.on_cpu and setting.quantized
        self.stream_each = FLOAT32 if wide else setting.each
        # The norm before the head answers in float32 either way.
        self.last_each = FLOAT32 if decoder.layer_norm and not setting.on_cpu else setting.each
        self.gelu_each = FLOAT32 if decoder.written_out_gelu and not setting.on_cpu else self.stream_each

    def stream(self, batch: Batch) -> int:
        """What one layer hands to the next: the input that checkpointing keeps."""
        return self.stream_each * self.decoder.shape.hidden * batch.tokens

    def final_norm(self, batch: Batch) -> int:
        """What the norm before the head keeps."""
        return self._norm_each * self.decoder.shape.hidden * batch.tokens

    def kept_for_input(self, layer: Layer, batch: Batch) -> int:
        """What the first layer keeps only where its input, the embedding, needs a gradient: its first norm's input;
        where attention and MLP read the same, the MLP as well."""
        if self.decoder.parallel:
            return self._norms(layer, batch) + self.mlp(layer, batch)
        return self.final_norm(batch)

    def kept(self, layer: Layer, batch: Batch) -> int:
        """For backward, adapters left out."""
        return self._norms(layer, batch) + self.attention(layer, batch) + self.mlp(layer, batch)

    @property
    def _norm_each(self) -> int:
        # RMSNorm casts its input to float32 itself; LayerNorm keeps its input, which autocast casts on CUDA.
        return self.setting.each if self.decoder.layer_norm and self.setting.on_cpu else FLOAT32

    def _norms(self, layer: Layer, batch: Batch) -> int:
        width = layer.norms
        if self.decoder.parallel and self.decoder.layer_norm and self.stream_each == self._norm_each:
            width = min(width, self.decoder.shape.hidden)  # both norms keep the same tensor, with no cast between
        masks = 2 * self._mask_each(self.setting.each) * self.decoder.shape.hidden if self.decoder.hidden_dropout else 0
        return (self._norm_each * width + masks) * batch.tokens

    def _mask_each(self, each: int) -> int:
        """Of a dropout's mask: a byte on CUDA, a number of the input's type on the CPU (native/Dropout.cpp)."""
        return each if self.setting.on_cpu else 1

    # ---- attention

    def _has_mask(self, layer: Layer, batch: Batch) -> bool:
        window = self.decoder.window
        return batch.masked or (layer.slides and window is not None and batch.length > window)

    def _repeats_keys(self, layer: Layer, batch: Batch) -> bool:
        """Whether keys and values are copied for every query head: always by eager code, by sdpa with a mask
        (sdpa_attention.py, use_gqa_in_sdpa), and before the memory-efficient kernel."""
        setting = self.setting
        if self.decoder.shape.key_heads == 1:
            return False  # a single head is repeated by a view
        if setting.eager or self._has_mask(layer, batch):
            return True
        return not setting.on_cpu and not setting.flash

    def attention(self, layer: Layer, batch: Batch) -> int:
        """Queries, keys, values, the output, and what the kernel keeps of the scores."""
        shape, setting = self.decoder.shape, self.setting
        d, query, key = setting.each, shape.query_width, shape.key_width
        grouped = key < query
        repeated = grouped and self._repeats_keys(layer, batch)
        width = 2 * query + (2 * query if repeated else 2 * key)
        if self.decoder.fused_values and not repeated and self.stream_each == d:
            width += query + key  # the values are a view of the fused output, all of which stays
        squares = shape.heads * batch.rows * batch.length**2
        if setting.eager:
            # The softmax, and in 16 bits its copy or what dropout leaves of it; a cap keeps its tanh, dropout its mask.
            # Code that asks softmax for no type gets float32 from CUDA's autocast alone.
            softmax = d if setting.on_cpu and self.decoder.untyped_softmax else FLOAT32
            scores = softmax + (d if softmax != d or self.decoder.attention_dropout else 0)
            scores += d if self.decoder.softcap else 0
            scores += self._mask_each(d) if self.decoder.attention_dropout else 0
            return d * width * batch.tokens + scores * squares
        if setting.on_cpu and self.decoder.attention_dropout:
            # native/transformers/attention.cpp: with dropout the CPU takes the plain code, in float32. It keeps
            # softmax, dropout's mask and output, and queries, keys and values as they went in.
            return (FLOAT32 * (width - query) + d * query) * batch.tokens + 3 * FLOAT32 * squares
        # The mask is made a bias for each layer anew: [B, 1, S, S].
        mask = d * batch.rows * batch.length**2 if self._has_mask(layer, batch) else 0
        return (d * width + FLOAT32 * shape.heads) * batch.tokens + mask

    def attention_backward(self, layer: Layer, batch: Batch) -> int:
        """Beside what is kept, while the scores' gradient is computed."""
        shape, setting = self.decoder.shape, self.setting
        d = setting.each
        squares = shape.heads * batch.rows * batch.length**2
        if setting.eager or (setting.on_cpu and self.decoder.attention_dropout):
            # The gradient that comes in, as float32, softmax_backward's answer, and on CUDA `grad * output` between
            # (native/cuda/SoftMax.cu); of what is kept, the 16-bit copy and what came after are gone.
            gone = d if setting.eager else 2 * FLOAT32
            return (FLOAT32 * (2 if setting.on_cpu else 3) - gone) * squares
        # dO, dQ, dK, dV; the float32 accumulator of dQ (flash_api.cpp mha_bwd, kernel_backward.h)
        return (5 * d + (0 if setting.on_cpu else FLOAT32)) * shape.query_width * batch.tokens

    def attention_forward(self, layer: Layer, batch: Batch) -> int:
        """Without gradients."""
        d, shape = self.setting.each, self.decoder.shape
        squares = shape.heads * batch.rows * batch.length**2
        held = d * (shape.hidden * 2 + 4 * shape.query_width) * batch.tokens
        if self.setting.eager:
            # The scores, softmax in float32 (on the CPU from a float32 copy) and its copy in 16 bits.
            return held + (FLOAT32 + max(2 * d, d + FLOAT32 if self.setting.on_cpu else 0)) * squares
        return held + (d * batch.rows * batch.length**2 if self._has_mask(layer, batch) else 0)

    # ---- MLP

    def _mlp_tokens(self, layer: Layer, batch: Batch) -> int:
        """Rows of the MLP's matrices: a token goes to several experts."""
        return batch.tokens * (self.decoder.experts_per_token if layer.is_sparse else 1)

    def mlp(self, layer: Layer, batch: Batch) -> int:
        """Outputs of the first matrices and, where they are gated, of the activation; not the product, which only an
        adapter on the last matrix needs."""
        tokens, each = self._mlp_tokens(layer, batch), self.stream_each
        kept = each * layer.expanded
        if layer.is_gated:
            kept += each * layer.inner
        elif self.decoder.written_out_gelu:
            # NewGELUActivation keeps half its input, the input, the tanh and 1 + tanh; torch.pow is float32 under
            # CUDA's autocast, and so is what goes into it and comes of it.
            kept = (each + 3 * self.gelu_each) * layer.inner
        if layer.is_sparse:
            kept += self.setting.each * self.decoder.shape.hidden  # each expert's answer, before it is weighted
        return kept * tokens

    def mlp_backward(self, layer: Layer, batch: Batch, expanded_weight: int) -> int:
        """Beside what is kept: the stream's gradient, and the gradients of the product and of both its factors, or
        that of the product while the last matrix is expanded."""
        tokens, each = self._mlp_tokens(layer, batch), self.stream_each
        one = each * layer.inner * tokens
        if layer.is_gated:
            factors = 3 * one
        elif self.decoder.written_out_gelu:
            factors = 4 * self.gelu_each * layer.inner * tokens
        else:
            factors = 2 * one
        return self.stream(batch) + max(factors, one + expanded_weight)

    def mlp_forward(self, layer: Layer, batch: Batch, expanded_weight: int) -> int:
        """Without gradients: the stream, its norm, and what the product is made of."""
        one = self.stream_each * layer.inner * self._mlp_tokens(layer, batch)
        factors = 3 * one if layer.is_gated else 2 * one
        if self.decoder.written_out_gelu:
            factors = 4 * self.gelu_each * layer.inner * batch.tokens
        return 2 * self.stream(batch) + max(factors, one + self.stream(batch) + expanded_weight)

    # ---- adapters

    @property
    def adapter_mask_each(self) -> int:
        """PEFT casts an adapter's input to the adapter's type before dropout."""
        return self._mask_each(FLOAT32 if self.setting.adapters_in_float32 else self.setting.each)

    def adapter_each_token(self, target: Target, r: int) -> float:
        """Bytes a token that the adapter on `target` keeps for backward."""
        setting, d = self.setting, self.setting.each
        kept = float(d * r)
        if setting.dropout:
            kept += target.in_features * (self.adapter_mask_each + d)  # the mask, and what is left of the input
        else:
            kept += target.in_features * d * self.decoder.own_input.get(target.name, 0.0)
        if setting.dora:
            kept += 2 * d * target.out_features  # what the base and the adapter answer, before they are scaled
        return kept

    def adapter_weights(self, target: Target) -> int:
        """Bytes of the base weight that DoRA expands in each module and keeps (peft/tuners/lora/dora.py)."""
        if not self.setting.dora or not self.setting.quantized:
            return 0
        return self.setting.each * target.in_features * target.out_features
