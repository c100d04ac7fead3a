"""The base with all adapters on top, and one answer by one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from engine.chat.session import BASE, NEWER, NO_ADAPTER, Answer, Sampling
from engine.spec import RunSpec
from engine.worker.chat.pieces import Pieces
from engine.worker.chat.prompt import learnt_plain_text, room_for_answer, tokens_of
from engine.worker.chat.stopping import Stopped, look, look_in
from engine.worker.failures import BadSpec
from engine.worker.loaded import answer_fast, generation_ends, load_base, load_tokenizer_of, put_on, switched_off
from engine.worker.model import load_tokenizer


class StopWhenAsked(StoppingCriteria):  # type: ignore[misc]
    """Looks for a stop after each token: a model of other code may run past its parts' hooks."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> Any:
        look()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Talker:
    """Answers as the base or as one of its adapters. Raises what `load_base` and `put_on` do."""

    def __init__(self, spec: RunSpec, adapters: Mapping[str, Path]) -> None:
        for folder in adapters.values():
            _refuse_missing(folder)
        tokenizers = {name: load_tokenizer_of(spec, folder) for name, folder in adapters.items()}
        # The base reads what the first adapter reads, so that both answer the same.
        self._tokenizers = {BASE: next(iter(tokenizers.values()), None) or load_tokenizer(spec), **tokenizers}
        learnt_plain = bool(adapters) and learnt_plain_text(spec)
        self._reads_plain_text = {
            name: learnt_plain or tokenizer.chat_template is None for name, tokenizer in self._tokenizers.items()
        }
        self._base = load_base(spec)
        look_in(self._base)
        self._ends = {name: generation_ends(self._base, tokenizer) for name, tokenizer in self._tokenizers.items()}
        # `generate` takes from the model's own whatever it is not told, such as a temperature or a penalty.
        self._base.generation_config = GenerationConfig()
        self._adapted: PeftModel | None = None
        # A name of PEFT's is an attribute of a module, and has no dot in it.
        self._peft_names = {name: f"chat_{place}" for place, name in enumerate(adapters)}
        for name, folder in adapters.items():
            self._adapted = put_on(self._adapted or self._base, folder, self._peft_names[name])
        answer_fast(self._base)

    @property
    def has_chat_template(self) -> bool:
        return not self._reads_plain_text[BASE]

    @property
    def context_tokens(self) -> int | None:
        """None for models that name no limit, as recurrent ones."""
        config = self._base.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)

    def check(self, conversations: Mapping[str, list[dict[str, Any]]], sampling: Sampling) -> None:
        """Raises BadSpec for what cannot be answered, before the first of the models has begun."""
        if not (sampling.temperature >= 0 and 0 < sampling.top_p <= 1 and sampling.max_new_tokens >= 1):
            raise BadSpec("temperature must be 0 or more, top_p between 0 and 1, and max_new_tokens 1 or more.")
        for name, conversation in conversations.items():
            if name not in self._tokenizers:
                raise BadSpec(f"There is no model called {name} here, but {', '.join(self._tokenizers)}.")
            self._read(name, conversation, sampling)

    def answer(
        self, name: str, conversation: list[dict[str, Any]], sampling: Sampling, on_piece: Callable[[str], None]
    ) -> Answer:
        """The answer of the model `name`, or what there is of it when it is stopped. Raises BadSpec as `check` does."""
        began = time.monotonic()
        ids, room = self._read(name, conversation, sampling)
        tokenizer, ends = self._tokenizers[name], self._ends[name]
        pieces = Pieces(tokenizer, ends, on_piece)
        prompt = torch.tensor([ids], device=self._base.device)  # 1 x tokens
        torch.manual_seed(sampling.seed)
        was_stopped = False
        with torch.inference_mode(), self._as(name):
            try:
                look()
                self._base.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=_generation_config(sampling, room, ends, tokenizer.pad_token_id),
                    streamer=pieces,
                    stopping_criteria=StoppingCriteriaList([StopWhenAsked()]),
                )
            except Stopped:
                was_stopped = True
        pieces.finish()
        ended = "stopped" if was_stopped and not pieces.ended else "end" if pieces.ended else "length"
        return Answer(name, pieces.text, pieces.tokens, time.monotonic() - began, ended)  # type: ignore[arg-type]

    def _read(self, name: str, conversation: list[dict[str, Any]], sampling: Sampling) -> tuple[list[int], int]:
        ids = tokens_of(conversation, self._tokenizers[name], self._reads_plain_text[name])
        return ids, room_for_answer(len(ids), self.context_tokens, sampling.max_new_tokens)

    def _as(self, name: str) -> AbstractContextManager[Any]:
        if self._adapted is None:
            return nullcontext()
        if name == BASE:
            return switched_off(self._adapted)
        self._adapted.set_adapter(self._peft_names[name], inference_mode=True)
        return nullcontext()


def _refuse_missing(adapter: Path) -> None:
    """Its tokenizer, which is read first, would be missed in words about the hub."""
    if not (adapter / "adapter_config.json").is_file():
        raise BadSpec(f"{NO_ADAPTER} in {adapter} any more.", NEWER)


def _generation_config(sampling: Sampling, room: int, ends: list[int], pad: int | None) -> GenerationConfig:
    is_greedy = sampling.temperature == 0
    return GenerationConfig(
        do_sample=not is_greedy,
        temperature=None if is_greedy else sampling.temperature,
        top_p=None if is_greedy else sampling.top_p,
        top_k=None if is_greedy else 0,
        max_new_tokens=room,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
