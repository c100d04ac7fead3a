"""One trace: from a request to what the run allocates."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers.trainer_pt_utils as trainer_tensors
import transformers.utils.import_utils as imports
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import dora, layer, variants
from peft.utils.integrations import dequantize_module_weight
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.memory.allocator import Allocator, least_capacity
from engine.memory.formula import CUBLAS_HANDLES, FLASH_LIBRARIES, LOSS_COLUMNS
from engine.memory.request import TraceRequest
from engine.worker.meta import NotInspectable, one_line
from engine.worker.trace.cuda import as_on_cuda, cublas_workspace_bytes, patched
from engine.worker.trace.kernels import CpuScratch, CudaScratch
from engine.worker.trace.log import StorageLog
from engine.worker.trace.loops import for_cpu, train_as_loradeck, train_plainly
from engine.worker.trace.mode import QuickFakeMode
from engine.worker.trace.model import NotTraceable, build, load, read_shortened_config


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The inspector's task `trace`, in a process of its own: what it patches, leaks or breaks ends with it."""
    result: dict[str, Any] = in_child(lambda: traced(TraceRequest.from_json(request["request"])))
    return result


def traced(request: TraceRequest) -> dict[str, Any]:
    """What `request` comes to: `summary`, and the seconds that it took."""
    began = time.perf_counter()
    log = run(request)
    return {**summary(log, request), "seconds": time.perf_counter() - began}


def run(request: TraceRequest, mode: FakeTensorMode | None = None) -> StorageLog:
    """Trace `request`, in a mode of its own. Raises NotInspectable, NotTraceable, and whatever the libraries raise."""
    capability = request.capability
    flash = request.spec.model.attn_implementation in FLASH_LIBRARIES  # unpads rows itself and takes no mask
    log = StorageLog(
        round_to=512 if capability else 1,
        scratch=CudaScratch() if capability else CpuScratch(),
        padded=not flash and (request.train.padded or bool(request.train.packed_lengths)),
        labelled_share=request.train.labelled_share,
    )
    mode = mode or QuickFakeMode()
    config = read_shortened_config(Path(request.config_folder), request.spec.model.name_or_path, request.layers)
    is_trl = request.recipe == "trl"
    spec, fp16 = for_cpu(request.spec) if is_trl else (request.spec, False)
    device = as_on_cuda(capability, log, bf16_stands_for_half=fp16) if capability else contextlib.nullcontext()
    with device, _without_values():
        model = build(config, spec)
        load(model, mode, log, warm_up=is_trl and capability is not None)
        if capability:
            for _ in range(CUBLAS_HANDLES):
                log.hold(cublas_workspace_bytes(capability), "workspaces")
        train = train_as_loradeck if is_trl else train_plainly
        train(model, request, mode, log)
    return log


def summary(log: StorageLog, request: TraceRequest) -> dict[str, Any]:
    """Peaks by phase, categories at the highest, and what PyTorch's allocator makes of it on a GPU."""
    phases: dict[str, int] = {"load": log.loaded_bytes, **{phase: peak.bytes for phase, peak in log.peaks.items()}}
    highest = max(log.peaks.values(), key=lambda peak: peak.bytes)
    text = read_shortened_config(Path(request.config_folder), request.spec.model.name_or_path, None).get_text_config()
    categories = log.categories_at(highest, frozenset({text.vocab_size, LOSS_COLUMNS}))
    reserved = least = None
    if request.capability:
        rounded, reserved = replayed(log, request.expandable_segments)
        # A block is at times larger than what it was asked for; the difference is nobody's memory.
        slack = max(rounded[phase] for phase in log.peaks) - highest.bytes
        categories["workspaces"] = categories.get("workspaces", 0) + slack
        phases.update(rounded)
        if request.layers is None:
            least = least_capacity(log.events, request.expandable_segments, empty_cache_at=log.flushes)
    return {
        "phases": phases,
        "categories": categories,
        "allocated_bytes": max(phases[phase] for phase in log.peaks),
        "reserved_bytes": reserved,
        "least_bytes": least,
        "paged_bytes": log.paged_bytes,
        "events": len(log.events),
    }


def replayed(log: StorageLog, expandable_segments: bool) -> tuple[dict[str, int], int]:
    """Allocated bytes at the peak of each phase as the caching allocator counts them, and the most it reserved."""
    allocator = Allocator(expandable_segments=expandable_segments)
    peaks: dict[str, int] = {}
    flushes, storages, phase = set(log.flushes), log.storages, "load"
    for index, (number, size_bytes) in enumerate(log.events):
        if index in flushes:
            allocator.empty_cache()
        if index == log.peaks_from:
            peaks = {"load": peaks.get("load", 0)}
        if size_bytes > 0:
            allocator.malloc(number, size_bytes)
            phase = storages[number].phase
            if allocator.allocated_bytes > peaks.get(phase, 0):
                peaks[phase] = allocator.allocated_bytes
        elif size_bytes < 0:
            allocator.free(number)
    return peaks, allocator.peak_reserved_bytes


def in_child(work: Callable[[], Any]) -> Any:
    """The result of `work`, done in a fork of this process. Raises what it raised, as far as that can be told.

    A fork has all imports at hand, in milliseconds; PyTorch's threads are not in it, and fake tensors need none.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            gc.disable()  # there is little garbage, and looking for it costs a tenth of the time
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                json.dump(_outcome(work), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    try:
        outcome = json.loads(said)
    except ValueError:
        code = os.waitstatus_to_exitcode(status)
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        raise TraceFailed(f"the tracing process died ({how})") from None
    if "result" in outcome:
        return outcome["result"]
    kind: type[Exception] = NotInspectable if outcome["refused"] else TraceFailed
    raise kind(outcome["error"])


class TraceFailed(Exception):
    """A trace broke; the message names the operation or the error."""


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except (NotInspectable, NotTraceable) as error:
        return {"refused": True, "error": str(error)}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return {"refused": False, "error": one_line(error)}


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Libraries that would look at values, or notice that there are none, do as in a real run."""
    with patched(
        [
            (imports, "is_fake_tensor", lambda tensor: False),
            (torch.nn.Module, "_apply", _apply),
            *[(module, "dequantize_module_weight", _dequantized) for module in (dora, layer, variants)],
            (trainer_tensors, "nested_numpify", lambda tensors: numpy.zeros(tuple(tensors.shape), "f4")),
        ]
    ):
        yield


def _dequantized(module: torch.nn.Module) -> Any:
    """PEFT's function of that name: it goes by the class Params4bit, which no fake tensor can have."""
    state = getattr(module.weight, "quant_state", None)
    return dequantize_module_weight(module) if state is None else dequantize_4bit(module.weight.data, state)


def _apply(module: torch.nn.Module, convert: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """`nn.Module._apply` by `set_data`: it would swap tensor subclasses, which cannot be while others refer to them."""
    for held in module.modules() if recurse else [module]:
        with torch.no_grad():
            for parameter in held._parameters.values():
                if parameter is not None:
                    parameter.data = convert(parameter.data)
            for name, buffer in held._buffers.items():
                if buffer is not None:
                    held._buffers[name] = convert(buffer)
    return module
