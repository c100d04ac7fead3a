"""The models a person is likely to mean: used before, in the hub's cache, in folders nearby, the demo model, the hub.

Everything but `search_hub` reads this machine only, and all of it touches disks: not for the UI's thread.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.catalog import DEMO_MODEL, HUB_TIMEOUT_S, ModelUnavailable, cache_folder
from engine.runs.store import home, list_runs, write_atomically

RECENT = 8
"""So many recent models are remembered."""
RUNS_READ = 20
"""So many newest run folders are asked which model they trained."""
FOLDERS_READ = 400
"""Folders looked into at most, when models nearby are looked for."""
SEARCH_LIMIT = 20
TYPE_IT = "A hub id can be typed as it is."


@dataclass(frozen=True)
class ModelHere:
    """A model to choose."""

    name_or_path: str
    """What goes into `model.name_or_path`."""
    kind: Literal["recent", "demo", "folder", "cache", "hub"]
    model_type: str = ""
    """The architecture in transformers' words; empty where it is not known."""
    weights_bytes: int | None = None
    """Of its safetensors files."""
    downloads: int | None = None
    """On the hub, in the last month."""


def models_here(folder: Path) -> list[ModelHere]:
    """Every model of this machine that is found quickly; each once, the recent ones first."""
    listed: dict[str, ModelHere] = {}
    for model in chain(recent_models(), demo_model(), models_in(folder), cached_models()):
        listed.setdefault(model.name_or_path, model)
    return list(listed.values())


# ---- used before


def recent_models() -> Iterator[ModelHere]:
    """Models that were chosen or trained lately, newest first."""
    names: dict[str, None] = dict.fromkeys(_remembered())
    for run in list_runs()[:RUNS_READ]:
        if len(names) >= RECENT:
            break
        if name := _model_of(run.spec_path):
            names.setdefault(name)
    for name in list(names)[:RECENT]:
        path = Path(name).expanduser()
        if path.is_absolute() and not path.is_dir():
            continue  # gone since
        if path == demo_folder():
            continue  # it is listed as `demo`
        config = read_config(path) if path.is_absolute() else {}
        yield ModelHere(name, "recent", _text(config, "model_type"), _weights_bytes(path) if config else None)


def remember_model(name_or_path: str) -> None:
    """Put a model in front of the recent ones. Where that cannot be written, it is forgotten."""
    names = [name_or_path, *(name for name in _remembered() if name != name_or_path)][:RECENT]
    with contextlib.suppress(OSError):
        home().mkdir(parents=True, exist_ok=True)
        write_atomically(_memory(), json.dumps(names, indent=1).encode())


def _memory() -> Path:
    return home() / "recent-models.json"


def _remembered() -> list[str]:
    try:
        names = json.loads(_memory().read_bytes())
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str) and name] if isinstance(names, list) else []


def _model_of(spec_path: Path) -> str:
    """The model that a run.yaml names: its first section is enough, as reading all of it takes ten times longer."""
    try:
        head = spec_path.read_text(encoding="utf-8")[:4096].partition("\nquantization:")[0]
        spec = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    model = spec.get("model") if isinstance(spec, dict) else None
    return _text(model, "name_or_path") if isinstance(model, dict) else ""


# ---- on this machine's disks


def demo_folder() -> Path:
    """Where the demo model lies once it was fetched."""
    return cache_folder() / "models" / DEMO_MODEL


def demo_model() -> Iterator[ModelHere]:
    """The demo model, fetched or not."""
    folder = demo_folder()
    yield ModelHere("demo", "demo", "llama", _weights_bytes(folder))


def models_in(folder: Path, levels: int = 2) -> Iterator[ModelHere]:
    """Folders of models in `folder` and below, so many levels deep. Hidden folders and links are left out."""
    waiting = [(folder, levels)]
    looked = 0
    while waiting and looked < FOLDERS_READ:
        place, deeper = waiting.pop(0)
        looked += 1
        try:
            with os.scandir(place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        names = {entry.name for entry in inside}
        if "config.json" in names and (model_type := _text(read_config(place), "model_type")):
            if weights_bytes := _weights_bytes(place):
                yield ModelHere(str(place.absolute()), "folder", model_type, weights_bytes)
            continue
        if deeper:
            waiting += [
                (place / entry.name, deeper - 1)
                for entry in inside
                if not entry.name.startswith((".", "__")) and entry.is_dir(follow_symlinks=False)
            ]


def cached_models() -> Iterator[ModelHere]:
    """Models in the hub's cache that have weights, those used last first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError):
        return
    for repo in sorted(cache.repos, key=lambda repo: repo.last_accessed, reverse=True):
        if repo.repo_type != "model":
            continue
        newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if newest is None:
            continue
        weights = sum(file.size_on_disk for file in newest.files if file.file_name.endswith(".safetensors"))
        model_type = _text(read_config(newest.snapshot_path), "model_type")
        if weights and model_type:
            yield ModelHere(repo.repo_id, "cache", model_type, weights)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder; empty where there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _weights_bytes(folder: Path) -> int | None:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.endswith(".safetensors")) or None
    except OSError:
        return None


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


# ---- the hub


def search_hub(words: str) -> list[ModelHere]:
    """Text-generation models of the hub whose name has `words` in it, the most downloaded first.

    Raises ModelUnavailable, within seconds, where the hub cannot be reached.
    """
    from huggingface_hub import constants, get_session

    query = {"search": words, "pipeline_tag": "text-generation", "sort": "downloads", "limit": str(SEARCH_LIMIT)}
    try:
        # HfApi.list_models has no time limit and tries an unreachable hub again and again.
        # No token goes along: what only its owner may see, its owner can type.
        answer = get_session().get(f"{constants.ENDPOINT}/api/models", params=query, timeout=HUB_TIMEOUT_S)
        answer.raise_for_status()
        models = answer.json()
    except Exception as error:  # offline mode, or a failure of the HTTP library, whose name differs by version
        raise ModelUnavailable(
            f"The hub cannot be searched: {_reason(error)}. A hub id can be typed as it is."
        ) from None
    if not isinstance(models, list):
        raise ModelUnavailable("The hub cannot be searched: its answer is no list. A hub id can be typed as it is.")
    return [
        ModelHere(name, "hub", downloads=_whole(model.get("downloads")))
        for model in models
        if isinstance(model, dict) and (name := _text(model, "id"))
    ]


def _reason(error: Exception) -> str:
    """What happened, without the library's own words: they may repeat what was sent."""
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set"
    if "Timeout" in name:
        return f"it did not answer within {HUB_TIMEOUT_S:.0f} s"
    if "Connect" in name or "Proxy" in name or "Network" in name:
        return "it cannot be reached"
    return name


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
