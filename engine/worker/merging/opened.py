"""A base model that is opened but not read: its modules on the meta device, and its layers when they are asked for.

`from_pretrained` decides what is loaded how: dtypes, names that changed since the checkpoint was written, weights that
are fused, layers that are quantized. It is let run up to the point where it would read the weights, and its own loader
is then given one layer's weights at a time, so that each comes out as a whole load would have made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Params4bit
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import model_class

LAYER = re.compile(r"^(.*?\.\d+)\.")
"""The name of a layer in the name of one of its weights: up to the first number."""
TYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""As safetensors writes them."""
State = dict[str, torch.Tensor]


class CannotStream(Exception):
    """This model has to be merged as a whole; the message says why."""


class NoSuchBase(BadSpec):
    """The base has no weights of the kind that it is to be merged onto."""


class _Opened(Exception):
    """Carries what `from_pretrained` has made before it reads weights."""

    def __init__(self, model: Any, state_dict: Any, files: list[str] | None, config: Any, *_: Any) -> None:
        super().__init__()
        self.model, self.files, self.config = model, files, config


@dataclass
class OpenedBase:
    """A base model with its modules on the meta device."""

    model: PreTrainedModel
    files: list[Path]
    """Its safetensors files."""
    load_config: Any
    """transformers' `LoadStateDictConfig`."""
    dtype: torch.dtype
    """Of the weights that nothing keeps in another type."""
    why_whole: str
    """Why it cannot be taken apart; empty where it can."""

    def __post_init__(self) -> None:
        self.tied: dict[str, str] = dict(self.model.all_tied_weights_keys)
        """Weight -> the weight that it is the same as, unless the checkpoint holds both."""
        self.parameters = frozenset(self.model.state_dict())
        """Names of all weights and buffers that a checkpoint can hold."""
        self.loaded: set[str] = set()
        """Names of those that were found in the checkpoint so far."""

    def is_stored_as(self, dtype: torch.dtype) -> bool:
        """Whether all its weights are in files in this type: on the CPU they then stay pages of these files."""
        types = set()
        for path in self.files:
            with open_weights(path) as file:
                types |= {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        return types == {TYPE_NAMES.get(dtype)}

    @property
    def missing(self) -> set[str]:
        """Weights that the checkpoint has not, after all groups were loaded."""
        return set(self.parameters) - self.loaded

    def groups(self) -> dict[str, list[str]]:
        """Layer, or other module -> its keys in the checkpoint, in the model's order.

        Tied weights are in one group, whatever modules they are of. Keys that mean nothing to the model are left out.
        """
        mapping = self.load_config.weight_mapping or []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        known, prefix = self.model.state_dict(), self.model.base_model_prefix
        groups: dict[str, list[str]] = {}
        for path in self.files:
            with open_weights(path) as file:
                for key in file.keys():  # noqa: SIM118  (no dictionary)
                    name, _ = rename_source_key(key, renamings, converters, prefix, known)
                    if name not in known and key in known:
                        name = key
                    groups.setdefault(self.group_of(name), []).append(key)
        order = {name: place for place, name in enumerate(dict.fromkeys(map(self.group_of, known)))}
        return dict(sorted(groups.items(), key=lambda item: order.get(item[0], len(order))))

    def group_of(self, name: str) -> str:
        """The group that a weight of the model is in."""
        if name in self.tied or name in self.tied.values():
            return "tied"
        layer = LAYER.match(name)
        return layer[1] if layer else name.rpartition(".")[0]

    @contextmanager
    def group(self, keys: list[str]) -> Iterator[State]:
        """Weights of one group, as a whole load would hold them but for quantized ones, which are dequantized.

        They are on the CPU; the model holds them, as they were loaded, until the block ends. Raises BadSpec where the
        checkpoint does not fit the model or cannot be read, CannotStream where transformers cannot convert it.
        """
        before = self._tensors()
        with ExitStack() as stack:
            files = [stack.enter_context(open_weights(path)) for path in self.files]
            where = {key: file for file in files for key in file.keys()}  # noqa: SIM118
            try:
                found, _ = convert_and_load_state_dict_in_model(
                    model=self.model,
                    state_dict={key: where[key].get_slice(key) for key in keys},
                    load_config=self.load_config,
                    disk_offload_index=None,
                )
            except SafetensorError as error:
                raise _unreadable(self.files, error) from error
        if found.mismatched_keys:
            name, in_file, in_model = next(iter(found.mismatched_keys))
            raise BadSpec(
                f"The base model's files do not fit its config.json: {name} is {tuple(in_file)} in the one and "
                f"{tuple(in_model)} in the other.",
                "Fetch the model again.",
            )
        if found.conversion_errors:
            raise CannotStream(str(next(iter(found.conversion_errors.values()))).strip().splitlines()[-1][:300])
        loaded = self.parameters - found.missing_keys
        self.loaded |= loaded
        try:
            with torch.no_grad():
                yield {name: self._dequantized(name) for name in sorted(loaded)}
        finally:
            for name, (module, attribute, tensor) in before.items():
                if name in loaded:
                    _put(module, attribute, tensor)

    def _tensors(self) -> dict[str, tuple[torch.nn.Module, str, torch.Tensor]]:
        """Of each weight: its module, its name there, and what is there now."""
        found = {}
        for name in self.parameters:
            path, _, attribute = name.rpartition(".")
            module = self.model.get_submodule(path)
            found[name] = (module, attribute, self.model.get_parameter_or_buffer(name))
        return found

    def _dequantized(self, name: str) -> torch.Tensor:
        tensor = self.model.get_parameter_or_buffer(name)
        module = self.model.get_submodule(name.rpartition(".")[0])
        if isinstance(tensor, Params4bit):
            plain = dequantize_4bit(tensor.data, tensor.quant_state)
        elif isinstance(tensor, Int8Params):
            plain = dequantize_bnb_weight(tensor, module.state)
        else:
            unquantized: torch.Tensor = tensor.detach().cpu()
            return unquantized
        if issubclass(module.source_cls, Conv1D):  # bitsandbytes' layers hold the transposed of a Conv1D
            plain = plain.T
        dequantized: torch.Tensor = plain.to("cpu", self.dtype)
        return dequantized


def open_base(
    spec: RunSpec, dtype: torch.dtype, quantization: BitsAndBytesConfig | None, device: str = "cpu"
) -> OpenedBase:
    """The base of `spec`, to be loaded in `dtype` on `device`, quantized as `quantization` says.

    Raises what `from_pretrained` does.
    """
    model = spec.model
    original = PreTrainedModel._load_pretrained_model

    def stop(*arguments: Any, **options: Any) -> Any:
        raise _Opened(*arguments, *options.values())

    try:
        PreTrainedModel._load_pretrained_model = staticmethod(stop)
        model_class(spec).from_pretrained(
            model.name_or_path,
            revision=model.revision or "main",
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
        )
    except _Opened as opened:
        made = opened
    finally:
        PreTrainedModel._load_pretrained_model = staticmethod(original)
    files = [Path(file) for file in made.files or []]
    quantizer = made.config.hf_quantizer
    why_whole = ""
    if model.trust_remote_code:
        why_whole = "it may be made of Python code of its own"
    elif not files or not all(file.suffix == ".safetensors" for file in files):
        why_whole = "its weights are not in safetensors files"
    elif quantizer is not None and (quantizer.pre_quantized or quantization is None):
        why_whole = "its weights are stored quantized"
    return OpenedBase(made.model, files, made.config, dtype, why_whole)


def refuse_quantized_files(spec: RunSpec) -> None:
    """Raises NoSuchBase where the base has no weights but quantized ones."""
    model = spec.model
    config = AutoConfig.from_pretrained(
        model.name_or_path, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
    )
    if "quantization_config" in vars(config):
        raise NoSuchBase(
            f"{model.name_or_path} is stored quantized: it has no weights in 16 bits to merge onto.",
            "Merge with --base dequantized.",
        )


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A safetensors file, opened for reading one tensor at a time. Raises BadSpec where it cannot be read."""
    try:
        opened = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _unreadable([path], error) from error
    with opened as file:
        yield file


def _unreadable(paths: list[Path], error: Exception) -> BadSpec:
    names = paths[0].name if len(paths) == 1 else f"one of {paths[0].name} to {paths[-1].name}"
    return BadSpec(
        f"The base model's weights cannot be read: {names} in {paths[0].parent}: {error}.", "Fetch the model again."
    )


def _put(module: torch.nn.Module, attribute: str, tensor: torch.Tensor) -> None:
    """Put back what was there, without the checks that a module makes of a new parameter."""
    place: dict[str, Any] = module._buffers if attribute in module._buffers else module._parameters
    place[attribute] = tensor
