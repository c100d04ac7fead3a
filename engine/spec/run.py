"""A run, whole: its sections together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from engine.spec.data import DataSection
from engine.spec.hardware import HardwareSection
from engine.spec.model import LoraSection, ModelSection, QuantizationSection
from engine.spec.section import Section
from engine.spec.training import Metric, TrainingSection

SPEC_VERSION = 1
"""Raised when an old spec would mean something else; `engine.checks` refuses other versions."""
TOP_SETTINGS = ("on_oom",)
"""Settings of a spec that are in no section. `version` and `parent` are not a person's to choose."""
OnOom = Literal["ask", "retry", "stop"]


class ParentSection(Section):
    """Of a run that continues another one: which, from where, and what was changed. Written by Loradeck."""

    run: str = Field(min_length=1)
    """Id of the run that it continues."""

    checkpoint: str | None = None
    """Name of the checkpoint that it began from; unset where it began anew."""

    changes: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    """Full name of a setting -> what it was in the parent, and what it is here."""

    remedies: list[str] = Field(default_factory=list)
    """The ways out of memory that were chosen."""

    attempt: int = 0
    """How many runs of this line the supervisor has started by itself, this one included."""


class RunSpec(Section):
    """A run, whole. `run.yaml` is this, written as YAML."""

    version: int = SPEC_VERSION
    """Version of the spec's format."""

    model: ModelSection
    quantization: QuantizationSection = Field(default_factory=QuantizationSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    data: DataSection
    training: TrainingSection = Field(default_factory=TrainingSection)
    hardware: HardwareSection = Field(default_factory=HardwareSection)
    on_oom: OnOom = "ask"
    """When memory runs out: `ask` shows the ways out with their prices, `retry` takes those by itself that leave
    training the same (at most 4 times), `stop` only reports."""

    parent: ParentSection | None = None
    """Set where the run continues another one."""

    @field_validator("version")
    @classmethod
    def _is_this_version(cls, version: int) -> int:
        if version != SPEC_VERSION:
            raise ValueError(f"this is a spec of version {version}; this Loradeck reads version {SPEC_VERSION}")
        return version

    @property
    def effective_batch_size(self) -> int:
        """Rows that one optimizer step learns from, those of all processes together."""
        return self.rows_a_pass * self.training.gradient_accumulation_steps

    @property
    def rows_a_pass(self) -> int:
        """Rows that all processes together take in one pass, each a batch of its own."""
        return self.training.per_device_train_batch_size * self.hardware.num_processes

    @property
    def has_eval(self) -> bool:
        """Whether rows are held out."""
        return self.data.eval is not None or self.data.eval_split is not None or self.data.eval_fraction > 0

    @property
    def best_metric(self) -> Metric | None:
        """What evaluations are compared by; None where nothing depends on which is the best."""
        training = self.training
        if not training.load_best_model_at_end and training.early_stopping_patience is None:
            return None
        return training.metric_for_best_model or "eval_loss"
