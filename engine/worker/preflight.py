"""The largest batches and a save, once before the first step, and everything as it was afterwards.

What does not fit fails in the first minute instead of the third hour. The batches are those that the run's own data,
sampler, seed and collator will form; what runs on them is the trainer's own step.
"""

from __future__ import annotations

import gc
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from engine.worker.checkpoint import random_states, restore_random_states
from engine.worker.data.sequences import FILLER
from engine.worker.measured import Measured
from engine.worker.model import give_freed_heap_back
from engine.worker.oom import shortfall
from engine.worker.oom_event import record_history
from engine.worker.requests import Requests, StopRequested
from engine.worker.trainer import DeckTrainer

ROWS_LOOKED_AT = 1_000_000
"""Rows of coming epochs whose batches are formed to find the largest: a second. The rest of a longer run is taken to
bring the longest rows together."""
SCRATCH_PREFIX = ".preflight-"


class Preflight(TrainerCallback):  # type: ignore[misc]
    """Runs before the first step of this trainer. Raises StopRequested, OSError, and what says that memory ran out; the
    trainer is then of no use any more."""

    def __init__(self, trainer: DeckTrainer, requests: Requests, measured: Measured, scratch: Path) -> None:
        self.trainer = trainer
        self.requests = requests
        self.measured = measured
        self.scratch = scratch
        """Folder on the run's disk to save into; nothing stays there."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        if state.global_step >= state.max_steps:  # only what follows the last step is left to do
            trainer.reporter.state("training")
            return
        trainer.reporter.state("preflight")
        trainer.in_preflight = True
        if args.device.type == "cuda":
            record_history(with_stacks=True)
        before = _State.of(trainer)
        self.measured.begin_preflight()

        try:
            self._take_a_step()
            if trainer.eval_dataset is not None and len(trainer.eval_dataset):
                self._evaluate()
            self._save()
        except (StopRequested, OSError):
            raise
        except Exception as error:
            if shortfall(error) is not None or self.trainer.ranks.are_several:  # others would wait for this one
                raise
            self._say_given_up(error)

        before.put_back(trainer)
        free_what_was_tried()
        self.measured.end_preflight()
        if args.device.type == "cuda":
            record_history(with_stacks=False)
        trainer.in_preflight = False
        trainer.reporter.state("training")

    def _say_given_up(self, error: Exception) -> None:
        """What is no want of memory or disk is no reason to train nothing: if training has it too, it will say so."""
        traceback.print_exc()
        self.trainer.reporter.events.write(
            "warning",
            code="preflight-given-up",
            message=f"The preflight was given up: {type(error).__name__}: {str(error)[:500]}",
            hint="Training goes on without it; trainer.log holds the trace. hardware.preflight: false leaves it out.",
        )

    def _take_a_step(self) -> None:
        """Two passes over the largest batch, so that gradients are there during the second, and the optimizer."""
        trainer, model, args = self.trainer, self.trainer.model_wrapped, self.trainer.args
        loader = trainer.get_train_dataloader()
        rows = self._largest(coming_batches(trainer, loader), loader, args.train_batch_size)
        passes = min(2, args.gradient_accumulation_steps)
        batches = [_collated(loader, rows) for _ in range(passes)]
        learnt_tokens = trainer._get_num_items_in_batch(batches, args.device)
        trainer.current_gradient_accumulation_steps = passes
        for number, batch in enumerate(batches, start=1):
            self.requests.stop_if_asked()
            trainer.accelerator.gradient_state._set_sync_gradients(number == passes)
            # Between steps FSDP keeps whole gradients.
            with nullcontext() if number == passes else trainer.accelerator.no_sync(model):
                trainer.training_step(model, batch, learnt_tokens)
        self.requests.stop_if_asked()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
        # Not through accelerate: a float16 scaler skips first steps, and its state would have to be put back.
        trainer.optimizer.optimizer.step()
        model.zero_grad()

    def _evaluate(self) -> None:
        self.requests.stop_if_asked()
        trainer, model = self.trainer, self.trainer.model_wrapped
        loader = trainer.get_eval_dataloader()
        rows = self._largest(iter(loader.batch_sampler), loader, trainer.args.eval_batch_size)
        model.eval()
        with trainer.doing("eval"):
            trainer.prediction_step(model, _collated(loader, rows), prediction_loss_only=True)
        model.train()

    def _largest(self, batches: Iterator[list[int]], loader: Any, rows: int) -> list[int]:
        own = (batch for batch in batches if batch != [FILLER])
        first = next(own, None)
        if first is None:  # of several processes one that is left without any
            return [FILLER]
        lengths = loader.dataset.lengths.tolist()
        return largest_batch(chain([first], own), lengths, rows, padded=not self.trainer.padding_free)

    def _save(self) -> None:
        self.requests.stop_if_asked()
        with (
            self.trainer.doing("save"),
            tempfile.TemporaryDirectory(dir=self.scratch, prefix=SCRATCH_PREFIX) as folder,
        ):
            learnt = self.trainer.learnt()
            if self.trainer.ranks.keeps:
                self.trainer.write_checkpoint(Path(folder) / "checkpoint", learnt, [random_states()], 0)


@dataclass(frozen=True)
class _State:
    """All that training changes, kept in host memory."""

    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    random: dict[str, Any]
    tokens: int

    @classmethod
    def of(cls, trainer: DeckTrainer) -> _State:
        model = trainer.model
        return cls(
            {name: _copy(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad},
            {name: _copy(buffer) for name, buffer in model.named_buffers()},
            _copy(trainer.optimizer.state_dict()),
            random_states(),
            trainer._total_train_tokens,
        )

    def put_back(self, trainer: DeckTrainer) -> None:
        model = trainer.model
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.parameters[name])
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name])
        model.zero_grad(set_to_none=True)
        optimizer = trainer.optimizer.optimizer
        if self.optimizer["state"] or not isinstance(optimizer, Optimizer8bit) or not optimizer.is_paged:
            trainer.optimizer.load_state_dict(self.optimizer)
        else:
            begin_paged_state_anew(optimizer)
        trainer._total_train_tokens = self.tokens
        for metrics in trainer._metrics.values():
            metrics.clear()
        trainer.batch_shape = None
        trainer.phase = "forward"
        restore_random_states(self.random)


def largest_batch(batches: Iterable[list[int]], tokens: list[int], rows: int, padded: bool = True) -> list[int]:
    """Rows of the batch that takes the most memory: padded to its longest row the largest, and then the fullest. Rows
    that are joined without padding count as long as they are.

    `tokens` are the lengths of all rows. Of batches that are not among the first ROWS_LOOKED_AT rows nothing is known:
    one of `rows` rows, the longest of all, stands for them.
    """

    def size(batch: list[int]) -> tuple[int, int]:
        lengths = [tokens[row] for row in batch]
        return len(lengths) * max(lengths) if padded else 0, sum(lengths)

    remaining = iter(batches)
    looked_at = list(islice(remaining, -(-ROWS_LOOKED_AT // rows)))
    if next(remaining, None) is not None:
        looked_at.append(sorted(range(len(tokens)), key=tokens.__getitem__)[-rows:])
    return max(looked_at, key=size)


def free_what_was_tried() -> None:
    """Let memory that only the preflight needed be counted no more."""
    gc.collect()
    give_freed_heap_back()
    torch.cuda.empty_cache()


def coming_batches(trainer: DeckTrainer, loader: Any) -> Iterator[list[int]]:
    """Rows of each batch that is yet to be trained on, in the order of the run."""
    args, state = trainer.args, trainer.state
    passes_an_epoch = len(loader)
    steps_an_epoch = -(-passes_an_epoch // args.gradient_accumulation_steps)
    epoch, steps_taken = divmod(state.global_step, steps_an_epoch)
    remaining = state.max_steps - state.global_step
    skipped = steps_taken * args.gradient_accumulation_steps
    while remaining > 0:
        loader.set_epoch(epoch)
        steps = min(remaining, steps_an_epoch - steps_taken)
        passes = min(passes_an_epoch, skipped + steps * args.gradient_accumulation_steps)
        yield from islice(loader.batch_sampler, skipped, passes)
        remaining -= steps
        epoch, steps_taken, skipped = epoch + 1, 0, 0


def _collated(loader: Any, rows: list[int]) -> dict[str, Any]:
    batch: dict[str, Any] = loader.collate_fn([loader.dataset[row] for row in rows])
    return batch


def _copy(value: Any) -> Any:
    """`value` with its tensors copied to host memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_copy, value))
    return value


def begin_paged_state_anew(optimizer: Optimizer8bit) -> None:
    """Set a paged optimizer to before its first step. bitsandbytes never frees managed memory, so it is used again.

    Its buffers start as zeros (bitsandbytes/optim/optimizer.py, `init_state`); the code books are constants.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    for state in optimizer.state.values():
        state["step"] = 0
        for name, tensor in state.items():
            if isinstance(tensor, torch.Tensor) and not name.startswith("qmap"):
                tensor.zero_()
