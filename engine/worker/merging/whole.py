"""Merging a model as a whole in memory: for those that cannot be taken apart layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.spec import RunSpec
from engine.worker.loaded import load_base, put_on
from engine.worker.merging.opened import refuse_quantized_files
from engine.worker.merging.shards import INDEX_NAME, WEIGHTS_NAME
from engine.worker.merging.stream import Written, untie
from engine.worker.model import is_quantized


def merge_whole(
    spec: RunSpec, adapter: Path, folder: Path, dequantized: bool, dtype: torch.dtype, shard_bytes: int
) -> Written:
    """As `merge_streamed`, with all weights in memory at once. Raises NoSuchBase, BadSpec, OSError."""
    if dequantized:
        model = load_base(spec)
        if is_quantized(model):  # some families' layers are none that bitsandbytes replaces
            model = model.dequantize(dtype)
    else:
        refuse_quantized_files(spec)
        name = str(dtype).removeprefix("torch.")
        plain = spec.model_copy(
            update={
                "model": spec.model.model_copy(update={"dtype": name}),
                "quantization": spec.quantization.model_copy(update={"load_in": "none"}),
                "hardware": spec.hardware.model_copy(update={"device": "cpu"}),
            }
        )
        model = load_base(plain)
    _part(model)
    merged: Any = put_on(model, adapter).merge_and_unload(safe_merge=True)
    _join(merged)
    vars(merged.config).pop("quantization_config", None)
    merged._weight_conversions = [each for each in merged._weight_conversions if _can_be_reverted(each)]
    merged.to("cpu", dtype)
    merged.save_pretrained(folder, max_shard_size=shard_bytes)
    files = sorted(folder.glob("model*.safetensors"))
    assert (folder / WEIGHTS_NAME).exists() or (folder / INDEX_NAME).exists()
    return Written(merged.config, sum(file.stat().st_size for file in files), len(files))


def _can_be_reverted(conversion: Any) -> bool:
    """Not so for those that read weights which are stored quantized."""
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


def _part(model: Any) -> None:
    """Give the head weights of its own: PEFT would merge what changes the embeddings into a head tied to them."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)


def _join(model: Any) -> None:
    """Tie the head again where it still equals the embeddings; else say in the config that it is not tied."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not model.config.get_text_config(decoder=True).tie_word_embeddings:
        return
    if torch.equal(embeddings.weight, head.weight):
        head.weight = embeddings.weight
    else:
        untie(model.config)
        model.all_tied_weights_keys = {}
