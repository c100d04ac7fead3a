"""What happened when memory ran out, in plain words with the numbers. What is not known is left out, never a 0."""

from __future__ import annotations

from engine.runs.events import Event
from engine.runs.fields import objects, text, whole
from engine.units import UNITS, amount

LIBRARIES = {
    "torch": "PyTorch",
    "cublas": "cuBLAS",
    "cudnn": "cuDNN",
    "bitsandbytes": "bitsandbytes",
    "nccl": "NCCL",
    "cpu-allocator": "PyTorch's allocator on the CPU",
    "onednn": "oneDNN",
    "python": "Python",
    "driver": "the GPU's driver",
}
"""`raised_by` of the event, as a sentence names it."""
PASSES = {"forward": "the forward pass", "backward": "the backward pass", "optimizer": "the optimizer's update"}
HOST_ALLOCATORS = ("cpu-allocator", "onednn", "python")
"""Of `raised_by`, those that a process meets in the host's memory."""
OTHERS_NAMED = 3
WORTH_NAMING_BYTES = 2**20


def what_happened(oom: Event, limit_bytes: int | None = None) -> list[str]:
    """Where it was, and who wanted and held how much: a sentence each.

    `limit_bytes` is the run's `hardware.memory_limit`. Names of processes are others' text.
    """
    return [where(oom), *filter(None, [who_held_it(oom, limit_bytes)])]


def whose(oom: Event) -> str:
    """`rank 1 (GPU 1)`: of several processes the one whose memory it was; empty for a single one."""
    rank, device = whole(oom.get("rank")), text(oom, "device")
    if rank is None:
        return ""
    return f"rank {rank} (GPU {device.removeprefix('cuda:')})" if device.startswith("cuda:") else f"rank {rank}"


def where(oom: Event) -> str:
    """Rank, phase, step, and the batch with its longest row."""
    phase, step, batch = text(oom, "phase"), whole(oom.get("step")), _batch(oom)
    by_kernel, rank = text(oom, "raised_by") == "kernel", whose(oom)
    start = f"Out of memory on {rank}" if rank else "Out of memory"
    if by_kernel:
        start = f"Linux ended {rank or 'the run'}, as the machine had no memory left,"
    on_batch = f", on a batch of {batch}" if batch else ""
    if phase == "load":
        return f"{start} while the model was loaded."
    if oom.get("preflight") is True:
        what = PASSES.get(phase, {"eval": "the evaluation", "save": "saving"}.get(phase, ""))
        within = f": in {what}" if what else ""
        largest = f", on the largest batch that this data forms, {batch}" if batch else ""
        return f"{start} in the preflight, before the first step{within}{largest}."
    if phase == "eval":
        when = "before the first step" if step == 0 else f"after step {step:,}" if step is not None else ""
        return f"{start} in the evaluation {when}".rstrip() + f"{on_batch}."
    at_step = f" at step {step:,}" if step is not None else ""
    if phase == "save":
        return f"{start} while a checkpoint was saved{at_step}."
    within = f" in {PASSES[phase]}" if phase in PASSES and not by_kernel else ""  # which pass, nobody was told
    return f"{start}{within}{at_step}{on_batch}."


def who_held_it(oom: Event, limit_bytes: int | None = None) -> str:
    """What was wanted, what this run held of how much, and what other processes held. Empty where nothing is known."""
    parts = []
    wanted, library = whole(oom.get("requested_bytes")), LIBRARIES.get(text(oom, "raised_by"))
    if wanted:
        parts.append(f"{library or 'it'} wanted {amount(wanted)} more")
    elif library is not None:
        parts.append(f"{library} got no more memory")
    held = _held(oom, limit_bytes)
    others = "" if limit_decided(oom, limit_bytes) else _others(oom)
    if both := ", ".join(filter(None, [held, others])):
        parts.append(both)
    sentence = "; ".join(parts)
    if sentence.startswith(("it ", "this ", "the ", "other ", "another ")):  # not cuBLAS
        sentence = f"{sentence[0].upper()}{sentence[1:]}"
    return f"{sentence}." if sentence else ""


def what_is_safe(oom: Event, checkpoint: str | None, steps_to_repeat: int | None) -> str:
    """What is lost and what is not. `checkpoint` is the name of the one that a run would go on from."""
    phase = text(oom, "phase")
    from_checkpoint = f"{checkpoint} is safe"
    if steps_to_repeat:
        from_checkpoint += f", {steps_to_repeat:,} step{'s' if steps_to_repeat != 1 else ''} to repeat"
    elif steps_to_repeat == 0:
        from_checkpoint += ", no step to repeat"
    if phase == "load" or oom.get("preflight") is True:
        untouched = "Nothing was trained, so nothing is lost"
        return f"{untouched}; {checkpoint} is safe." if checkpoint else f"{untouched}."
    step = whole(oom.get("step"))
    if phase == "eval" and step:
        whole_step = f"Step {step:,} itself is whole"
        if checkpoint:
            return f"{whole_step}; {from_checkpoint}."
    if phase == "save":
        if checkpoint:
            return f"What was being saved is not there; {from_checkpoint}."
        return "What was being saved is not there, and no checkpoint was saved before it: it begins anew."
    if checkpoint:
        return f"Nothing is lost: {from_checkpoint}."
    if steps_to_repeat:
        before = "1 step" if steps_to_repeat == 1 else f"{steps_to_repeat:,} steps"
        return f"No checkpoint was saved yet: {before} to repeat from the beginning."
    return "Nothing was trained yet, so nothing is lost."


