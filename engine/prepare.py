"""From a person's spec to one that can be launched: everything that can be told before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine import architecture_cache
from engine.catalog import ModelUnavailable, Progress, find_config
from engine.checks import InvalidSpec, Problem, impossible_combinations, missing_trackers
from engine.data import client
from engine.data.sources import is_path_like
from engine.hardware import Gpu, visible_gpus
from engine.machines.own import own_rank
from engine.slurm import commands
from engine.spec import RunSpec
from engine.targets import problems_of_sharing, problems_with


def prepare(
    spec: RunSpec,
    folder: Path,
    progress: Progress | None = None,
    on_data: Callable[[client.Progress], None] | None = None,
) -> RunSpec:
    """`spec` with absolute paths and no `auto` left, its model found and every row of its data checked.

    `folder` is what relative paths start from; `on_data` is told how far the check is. Raises InvalidSpec with every
    problem found.
    """
    problems: list[Problem] = []
    resolved = with_absolute_paths(spec, folder)
    on_slurm = spec.hardware.launcher == "slurm"
    if on_slurm and (reason := commands.missing()) is not None:
        problems.append(Problem("hardware.launcher", f"slurm is asked for, and {reason}", "write launcher: local"))
    try:
        resolved = _for_slurm(resolved) if on_slurm else on_gpus(resolved, visible_gpus())
    except InvalidSpec as error:
        problems += error.problems
    try:
        resolved = _with(resolved, "hardware", machine_rank=own_rank(resolved.hardware))
    except InvalidSpec as error:
        problems += error.problems
    try:
        report = client.scan(resolved.data, resolved.training.seed, on_data)
        problems += client.problems_of(report, resolved.data)
    except InvalidSpec as error:
        problems += error.problems
    except client.DataError as error:
        problems.append(Problem("data.train", str(error)))
    try:
        source, config_path = find_config(resolved.model.name_or_path, resolved.model.revision, progress, True)
        architecture = architecture_cache.read(architecture_cache.key(config_path), source.name_or_path)
    except ModelUnavailable as error:
        problems.append(Problem("model.name_or_path", str(error)))
    else:
        resolved = _with(resolved, "model", name_or_path=source.name_or_path)
        # Of a model that nobody has looked at yet the trainer says the same, before it loads weights: inspecting it
        # here takes seconds of imports that the trainer pays anyway. Code of the model's own makes another model.
        if architecture is not None and not resolved.model.trust_remote_code:
            problems += problems_with(resolved.lora, architecture, resolved.quantization) or problems_of_sharing(
                resolved, architecture
            )
    problems += impossible_combinations(resolved)
    problems += missing_trackers(resolved.training.report_to)
    if problems:
        raise InvalidSpec(problems)
    return resolved


def left_open(written: RunSpec, resolved: RunSpec) -> RunSpec:
    """`resolved`, which `prepare` made of `written`, for a run that gets its GPU later: where any GPU will do, what
    depends on the card is as a person wrote it. `on_gpus` then decides it."""
    hardware = written.hardware
    if resolved.hardware.device == "cpu" or not is_open(written) or hardware.gpu_ids or hardware.launcher != "local":
        return resolved
    opened = _with(resolved, "model", dtype=written.model.dtype)
    sections = {"hardware": hardware, "training": written.training, "quantization": written.quantization}
    return opened.model_copy(update=sections)


def is_open(spec: RunSpec) -> bool:
    """Whether it is not decided yet on which card a run of `spec` trains."""
    return spec.hardware.device in ("auto", "cuda")


def _with(spec: RunSpec, section: str, **values: object) -> RunSpec:
    return spec.model_copy(update={section: getattr(spec, section).model_copy(update=values)})


def with_absolute_paths(spec: RunSpec, folder: Path) -> RunSpec:
    """`spec` with paths that start at `folder` made absolute; a name that means nothing there stays a hub id."""

    def absolute(name: str) -> str:
        return str((folder / Path(name).expanduser()).absolute()) if is_path_like(name, folder) else name

    def all_absolute(names: str | list[str] | None) -> str | list[str] | None:
        return [absolute(name) for name in names] if isinstance(names, list) else names and absolute(names)

    data, name = spec.data, spec.model.name_or_path
    template = data.chat_template_path
    if template is not None and (folder / Path(template).expanduser()).exists():
        template = str((folder / Path(template).expanduser()).absolute())
    names = {"train": all_absolute(data.train), "eval": all_absolute(data.eval)}
    spec = _with(spec, "data", **names, chat_template_path=template)
    beside_spec = folder / Path(name).expanduser()
    if name == "demo" or not beside_spec.is_dir():
        return spec
    return _with(spec, "model", name_or_path=str(beside_spec.absolute()))


def on_gpus(spec: RunSpec, gpus: list[Gpu]) -> RunSpec:
    """`spec` with device, precision and optimizer chosen, where `gpus` are those of the machine that may be taken: the
    first ones where any will do. Raises InvalidSpec for a GPU that is not among them."""
    device = spec.hardware.device
    if device == "auto":
        device = "cuda:0" if gpus else "cpu"
    elif device == "cuda":
        device = "cuda:0"
    gpu: Gpu | None = None
    has_bf16 = True  # every CPU that PyTorch runs on has it, in software where need be
    if device != "cpu" and spec.hardware.num_processes > 1:
        several = _several_gpus(spec, int(device.removeprefix("cuda:")), gpus)
        gpu = min(several, key=lambda one: one.has_bf16)  # all compute in one precision, the one that each has
        has_bf16 = gpu.has_bf16
        device = f"cuda:{several[0].index}"
        spec = _with(spec, "hardware", gpu_ids=[one.index for one in several])
    elif device != "cpu":
        index = int(device.removeprefix("cuda:"))
        if index >= len(gpus):
            found = (
                f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''}" if gpus else "no NVIDIA GPU (NVML finds no driver)"
            )
            hint = (
                "write device: cpu, or see `loradeck doctor`" if not gpus else f"the last one is cuda:{len(gpus) - 1}"
            )
            raise InvalidSpec(
                [
                    Problem(
                        "hardware.device",
                        f"{spec.hardware.device} is asked for, and this machine has {found}",
                        hint,
                    )
                ]
            )
        gpu = gpus[index]
        has_bf16 = gpu.has_bf16
        device = f"cuda:{gpu.index}"  # the machine's own number: it stays true in another shell
    if spec.training.bf16 and gpu is not None and not has_bf16:
        raise InvalidSpec(
            [Problem("training.bf16", f"{gpu.name} has no bfloat16", "leave it unset, or write fp16: true")]
        )
    return for_device(spec, device, has_bf16)


def _several_gpus(spec: RunSpec, first: int, gpus: list[Gpu]) -> list[Gpu]:
    """A GPU for each process: `hardware.gpu_ids`, or those from the `first` on. Raises InvalidSpec where there are not
    so many, or where a process cannot be given one."""
    hardware, has = spec.hardware, "1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs" if gpus else "no NVIDIA GPU"
    if any(gpu.uuid is not None and gpu.uuid.startswith("MIG-") for gpu in gpus):
        reason = "an instance of a card (MIG) cannot be one of several"
        raise InvalidSpec([Problem("hardware.num_processes", reason, "write 1")])
    if hardware.gpu_ids:
        by_index = {gpu.index: gpu for gpu in gpus}
        if missing := [str(number) for number in hardware.gpu_ids if number not in by_index]:
            hint = f"there are {', '.join(map(str, by_index))}" if by_index else "write device: cpu"
            reason = f"{', '.join(missing)} asked for, and this machine has {has}"
            raise InvalidSpec([Problem("hardware.gpu_ids", reason, hint)])
        return [by_index[number] for number in hardware.gpu_ids]
    several = gpus[first : first + hardware.processes_here]
    if len(several) < hardware.processes_here:
        from_there = f", {max(len(gpus) - first, 0)} of them from cuda:{first} on" if first else ""
        raise InvalidSpec(
            [
                Problem(
                    "hardware.num_processes",
                    f"{hardware.processes_here} processes need a GPU each, and this machine has {has}{from_there}",
                    f"write {len(several) * hardware.num_machines}"
                    if several
                    else "write device: cpu, or see `loradeck doctor`",
                )
            ]
        )
    return several


def _for_slurm(spec: RunSpec) -> RunSpec:
    """`spec` for a node that nobody here has seen: the job's first GPU, if it asks for any, with bfloat16 unless the
    person wants fp16."""
    device = spec.hardware.device
    if device == "auto":
        device = "cuda:0" if spec.hardware.slurm_settings.asks_for_gpus else "cpu"
    elif device == "cuda":
        device = "cuda:0"
    if device != "cpu" and spec.hardware.num_processes > 1 and not spec.hardware.gpu_ids:
        spec = _with(spec, "hardware", gpu_ids=list(range(spec.hardware.num_processes)))
    return for_device(spec, device, has_bf16=not spec.training.fp16)


def for_device(spec: RunSpec, device: str, has_bf16: bool) -> RunSpec:
    """`spec` with no `auto` left on `device` (`cpu` or a GPU, which need not be here)."""
    training = spec.training
    bf16 = training.bf16 if training.bf16 is not None else has_bf16 and not training.fp16
    fp16 = training.fp16 if training.fp16 is not None else device != "cpu" and not has_bf16
    compute_dtype = "bfloat16" if has_bf16 and not fp16 else "float16"
    optim = training.optim
    shards = spec.hardware.strategy == "fsdp"
    if optim == "auto":
        optim = "adamw_torch" if device == "cpu" or shards else "paged_adamw_32bit"
    strategy = "ddp" if spec.hardware.num_processes > 1 else "none"
    spec = _with(spec, "hardware", device=device, strategy=spec.hardware.strategy or strategy)
    spec = _with(spec, "training", bf16=bf16, fp16=fp16, optim=optim)
    if spec.quantization.bnb_4bit_compute_dtype == "auto":
        spec = _with(spec, "quantization", bnb_4bit_compute_dtype=compute_dtype)
    if spec.quantization.bnb_4bit_quant_storage is None:
        storage = spec.quantization.bnb_4bit_compute_dtype if shards else "uint8"
        spec = _with(spec, "quantization", bnb_4bit_quant_storage=storage)
    if spec.model.dtype == "auto":
        spec = _with(spec, "model", dtype=spec.quantization.bnb_4bit_compute_dtype)
    return spec
