"""What a checkpoint holds: the adapter, and in one safetensors file more what an exact resume needs. No pickle.

Optimizer, scheduler, scaler and random states are nested dictionaries of tensors and plain values. Tensors become
entries of the file, and the tree around them, as JSON, its metadata.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import save_file

STATE_FILE = "training_state.safetensors"


def save_adapter(model: Any, folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """The adapter alone, as PEFT reads it; of a model that is shared its `tensors`, by the names that PEFT saves them
    under. Embeddings are part of it only where they are trained."""
    # "auto" asks the hub whether the base model has a config, and would copy frozen embeddings beside a LoRA on them.
    # PEFT does not find its own tensors among FSDP's names.
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=None if tensors is None else {})
    if tensors is not None:
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def save_training_state(folder: Path, tree: dict[str, Any]) -> None:
    """Write `tree` into `folder`. Raises TypeError for a value that is neither a tensor nor plain data."""
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(tree, tensors)
    save_file(tensors, folder / STATE_FILE, metadata={"tree": json.dumps(encoded)})


def load_training_state(folder: Path) -> dict[str, Any]:
    """The tree that `save_training_state` wrote, tensors on the CPU. Raises OSError or SafetensorError."""
    with safe_open(folder / STATE_FILE, framework="pt") as file:
        tree = _decode(json.loads(file.metadata()["tree"]), file)
    assert isinstance(tree, dict)
    return tree


def random_states() -> dict[str, Any]:
    """The states of every random generator that training draws from."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, tuple(int(key) for key in keys), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": (torch.cuda.get_rng_state(),) if torch.cuda.is_available() else (),  # of this process's GPU
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set every generator to what `random_states` returned."""
    random.setstate(states["python"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])


# JSON knows neither tuples, nor dictionaries with number keys, nor tensors: each is a one-entry object named for what
# it is, and so is every ordinary dictionary, so that nothing is mistaken for another.
def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored in {STATE_FILE}")


def _decode(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item, file) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "tuple":
        return tuple(_decode(item, file) for item in content)
    return {_decode(key, file): _decode(item, file) for key, item in content}
