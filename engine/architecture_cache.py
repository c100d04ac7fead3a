"""Architectures on disk, found by what they were made from: a config, the libraries, and the code that reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from engine.architecture import Architecture, installed_versions
from engine.catalog import ModelUnavailable, cache_folder
from engine.runs.store import write_atomically


def key(config_path: Path) -> str:
    """Hash of the config.json's bytes, the libraries' versions, and the code that makes and stores an architecture.

    Raises ModelUnavailable if the file cannot be read.
    """
    try:
        config = config_path.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"{config_path} cannot be read: {error.strerror}.") from None
    return hashlib.sha256(config + _made_with()).hexdigest()


def read(key: str, name_or_path: str) -> Architecture | None:
    """The architecture stored under `key`, called `name_or_path`; None if there is none that can be read."""
    try:
        architecture = Architecture.from_json(json.loads(_path(key).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return replace(architecture, name_or_path=name_or_path)


def write(key: str, architecture: Architecture) -> None:
    """Keep `architecture`. Where the disk is full or read-only nothing is kept, which costs only time."""
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(architecture.to_json()).encode())
    except OSError:
        return


def _path(key: str) -> Path:
    return cache_folder() / "architectures" / f"{key}.json"


@cache
def _made_with() -> bytes:
    engine = Path(__file__).parent
    code = [engine / "architecture.py", engine / "worker" / "inspect.py", engine / "worker" / "meta.py"]
    return b"".join(path.read_bytes() for path in code) + json.dumps(installed_versions(), sort_keys=True).encode()
