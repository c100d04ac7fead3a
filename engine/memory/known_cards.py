"""The cards that people fine-tune on: their memory, their kind, and their CUDA context where somebody measured it.

Totals are what `nvidia-smi` prints with a driver of 2022 or later (older ones took the driver's own part off), data
centre cards with ECC on. Compute capabilities: developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

MIB = 2**20
GIB = 2**30

SOLD_GB = (6, 8, 10, 11, 12, 16, 24, 32, 40, 48, 80, 96, 141, 180)
"""Sizes as they are sold; a card's total is a little below one of them."""
FIRST_STEP_BYTES = 36 * MIB
"""What a context grows by in the first training step, as kernels and cuBLAS load: 105 to 141 MiB on a T4 (fitcheck,
docs/SPEC.md section 3.8). Nobody has published it of another card."""
SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*(?:gib|gb|g)\b")
NOISE = re.compile(
    r"nvidia|geforce|tesla|quadro|gpu|sxm\d?|pcie|hbm\d?e?|generation|blackwell|workstation|server|edition"
)
CLOSE = 0.1
"""Share by which the size that a person names may differ from the one a card is sold with (a B200 has 180 or 192)."""


@dataclass(frozen=True)
class KnownCard:
    """A kind of card."""

    name: str
    total_bytes: int
    """All of its memory, as NVML reports it; the driver keeps about half a GiB of that."""
    compute_capability: tuple[int, int]
    context_bytes: int | None = None
    """Memory of a process beside what torch's allocator reserves; None where no measurement is known."""
    context_source: str = ""
    context_has_kernels: bool = False
    """Whether it was read after work on the card; otherwise right after the context was made (`FIRST_STEP_BYTES`)."""

    @property
    def size_gb(self) -> int:
        """The size it is sold with."""
        return next(size for size in SOLD_GB if size * GIB >= self.total_bytes)

    @property
    def context_in_training_bytes(self) -> int | None:
        """The context once the first step has loaded its kernels."""
        if self.context_bytes is None or self.context_has_kernels:
            return self.context_bytes
        return self.context_bytes + FIRST_STEP_BYTES


def _card(
    name: str, mib: int, major: int, minor: int, context_mib: int = 0, source: str = "", has_kernels: bool = False
) -> KnownCard:
    return KnownCard(name, mib * MIB, (major, minor), context_mib * MIB or None, source, has_kernels)


AGILERL = "AgileRL, agilerl/memory/specs.py: NVML before and after one element, torch 2.11, CUDA 13.0"
LLAMA_CPP = "ggml-org/llama.cpp#23604: NVML before and after cudaMemGetInfo, no torch"

