"""One call for a prediction, whatever its tier; traces are kept on disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.architecture import Architecture, installed_versions
from engine.catalog import cache_folder
from engine.inspector import Inspector, InspectorError
from engine.memory import formula
from engine.memory.card import Card, context_bytes
from engine.memory.depths import shallow_depths
from engine.memory.footprint import Category, Footprint, Phase, Tier
from engine.memory.lengths import Lengths, largest_batches
from engine.memory.ranks import per_rank
from engine.memory.request import Recipe, TraceRequest
from engine.prepare import for_device
from engine.runs.store import write_atomically
from engine.spec import DataSection, HardwareSection, RunSpec, TrainingSection

TRACE_TIMEOUT_S = 300.0
"""The largest model takes a tenth of it on two slow cores."""
KEPT_TRACES = 500
ASSUMED_CAPABILITY = (8, 0)
"""Of a card of which only the size is known."""
CPU_HEAP_SHARE = 0.45
"""By how much a trainer's resident memory on the CPU was seen to exceed base and traced peak, at most: the C library
keeps freed heap. 43 % after the demo's 50 steps on a CPU with AMX."""

# What a trace depends on, of a spec; the batch, the layers and the device are said beside it.
TRAINING_FIELDS = (
    "gradient_accumulation_steps",
    "optim",
    "bf16",
    "fp16",
    "activation_checkpointing",
    "activation_offloading",
    "max_grad_norm",
    "loss_type",
    "neftune_noise_alpha",
    "torch_empty_cache_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
)


class NotPredicted(Exception):
    """There is no trace of this run; the message says why, for a person."""


@dataclass(frozen=True)
class Question:
    """What memory is asked for: a run, on a card, with this data."""

    spec: RunSpec
    architecture: Architecture
    card: Card
    lengths: Lengths | None = None
    config_folder: Path | None = None
    """Holds config.json; without it only the formula can answer."""
    expandable_segments: bool = False
    """As `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True` sets it."""

    @property
    def resolved(self) -> RunSpec:
        """The spec with no `auto` left, as the card wants it."""
        return for_device(self.spec, "cpu" if self.card.on_cpu else "cuda:0", self.card.has_bf16)


def predict(question: Question, tier: Tier = "formula", inspector: Inspector | None = None) -> Footprint:
    """The memory of a run. `shallow` and `full` trace it in the inspector, which takes seconds; they are kept on disk.

    Raises KeyError for a config without the usual sizes (formula and shallow), NotPredicted where it cannot be traced.
    """
    if tier == "formula":
        return by_formula(question)
    if question.config_folder is None or inspector is None:
        raise NotPredicted("The model's config is not on this machine.")
    if tier == "full":
        return dressed(question, "full", traced(request_for(question), inspector))
    depths = shallow_depths(question.architecture, question.spec.lora)
    request = request_for(question)
    known = kept(request)
    if known is not None or depths is None:
        return dressed(question, "full", known or traced(request, inspector))
    fewer, more = (traced(request.shortened(layers), inspector) for layers in (depths.fewer, depths.more))
    return dressed(question, "shallow", _between(fewer, more, depths.extrapolate))


def best(question: Question, inspector: Inspector, tier: Tier = "full") -> Footprint:
    """The traced prediction, or the formula's with the reason why there is none. Raises KeyError, as `predict` does."""
    try:
        return predict(question, tier, inspector)
    except NotPredicted as reason:
        footprint = by_formula(question)
        return replace(footprint, not_modelled=(*footprint.not_modelled, f"no trace: {reason}"))


def by_formula(question: Question) -> Footprint:
    """The formula's answer, with the card's context."""
    card, lengths = question.card, question.lengths
    longest = None if lengths is None else largest_batches(question.spec, lengths)[0].tokens
    footprint = formula.predict(
        question.spec,
        question.architecture,
        longest,
        card.on_cpu,
        labelled_share=1.0 if lengths is None else lengths.labelled_share,
        capability=card.compute_capability or ASSUMED_CAPABILITY,
    )
    footprint = replace(footprint, batch=_batch(question), versions=library_versions())
    if card.on_cpu:
        return _per_rank(question, footprint)
    context = context_bytes(card)
    footprint = replace(
        footprint,
        categories={**footprint.categories, "context": context.likely_bytes},
        device_bytes=footprint.device_bytes + context.likely_bytes,
        not_modelled=tuple(words for words in footprint.not_modelled if "CUDA context" not in words),
        notes=(context.source,),
    )
    return _per_rank(question, footprint)


def _per_rank(question: Question, footprint: Footprint) -> Footprint:
    return per_rank(footprint, question.resolved, question.architecture)


def request_for(question: Question, recipe: Recipe = "trl") -> TraceRequest:
    """What is to be traced. Settings that memory does not depend on are left out, so that the trace is found again."""
    assert question.config_folder is not None
    spec = question.resolved
    train, evaluation = largest_batches(spec, question.lengths)
    training = TrainingSection(**{name: getattr(spec.training, name) for name in TRAINING_FIELDS})
    relevant = spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"revision": None}),
            "data": DataSection(
                train="rows",
                packing=spec.data.packing,
                packing_strategy=spec.data.packing_strategy,
                max_length=spec.data.max_length if spec.data.packing else None,
            ),
            "training": training,
            "hardware": HardwareSection(device=spec.hardware.device),  # several processes are reckoned from one
        }
    )
    return TraceRequest(
        spec=relevant,
        config_folder=str(question.config_folder),
        train=train,
        evaluation=evaluation,
        capability=None if question.card.on_cpu else question.card.compute_capability or ASSUMED_CAPABILITY,
        recipe=recipe,
        expandable_segments=question.expandable_segments,
    )


