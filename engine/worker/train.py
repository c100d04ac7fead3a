"""One training run, from its folder to its adapter: `python -m engine.worker train RUN_DIR`."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PrinterCallback
from trl import SFTConfig

from engine import architecture_cache
from engine.checks import read_spec
from engine.memory.footprint import Footprint
from engine.runs import prediction
from engine.runs.events import EventWriter, NoEvents
from engine.runs.ranks import rank_log_path
from engine.runs.store import Cause, Run, checkpoint_step, staged_folder
from engine.spec import RunSpec
from engine.targets import problems_of_sharing, problems_with
from engine.worker.agreeing import agreed_checkpoint, check_same_rows, check_same_weights
from engine.worker.answering import Answering
from engine.worker.best import best_of, words_of_end
from engine.worker.callbacks import Reporter, Steering
from engine.worker.checkpoint import save_adapter
from engine.worker.data.packing import check_rows_stay_apart
from engine.worker.data.run_data import RunData, load_data, warnings_of
from engine.worker.data.template import apply_to
from engine.worker.failures import EXIT_CODES, BadSpec, explain
from engine.worker.inspect import describe
from engine.worker.limit import keep_within_limit, large_blocks_apart, lift_limit
from engine.worker.measured import Measured
from engine.worker.meta import NotInspectable
from engine.worker.model import give_freed_heap_back, is_quantized, load_model, lora_config
from engine.worker.moment import Moment
from engine.worker.oom import shortfall
from engine.worker.oom_event import let_go, oom_fields, record_history, save_snapshot
from engine.worker.preflight import SCRATCH_PREFIX, Preflight
from engine.worker.process_memory import own_memory
from engine.worker.ranks import NO_LIMIT, Ranks, is_lost
from engine.worker.requests import Requests, StopRequested
from engine.worker.trackers import PROJECT, Trackers, trackers_of
from engine.worker.trainer import DeckTrainer
from engine.worker.wrapping import check_config, check_units

STOPPED = 130


def main(run: Run, ranks: Ranks) -> int:
    """Train `run`; returns the exit code that the supervisor reads."""
    events = EventWriter(run.events_path) if ranks.is_first_here else NoEvents()
    training = Training(run, events, ranks)
    try:
        finished = training.fit()
    except StopRequested:
        finished = False
    except Exception as error:
        failure = training.fail(error)
        return ranks.leave(EXIT_CODES[failure.cause], **asdict(failure))
    events.write("state", state="finished" if finished else "stopped", message=training.end_in_words)
    return ranks.leave(0 if finished else STOPPED)


@dataclass(frozen=True)
class Failed:
    """Why a training ended, as `engine.runs.ranks.RankRecord` holds it."""

    cause: Cause
    message: str
    is_consequence: bool = False
    oom: dict[str, Any] | None = None


class Training:
    """A run in progress, in one of its processes."""

    def __init__(self, run: Run, events: EventWriter, ranks: Ranks | None = None) -> None:
        self.run = run
        self.events = events
        self.ranks = ranks or Ranks()
        self.reporter = Reporter(events, self.ranks)
        self.requests = Requests(run, events, self.ranks)
        self.spec: RunSpec | None = None
        self.trainer: DeckTrainer | None = None
        self.trackers = Trackers({}, events)
        self.end_in_words = ""
        """Which adapter the run leaves, where it is not that of the last planned step."""
        self.libraries_bytes = 0
        """Resident before rows and model were loaded."""

    def fit(self) -> bool:
        """Train from the newest checkpoint, or from the start. Returns whether the run is complete.

        Raises StopRequested where no step was under way, BadSpec, NanLoss, and whatever the libraries raise.
        """
        spec = self.spec = self.ranks.own(read_spec(self.run.spec_path))
        self.libraries_bytes = own_memory().resident_bytes
        if self.ranks.keeps:
            remove_unfinished_saves(self.run)
        check_targets(spec)
        self.ranks.join(spec)
        checkpoint = agreed_checkpoint(self.run, self.ranks)
        resumed = {} if checkpoint is None else {"resumed_from_step": checkpoint_step(checkpoint)}
        self.reporter.state("loading", **resumed)
        if self.ranks.is_main:
            self.trackers = trackers_of(spec, self.run, self.events)
        data = self.load_data(spec)
        check_same_rows(data, spec, self.ranks)
        give_freed_heap_back()
        keep_within_limit(spec)
        trainer = self.trainer = self.set_up(spec, data)
        with self.requests.together():
            return self.train(trainer, data, checkpoint)

    def load_data(self, spec: RunSpec) -> RunData:
        """The rows; of a machine's processes the first tokenizes what has not been before, and the others find it."""
        if not self.ranks.is_first_here:
            self.ranks.wait()
        data = load_data(spec, self.requests.stop_if_asked)
        if self.ranks.is_first_here:
            self.ranks.wait()
        return data

    def train(self, trainer: DeckTrainer, data: RunData, checkpoint: Path | None) -> bool:
        """All steps that are left, and what follows the last. Returns whether the run is complete."""
        spec = self.spec
        assert spec is not None
        self.requests.stop_if_asked()
        predicted = prediction.read(self.run)
        self.announce(spec, predicted)
        measured = Measured(self.events, trainer, predicted)
        trainer.add_callback(measured)
        answering = Answering(spec, data, trainer, self.requests)
        trainer.after_evaluation = answering.at_evaluation
        if spec.hardware.wants_preflight:
            trainer.add_callback(Preflight(trainer, self.requests, measured, scratch=self.run.folder))
        else:
            self.reporter.state("training")
        if spec.hardware.device != "cpu":
            record_history(with_stacks=False)

        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except StopRequested:
            if not trainer.in_preflight:  # in the midst of an evaluation: the step before it is whole
                trainer._save_checkpoint(trainer.model)
            self.trackers.on_train_end(trainer.args, trainer.state, trainer.control)
            raise
        if self.requests.stopping and trainer.state.global_step < trainer.state.max_steps:
            measured.record("end")
            return False

        if data.held_out is not None and spec.training.eval_strategy == "no":
            trainer.evaluate()
        measured.record("end")  # the answers that follow are in no prediction
        with self.requests.alone():
            self.finish(answering)
        return True

    def set_up(self, spec: RunSpec, data: RunData) -> DeckTrainer:
        """Load the model, put the adapters on, and make the trainer."""
        self.tell_about_data(spec, data)
        tokenizer = data.encoder.tokenizer
        apply_to(tokenizer, data.encoder.template)
        shares = spec.hardware.strategy == "fsdp"
        with large_blocks_apart(spec):
            model = load_model(spec, to_share=shares)
        check_same_weights(model, spec, self.ranks)
        if spec.quantization.load_in != "none" and not is_quantized(model):
            self.warn(
                "not-quantized",
                f"bitsandbytes quantizes none of the layers of a {type(model).__name__}: its weights stay in 16 bits.",
                "Expect four times the memory for weights, or take a model of another family.",
            )
        self.requests.stop_if_asked()
        args, best = sft_config(spec, self.run.checkpoints_folder), best_of(spec)
        args.run_name, args.project = self.run.id, PROJECT
        # Unset, the order of rows would hang on the global generator, and several processes seed theirs differently.
        args.data_seed = args.seed if args.data_seed is None else args.data_seed
        try:
            trainer = DeckTrainer(
                reporter=self.reporter,
                ranks=self.ranks,
                best=best,
                shards=shares,
                model=model,
                args=args,
                train_dataset=data.train,
                eval_dataset=data.held_out,
                processing_class=tokenizer,
                peft_config=lora_config(spec.lora),
                callbacks=[
                    self.reporter,
                    Steering(self.requests, self.reporter, can_evaluate=data.held_out is not None, best=best),
                    self.trackers,
                ],
            )
        except ValueError as error:
            if spec.model.trust_remote_code and str(error).startswith(("Target modules", "Applying a PEFT adapter")):
                raise BadSpec(str(error), "Correct lora.target_modules.") from error
            raise
        trainer.remove_callback(PrinterCallback)  # the events hold it, and the log is for what libraries say
        if spec.model.trust_remote_code:
            check_adapted(spec, trainer)
        if trainer.shards:
            check_units(trainer.model)
        if spec.data.packing:

            def check_packing() -> None:
                check_rows_stay_apart(trainer.model, trainer.compute_loss_context_manager())

            if trainer.shards:
                trainer.once_shared = check_packing
            else:
                check_packing()
        return trainer

    def tell_about_data(self, spec: RunSpec, data: RunData) -> None:
        """Write the `data` event, and warn of rows that are cut, left out or learnt in part."""
        store = data.train.store
        self.events.write(
            "data",
            format=data.rows.format,
            template=data.encoder.template.source,
            rows=len(store),
            tokens=int(store.lengths.sum()),
            learnt_tokens=int(store.learnt.sum()),
            held_out_rows=len(data.rows.held_out),
            tokenized_rows=data.tokenized_rows,
            seconds=round(data.seconds, 2),
        )
        for warned in warnings_of(data, spec.data):
            self.warn(**vars(warned))

    def announce(self, spec: RunSpec, predicted: Footprint | None) -> None:
        """Write the `plan` event."""
        trainer = self.trainer
        assert trainer is not None
        batches = len(trainer.get_train_dataloader())
        # Of several processes each takes its share of the batches.
        steps_per_epoch = -(-batches // spec.training.gradient_accumulation_steps)
        capped = spec.training.max_steps > 0
        total_steps = (
            spec.training.max_steps if capped else -int(-spec.training.num_train_epochs * steps_per_epoch // 1)
        )
        trainable, total = trainer.model.get_nb_trainable_parameters()
        notes = [f"{self.ranks.place.count} processes: {batch_in_words(spec)}"] if self.ranks.are_several else []
        precision = "bf16" if spec.training.bf16 else "fp16" if spec.training.fp16 else "fp32"
        self.events.write(
            "plan",
            total_steps=total_steps,
            epochs=total_steps / steps_per_epoch if capped else spec.training.num_train_epochs,
            effective_batch_size=spec.effective_batch_size,
            trainable_parameters=trainable,
            total_parameters=total,
            predicted_peak_bytes=None if predicted is None else predicted.device_bytes,
            train_rows=len(trainer.train_dataset),
            device=spec.hardware.device,
            processes=self.ranks.place.count,
            gpu_ids=spec.hardware.gpu_ids,
            notes=[*notes, f"optim: {spec.training.optim}", f"precision: {precision}"],
        )

    def finish(self, answering: Answering) -> None:
        """What follows the last step and evaluation: the adapter, and answers to compare. Who keeps a folder writes."""
        trainer = self.trainer
        assert trainer is not None
        kept_step = self.keep_the_best(trainer)
        adapter = trainer.whole_adapter()
        if not self.ranks.keeps:
            return
        self.reporter.state("saving")
        shutil.rmtree(self.run.adapter_folder, ignore_errors=True)
        with trainer.doing("save"), staged_folder(self.run.adapter_folder) as folder:
            save_adapter(trainer.model, folder, adapter)
            trainer.processing_class.save_pretrained(folder)
        answering.at_the_end(kept_step or trainer.state.global_step)

    def keep_the_best(self, trainer: DeckTrainer) -> int | None:
        """Put the best step's adapter into the model where the spec asks for it, and write the `kept` event. Returns
        that step; None where the adapter stays that of the last one."""
        best, state, kept_step = trainer.best, trainer.state, None
        if best is None:
            return None
        if best.is_kept and (kept_step := trainer.load_best()) is not None:
            self.events.write(
                "kept", step=kept_step, metric=best.metric, value=state.best_metric, last_step=state.global_step
            )
        elif best.is_kept:
            self.warn(
                "no-best",
                f"No evaluation gave an {best.metric} that could be kept: the adapter is that of the last step, "
                f"{state.global_step:,}.",
                "Look at the curve of the held-out loss before you use it.",
            )
        self.end_in_words = words_of_end(best, state, kept_step)
        return kept_step

    def fail(self, error: Exception) -> Failed:
        """Write down why the training ended, and keep what can be kept. Raises nothing."""
        moment = self.trainer.moment if self.trainer is not None else Moment()
        on_gpu = self.spec is not None and self.spec.hardware.device != "cpu"
        failure = explain(error, moment, on_gpu)
        is_consequence = self.ranks.are_several and failure.cause != "oom" and is_lost(error)
        message = " ".join(filter(None, (failure.message, failure.hint)))
        message = message.replace(self.run.log_path.name, rank_log_path(self.run, self.ranks.place.rank).name)
        oom: dict[str, Any] | None = None
        # Each in its own right: a disk that is full, or memory that does not even suffice for this, may stop any of
        # them, and the exit code still tells.
        with _as_far_as_it_goes():
            lift_limit()
            traceback.print_exc()
        if failure.cause == "oom":
            with _as_far_as_it_goes():
                oom = self.tell_who_held_memory(error, moment)
        if (failure.cause == "oom" or is_consequence) and self.trainer is not None and self.ranks.keeps:
            with _as_far_as_it_goes():
                self.trainer.save_last_whole_step()
        if not is_consequence:  # what was the cause is known to the supervisor
            with _as_far_as_it_goes():
                self.events.write("error", code=failure.cause, message=failure.message, hint=failure.hint)
                self.events.write("state", state="failed", cause=failure.cause, message=message)
        return Failed(failure.cause, message, is_consequence, oom)

    def tell_who_held_memory(self, error: Exception, moment: Moment) -> dict[str, Any]:
        """Write the `oom` event, and let go of what the failed step held. Returns the event's fields."""
        short, spec, trainer = shortfall(error), self.spec, self.trainer
        assert short is not None
        assert spec is not None, "reading a spec takes no memory to speak of"
        limit_bytes, rank = spec.hardware.memory_limit_bytes, self.ranks.place.rank
        try:
            fields = oom_fields(short, moment, spec.hardware.device, limit_bytes, self.libraries_bytes, trainer)
            name = f"oom_snapshot-{rank}.pickle" if rank else "oom_snapshot.pickle"
            fields["snapshot"] = save_snapshot(self.run.folder / name)
            fields["rank"] = rank if self.ranks.are_several else None
        finally:
            let_go(error, trainer)
        self.events.write("oom", **fields)
        return fields

    def warn(self, code: str, message: str, hint: str) -> None:
        self.events.write("warning", code=code, message=message, hint=hint)


@contextmanager
def _as_far_as_it_goes() -> Iterator[None]:
    """What the block does is tried; an error is only logged, if that can be done."""
    try:
        yield
    except Exception:
        with suppress(Exception):
            traceback.print_exc()


def batch_in_words(spec: RunSpec) -> str:
    """`batch 2 x 4 x 2 = 16`: rows, passes and processes, and what a step learns from."""
    rows, passes = spec.training.per_device_train_batch_size, spec.training.gradient_accumulation_steps
    return f"batch {rows} x {passes} x {spec.hardware.num_processes} = {spec.effective_batch_size}"


def sft_config(spec: RunSpec, output_folder: Path) -> SFTConfig:
    """TRL's form of the settings. Names are the same, so what is listed here is only what differs."""
    # Early stopping and trackers are callbacks, and no arguments of the trainer.
    settings = spec.training.model_dump(exclude={"early_stopping_patience", "early_stopping_threshold", "report_to"})
    settings["metric_for_best_model"] = spec.best_metric
    settings["lr_scheduler_kwargs"] = settings["lr_scheduler_kwargs"] or None
    if settings["save_steps"] is None:
        del settings["save_steps"]
    on_cpu = spec.hardware.device == "cpu"
    return SFTConfig(
        **settings,
        output_dir=str(output_folder),
        max_length=spec.data.max_length,
        packing=spec.data.packing,
        packing_strategy=spec.data.packing_strategy,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows come with their labels, cut and packed
        trust_remote_code=spec.model.trust_remote_code,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        logging_nan_inf_filter=False,  # it would show the average of earlier losses instead of a NaN
        report_to="none",
        disable_tqdm=True,
        ddp_timeout=int(NO_LIMIT.total_seconds()),
        ddp_broadcast_buffers=False,  # nothing changes them
    )


def check_targets(spec: RunSpec) -> None:
    """Raises BadSpec if the adapters do not fit this model, told from its config: no weights are loaded yet."""
    model = spec.model
    if model.trust_remote_code:
        return  # only its own code knows its modules: `check_adapted`
    try:
        config = AutoConfig.from_pretrained(model.name_or_path, revision=model.revision or "main")
    except (OSError, ValueError):
        return  # `load_model` says what is wrong with it
    try:
        architecture = describe(config, model.name_or_path)
    except NotInspectable as error:
        raise BadSpec(str(error)) from error
    config_path = Path(model.name_or_path) / "config.json"
    if config_path.is_file():  # the next run of this model can then be predicted at its launch
        architecture_cache.write(architecture_cache.key(config_path), architecture)
    problems = problems_with(spec.lora, architecture, spec.quantization) or problems_of_sharing(spec, architecture)
    if problems:
        raise BadSpec(". ".join(map(str, problems)), "`loradeck tree` shows this model's modules.")
    if spec.hardware.strategy == "fsdp":
        check_config(config, spec)


def check_adapted(spec: RunSpec, trainer: DeckTrainer) -> None:
    """Raises BadSpec if a name in target_modules adapts nothing: PEFT is silent as long as another one does."""
    names = spec.lora.target_modules
    if not isinstance(names, list):
        return
    adapted = trainer.model.base_model.targeted_module_names
    missing = [name for name in names if not any(full == name or full.endswith(f".{name}") for full in adapted)]
    if missing:
        raise BadSpec(f"lora.target_modules names {', '.join(missing)}, which this model does not have.")


def remove_unfinished_saves(run: Run) -> None:
    """Delete what a killed trainer left half-written under temporary names."""
    for leftover in [
        *run.checkpoints_folder.glob(".checkpoint-*"),
        *run.folder.glob(".adapter.*"),
        *run.folder.glob(f"{SCRATCH_PREFIX}*"),
    ]:
        shutil.rmtree(leftover, ignore_errors=True)
