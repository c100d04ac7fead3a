"""What an exported adapter calls its base model: a hub id where there is one, and else a bare name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.catalog import DEMO_HUB_ID, DEMO_MODEL, HUB_ID, cache_folder
from engine.export import ExportRefused
from engine.spec import RunSpec

IN_HUB_CACHE = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{7,40})/?$")
"""The end of the path at which the hub's cache keeps a model (huggingface_hub, `snapshot_download`)."""


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs on."""

    name: str
    """As adapter_config.json has it."""
    hub_id: str | None
    """None where nobody knows whether the hub has it."""
    revision: str | None
    note: str = ""
    """What the person has to know of the name; may be empty."""


def base_of(spec: RunSpec, said: str | None = None) -> Base:
    """The base of a run; `said` is the hub id that the person gives it. Raises ExportRefused for one that is none."""
    path, revision = spec.model.name_or_path, spec.model.revision
    if said is not None:
        if not HUB_ID.fullmatch(said) or "--" in said or ".." in said:
            raise ExportRefused(f"--base is {said!r}; write a hub id such as Qwen/Qwen3-0.6B.")
        return Base(said, said, None if Path(path).is_absolute() else revision)
    if not Path(path).is_absolute():
        return Base(path, path, revision)
    if cached := IN_HUB_CACHE.search(path):
        hub_id = f"{cached['owner']}/{cached['name']}"
        return Base(hub_id, hub_id, cached["revision"])
    if Path(path) == cache_folder() / "models" / DEMO_MODEL:
        return Base(DEMO_HUB_ID, DEMO_HUB_ID, None)
    name = Path(path).name
    return Base(
        name,
        None,
        None,
        f"The base is a folder of this machine, so the adapter only calls it {name}. --base owner/name says what the "
        "hub calls it.",
    )