# In each size the common ones first: that is the order in which they are offered.
KNOWN_CARDS: tuple[KnownCard, ...] = (
    _card("RTX 2060", 6144, 7, 5),
    _card("RTX 3070", 8192, 8, 6),
    _card("RTX 4060", 8188, 8, 9),
    _card("RTX 4060 Ti 8GB", 8188, 8, 9),
    _card("RTX 5060 Ti 8GB", 8151, 12, 0),
    _card("RTX 3080 10GB", 10240, 8, 6),
    _card("RTX 2080 Ti", 11264, 7, 5),
    _card("GTX 1080 Ti", 11264, 6, 1),
    _card("RTX 3060 12GB", 12288, 8, 6),
    _card("RTX 4070", 12282, 8, 9, 204, "quazzie/netPI, docs/DECISION-MODELS.md: idle after use, model unloaded", True),
    _card("RTX 4070 SUPER", 12282, 8, 9),
    _card("RTX 4070 Ti", 12282, 8, 9),
    _card("RTX 5070", 12227, 12, 0),
    _card("RTX 3080 12GB", 12288, 8, 6),
    _card("RTX 3080 Ti", 12288, 8, 6, 253, "hitsainet/miStudio, its GPU job tests: a stray context, September 2026"),
    _card("T4", 15360, 7, 5, 141, "fitcheck-llm 0.3.1, its 79 measurements: after steps, torch 2.10 and 2.14", True),
    _card("RTX 4060 Ti 16GB", 16380, 8, 9),
    _card("RTX 5060 Ti 16GB", 16311, 12, 0),
    _card("RTX 4070 Ti SUPER", 16376, 8, 9),
    _card("RTX 5070 Ti", 16303, 12, 0),
    _card("RTX 4080", 16376, 8, 9),
    _card("RTX 4080 SUPER", 16376, 8, 9),
    _card("RTX 5080", 16303, 12, 0),
    _card("RTX A4000", 16376, 8, 6),
    _card("V100 16GB", 16384, 7, 0),
    _card("P100", 16384, 6, 0),
    _card("RTX 3090", 24576, 8, 6, 256, "invoke-ai/InvokeAI#9413: torch 2.7, CUDA 12.8, driver 610"),
    _card("RTX 4090", 24564, 8, 9, 384, "zndx/atelier, note of 2026-07-04: idle contexts of torch on six of them"),
    _card("RTX 3090 Ti", 24564, 8, 6),
    _card("L4", 23034, 8, 9, 226, AGILERL),
    _card("A10G", 23028, 8, 6),
    _card("A10", 23028, 8, 6),
    _card("RTX A5000", 24564, 8, 6),
    _card("A30", 24576, 8, 0),
    _card("RTX 5090", 32607, 12, 0),
    _card("V100 32GB", 32768, 7, 0),
    _card("A100 40GB", 40960, 8, 0, 501, AGILERL),
    _card("L40S", 46068, 8, 9),
    _card("RTX A6000", 49140, 8, 6),
    _card("RTX 6000 Ada", 49140, 8, 9, 426, "unslothai/unsloth-zoo#1053: nvidia-smi, torch 2.10, CUDA 13.0"),
    _card("A40", 46068, 8, 6),
    _card("L40", 46068, 8, 9),
    _card("A100 80GB", 81920, 8, 0, 501, AGILERL),
    _card("H100 80GB", 81559, 9, 0),  # PCIe and SXM report the same
    _card("RTX PRO 6000", 97887, 12, 0, 555, LLAMA_CPP),
    _card("H200", 143771, 9, 0),
    _card("B200", 183359, 10, 0),
)


def model_and_size(text: str) -> tuple[str, float | None]:
    """A card's model and GB in whatever way its name is written: `NVIDIA A100-SXM4-80GB` is ("a100", 80)."""
    text = text.lower()
    size = SIZE.search(text)
    words = re.findall(r"[a-z0-9]+", SIZE.sub(" ", text))
    model = "".join(word for word in words if not NOISE.fullmatch(word))
    return re.sub(r"^(rtx|gtx)(?=.)", "", model), float(size[1]) if size else None


def matching(text: str) -> list[KnownCard]:
    """The known cards that `text` can mean: several where it leaves the size open."""
    model, size = model_and_size(text)
    return [
        card
        for card in KNOWN_CARDS
        if model_and_size(card.name)[0] == model and (size is None or abs(size - card.size_gb) <= CLOSE * card.size_gb)
    ]


def nearest(text: str) -> list[str]:
    """Names of known cards that look like `text`, the likest first."""
    model, _ = model_and_size(text)
    models = dict.fromkeys(model_and_size(card.name)[0] for card in KNOWN_CARDS)
    close = difflib.get_close_matches(model, models, n=4, cutoff=0.5)
    return [card.name for like in close for card in KNOWN_CARDS if model_and_size(card.name)[0] == like]


def known(name: str, total_bytes: int | None) -> KnownCard | None:
    """The entry for a card that is there, by the driver's name for it and by its memory; None if there is none."""
    close = [
        card
        for card in matching(name)
        if total_bytes is None or abs(total_bytes - card.total_bytes) <= CLOSE * card.total_bytes
    ]
    return close[0] if len(close) == 1 else None
