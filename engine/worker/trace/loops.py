"""The training loops that are traced: Loradeck's trainer as it is, and a bare one to compare with others' numbers."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model, prepare_model_for_kbit_training
from tokenizers import Tokenizer, models
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from engine.memory.request import Batch, TraceRequest
from engine.runs.events import EventWriter
from engine.spec import RunSpec
from engine.worker.callbacks import Reporter
from engine.worker.model import lora_config
from engine.worker.moment import Phase
from engine.worker.trace.log import StorageLog, TracePhase
from engine.worker.train import sft_config
from engine.worker.trainer import DeckTrainer

STEPS = 2
"""The first step makes the optimizer's state; the second has it from the beginning, like all that follow."""
ACCUMULATED = 2
"""Passes of a step that accumulates: from the second on the gradients of the first are there."""

PHASES: dict[str, TracePhase] = {
    "load": "load",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "eval": "evaluation",
    "save": "optimizer",
}
"""DeckTrainer's phases, by the names of a Footprint. Nothing is allocated on the device to save an adapter."""


EVALUATED = 2
"""Batches of the evaluation: what the first one leaves is there in the second."""
NEITHER_SAVED_NOR_EVALUATED = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "logging_steps": 1}


class TracedTrainer(DeckTrainer):
    """Loradeck's trainer on batches without data; its phases are the log's."""

    def __init__(self, log: StorageLog, request: TraceRequest, **kwargs: Any) -> None:
        self._log, self._request = log, request
        super().__init__(**kwargs)

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, name: Phase) -> None:
        self._phase: Phase = name
        self._log.enter(PHASES[name])

    def get_train_dataloader(self) -> Any:
        template = _collated(self, self._request.train)
        return _FakeLoader(template, STEPS * self.args.gradient_accumulation_steps, self.train_dataset)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        assert self._request.evaluation is not None
        return _FakeLoader(_collated(self, self._request.evaluation), EVALUATED, self.train_dataset)


class _FakeLoader:
    """Batches in the shape of `template`, made when they are asked for, as a DataLoader does."""

    def __init__(self, template: dict[str, Any], batches: int, dataset: Dataset) -> None:
        self.template, self.batches, self.dataset = template, batches, dataset

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.batches):
            yield {
                name: torch.empty(value[0], dtype=value[1]) if isinstance(value, tuple) else value
                for name, value in self.template.items()
            }


