"""Fixtures for tests that need GPUs: name this module in `pytest_plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nvml.driver import CannotBuild, FakeDriver, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library in the driver's place; without a compiler the test is skipped."""
    try:
        return build(tmp_path_factory.mktemp("nvml"))
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture
def fake_driver(tmp_path: Path, nvml_library: Path) -> FakeDriver:
    """A driver of this test's own, without a GPU to begin with."""
    return FakeDriver(tmp_path / "driver", nvml_library)
