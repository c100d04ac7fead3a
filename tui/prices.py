"""What one adapter costs in memory: the formula's terms that depend on it, for a number beside every module."""

from __future__ import annotations

from dataclasses import dataclass

from engine.architecture import DTYPE_BYTES, Architecture, Module, Target
from engine.memory.footprint import Footprint
from engine.memory.formula import Shape, state_bytes
from engine.spec import RunSpec


@dataclass(frozen=True)
class Prices:
    """Predicted change of the peak for one target more, at the settings of a spec. Linear, so they add up."""

    trained_bytes: float
    """For each trained parameter: itself, its gradient and its optimizer state, where they are there at the peak."""
    saved_tokens: float
    """Tokens whose adapter activations are held at the peak."""
    activation_bytes: int
    """Bytes of one activation."""
    dropout: bool
    use_dora: bool

    @classmethod
    def of(
        cls, spec: RunSpec, architecture: Architecture, peak: Footprint, longest_row_tokens: int | None, on_cpu: bool
    ) -> Prices:
        """Prices at the peak that the formula predicts. Raises KeyError for a config without the usual sizes."""
        training = spec.training
        lengths = [length for length in (spec.data.max_length, longest_row_tokens) if length is not None]
        tokens = training.per_device_train_batch_size * (min(lengths) if lengths else 1024)
        at_loss = peak.categories["logits"] > 0
        quantized = spec.quantization.load_in != "none"
        own_bytes = DTYPE_BYTES["bfloat16" if quantized and not training.fp16 else "float32"]
        layers = Shape.of(architecture.config).layers
        # With checkpointing one layer's activations are held, and that only while the layer is computed again.
        held = (0.0 if at_loss else tokens / layers) if training.activation_checkpointing else float(tokens)
        return cls(
            trained_bytes=own_bytes + (0 if at_loss else own_bytes) + state_bytes(training.optim, own_bytes, on_cpu),
            saved_tokens=held,
            activation_bytes=4 if spec.quantization.bnb_4bit_compute_dtype == "float32" else 2,
            dropout=spec.lora.lora_dropout > 0,
            use_dora=spec.lora.use_dora,
        )

    def adapter_bytes(self, target: Target, r: int) -> float:
        """Of an adapter of rank `r` on `target`."""
        a_token = self.activation_bytes * r
        if self.dropout:
            a_token += target.in_features * (1 + self.activation_bytes)
        return target.lora_parameters(r, self.use_dora) * self.trained_bytes + a_token * self.saved_tokens

    def full_training_bytes(self, module: Module) -> float:
        """Of training a module in full (`modules_to_save`)."""
        return sum(parameter.count for parameter in module.parameters) * self.trained_bytes