def _collated(trainer: DeckTrainer, batch: Batch) -> dict[str, Any]:
    """Names, and shapes and types of the tensors, that the trainer's own collator makes of rows of these lengths."""
    with unset_fake_temporarily(), _disable_current_modes():
        made = trainer.data_collator(_rows(batch))
    return {
        name: (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value for name, value in made.items()
    }


def _rows(batch: Batch) -> list[dict[str, list[int]]]:
    lengths = [batch.tokens] * batch.rows
    if batch.padded and not batch.packed_lengths:
        lengths[1:] = [max(1, batch.tokens - 1)] * (batch.rows - 1)
    rows = [{"input_ids": [0] * length, "labels": [0] * length} for length in lengths]
    if batch.packed_lengths:
        for row in rows:
            row["seq_lengths"] = list(batch.packed_lengths)
    return rows


class _Labels(TrainerCallback):  # type: ignore[misc]
    """Tells the log which step counts, and what the optimizer holds."""

    def __init__(self, log: StorageLog) -> None:
        self.log = log

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            self.log.forget_peaks()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        label_optimizer(self.log, kwargs["optimizer"])


def train_as_loradeck(model: PreTrainedModel, request: TraceRequest, mode: FakeTensorMode, log: StorageLog) -> None:
    """Loradeck's own trainer on fake batches: two optimizer steps, then an evaluation where the run has one."""
    spec, fp16 = for_cpu(request.spec)
    accumulated = min(spec.training.gradient_accumulation_steps, ACCUMULATED)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(None):
        folder = Path(name)
        training = spec.training.model_copy(
            update={"max_steps": STEPS, "gradient_accumulation_steps": accumulated, **NEITHER_SAVED_NOR_EVALUATED}
        )
        args = sft_config(spec.model_copy(update={"training": training}), folder)
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        rows = Dataset.from_list(_rows(Batch(1, 1)))
        with mode, log:
            trainer = TracedTrainer(
                log,
                request,
                reporter=Reporter(EventWriter(folder / "events.jsonl")),
                model=model,
                args=args,
                train_dataset=rows,
                eval_dataset=rows,
                processing_class=_tokenizer(),
                peft_config=lora_config(spec.lora),
                callbacks=[_Labels(log)],
            )
            if fp16:  # as DeckTrainer does for it
                cast_adapters(trainer.model, torch.float32)
            if request.adapter_dtype is not None:
                cast_adapters(trainer.model, getattr(torch, request.adapter_dtype))
            label_adapters(log, trainer.model)
            waiting = request.spec.training.gradient_accumulation_steps - accumulated
            if waiting > 0:  # the other passes' batches are on the device from the step's begin
                log.hold(waiting * _bytes(_collated(trainer, request.train)), "activations")
            trainer.train()
            if request.evaluation is not None:
                trainer.evaluate()


def train_plainly(model: PreTrainedModel, request: TraceRequest, mode: FakeTensorMode, log: StorageLog) -> None:
    """A bare loop: transformers' own loss, PEFT's adapters as `get_peft_model` leaves them, AdamW, no autocast."""
    spec, batch = request.spec, request.train
    checkpointing = spec.training.activation_checkpointing
    with mode, log:
        if request.recipe == "plain+kbit":
            model = prepare_model_for_kbit_training(
                model,
                use_gradient_checkpointing=checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False},
            )
            for parameter in model.parameters():
                log.see(parameter, "weights")
        model = get_peft_model(model, lora_config(spec.lora))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if request.adapter_dtype is not None:
            cast_adapters(model, getattr(torch, request.adapter_dtype))
        label_adapters(log, model)
        model.config.use_cache = False
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for step in range(STEPS):
            optimizer.zero_grad()
            tokens = torch.empty(batch.rows, batch.tokens, dtype=torch.long)
            mask = torch.empty(batch.rows, batch.tokens, dtype=torch.long) if batch.padded else None
            if step == STEPS - 1:
                log.flush()  # PEFT's own benchmark empties the cache every ten steps; without it nothing fits worse
                log.forget_peaks()
            log.enter("forward")
            output = model(input_ids=tokens, attention_mask=mask, labels=tokens)  # its logits live to the step's end
            log.enter("backward")
            output.loss.backward()
            log.enter("optimizer")
            optimizer.step()
            label_optimizer(log, optimizer)
            del output


def for_cpu(spec: RunSpec) -> tuple[RunSpec, bool]:
    """`spec` as the CPU's autocast can run it, and whether it was for float16: bfloat16 then stands for it, which has
    the same size and no loss scaler."""
    fp16 = bool(spec.training.fp16)
    changes: dict[str, dict[str, Any]] = {"hardware": {"device": "cpu"}}
    if fp16:
        changes["training"] = {"fp16": False, "bf16": True}
        changes["model"] = {"dtype": _bfloat16(spec.model.dtype)}
        changes["quantization"] = {"bnb_4bit_compute_dtype": _bfloat16(spec.quantization.bnb_4bit_compute_dtype)}
    sections = {name: getattr(spec, name).model_copy(update=update) for name, update in changes.items()}
    return spec.model_copy(update=sections), fp16


def _bfloat16(dtype: str) -> str:
    return "bfloat16" if dtype == "float16" else dtype


def cast_adapters(model: Any, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def label_adapters(log: StorageLog, model: Any) -> None:
    """Label what is trained, and its gradients as they come."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            log.see(parameter, "adapters")
            parameter.register_post_accumulate_grad_hook(lambda p: log.see(p.grad, "gradients"))


def label_optimizer(log: StorageLog, optimizer: torch.optim.Optimizer) -> None:
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    for state in list(inner.state.values()):
        for tensor in state.values():
            log.see(tensor, "optimizer")


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>")


def _bytes(template: dict[str, Any]) -> int:
    return sum(math.prod(value[0]) * value[1].itemsize for value in template.values() if isinstance(value, tuple))
