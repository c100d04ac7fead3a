"""What of a model FSDP cannot share among processes, told before weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.architecture import Architecture
from engine.checks import Problem
from engine.spec import RunSpec
from engine.targets.selection import selected

DDP = "write hardware.strategy: ddp"


def problems_of_sharing(spec: RunSpec, architecture: Architecture) -> list[Problem]:
    """Where `hardware.strategy` is fsdp: adapters and weights that do not go into one with the rest of their layer."""
    return list(_problems(spec, architecture)) if spec.hardware.strategy == "fsdp" else []


def _problems(spec: RunSpec, architecture: Architecture) -> Iterator[Problem]:
    for name in selected(spec.lora, architecture).targets:
        if architecture.targets[name].kind in ("embedding", "parameter"):
            yield Problem(
                "lora.target_modules",
                f"the adapter on {name} is no module of its own, and fsdp shares what is around it as one, all frozen",
                f"leave {name.rpartition('.')[2]} out, or {DDP}",
            )
            break
    kept = (
        f"{module.name}.{parameter.name}"
        for module in architecture.modules
        for parameter in module.parameters
        if parameter.dtype == "float32"
    )
    if spec.model.dtype != "float32" and (first := next(kept, None)) is not None:
        yield Problem(
            "hardware.strategy",
            f"fsdp needs one type in a layer, and {re.sub(r'[.][0-9]+[.]', '.*.', first)} stays in float32 in a "
            f"{architecture.model_type} model",
            DDP,
        )
