"""What a merge takes in memory and on disk, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from engine.merging.report import Needs
from engine.units import amount

REPORT_ROOM_BYTES = 4 * 2**20
"""Room for config, report and the like; the tokenizer's files are counted as they are."""


@dataclass(frozen=True)
class Sizes:
    """What of a base model and its adapter decides how much a merge takes, in bytes."""

    libraries_bytes: int
    """Resident when the libraries are loaded, and nothing else."""
    loaded_base_bytes: int
    """Weights of the base as it was trained on (quantized, where it was), but for those that are mapped."""
    mapped_base_bytes: int
    """Those that are used as its files have them: they stay pages of the files."""
    adapter_bytes: int
    """Weights of the adapter in memory."""
    largest_group_bytes: int
    """Weights of the largest layer, or of the embeddings, as they are written."""
    merged_bytes: int
    """Weights of the merged model."""
    largest_weight_bytes: int
    """The largest single weight, as it is read."""
    shard_bytes: int
    """What is gathered before a file is written."""
    logits_bytes: int
    """The adapter's predictions, which the merged model's are compared with."""
    one_pass_bytes: int
    """Activations and logits of one row."""
    tokenizer_bytes: int
    candidates: int
    """Merges that are made, measured and chosen from."""
    whole: bool
    """Whether it cannot be merged layer by layer."""


def needs_of(sizes: Sizes, free_disk_bytes: int, free_memory_bytes: int) -> Needs:
    """Add up each stage; the peak is the largest.

    - adapter: the base as trained on, with the adapter; loading holds one weight twice (as stored, and as quantized).
    - merge: what is gathered for a file, and of one layer its weights as read, and as merged; or the whole model.
    - check: the merged model's weights stay pages of its files, which are not counted.
    """
    passing = sizes.logits_bytes + sizes.one_pass_bytes
    shard = min(sizes.shard_bytes, sizes.merged_bytes) + min(sizes.largest_group_bytes, sizes.merged_bytes)
    merging = sizes.merged_bytes + sizes.largest_group_bytes if sizes.whole else shard + 2 * sizes.largest_group_bytes
    stages = {
        "adapter": sizes.loaded_base_bytes + sizes.adapter_bytes + max(passing, 2 * sizes.largest_weight_bytes),
        "merge": merging + sizes.adapter_bytes + sizes.logits_bytes,
        "check": passing,
    }
    stages = {name: size + sizes.libraries_bytes for name, size in stages.items()}
    file_pages = max(sizes.merged_bytes, sizes.mapped_base_bytes)
    disk = sizes.candidates * (sizes.merged_bytes + sizes.tokenizer_bytes + REPORT_ROOM_BYTES)
    return Needs(max(stages.values()), stages, file_pages, disk, free_disk_bytes, free_memory_bytes)


def lacks_room(needs: Needs) -> str | None:
    """What to say where the disk has not room enough; None where it has."""
    if needs.disk_bytes <= needs.free_disk_bytes:
        return None
    return (
        f"The merge needs {amount(needs.disk_bytes)} in the output's folder, and {amount(needs.free_disk_bytes)} are "
        "free there."
    )


def needs_in_words(needs: Needs) -> str:
    """One line for a person, before it starts."""
    short = " More than is free now." if needs.peak_bytes > needs.free_memory_bytes else ""
    return (
        f"predicted peak {amount(needs.peak_bytes)} of memory ({amount(needs.free_memory_bytes)} free), and up to "
        f"{amount(needs.file_pages_bytes)} of file pages that the system can take back; {amount(needs.disk_bytes)} of "
        f"disk ({amount(needs.free_disk_bytes)} free).{short}"
    )
