"""What the monitor needs of a run's run.yaml. Plain YAML: the spec's own types take longer to import than to watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.runs.fields import number
from engine.runs.store import CHECKPOINT_NAME, Run
from tui.watching.schedule import Schedule, schedule_of


@dataclass(frozen=True)
class RunFacts:
    """Settings of a run as far as watching it needs them."""

    parent: str | None = None
    """Id of the run that it continues."""
    parent_step: int | None = None
    """Step of the checkpoint that it began from; None where it began anew."""
    schedule: Schedule = field(default_factory=Schedule)
    has_eval: bool = False
    memory_limit_bytes: int | None = None


def read_facts(run: Run) -> RunFacts:
    """The facts of `run`; those of a run.yaml that is missing or no YAML are empty. Touches the disk."""
    import yaml  # 20 ms that the screen's first paint need not wait for

    try:
        raw = yaml.safe_load(run.spec_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return RunFacts()
    spec: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    data, training, parent = (_section(spec, name) for name in ("data", "training", "parent"))
    has_eval = bool(data.get("eval")) or (number(data.get("eval_fraction")) or 0.0) > 0
    checkpoint = CHECKPOINT_NAME.fullmatch(str(parent.get("checkpoint") or ""))
    parent_id = parent.get("run")
    return RunFacts(
        parent=parent_id if isinstance(parent_id, str) and parent_id else None,
        parent_step=int(checkpoint[1]) if checkpoint else None,
        schedule=schedule_of(training, has_eval),
        has_eval=has_eval,
        memory_limit_bytes=_limit_bytes(_section(spec, "hardware").get("memory_limit")),
    )


def _section(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = spec.get(name)
    return section if isinstance(section, dict) else {}


def _limit_bytes(limit: object) -> int | None:
    if not limit:
        return None
    from engine.spec import HardwareSection

    try:
        return HardwareSection(memory_limit=str(limit)).memory_limit_bytes
    except ValueError:
        return None
