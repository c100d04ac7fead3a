"""TRL's SFTTrainer with checkpoints that appear whole, hold no pickle, and resume exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import load_peft_weights, set_peft_model_state_dict
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer

from engine.runs.store import staged_folder
from engine.worker.callbacks import Reporter
from engine.worker.checkpoint import (
    load_training_state,
    random_states,
    restore_random_states,
    save_training_state,
)


class DeckTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that reports where it is and keeps checkpoints of its own form."""

    def __init__(self, reporter: Reporter, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reporter = reporter
        self.phase = "load"
        """Where an out-of-memory error would strike: load, forward, backward, optimizer, eval, save."""
        self.batch_shape: list[int] | None = None
        """Rows and tokens of the batch at hand, padding included."""
        self.largest_batch = [0, 0]
        """Rows and tokens of the largest batch that was trained on."""
        if self.args.fp16:
            # TRL casts the adapters of a quantized model to bf16, which float16's loss scaler cannot unscale
            # (trl issue 4901): train them in fp32 there.
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.batch_shape = list(inputs["input_ids"].shape)
        if self.model.training:
            self.phase = "forward"
            self.largest_batch = max(self.largest_batch, self.batch_shape, key=math.prod)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.model.training:
            self.phase = "backward"
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.phase = "optimizer"
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        # The events are the history. Kept here as well it would be written into every checkpoint, longer each time.
        self.state.log_history.clear()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.phase = "eval"
        self.reporter.state("evaluating")
        # Each pass over a DataLoader draws a seed from the global generator. Training must not depend on whether, or
        # how far, an evaluation ran: else a run that was stopped in one would not resume exactly.
        before = random_states()
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

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if final.exists():
            return  # asked for twice at one step, by the schedule and by a person
        if self.reporter.nan_steps:
            self.reporter.events.write(
                "warning",
                code="no-checkpoint",
                message=f"No checkpoint is written at step {self.state.global_step}: its loss is not a number.",
                hint="The checkpoints from before are what a resume goes on from.",
            )
            return
        self.phase = "save"
        self.reporter.state("saving")
        with staged_folder(final) as folder:
            save_adapter(self.model, folder)
            self.processing_class.save_pretrained(folder)
            scaler = self.accelerator.scaler
            save_training_state(
                folder,
                {
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.lr_scheduler.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "random": random_states(),
                    "tokens": int(self._total_train_tokens),
                },
            )
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        rotate_checkpoints(self.args.output_dir, save_total_limit=self.args.save_total_limit)
        self.reporter.events.write("checkpoint", step=self.state.global_step, path=str(final))
        self.reporter.state("training")

    # The four parts of a resume, in the order in which transformers asks for them.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # `load_adapter`, which transformers uses, brings the adapters back in fp32 where TRL had cast them to bf16.
        # Copying into the parameters that are there keeps the type they were trained in.
        set_peft_model_state_dict(self.model, load_peft_weights(resume_from_checkpoint, device="cpu"))
        self._restored = load_training_state(Path(resume_from_checkpoint))
        self._total_train_tokens = self._restored["tokens"]
        self.reporter.start_counting_at(self._restored["tokens"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.optimizer.load_state_dict(self._restored.pop("optimizer"))
            self.lr_scheduler.load_state_dict(self._restored.pop("scheduler"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._restored["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self._restored["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_random_states(self._restored["random"])


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter alone, as PEFT reads it. Embeddings are part of it only where they are trained."""
    # "auto" asks the hub whether the base model has a config, and would copy frozen embeddings beside a LoRA on them.
    model.save_pretrained(folder, save_embedding_layers=False)
