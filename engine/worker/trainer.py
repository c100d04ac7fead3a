"""TRL's SFTTrainer with checkpoints that appear whole, hold no pickle, and resume exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, rotate_checkpoints
from trl import SFTTrainer

from engine.runs.store import staged_folder
from engine.worker.best import Best, forget, value_of
from engine.worker.callbacks import Reporter
from engine.worker.checkpoint import (
    load_training_state,
    random_states,
    restore_random_states,
    save_adapter,
    save_training_state,
)
from engine.worker.data.sequences import Sequences
from engine.worker.moment import Moment, Phase
from engine.worker.own_work import OwnWork
from engine.worker.ranks import Ranks
from engine.worker.sampling import LengthGroupsByEpoch
from engine.worker.sharding import (
    ShardingPlugin,
    is_sharded,
    keep_types,
    own_optimizer_state,
    put_parameters,
    saved_names,
    shard_on_cpu,
    whole_optimizer_state,
    whole_parameters,
)
from engine.worker.shares import shared_exactly


@dataclass(frozen=True)
class Learnt:
    """What training changes, as one process would hold it."""

    adapter: dict[str, torch.Tensor] | None
    """Its tensors by the names that PEFT saves them under; None where the model itself holds them."""
    optimizer: dict[str, Any]


class DeckTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that reports where it is and keeps checkpoints of its own form."""

    def __init__(
        self,
        reporter: Reporter,
        train_dataset: Sequences | Dataset,
        eval_dataset: Sequences | Dataset | None = None,
        best: Best | None = None,
        ranks: Ranks | None = None,
        shards: bool = False,
        **kwargs: Any,
    ) -> None:
        self.shards = shards
        """Whether the processes share the model (FSDP): what reads or saves it is then done by all of them at once."""
        self.once_shared: Callable[[], None] | None = None
        """Called before the first step, when the model is where it is trained."""
        # First of the callbacks: those that follow meet the other processes, and one of these may be gone by then.
        kwargs["callbacks"] = [WholeSteps(self), *kwargs.get("callbacks", [])]
        # TRL insists on its own kind of dataset, and only looks at the first sequence of it: nothing is prepared.
        super().__init__(train_dataset=_first_of(train_dataset), eval_dataset=_first_of(eval_dataset), **kwargs)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.reporter = reporter
        self.ranks = ranks or Ranks()
        self.best = best
        """How evaluations are compared; None where nothing depends on it."""
        self.after_evaluation: Callable[[], None] | None = None
        """Called after each evaluation of the schedule, when its step is judged and saved."""
        self.phase: Phase = "load"
        """Where an out-of-memory error would strike."""
        self.in_preflight = False
        self.batch_shape: list[int] | None = None
        """Rows and tokens of the batch at hand, padding included."""
        self.largest_batch = [0, 0]
        """Rows and tokens of the largest batch that was trained on."""
        self._has_evaluated = self._owes_evaluation = False
        self._own_work: OwnWork | None = None
        if self.ranks.are_several and not self.is_fsdp_enabled:  # whose layers wait for the others' shards
            self._own_work = OwnWork(self.model, counts=lambda: self.model.training and not self.in_preflight)
        self._batch_mask: torch.Tensor | None = None
        self._batch_positions: torch.Tensor | None = None
        self._whole_step: tuple[dict[str, Any], int] | None = None
        self._saved_step: int | None = None
        """Of the newest checkpoint, as all processes know it whether or not it is on the disk yet."""
        if not self.ranks.is_main:
            # transformers gives all the same seed: their dropout would leave out the same places of different rows.
            # A single process draws anew for each row.
            torch.manual_seed(self.args.seed + self.ranks.place.rank)
        if self.args.fp16:
            # TRL casts the adapters of a quantized model to bf16, which float16's loss scaler cannot unscale
            # (trl issue 4901): train them in fp32 there.
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self._types = {name: one.dtype for name, one in self.model.named_parameters() if one.requires_grad}
        self._saved_names = saved_names(self.model, self._types) if shards else {}

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        if self.shards:
            warnings.filterwarnings("ignore", "Upcasted low precision|FSDP upcast")  # `keep_types` undoes it
            kwargs["fsdp_plugin"] = ShardingPlugin()
        args: dict[str, Any] = super()._build_accelerator_args(**kwargs)
        return args

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.shards and self.args.use_cpu:
            shard_on_cpu(ShardingPlugin())
            self.is_fsdp_enabled = True

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.once_shared is not None:
            self.once_shared()
        return prepared

    def create_optimizer(self, model: Any = None) -> Any:
        if is_sharded(model):
            keep_types(model, self._types)
        return super().create_optimizer(model)

    @property
    def moment(self) -> Moment:
        """What is being done now."""
        under_way = self.phase in ("forward", "backward", "optimizer") or self.in_preflight
        step = self.state.global_step + under_way if self.phase != "load" else 0
        return Moment(self.phase, step, self.in_preflight, self.batch_shape)

    def longest_row_tokens(self) -> int | None:
        """Longest row of the batch at hand, without padding; of a packed batch its longest part."""
        if self._batch_mask is not None:
            return int(self._batch_mask.cpu().sum(dim=1).max())
        if self._batch_positions is not None:
            return int(self._batch_positions.cpu().max()) + 1
        return None

    @contextmanager
    def doing(self, phase: Phase) -> Iterator[None]:
        """Name what the block does. After an exception the name stays, to tell where it struck."""
        before, self.phase = self.phase, phase
        yield
        self.phase = before

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.ranks.beat(self.state.global_step)
        self.batch_shape = list(inputs["input_ids"].shape)
        self._batch_mask, self._batch_positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if self.model.training:
            self.phase = "forward"
            if not self.in_preflight:
                self.ranks.work.places += math.prod(self.batch_shape)
                # At an epoch's end accelerate leaves out of its counts what it takes for rows that came again: there
                # are none (`shares`), and batches of the whole last step would be left out.
                if (loader := self.accelerator.gradient_state.active_dataloader) is not None:
                    loader.remainder = 0
            self.largest_batch = max(self.largest_batch, self.batch_shape, key=math.prod)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.model.training:
            self.phase = "backward"
            if self._own_work is not None:
                self._own_work.begin_backward()
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.ranks.beat(self.state.global_step)
        # After the last pass of a step comes the optimizer, after the others the next forward.
        self.phase = "optimizer" if self.accelerator.sync_gradients else "forward"
        if self._own_work is not None and self.accelerator.sync_gradients:
            self._own_work.end_step()
            self.ranks.work.add(*self._own_work.taken(), places=0)
        return loss

    def step_ended(self) -> None:
        """Keep what a checkpoint of the step just taken needs and the next step changes."""
        self.phase = "forward"
        self._whole_step = random_states(), int(self._total_train_tokens)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args, rows = self.args, self.train_dataset if train_dataset is None else train_dataset
        if args.train_sampling_strategy != "group_by_length" or not isinstance(rows, Sequences):
            return super()._get_train_sampler(train_dataset)
        seed = args.seed if args.data_seed is None else args.data_seed
        together = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupsByEpoch(together, rows.lengths.tolist(), seed)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        with shared_exactly():
            return super()._get_dataloader(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        # The events are the history. Kept here as well it would be written into every checkpoint, longer each time.
        self.state.log_history.clear()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.reporter.state("evaluating")
        # Each pass over a DataLoader draws a seed from the global generator. Training must not depend on whether, or
        # how far, an evaluation ran: else a run that was stopped in one would not resume exactly.
        before = random_states()
        with self.doing("eval"):
            try:
                metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            finally:
                restore_random_states(before)
        self.reporter.events.write(
            "eval",
            step=self.state.global_step,
            eval_loss=metrics["eval_loss"],
            eval_token_accuracy=metrics.get("eval_mean_token_accuracy"),
            seconds=metrics["eval_runtime"],
        )
        self.reporter.state("training")
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any = None) -> bool:
        """transformers' judgement of an evaluation in training, with what follows from it."""
        best, state = self.best, self.state
        if best is None:
            return False
        # Without a checkpoint a step cannot be kept, and where the loss is not a number there is none.
        value = math.nan if self.reporter.nan_steps else value_of(metrics, best)
        is_best = best.judge(value, state)
        if is_best:
            self.reporter.events.write("best", step=state.global_step, metric=best.metric, value=value)
            self.control.should_save = self.control.should_save or best.is_kept
        if best.is_waited_out and state.global_step < state.max_steps:
            self.control.should_training_stop = True
            self.control.should_save = self.args.save_strategy != SaveStrategy.NO
            self.reporter.events.write(
                "early_stop",
                step=state.global_step,
                best_step=state.best_global_step,
                metric=best.metric,
                value=state.best_metric,
                patience=best.patience,
            )
        return is_best

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
        self._has_evaluated = True
        if self.state.global_step == self._initial_global_step:  # on start: nothing follows that is judged or saved
            self._follow_evaluation()
        return metrics

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._follow_evaluation()

    def _follow_evaluation(self) -> None:
        if self._has_evaluated and self.after_evaluation is not None:
            self.after_evaluation()
        self._has_evaluated = False

    @property
    def is_over(self) -> bool:
        """Whether no step is left to take."""
        return self.state.global_step >= self.state.max_steps or (self.best is not None and self.best.is_waited_out)

    def _run_epoch(self, model: Any, epoch: int, trial: Any, ignore_keys_for_eval: Any, **kwargs: Any) -> None:
        if self._owes_evaluation:
            self._owes_evaluation, self.control.should_evaluate = False, True
            began = kwargs["start_time"]
            self._maybe_log_save_evaluate(self._tr_loss, None, model, trial, epoch, ignore_keys_for_eval, began)
        if self.is_over:  # resumed from a checkpoint of its last step, in mid-epoch
            self.control.should_training_stop = True
            return
        super()._run_epoch(model=model, epoch=epoch, trial=trial, ignore_keys_for_eval=ignore_keys_for_eval, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        # With save_total_limit: 1 transformers deletes the newest checkpoint here, and that of a stopped run is what
        # it goes on from. The best is loaded by `load_best`, once it is known that the run is complete.
        kept, self.state.best_model_checkpoint = self.state.best_model_checkpoint, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.state.best_model_checkpoint = kept

    def load_best(self) -> int | None:
        """Put the adapter of the best step into the model and return that step; None where there is none to be had,
        and the model stays as it is."""
        step: int | None = self.state.best_global_step
        if step == self.state.global_step or step is None:
            return step
        folder = self._newest_checkpoint.with_name(f"checkpoint-{step}")
        if not folder.is_dir():
            return None
        self._load_adapter(str(folder))
        return step

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        if self._saved_step == self.state.global_step:
            return  # asked for twice at one step, by the schedule and by a person
        if self.reporter.nan_steps:
            self.reporter.events.write(
                "warning",
                code="no-checkpoint",
                message=f"No checkpoint is written at step {self.state.global_step}: its loss is not a number.",
                hint="The checkpoints from before are what a resume goes on from.",
            )
            return
        with self.doing("save"):
            self.reporter.state("saving")
            self._add_checkpoint(self.ranks.gathered(random_states()), int(self._total_train_tokens))
            self.reporter.state("training")

    def save_last_whole_step(self) -> None:
        """Write the checkpoint of the last step that was taken, from the midst of what followed it.

        A step changes nothing before its optimizer moves, and an evaluation or a save nothing at all: what the
        checkpoint would have held is all there still, but for the random states and the count of tokens, which were
        kept. Of a model that is shared nothing is written: the others' shares are no longer to be had.
        """
        is_whole = self.phase in ("forward", "backward", "eval", "save") and not self.in_preflight and not self.shards
        if is_whole and self._whole_step and not self.reporter.nan_steps and not self._newest_checkpoint.exists():
            if self.ranks.are_several:
                self.reporter.state("saving")  # the supervisor waits for it
            random, tokens = self._whole_step
            self._add_checkpoint([random], tokens)

    @property
    def _newest_checkpoint(self) -> Path:
        """Where the checkpoint of the last step taken belongs."""
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

    def _add_checkpoint(self, random: list[dict[str, Any]], tokens: int) -> None:
        final, self._saved_step = self._newest_checkpoint, self.state.global_step
        if self.best is not None:
            self.best.record(self.state, final.parent)
        learnt = self.learnt()
        if not self.ranks.keeps or final.exists():
            return
        self.write_checkpoint(final, learnt, random, tokens)
        rotate_checkpoints(self.args.output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.reporter.events.write("checkpoint", step=self.state.global_step, path=str(final))

    def learnt(self) -> Learnt:
        """What training has changed so far. To be called by all processes where they share the model."""
        if not is_sharded(self.model):
            return Learnt(None, self.optimizer.state_dict())
        return Learnt(self.whole_adapter(), whole_optimizer_state(self.optimizer, self.model, self.ranks))

    def whole_adapter(self) -> dict[str, torch.Tensor] | None:
        """The trained parameters by the names that PEFT saves them under; None where each process has them whole. To be
        called by all."""
        if not is_sharded(self.model):
            return None
        return {self._saved_names[name]: one for name, one in whole_parameters(self.model, self.ranks).items()}

    def write_checkpoint(self, final: Path, learnt: Learnt, random: list[dict[str, Any]], tokens: int) -> None:
        """Write adapter and training state into the folder `final`, which appears whole.

        `random` are the random states of rank 0 and, where they are known, of the others.
        """
        with staged_folder(final) as folder:
            save_adapter(self.model, folder, learnt.adapter)
            self.processing_class.save_pretrained(folder)
            scaler = self.accelerator.scaler
            save_training_state(
                folder,
                {
                    "optimizer": learnt.optimizer,
                    "scheduler": self.lr_scheduler.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "random": random[0],
                    "random_of_others": random[1:],
                    "rows_a_step": self.rows_a_step,
                    "tokens": tokens,
                },
            )
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    @property
    def rows_a_step(self) -> int:
        """Rows that one optimizer step learns from."""
        args = self.args
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    # The parts of a resume, in the order in which transformers asks for them.

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        trained: tuple[int, int] = super()._init_training_state(max_steps, *args)
        self._saved_step = self.state.global_step or None
        # transformers goes on with the batch size and the intervals of the checkpoint, which may be another run's.
        self.state.train_batch_size = self._train_batch_size
        self.state.compute_steps(self.args, max_steps)
        if self.best is None:
            forget(self.state)
        elif not self._best_is_there(self.best):
            self.reporter.events.write(
                "warning",
                code="best-gone",
                message="The checkpoint of the best step so far is gone: the best is looked for anew from here.",
                hint="",
            )
        if self.best is not None and 0 < self.state.global_step != self.best.judged_step:
            # A stop, or the end of an earlier trainer, came between a step and its evaluation.
            by_steps = self.args.eval_strategy == IntervalStrategy.STEPS
            self._owes_evaluation = self.state.global_step % self.state.eval_steps == 0 if by_steps else trained[1] == 0
        return trained

    def _best_is_there(self, best: Best) -> bool:
        # It may have to be copied from another run: by one process of those that write there.
        if not self.ranks.keeps:
            self.ranks.wait()
        is_there = best.restore(self.state, self._newest_checkpoint.parent)
        if self.ranks.keeps:
            self.ranks.wait()
        if not all(self.ranks.gathered(is_there)):
            best.give_up(self.state)
            return False
        return True

    def _load_adapter(self, folder: str) -> None:
        # `load_adapter`, which transformers uses, brings the adapters back in fp32 where TRL had cast them to bf16.
        # Copying into the parameters that are there keeps the type they were trained in.
        saved = load_peft_weights(folder, device="cpu")
        if is_sharded(self.model):
            put_parameters(
                self.model, {name: saved[saved_as] for name, saved_as in self._saved_names.items()}, self.ranks.place
            )
        else:
            set_peft_model_state_dict(self.model, saved)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_adapter(resume_from_checkpoint)
        self._restored = load_training_state(Path(resume_from_checkpoint))
        self._total_train_tokens = self._restored["tokens"]
        self.reporter.start_counting_at(self._restored["tokens"])
        rows = self._restored.get("rows_a_step", self.rows_a_step)
        if rows != self.rows_a_step:
            self.reporter.events.write(
                "warning",
                code="other-step",
                message=f"Steps learnt from {rows:,} rows up to this checkpoint, and from {self.rows_a_step:,} from "
                "here on: rows that were seen may come again in this epoch, and others not.",
                hint="The effective batch is batch size x accumulation x processes: keep it when one of them changes.",
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = self._restored.pop("optimizer")
            if is_sharded(self.model):
                state = own_optimizer_state(state, self.optimizer, self.model, self.ranks.place)
            self.optimizer.load_state_dict(state)
            self.lr_scheduler.load_state_dict(self._restored.pop("scheduler"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._restored["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self._restored["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states = [self._restored["random"], *self._restored.get("random_of_others", [])]
            if self.ranks.place.rank < len(states):  # of more processes than before, those begin with their own seed
                restore_random_states(states[self.ranks.place.rank])


class WholeSteps(TrainerCallback):  # type: ignore[misc]
    """Lets a trainer know where its steps end, so that the state after the last one can still be saved in the next."""

    def __init__(self, trainer: DeckTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.phase = "forward"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.step_ended()


def _first_of(dataset: Sequences | Dataset | None) -> Dataset | None:
    return Dataset.from_list([dataset[0]]) if isinstance(dataset, Sequences) else dataset
