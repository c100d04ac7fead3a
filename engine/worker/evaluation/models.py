"""The base and its adapter as one loaded model, of which one or the other answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engine.evaluation.plan import BASE, ModelName
from engine.spec import RunSpec
from engine.worker.loaded import generation_ends, load_base, put_on, switched_off


class Models:
    """Raises what `load_base` and `put_on` do."""

    def __init__(self, spec: RunSpec, adapter: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        base = load_base(spec)
        self.ends = generation_ends(base, self.tokenizer)
        # `generate` takes from the model's own whatever it is not told, such as a penalty for repetition.
        base.generation_config = GenerationConfig()
        self.adapted = put_on(base, adapter)
        self.base = base
        """The same model without PEFT's shell: what answers here is what is switched on in it."""
        if (head := base.get_output_embeddings()) is not None:
            head.register_forward_pre_hook(_in_one_piece)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.base.device
        return device

    @property
    def context_tokens(self) -> int | None:
        """None for models that name no limit, as recurrent ones."""
        config = self.base.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)

    @property
    def padding(self) -> int:
        """Masked wherever it stands, so any token does."""
        return self.tokenizer.pad_token_id or 0

    @contextmanager
    def answering(self, name: ModelName) -> Iterator[None]:
        """What runs in the block is the model `name`, without gradients."""
        with torch.inference_mode(), switched_off(self.adapted) if name == BASE else nullcontext():
            yield

    def as_trained(self) -> AbstractContextManager[object]:
        """The precision in which the run's trainer computed its losses."""
        training = self.spec.training
        if not (training.bf16 or training.fp16):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if training.bf16 else torch.float16)

    def as_answering(self) -> AbstractContextManager[object]:
        """Of a float16 training, modules that were trained whole are in fp32, and the others pass them 16 bits."""
        return self.as_trained() if self.spec.training.fp16 and self.spec.lora.modules_to_save else nullcontext()


def _in_one_piece(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """For the head: of the last token of each prompt, cut out of all tokens, torch on the CPU would make as many copies
    of the head's weight as there are rows."""
    return (inputs[0].contiguous(), *inputs[1:])