def held_for(oom: Event) -> str:
    """What the run's memory was held for, the most first; empty where that was not measured."""
    parts = oom.get("held_by")
    sizes = {str(name): whole(size) or 0 for name, size in parts.items()} if isinstance(parts, dict) else {}
    largest = sorted(((size, name) for name, size in sizes.items() if size >= WORTH_NAMING_BYTES), reverse=True)
    return f"Held by: {', '.join(f'{name} {amount(size)}' for size, name in largest)}." if largest else ""


def limit_decided(oom: Event, limit_bytes: int | None) -> bool:
    """Whether the run met its own `memory_limit`: what other processes hold is then of no importance.

    On a GPU it did where held and wanted together pass the limit. On the CPU what counts is reserved, of which some is
    not touched yet: there the limit speaks through the allocator, and a machine without memory through the kernel.
    """
    if limit_bytes is None or whole(oom.get("capacity_bytes")) != limit_bytes:
        return False
    held, wanted = whole(oom.get("held_bytes")) or 0, whole(oom.get("requested_bytes")) or 0
    return held + wanted >= limit_bytes or text(oom, "raised_by") in HOST_ALLOCATORS


def untouched_bytes(oom: Event, limit_bytes: int | None) -> int:
    """What counted towards the run's own limit on the CPU at the least, and was never touched: what is missing between
    the limit, and held and wanted together. 0 where there is no such limit, or nobody knows."""
    held, wanted = whole(oom.get("held_bytes")), whole(oom.get("requested_bytes"))
    if limit_bytes is None or not held or not wanted or not limit_decided(oom, limit_bytes):
        return 0
    return max(0, limit_bytes - held - wanted)


def part_of(part_bytes: float, whole_bytes: float) -> str:
    """`10.9 of 11.6 GiB`, or `512 MiB of 11.6 GiB`: the unit once where it is the same."""
    part, total = amount(part_bytes), amount(whole_bytes)
    number, _, unit = part.rpartition(" ")
    return f"{number} of {total}" if total.endswith(f" {unit}") and unit in dict(UNITS) else f"{part} of {total}"


def _batch(oom: Event) -> str:
    shape = oom.get("batch_shape")
    if not isinstance(shape, list) or len(shape) != 2:
        return ""
    rows, tokens = whole(shape[0]), whole(shape[1])
    if not rows or not tokens:
        return ""
    words = f"{rows:,} row{'s' if rows != 1 else ''} x {tokens:,} tokens"
    longest = whole(oom.get("longest_row_tokens"))
    if longest and longest < tokens:
        return f"{words} (longest row {longest:,})"
    return f"{words} (its longest row)" if longest and rows > 1 else words


def _held(oom: Event, limit_bytes: int | None) -> str:
    held, capacity = whole(oom.get("held_bytes")), whole(oom.get("capacity_bytes"))
    if not held:
        return ""
    who = "this run" if oom.get("rank") is None or text(oom, "raised_by") == "kernel" else "this rank"
    if not capacity:
        return f"{who} held {amount(held)}"
    if capacity == limit_bytes:
        untouched = untouched_bytes(oom, limit_bytes)
        more = f" and had {amount(untouched)} more reserved" if untouched >= WORTH_NAMING_BYTES else ""
        return f"{who} held {amount(held)}{more}, and its memory_limit is {amount(capacity)}"
    return f"{who} held {part_of(held, capacity)}"


def _others(oom: Event) -> str:
    """`another process (ollama, pid 4121, anna) 0.5 GiB`, or the largest of several."""
    others = sorted(objects(oom.get("others")), key=lambda other: -(whole(other.get("used_bytes")) or 0))
    total = whole(oom.get("other_processes_bytes"))
    size = f" {amount(total)}" if total else ""
    if len(others) == 1:
        used = whole(others[0].get("used_bytes"))
        return f"another process ({_process(others[0])}){f' {amount(used)}' if used else size}"
    if not others:
        # The host's memory is that of all ranks, a card one rank's alone.
        are_ranks = oom.get("rank") is not None and text(oom, "raised_by") in HOST_ALLOCATORS
        return f"other processes{' and ranks' if are_ranks else ''}{size}" if size else ""
    named = []
    for other in others[:OTHERS_NAMED]:
        used = whole(other.get("used_bytes"))
        named.append(_process(other) + (f", {amount(used)}" if used else ""))
    if more := len(others) - len(named):
        named.append(f"{more:,} more")
    return f"other processes{size} ({'; '.join(named)})"


def _process(other: Event) -> str:
    pid = whole(other.get("pid"))
    known = [text(other, "name"), f"pid {pid}" if pid is not None else "", text(other, "user")]
    return ", ".join(filter(None, known)) or "unknown"
