"""The settings of a run as its script writes them: what differs from the libraries' defaults, under their names."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Any

from peft import LoraConfig
from trl import SFTConfig

from engine.runs.lineage import changed_spec
from engine.spec import RunSpec
from engine.worker.model import lora_config
from engine.worker.train import sft_config

OF_ONE_MACHINE = ("output_dir", "use_cpu", "dataloader_pin_memory", "tf32", "run_name", "project", "report_to")
"""Told apart from the rest: where things are written and numbers go, and on what device."""
ALWAYS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "bf16",
    "max_length",
    "seed",
)
"""Written though they be the default: what a reader looks for first."""


def on_cpu(spec: RunSpec) -> RunSpec:
    """The same run for the CPU: what makes a config of a GPU's settings refuses to where there is no such GPU."""
    return spec.model_copy(
        update={
            "hardware": spec.hardware.model_copy(update={"device": "cpu"}),
            "training": spec.training.model_copy(update={"tf32": None}),
        }
    )


def in_one_process(spec: RunSpec) -> RunSpec:
    """A run of several processes as one that learns from the same rows in each step: their passes one after the
    other."""
    if spec.hardware.num_processes == 1:
        return spec
    on_one_machine = {"num_processes": 1, "num_machines": 1, "machines": [], "machine_rank": None}
    changes = {f"hardware.{name}": value for name, value in on_one_machine.items()}
    return changed_spec(spec, changes).model_copy(update={"parent": spec.parent})


def of_several(spec: RunSpec) -> str:
    """What to say where `in_one_process` changes something; empty where it does not."""
    processes, passes = spec.hardware.num_processes, spec.training.gradient_accumulation_steps
    if processes == 1:
        return ""
    return (
        f"The run had {processes} processes with gradient_accumulation_steps: {passes}, and this is one with "
        f"{passes * processes}: a step learns from the same rows. Sums in another order and dropout drawn otherwise "
        "let losses come near and not be equal."
    )


def training_settings(spec: RunSpec) -> dict[str, Any]:
    """Arguments of SFTConfig, but for `output_dir`: first those that the spec names, in its order."""
    wanted, usual = as_plain(run_config(spec)), as_plain(SFTConfig(output_dir="", use_cpu=True))
    differing = {
        name: value
        for name, value in wanted.items()
        if name not in OF_ONE_MACHINE and (name in ALWAYS or value != usual[name])
    }
    in_spec = [name for name in type(spec.training).model_fields if name in differing]
    ordered = {name: differing[name] for name in [*in_spec, *(each for each in differing if each not in in_spec)]}
    ordered["report_to"] = spec.training.report_to or "none"  # callbacks of ours in the run, the library's here
    if spec.hardware.device == "cpu":
        ordered |= {"use_cpu": True, "dataloader_pin_memory": False}
    elif spec.training.tf32 is not None:
        ordered["tf32"] = spec.training.tf32
    return ordered


def run_config(spec: RunSpec) -> SFTConfig:
    """What the run's trainer is given, for the CPU."""
    return sft_config(on_cpu(spec), Path("output"))


def as_plain(config: SFTConfig) -> dict[str, Any]:
    """Every field of a config, as it can be written."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def lora_settings(spec: RunSpec) -> dict[str, Any]:
    """Arguments of LoraConfig that say something else than its defaults; rank and modules always."""
    config = lora_config(spec.lora)
    usual = LoraConfig(task_type="CAUSAL_LM")
    given = {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    for name in type(spec.lora).model_fields:
        value = _plain(getattr(config, name))
        if value != _plain(getattr(usual, name)) or name == "target_modules":
            given[name] = value
    return {**given, "task_type": "CAUSAL_LM"}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set):
        return sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
