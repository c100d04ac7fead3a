"""One inspector for all traces of these tests: it imports the training stack once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.inspector import Inspector


@pytest.fixture(scope="package")
def inspector() -> Iterator[Inspector]:
    with Inspector() as running:
        running.request("warm", 120)
        yield running


@pytest.fixture(autouse=True)
def no_kept_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces that other runs of these tests kept would hide what is made."""
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