def traced(request: TraceRequest, inspector: Inspector) -> dict[str, Any]:
    """What the inspector's trace of `request` came to, from disk if it was made before. Raises NotPredicted."""
    known = kept(request)
    if known is not None:
        return known
    try:
        answer: dict[str, Any] = inspector.request("trace", TRACE_TIMEOUT_S, request=request.to_json())
    except InspectorError as error:
        raise NotPredicted(str(error)) from None
    _keep(request, answer)
    return answer


def dressed(question: Question, tier: Tier, trace: dict[str, Any]) -> Footprint:
    """A trace as a Footprint, of each process where there are several: with the CUDA context, or on the CPU with what
    the libraries take."""
    categories: dict[Category, int] = dict(trace["categories"])
    phases: dict[Phase, int] = dict(trace["phases"])
    notes: list[str] = []
    missing: list[str] = []
    reserved = least = None
    paged = trace["paged_bytes"]
    if question.card.on_cpu:
        base = formula.resident_beside_tensors(question.spec, question.architecture)
        categories["context"] = base
        device = base + trace["allocated_bytes"]
        extent = device, round(device * (1 + CPU_HEAP_SHARE))
        notes.append(f"the C library keeps freed heap: trainers were seen to hold up to {CPU_HEAP_SHARE:.0%} more")
    else:
        context = context_bytes(question.card)
        reserved = trace["reserved_bytes"]
        categories["cache"] = max(0, reserved - trace["allocated_bytes"])
        categories["context"] = context.likely_bytes
        categories["optimizer"] = categories.get("optimizer", 0) + paged
        device = reserved + paged + context.likely_bytes
        extent = device - context.likely_bytes + context.low_bytes, device - context.likely_bytes + context.high_bytes
        if trace["least_bytes"] is not None:
            least = trace["least_bytes"] + context.likely_bytes
        notes.append(context.source)
        if paged:
            notes.append("paged optimizer state is on the card as long as there is room")
    if question.spec.data.samples or question.spec.data.sample_prompts:
        missing.append("the answers to prompts")
    footprint = Footprint(
        tier=tier,
        categories=categories,
        phases=phases,
        allocated_bytes=trace["allocated_bytes"],
        device_bytes=device,
        reserved_bytes=reserved,
        least_bytes=least,
        paged_bytes=paged,
        range_bytes=extent if extent[0] < extent[1] else None,
        versions=library_versions(),
        batch=_batch(question),
        not_modelled=tuple(missing),
        notes=tuple(notes),
        seconds=trace["seconds"],
    )
    return _per_rank(question, footprint)


def _batch(question: Question) -> dict[str, int]:
    train, evaluation = largest_batches(question.spec, question.lengths)
    held_out = {} if evaluation is None else {"evaluation_rows": evaluation.rows}
    return {"rows": train.rows, "tokens": train.tokens, **held_out}


@cache
def library_versions() -> dict[str, str]:
    """Of the libraries that a trace runs."""
    return {**installed_versions(), "trl": version("trl")}


def kept(request: TraceRequest) -> dict[str, Any] | None:
    """The trace of `request` on disk, or None."""
    try:
        answer = json.loads(_path(request).read_bytes())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _keep(request: TraceRequest, answer: dict[str, Any]) -> None:
    path = _path(request)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(answer).encode())
        traces = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in traces[:-KEPT_TRACES]:
            old.unlink(missing_ok=True)
    except OSError:
        return  # a full or read-only disk costs only time


def _path(request: TraceRequest) -> Path:
    asked = request.to_json()
    asked["config"] = hashlib.sha256((Path(asked.pop("config_folder")) / "config.json").read_bytes()).hexdigest()
    asked["spec"]["model"].pop("name_or_path")
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + _made_with()).hexdigest()
    return cache_folder() / "traces" / f"{key}.json"


@cache
def _made_with() -> bytes:
    """The libraries' versions and the code that trains and traces: another of either makes another trace."""
    engine = Path(__file__).parent.parent
    worker = engine / "worker"
    code = [
        *sorted((worker / "trace").glob("*.py")),
        *(worker / name for name in ("model.py", "train.py", "trainer.py")),
    ]
    code += [engine / "memory" / "allocator.py", engine / "memory" / "request.py"]
    return b"".join(path.read_bytes() for path in code) + json.dumps(library_versions(), sort_keys=True).encode()


def _between(fewer: dict[str, Any], more: dict[str, Any], extrapolate: Any) -> dict[str, Any]:
    """The trace with all layers, from two with few. Exact for what tensors take where layers are alike; what the
    allocator reserves grows only about so."""

    def numbers(name: str) -> dict[str, int]:
        keys = [*fewer[name], *(key for key in more[name] if key not in fewer[name])]
        return {key: extrapolate(fewer[name].get(key, 0), more[name].get(key, 0)) for key in keys}

    def number(name: str) -> int | None:
        return None if fewer[name] is None or more[name] is None else extrapolate(fewer[name], more[name])

    phases = numbers("phases")
    allocated = max(size for phase, size in phases.items() if phase != "load")
    categories = numbers("categories")
    return {
        "phases": phases,
        "categories": {name: max(0, size) for name, size in categories.items()},
        "allocated_bytes": allocated,
        "reserved_bytes": None if (reserved := number("reserved_bytes")) is None else max(reserved, allocated),
        "least_bytes": None,
        "paged_bytes": number("paged_bytes"),
        "events": fewer["events"] + more["events"],
        "seconds": fewer["seconds"] + more["seconds"],
    }


def at_once(question: Question) -> Footprint | None:
    """The best prediction that starts no process: a full trace that is on disk, else the formula's; None without."""
    try:
        trace = None if question.config_folder is None else kept(request_for(question))
        return by_formula(question) if trace is None else dressed(question, "full", trace)
    except KeyError:
        return None
