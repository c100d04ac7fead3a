"""From text to a RunSpec, or to every problem in it: one place for the form, the command line and the worker."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.sharing import unshareable
from engine.spec import SPEC_VERSION, TOP_SETTINGS, RunSpec, Section, Tracker

SYNONYMS = {
    "rank": "lora.r",
    "lora_r": "lora.r",
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "lr": "training.learning_rate",
    "batch_size": "training.per_device_train_batch_size",
    "micro_batch_size": "training.per_device_train_batch_size",
    "epochs": "training.num_train_epochs",
    "warmup_ratio": "training.warmup_steps",
    "optimizer": "training.optim",
    "gradient_checkpointing": "training.activation_checkpointing",
    "group_by_length": "training.train_sampling_strategy",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "sequence_len": "data.max_length",
    "dataset": "data.train",
    "path": "data.train",
    "base_model": "model.name_or_path",
    "load_in_4bit": "quantization.load_in",
    "load_in_8bit": "quantization.load_in",
    "target_linear": "lora.target_modules",
    "max_memory": "hardware.memory_limit",
    "auto_find_batch_size": "on_oom",
    "load_best": "training.load_best_model_at_end",
    "early_stopping": "training.early_stopping_patience",
    "patience": "training.early_stopping_patience",
    "loggers": "training.report_to",
    "num_gpus": "hardware.num_processes",
    "nproc_per_node": "hardware.num_processes",
    "world_size": "hardware.num_processes",
    "nnodes": "hardware.num_machines",
    "num_nodes": "hardware.num_machines",
    "node_rank": "hardware.machine_rank",
    "main_process_ip": "hardware.machines",
    "main_process_port": "hardware.machines",
}
"""Names that people bring from older versions and other tools, and where the setting is here."""

LEAST_LIMIT_BYTES = 256 * 2**20
"""No memory_limit below this can work: a CUDA context alone takes 250 MiB and more, the libraries on a CPU 480."""


LIBRARIES_OF: dict[Tracker, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""Tracker -> the packages that write for it, the one to install first; any of them does."""


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a run from starting, for a person."""

    field: str
    """Where: a field of the spec (`lora.r`), or a file and line."""
    reason: str
    """What is wrong."""
    hint: str = ""
    """What to write or do instead."""

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" + (f"; {self.hint}" if self.hint else "")


class InvalidSpec(ValueError):
    """Wrong input: everything that is wrong with it. The command line ends with exit code 2."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def read_spec(path: Path) -> RunSpec:
    """The spec in the YAML file at `path`. Raises InvalidSpec with every problem of the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidSpec(
            [Problem(str(path), "there is no such file", "`loradeck new` writes one to start from")]
        ) from None
    except IsADirectoryError:
        raise InvalidSpec([Problem(str(path), "this is a folder, not a spec")]) from None
    except OSError as error:
        raise InvalidSpec([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise InvalidSpec([Problem(str(path), f"is not UTF-8 text (byte {error.start})")]) from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSpec([_yaml_problem(path, error)]) from None
    if not isinstance(raw, dict):
        raise InvalidSpec([Problem(str(path), "holds no settings", "`loradeck new` writes a spec to start from")])
    return parse_spec(raw)


def parse_spec(raw: dict[str, Any]) -> RunSpec:
    """The spec that nested dictionaries say. Raises InvalidSpec with every problem."""
    spec = typed_spec(raw)
    if problems := list(impossible_combinations(spec)):
        raise InvalidSpec(problems)
    return spec


def typed_spec(raw: dict[str, Any]) -> RunSpec:
    """The spec that nested dictionaries say, whose settings may not yet go together: for a form that is being filled.

    Raises InvalidSpec for unknown names and wrong types.
    """
    if (version := raw.get("version", SPEC_VERSION)) != SPEC_VERSION:
        # Everything else may be spelt differently there: other messages would mislead.
        raise InvalidSpec(
            [
                Problem(
                    "version",
                    f"this is a spec of version {version!r}; this Loradeck reads version {SPEC_VERSION}",
                    "use the Loradeck that wrote it, or start from `loradeck new`",
                )
            ]
        )
    try:
        return RunSpec.model_validate(raw)
    except ValidationError as error:
        raise InvalidSpec(list(_problems_of(error))) from None


def write_spec(spec: RunSpec) -> str:
    """`spec` as YAML text that `read_spec` turns into an equal one."""
    raw = spec.model_dump(mode="json", exclude={"parent"} if spec.parent is None else None)
    text: str = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=110)
    if yaml.safe_load(text) != raw:
        # PyYAML writes some characters bare that it reads back as line breaks (U+0085): escape everything then.
        text = yaml.safe_dump(raw, sort_keys=False, width=110)
    return text


def impossible_combinations(spec: RunSpec) -> Iterator[Problem]:
    """Settings that are each valid and together are not, as the libraries would say only after loading."""
    lora, data, training = spec.lora, spec.data, spec.training
    if training.bf16 and training.fp16:
        yield Problem(
            "training.fp16",
            "bf16 and fp16 are both on",
            "keep one; leave both unset to let the device decide",
        )
    if not lora.target_modules and not lora.target_parameters:
        yield Problem("lora.target_modules", "nothing would be trained", "name modules, or write all-linear")
    if isinstance(lora.target_modules, str) and lora.layers_to_transform is not None:
        yield Problem(
            "lora.layers_to_transform",
            "works only with a list of module names in lora.target_modules",
            "list the names, or put the layers into the regular expression",
        )
    if spec.quantization.load_in != "none" and lora.init_lora_weights in ("olora", "pissa", "orthogonal"):
        yield Problem(
            "lora.init_lora_weights",
            f"{lora.init_lora_weights} works from base weights in 16 or 32 bits, and these are quantized",
            "write true, or quantization.load_in: none",
        )
    if data.eval is not None and data.eval_fraction:
        yield Problem("data.eval_fraction", "there is a file in data.eval already", "keep one of the two")
    if data.eval_split is not None and (data.eval is not None or data.eval_fraction):
        other = "data.eval" if data.eval is not None else "data.eval_fraction"
        yield Problem("data.eval_split", f"{other} says already what is held out", "keep one of the two")
    if training.eval_strategy != "no" and not spec.has_eval:
        yield Problem("training.eval_strategy", "no rows are held out", "set data.eval or data.eval_fraction")
    if training.eval_on_start and not spec.has_eval:
        yield Problem("training.eval_on_start", "no rows are held out", "set data.eval or data.eval_fraction")
    if data.samples and not spec.has_eval:
        yield Problem("data.samples", "no rows are held out to answer", "set data.eval or data.eval_fraction")
    if data.samples_at_eval and not data.samples:
        yield Problem("data.samples_at_eval", "data.samples is 0, so there is nothing to answer", "set data.samples")
    elif data.samples_at_eval and training.eval_strategy == "no":
        yield Problem("data.samples_at_eval", "there is no evaluation during training", "set training.eval_strategy")
    if training.eval_strategy == "steps" and training.eval_steps is None:
        yield Problem(
            "training.eval_steps",
            "is missing with eval_strategy: steps",
            "write a number of steps, such as 50",
        )
    if training.save_strategy == "steps" and training.save_steps is None:
        yield Problem(
            "training.save_steps",
            "is missing with save_strategy: steps",
            "write a number of steps, such as 50",
        )
    yield from _problems_of_best(spec)
    yield from _problems_of_several(spec)
    yield from _problems_of_machines(spec)
    yield from _problems_of_slurm(spec)
    if data.packing and data.max_length is None:
        yield Problem("data.max_length", "packing needs a block length", "write a number, such as 1024")
    if data.assistant_only_loss and data.format in ("text", "prompt-completion"):
        yield Problem("data.assistant_only_loss", f"rows of format {data.format} have no turns", "write false")
    if data.assistant_only_loss and data.completion_only_loss is False:
        yield Problem("data.completion_only_loss", "false contradicts assistant_only_loss: true", "keep one of the two")
    limit_bytes = spec.hardware.memory_limit_bytes
    if limit_bytes is not None and limit_bytes < LEAST_LIMIT_BYTES:
        yield Problem(
            "hardware.memory_limit",
            f"{spec.hardware.memory_limit} is less than the libraries take before any model is loaded",
            "write a size such as 4GiB, or leave it unset",
        )
    if spec.hardware.device == "cpu":
        yield from _problems_on_cpu(spec)


def missing_trackers(report_to: Sequence[Tracker]) -> Iterator[Problem]:
    """Trackers whose library is not installed beside this one. Not part of a spec's own validity: a run that was made
    elsewhere can be read where they are missing."""
    for tracker in dict.fromkeys(report_to):
        if not any(_is_installed(library) for library in LIBRARIES_OF[tracker]):
            yield Problem(
                "training.report_to",
                f"{tracker} is not installed",
                f"`pip install {LIBRARIES_OF[tracker][0]}` beside Loradeck, or leave it out",
            )


def _is_installed(library: str) -> bool:
    found = importlib.util.find_spec(library)
    return found is not None and found.origin is not None  # a mere folder of that name has none


def _problems_of_best(spec: RunSpec) -> Iterator[Problem]:
    """Of settings that compare evaluations: what they need, and what transformers would refuse after loading."""
    training = spec.training
    wanted = {
        "training.load_best_model_at_end": training.load_best_model_at_end,
        "training.early_stopping_patience": training.early_stopping_patience is not None,
    }
    for field in (name for name, is_set in wanted.items() if is_set):
        if not spec.has_eval:
            yield Problem(field, "no rows are held out to measure", "set data.eval or data.eval_fraction")
        elif training.eval_strategy == "no":
            yield Problem(field, "there is no evaluation during training", "set training.eval_strategy")
    if training.metric_for_best_model is not None and spec.best_metric is None:
        yield Problem(
            "training.metric_for_best_model",
            "nothing asks which evaluation is the best",
            "set training.load_best_model_at_end or training.early_stopping_patience",
        )
    if training.early_stopping_threshold and training.early_stopping_patience is None:
        yield Problem(
            "training.early_stopping_threshold",
            "does nothing without early_stopping_patience",
            "set training.early_stopping_patience, such as 3",
        )
    if training.load_best_model_at_end and training.eval_strategy != "no":
        if training.save_strategy != training.eval_strategy:
            yield Problem(
                "training.save_strategy",
                f"{training.save_strategy} is another than eval_strategy: {training.eval_strategy}, and "
                "load_best_model_at_end needs checkpoints where evaluations are",
                f"write {training.eval_strategy}",
            )
        elif (
            training.eval_strategy == "steps"
            and training.eval_steps
            and training.save_steps
            and (over := training.save_steps % training.eval_steps)
        ):
            yield Problem(
                "training.save_steps",
                f"{training.save_steps} is no multiple of eval_steps: {training.eval_steps}, and "
                "load_best_model_at_end needs checkpoints where evaluations are",
                f"write {training.save_steps - over + training.eval_steps}, or another multiple",
            )


def _problems_on_cpu(spec: RunSpec) -> Iterator[Problem]:
    training = spec.training
    if training.optim.startswith("paged_"):
        yield Problem(
            "training.optim",
            f"{training.optim} pages between GPU and host",
            "write auto or adamw_torch on a CPU",
        )
    if training.fp16:
        yield Problem("training.fp16", "float16 training with loss scaling needs a GPU", "leave it unset on a CPU")
    if training.tf32:
        yield Problem("training.tf32", "needs an Ampere GPU or newer", "leave it unset on a CPU")
    if spec.model.attn_implementation in ("flash_attention_2", "flash_attention_3"):
        yield Problem("model.attn_implementation", "flash attention needs a GPU", "write sdpa")


def _problems_of_several(spec: RunSpec) -> Iterator[Problem]:
    """Several processes: what does not go together, whatever the machine has."""
    hardware = spec.hardware
    count, ids = hardware.num_processes, hardware.gpu_ids
    if hardware.strategy == "fsdp":
        yield from (Problem(*words) for words in unshareable(spec))
    if count > 1 and hardware.strategy == "none":
        yield Problem(
            "hardware.strategy",
            f"none is for one process, and num_processes is {count}",
            "write ddp or fsdp, or leave it unset",
        )
    if not ids:
        return
    if hardware.device == "cpu":
        yield Problem("hardware.gpu_ids", "device is cpu, which has no GPUs", "leave it out, or write device: cuda")
    elif len(set(ids)) < len(ids):
        yield Problem("hardware.gpu_ids", f"{ids} names a GPU twice", "each process needs a GPU of its own")
    elif len(ids) != hardware.processes_here:
        reason = f"{len(ids)} GPUs for {hardware.processes_here} processes"
        if hardware.num_machines > 1:
            reason += " on each machine"
        yield Problem("hardware.gpu_ids", reason, f"write num_processes: {len(ids) * hardware.num_machines}")
    elif hardware.device.startswith("cuda:") and hardware.device != f"cuda:{ids[0]}":
        yield Problem(
            "hardware.gpu_ids",
            f"{ids} does not begin with device: {hardware.device}",
            "write device: cuda, which takes the first of gpu_ids",
        )


def _problems_of_machines(spec: RunSpec) -> Iterator[Problem]:
    """Several machines: what does not go together, whichever of them this one is."""
    hardware = spec.hardware
    count, named, processes = hardware.num_machines, len(hardware.machines), hardware.num_processes
    if named != count and (named or count > 1):
        hint = f"write num_machines: {named}"
        if not named:
            hint = "write machines: [{address: 10.0.0.1}, {address: 10.0.0.2}], with the addresses of yours"
        names = "none is named" if not named else "1 is named" if named == 1 else f"{named} are named"
        yield Problem("hardware.machines", f"num_machines is {count}, and {names}", hint)
    if hardware.machine_rank is not None and hardware.machine_rank >= count:
        hint = f"write 0 to {count - 1}, or leave it unset" if count > 1 else "leave it unset"
        yield Problem("hardware.machine_rank", f"{hardware.machine_rank} of {count}", hint)
    if count == 1:
        return
    if processes % count:
        fit = max(1, processes // count) * count
        reason = f"{processes} cannot be shared out evenly among {count} machines"
        yield Problem(
            "hardware.num_processes", reason, f"write {fit} or {fit + count}: it counts those of all machines"
        )
    if hardware.launcher == "slurm":
        yield Problem("hardware.launcher", "a job of Slurm is for one node, and num_machines is more", "write local")
    if spec.on_oom == "retry":
        yield Problem("on_oom", "each machine would retry for itself, and they have to agree", "write ask")


def _problems_of_slurm(spec: RunSpec) -> Iterator[Problem]:
    hardware = spec.hardware
    asked = hardware.slurm.get("gpus") if hardware.launcher == "slurm" else None
    if asked is not None and (number := int(str(asked).rpartition(":")[2])) < hardware.num_processes:
        yield Problem(
            "hardware.slurm",
            f"the job asks for {number} GPU{'s' if number > 1 else ''}, and num_processes is {hardware.num_processes}",
            f"write gpus: {hardware.num_processes}",
        )
    wants_gpu = hardware.device.startswith("cuda")
    if hardware.launcher == "slurm" and wants_gpu and not hardware.slurm_settings.asks_for_gpus:
        yield Problem(
            "hardware.slurm",
            f"the job asks for no GPU, and device is {hardware.device}",
            "write gpus: 1 in hardware.slurm, or device: cpu",
        )


def field_names() -> dict[str, str]:
    """Every setting's own name -> its full name (`r` -> `lora.r`, `on_oom` -> `on_oom`)."""
    in_sections = {
        field: f"{section}.{field}"
        for section, info in RunSpec.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
        for field in info.annotation.model_fields
    }
    return {**in_sections, **{name: name for name in TOP_SETTINGS}}


