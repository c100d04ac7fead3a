"""One inspector for all traces of these tests: it imports the training stack once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.inspector import Inspector


@pytest.fixture(scope="package")
def inspector() -> Iterator[Inspector]:
    with Inspector() as running:
        running.request("warm", 120)
        yield running
