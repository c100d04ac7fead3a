"""Architecture: a model's modules as plain data, without weights and without torch.

`engine.worker.inspect` makes it from the installed transformers, peft and bitsandbytes; everything else reads it:
the tree on the screen, the translation of a selection into a LoraConfig, and the memory formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any, Literal

LoraKind = Literal["linear", "conv1d", "embedding", "conv", "parameter"]
"""How PEFT adapts it. `conv1d` is GPT-2's transposed linear; `parameter` a bare weight, reached by `target_parameters`:
a 3-D one that fuses experts, or a router's."""

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""Whose versions decide what an architecture looks like."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "uint8": 1, "int8": 1, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class Parameter:
    """One parameter that a module holds itself."""

    name: str
    """Its own name, such as `weight`."""
    shape: tuple[int, ...]
    dtype: str
    """Such as `bfloat16`."""
    tied_to: str | None = None
    """Full name of the parameter that comes earlier in the model and is the same tensor (tied embeddings), or None."""

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Target:
    """A place where LoRA can put an adapter: a module, or a parameter of it."""

    name: str
    """Full dotted name of the module, or of the parameter for kind `parameter`."""
    kind: LoraKind
    in_features: int
    out_features: int
    experts: int = 1
    """Matrices in a fused 3-D parameter; each gets a rank of its own."""

    def lora_parameters(self, r: int, use_dora: bool = False) -> int:
        """Trainable numbers of an adapter of rank `r` (A: r x in, B: out x r; DoRA adds a magnitude an output)."""
        magnitude = self.out_features if use_dora else 0
        return r * self.experts * (self.in_features + self.out_features) + magnitude


@dataclass(frozen=True)
class Module:
    """One module of the model, named as `named_modules()` names it."""

    name: str
    class_name: str
    parameters: tuple[Parameter, ...] = ()
    """Those it holds itself, not its children's."""
    quantized: bool = False
    """Whether bitsandbytes would store its weight in 4 or 8 bits."""
    targets: tuple[Target, ...] = ()
    """Where LoRA can adapt it; empty for most modules."""
    obstacle: str = ""
    """For a person: why LoRA cannot adapt it; where it has targets, why they are left alone unless asked for."""

    @property
    def parameter_count(self) -> int:
        """Its own parameters, tied ones not counted again."""
        return sum(parameter.count for parameter in self.parameters if parameter.tied_to is None)


@dataclass(frozen=True)
class Architecture:
    """A model's module tree."""

    name_or_path: str
    model_type: str
    class_name: str
    """The transformers class that trains it, such as `LlamaForCausalLM`."""
    config: dict[str, Any]
    """The model's config.json as transformers read it (text config's values at the top for nested ones)."""
    versions: dict[str, str]
    """Of torch, transformers, peft and bitsandbytes, as installed where this was made."""
    modules: tuple[Module, ...]
    """In the order of `named_modules()`, without the root."""
    output_embedding: str | None = None
    """The head's module name: `all-linear` leaves it out, as PEFT does."""
    vision_prefixes: tuple[str, ...] = ()
    """Modules of a vision or audio tower and its projector: shown, and left out of presets."""

    @cached_property
    def by_name(self) -> dict[str, Module]:
        return {module.name: module for module in self.modules}

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Every place for an adapter, by its full name, in the model's order."""
        return {target.name: target for module in self.modules for target in module.targets}

    @cached_property
    def total_parameters(self) -> int:
        return sum(module.parameter_count for module in self.modules)

    def is_vision(self, name: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in self.vision_prefixes)

    def below(self, name: str) -> Iterator[Module]:
        """The module called `name` and everything in it; the empty name is the whole model."""
        return (m for m in self.modules if not name or m.name == name or m.name.startswith(f"{name}."))

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as the inspector sends them."""
        modules = [
            {
                **vars(module),
                "parameters": [{**vars(parameter), "shape": list(parameter.shape)} for parameter in module.parameters],
                "targets": [{**vars(target)} for target in module.targets],
            }
            for module in self.modules
        ]  # dataclasses.asdict copies every value deeply: ten times slower on a large model
        raw = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**raw, "modules": modules, "vision_prefixes": list(self.vision_prefixes)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Architecture:
        """The architecture that `to_json` wrote. Raises KeyError or TypeError for another shape."""
        modules = tuple(
            Module(
                name=module["name"],
                class_name=module["class_name"],
                parameters=tuple(Parameter(**{**p, "shape": tuple(p["shape"])}) for p in module["parameters"]),
                quantized=module["quantized"],
                targets=tuple(Target(**target) for target in module["targets"]),
                obstacle=module["obstacle"],
            )
            for module in raw["modules"]
        )
        return cls(**{**raw, "modules": modules, "vision_prefixes": tuple(raw["vision_prefixes"])})


@cache
def installed_versions() -> dict[str, str]:
    """Of LIBRARIES, read from their metadata: nothing is imported. Raises PackageNotFoundError."""
    return {library: version(library) for library in LIBRARIES}


LAYER_INDEX = r"(?:^|\.)(\d+)(?:\.|$)"
"""Matches the number of a layer, or of an expert, in a module's name."""
