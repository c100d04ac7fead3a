"""Safetensors files of a model, written as its weights come."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.worker.merging.opened import State

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class ShardWriter:
    """Gathers weights up to `most_bytes` and writes a file of them; `close` gives the files their names."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.size_bytes = 0
        """Of all weights so far."""
        self.parameters = 0
        self.files: list[dict[str, torch.dtype]] = []
        self._gathered: State = {}
        self._gathered_bytes = 0
        self._names: list[list[str]] = []

    def add(self, state: State) -> None:
        """Take weights over. A weight larger than `most_bytes` gets a file of its own. Raises OSError."""
        for name, tensor in state.items():
            size_bytes = tensor.numel() * tensor.element_size()
            if self._gathered and self._gathered_bytes + size_bytes > self.most_bytes:
                self._write()
            # A view would keep all of the tensor that it is of, and safetensors refuses tensors that share memory.
            self._gathered[name] = _owned(tensor)
            self._gathered_bytes += size_bytes
            self.size_bytes += size_bytes
            self.parameters += tensor.numel()

    def close(self) -> int:
        """Write the rest and the index; the number of files. Raises OSError."""
        if self._gathered or not self._names:
            self._write()
        count = len(self._names)
        if count == 1:
            self._staged(1).rename(self.folder / WEIGHTS_NAME)
            return 1
        weight_map = {}
        for number, names in enumerate(self._names, 1):
            final = f"model-{number:05}-of-{count:05}.safetensors"
            self._staged(number).rename(self.folder / final)
            weight_map.update(dict.fromkeys(names, final))
        index = {
            "metadata": {"total_parameters": self.parameters, "total_size": self.size_bytes},
            "weight_map": weight_map,
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (self.folder / INDEX_NAME).write_text(text, encoding="utf-8")
        return count

    def _write(self) -> None:
        self._names.append(list(self._gathered))
        save_file(self._gathered, self._staged(len(self._names)), metadata={"format": "pt"})
        self._gathered, self._gathered_bytes = {}, 0

    def _staged(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.safetensors"


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.contiguous()
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_whole else tensor.clone()