def full_name(name: str) -> str:
    """The full name of the setting that a person calls `name`. Raises InvalidSpec."""
    names = field_names()
    if name in names.values():
        return name
    if name not in names:
        raise InvalidSpec([Problem(name, "unknown", _suggestion(name, name.rpartition(".")[2]))])
    return names[name]


def _problems_of(error: ValidationError) -> Iterator[Problem]:
    # A field that may be a list or a string fails once for each: the first says enough.
    seen: set[str] = set()
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        name = ".".join(location[:2])
        if name in seen:
            continue
        seen.add(name)
        if item["type"] == "extra_forbidden":
            yield Problem(name, "unknown", _suggestion(name, location[-1]))
        elif item["type"] == "missing":
            yield Problem(name, "is missing", "every run needs it")
        elif item["type"] in ("model_type", "model_attributes_type", "dict_type") and len(location) == 1:
            yield Problem(name, "holds settings, one a line", f"write them indented under `{name}:`")
        else:
            yield Problem(name, _reason(item["msg"], item["input"]))


def _reason(message: str, value: Any) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "should be")
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return message if message.startswith("this is") else f"{message[0].lower()}{message[1:]}, not {shown}"


def _suggestion(name: str, last: str) -> str:
    names = field_names()
    if meant := SYNONYMS.get(last) or names.get(last):
        return f"did you mean {meant}?"
    section = name.split(".")[0]
    inside = [field for field, full in names.items() if full.startswith(f"{section}.")]
    if close := difflib.get_close_matches(last, inside, n=1, cutoff=0.6):
        return f"did you mean {names[close[0]]}?"
    everywhere = [*names, *(name for name in RunSpec.model_fields if name != "parent")]
    if close := difflib.get_close_matches(last, everywhere, n=1, cutoff=0.7):
        return f"did you mean {names.get(close[0], close[0])}?"
    return "`loradeck new` lists every setting"


def _yaml_problem(path: Path, error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Problem(f"{path}, line {mark.line + 1}, column {mark.column + 1}", f"is not YAML: {error.problem}")
    return Problem(str(path), "is not YAML text", "it may hold control characters")
