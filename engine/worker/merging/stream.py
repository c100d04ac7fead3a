"""Merging layer by layer: a layer's weights are read, the adapter merged into them, and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from engine.spec import RunSpec
from engine.worker.merging.adapted import AdaptedOnMeta
from engine.worker.merging.opened import CannotStream, OpenedBase, State, open_base, refuse_quantized_files
from engine.worker.merging.shards import ShardWriter
from engine.worker.model import give_freed_heap_back, quantization_config

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """A merged model's weights on disk."""

    config: PreTrainedConfig
    """What the model is now: in one type, and its embeddings untied where the adapter untied them."""
    size_bytes: int
    files: int


def merge_streamed(
    spec: RunSpec,
    adapter: Path,
    folder: Path,
    dequantized: bool,
    dtype: torch.dtype,
    shard_bytes: int,
    on_progress: OnProgress,
    device: str = "cpu",
) -> Written:
    """Write the weights of base and adapter, merged, into `folder`.

    `dequantized` merges onto what quantization left of the base, which is quantized on `device` from the type that the
    run loaded it in. Raises CannotStream before or while it writes (what is in `folder` is then of no use), NoSuchBase,
    BadSpec, OSError.
    """
    trained_in: torch.dtype = getattr(torch, spec.model.dtype)
    if dequantized:
        source = open_base(spec, trained_in, quantization_config(spec), device)
    else:
        refuse_quantized_files(spec)
        source = open_base(spec, dtype, None, "cpu")
    if source.why_whole:
        raise CannotStream(source.why_whole)
    plain = open_base(spec, dtype, None)
    dtypes = {name: tensor.dtype for name, tensor in plain.model.state_dict().items()}
    adapted = AdaptedOnMeta(plain.model, adapter)
    writer = ShardWriter(folder, shard_bytes)
    config = plain.model.config
    config.architectures = [type(plain.model).__name__]
    groups = source.groups()
    for done, keys in enumerate(groups.values()):
        on_progress(done, len(groups))
        with source.group(keys) as loaded:
            _add_tied(source, loaded)
            state = adapted.merge({name: tensor.to(dtypes[name]) for name, tensor in loaded.items()})
        if _drop_tied(source, state):
            untie(config)
        writer.add(_as_stored(source, state))
        del loaded, state
        give_freed_heap_back()  # else what one layer took is kept, and the next, of other sizes, takes more
    if missing := source.missing - source.tied.keys():
        raise CannotStream(f"its files lack {sorted(missing)[0]}")
    on_progress(len(groups), len(groups))
    files = writer.close()
    return Written(config, writer.size_bytes, files)


def untie(config: PreTrainedConfig) -> None:
    """Let embeddings and head be weights of their own."""
    config.tie_word_embeddings = False
    config.get_text_config(decoder=True).tie_word_embeddings = False


def _add_tied(source: OpenedBase, loaded: State) -> None:
    """A weight that the checkpoint has only under the name of one that it is tied to, in either direction."""
    for one, other in source.tied.items():
        if one in loaded and other not in loaded:
            loaded[other] = loaded[one]
            source.loaded.add(other)
        elif other in loaded and one not in loaded:
            loaded[one] = loaded[other]
            source.loaded.add(one)


def _drop_tied(source: OpenedBase, state: State) -> bool:
    """Leave out of `state` what is equal to what it is tied to; whether anything no longer is."""
    parted = False
    for one, other in source.tied.items():
        if one in state and other in state:
            if state[one] is state[other] or torch.equal(state[one], state[other]):
                del state[one]
            else:
                parted = True
    return parted


def _as_stored(source: OpenedBase, state: State) -> State:
    """Under the names, and in the pieces, in which the family's checkpoints are."""
    for pattern in source.model._keys_to_ignore_on_save or ():
        state.pop(pattern, None)
    stored: State = revert_weight_conversion(source.model, state)
    return stored
