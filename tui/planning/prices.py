"""What one adapter costs in memory: the formula's terms that depend on it, for a number beside every module."""

from __future__ import annotations

from dataclasses import dataclass

from engine.architecture import Architecture, Module, Target
from engine.memory.footprint import Footprint
from engine.memory.formula import adapter_number_bytes, layer_bytes, row_length, state_bytes
from engine.memory.formula.decoder import decoder_of
from engine.memory.formula.layer_bytes import LayerBytes
from engine.spec import RunSpec


@dataclass(frozen=True)
class Prices:
    """Predicted change of the peak for one target more, at the settings of a spec. Linear, so they add up."""

    trained_bytes: float
    """For each trained parameter: itself, its gradient and its optimizer state, where they are there at the peak."""
    saved_tokens: float
    """Tokens whose adapter activations are held at the peak."""
    saved_weights: float
    """Part of the weights that adapters expand (DoRA) that is held at the peak."""
    layers: LayerBytes
    use_dora: bool

    @classmethod
    def of(
        cls, spec: RunSpec, architecture: Architecture, peak: Footprint, longest_row_tokens: int | None, on_cpu: bool
    ) -> Prices:
        """Prices at the peak that the formula predicts. Raises KeyError for a config without the usual sizes."""
        training, decoder = spec.training, decoder_of(architecture)
        layers = layer_bytes(spec, decoder, on_cpu)
        own_bytes = adapter_number_bytes(spec)
        in_step = peak.allocated_bytes in (peak.phases.get("forward"), peak.phases.get("backward"))
        at_loss = peak.categories["logits"] > 0
        held = 1.0 if in_step else 0.0  # nothing is held for backward in evaluation and in the optimizer's step
        if training.activation_checkpointing:
            # One layer's activations are held, and that only while the layer is computed again.
            held = 0.0 if at_loss else held / decoder.shape.layers
        trained = own_bytes + state_bytes(training.optim, own_bytes, on_cpu)
        if peak.categories["gradients"]:
            trained += own_bytes
        if layers.setting.adapters_in_float32 and at_loss and in_step and not training.activation_checkpointing:
            trained += layers.setting.each  # autocast's copy
        return cls(
            trained_bytes=trained,
            saved_tokens=held * training.per_device_train_batch_size * row_length(spec, longest_row_tokens),
            saved_weights=held,
            layers=layers,
            use_dora=spec.lora.use_dora,
        )

    def adapter_bytes(self, target: Target, r: int) -> float:
        """Of an adapter of rank `r` on `target`."""
        return (
            target.lora_parameters(r, self.use_dora) * self.trained_bytes
            + self.layers.adapter_each_token(target, r) * self.saved_tokens
            + self.layers.adapter_weights(target) * self.saved_weights
        )

    def full_training_bytes(self, module: Module) -> float:
        """Of training a module in full (`modules_to_save`)."""
        return sum(parameter.count for parameter in module.parameters) * self.trained_bytes
