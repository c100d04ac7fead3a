"""A run of the tiny model, trained once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runs.store import Run
from engine.spec import RunSpec
from tests.engine.worker.evaluation.trained import spec_of, trained_run


@pytest.fixture(scope="session")
def chat_spec(tiny_model: Path, rows_file: Path) -> RunSpec:
    return spec_of(tiny_model, rows_file, training={"max_steps": 80})


@pytest.fixture(scope="session")
def chat_run(chat_spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on 64 short conversations, some of them held out."""
    return trained_run(tmp_path_factory.mktemp("chat") / "run", chat_spec)
