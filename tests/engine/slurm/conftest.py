"""A real Slurm for these tests, started once; they skip where there is none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.runs.store import Run, list_runs
from engine.slurm.record import read_job
from engine.slurm.watching import watcher_lock
from engine.spec import RunSpec
from tests.conftest import wait_until
from tests.engine.slurm.cluster import Cluster, NoSlurm, environment, started


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[Cluster]:
    # Not in pytest's folder: a socket's path may be 107 characters long at most.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with started(folder) as cluster:
            yield cluster
    except NoSlurm as reason:
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(running_slurm: Cluster, deck_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with nothing in its queue, which this process and those that it starts use."""
    found = environment(running_slurm.folder)
    monkeypatch.setenv("SLURM_CONF", found["SLURM_CONF"])
    monkeypatch.setenv("PATH", found["PATH"])
    yield running_slurm
    running_slurm.clear()
    for run in list_runs():
        wait_until(lambda run=run: _is_left_alone(run), f"the watcher of {run.id} ends", 30)  # type: ignore[misc]


def _is_left_alone(run: Run) -> bool:
    if read_job(run) is None:
        return True
    lock = watcher_lock(run)
    if lock is not None:
        lock.close()
    return lock is not None


@pytest.fixture
def slurm_spec(tiny_spec: Callable[..., RunSpec]) -> Callable[..., RunSpec]:
    """As `tiny_spec`, for a job of one core; `job` changes `hardware.slurm`."""

    def make(job: dict[str, Any] | None = None, **training: Any) -> RunSpec:
        asked = {"partition": "debug", "cpus_per_task": 1, "mem": "2000M", **(job or {})}
        return tiny_spec(training=training, hardware={"launcher": "slurm", "slurm": asked})

    return make
