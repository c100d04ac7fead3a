"""A run's answers to its prompts: at evaluations by the adapter as it is by then, at the end by base and adapter."""

from __future__ import annotations

import traceback

from engine.spec import RunSpec
from engine.worker.checkpoint import random_states, restore_random_states
from engine.worker.data.run_data import RunData
from engine.worker.loaded import answer_fast
from engine.worker.preflight import free_what_was_tried
from engine.worker.requests import Requests, StopRequested
from engine.worker.samples import answers, questions_of
from engine.worker.trainer import DeckTrainer


class Answering:
    """Asks a trainer's model and writes `sample` events."""

    def __init__(self, spec: RunSpec, data: RunData, trainer: DeckTrainer, requests: Requests) -> None:
        self.trainer = trainer
        self.requests = requests
        self.encoder = data.encoder
        self.questions = questions_of(data, spec.data)
        self.max_new_tokens = spec.data.samples_max_new_tokens
        self.batch_size = spec.training.per_device_eval_batch_size
        self.asked_at_evaluations = self.questions.all if spec.data.samples_at_eval else self.questions.own
        self._was_given_up = False
        if left_out := len(spec.data.sample_prompts) - len(self.questions.own):
            trainer.reporter.events.write(
                "warning",
                code="prompts-refused",
                message=f"{left_out} of data.sample_prompts are not answered: the chat template does not take them.",
                hint="It may want a system turn first: `loradeck data` shows what it writes.",
            )

    def at_evaluation(self) -> None:
        """Answers by the adapter as it is now; afterwards all is as it was. Raises StopRequested and OSError; whatever
        else goes wrong, memory that runs out included, costs the answers and not the run."""
        if not self.asked_at_evaluations:
            return
        if self.trainer.ranks.is_first_here and not self._was_given_up:
            with self.requests.alone():
                self._answer_now()
        self.requests.stop_if_asked()  # other processes wait here for the one that answers

    def _answer_now(self) -> None:
        trainer, model, phase = self.trainer, self.trainer.model, self.trainer.phase
        was_training, before = model.training, random_states()
        trainer.reporter.state("evaluating")
        model.eval()
        try:
            with trainer.doing("eval"):
                self._answer(trainer.state.global_step)
        except StopRequested:
            return  # all stop together
        except OSError:
            raise
        except Exception as error:
            self._give_up(error)
            trainer.phase = phase
        finally:
            model.train(was_training)
            restore_random_states(before)
        free_what_was_tried()
        trainer.reporter.state("training")

    def at_the_end(self, step: int) -> None:
        """Answers by the base (adapter switched off) and by the adapter, which is that of `step`. Nothing is trained
        afterwards. By rank 0 alone."""
        if not self.questions.all:
            return
        trainer = self.trainer
        trainer.batch_shape = None
        trainer.reporter.state("evaluating")
        trainer.model.eval()
        answer_fast(trainer.model)
        with trainer.doing("eval"):
            for who in ("base", "adapter"):
                for sample in answers(
                    trainer.model, self.encoder, self.questions.all, who, self.max_new_tokens, self.batch_size
                ):
                    trainer.reporter.events.write("sample", step=step, **vars(sample))

    def _answer(self, step: int) -> None:
        trainer = self.trainer
        asked, most, rows = self.asked_at_evaluations, self.max_new_tokens, self.batch_size
        for sample in answers(trainer.model, self.encoder, asked, "adapter", most, rows, self.requests):
            trainer.reporter.events.write("sample", step=step, **vars(sample))

    def _give_up(self, error: Exception) -> None:
        traceback.print_exc()
        self._was_given_up = True
        self.trainer.reporter.events.write(
            "warning",
            code="samples-given-up",
            message=f"Prompts are no longer answered during training: {type(error).__name__}: {str(error)[:500]}",
            hint="Training goes on. Fewer or shorter prompts, or a smaller data.samples_max_new_tokens, take less "
            "memory; trainer.log holds the trace.",
        )
