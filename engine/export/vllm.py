"""Whether vLLM serves an adapter as it is, setting by setting, with the reason.

From vLLM's sources, 0.14 to 0.26: `vllm/lora/peft_helper.py` (what of adapter_config.json is read and refused),
`vllm/lora/lora_model.py` and `vllm/lora/utils.py` (names of tensors), `vllm/config/lora.py` (ranks).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (MaxLoRARanks)."""
USUAL_RANK = 16
CHANGES_BASE = ("pissa", "olora")
"""Ways to begin that take a part out of the base's weights, which PEFT does again when it loads the adapter."""
KNOWN_TENSOR = re.compile(r"\.lora_[AB]\.weight$|\.lora_embedding_[AB]$")
MERGE = "`loradeck merge` makes a model of it that vLLM serves"

Verdict = Literal["ok", "needs", "depends", "refused", "wrong"]
"""`needs` an option; `depends` on the model's family; `refused` at loading; `wrong`: it loads, and answers differ."""


@dataclass(frozen=True)
class Finding:
    """What vLLM does with one setting of an adapter."""

    setting: str
    verdict: Verdict
    reason: str


def findings(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    """About an adapter's config and the names and shapes of its tensors, the most important first."""
    found = [*_of_config(config), *_of_tensors(config, shapes)]
    order: tuple[Verdict, ...] = ("refused", "wrong", "depends", "needs", "ok")
    return sorted(found, key=lambda finding: order.index(finding.verdict))


def serves(found: list[Finding]) -> bool:
    """Whether vLLM loads it and answers as PEFT does, as far as its settings tell."""
    return not any(finding.verdict in ("refused", "wrong") for finding in found)


def options(found: list[Finding]) -> list[str]:
    """What `vllm serve` has to be told."""
    return ["--enable-lora", *(finding.reason.split("`")[1] for finding in found if finding.verdict == "needs")]


def _of_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    if config.get("use_dora"):
        yield Finding("use_dora", "refused", f"vLLM has no DoRA; {MERGE}.")
    if (bias := config.get("bias", "none")) != "none":
        yield Finding("bias", "refused", f"vLLM takes no trained biases ({bias}); {MERGE}.")
    if config.get("modules_to_save"):
        yield Finding("modules_to_save", "refused", f"vLLM takes no modules that are trained in full; {MERGE}.")
    if (start := config.get("init_lora_weights")) in CHANGES_BASE:
        yield Finding(
            "init_lora_weights",
            "wrong",
            f"{start} takes a part out of the base's weights, which PEFT does again when it loads the adapter and vLLM "
            f"does not; {MERGE}.",
        )
    if config.get("target_parameters"):
        yield Finding(
            "target_parameters",
            "depends",
            "vLLM takes adapters of experts' weights for some families only, under names of their own.",
        )
    if config.get("use_rslora"):
        yield Finding("use_rslora", "ok", "vLLM scales by lora_alpha / sqrt(r), too.")


def _of_tensors(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    if unknown := [name for name in shapes if not KNOWN_TENSOR.search(name)]:
        yield Finding("weights", "refused", f"vLLM does not know {_some(unknown)}; {MERGE}.")
    ranks = {
        name.removesuffix(".lora_A.weight").removeprefix("base_model.model."): shape[0]
        for name, shape in shapes.items()
        if name.endswith(".lora_A.weight")
    }
    highest = max(ranks.values(), default=int(config["r"]))
    highest = max(highest, int(config["r"]))
    if highest > RANKS[-1]:
        yield Finding("r", "refused", f"the highest rank is {highest}, and vLLM takes {RANKS[-1]} at most; {MERGE}.")
    elif highest > USUAL_RANK:
        least = next(rank for rank in RANKS if rank >= highest)
        yield Finding("r", "needs", f"the highest rank is {highest}: serve with `--max-lora-rank {least}`.")
    else:
        yield Finding("r", "ok", f"the highest rank is {highest}, and vLLM takes {USUAL_RANK} without being told.")
    whole = _scale(config, float(config["lora_alpha"]), int(config["r"]))
    others = [name for name, rank in ranks.items() if not math.isclose(_scale_of(config, name, rank), whole)]
    if others:
        yield Finding(
            "rank_pattern, alpha_pattern",
            "wrong",
            f"vLLM scales every module by {whole:g}, and {_some(others)} would need another scale; {MERGE}.",
        )
    elif config.get("rank_pattern") or config.get("alpha_pattern"):
        yield Finding("rank_pattern, alpha_pattern", "ok", f"every module has the one scale that vLLM uses, {whole:g}.")
    edges = sorted({part for name in shapes for part in ("embed_tokens", "lm_head") if f".{part}." in f"{name}."})
    if edges:
        yield Finding("target_modules", "depends", f"vLLM takes {' and '.join(edges)} for some families only.")


def _scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """As PEFT takes the first pattern that fits the end of a module's name (peft/utils/other.py, get_pattern_key)."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    fitting = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return _scale(config, float(next(fitting, config["lora_alpha"])), rank)


def _scale(config: Mapping[str, Any], alpha: float, rank: int) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
