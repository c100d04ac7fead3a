"""Starting a run: its folder, its supervisor, and the one place that says how a trainer process is started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from engine.checks import write_spec
from engine.memory.card import card_of
from engine.memory.footprint import Footprint
from engine.runs.prediction import Prediction, write_prediction
from engine.runs.store import ENDED, Run, RunBusy, RunStatus, create_run, reveal, write_atomically
from engine.spec import RunSpec


class NotResumable(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class TrainerCommand:
    """How to start the trainer of a run: everything that differs between one process and many."""

    arguments: list[str]
    environment: dict[str, str]


def trainer_command(run: Run, spec: RunSpec) -> TrainerCommand:
    """The trainer's command line and environment for `spec` (as resolved by `engine.prepare`)."""
    # trl reports its use to the hub at each start unless it is told not to; who wants that sets the variable.
    telemetry_off = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**telemetry_off, **os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    device = spec.hardware.device
    # One process sees one GPU: transformers would otherwise spread a batch over all it sees (nn.DataParallel).
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    environment["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:") if device != "cpu" else ""
    return TrainerCommand([sys.executable, "-m", "engine.worker", "train", str(run.folder)], environment)


def launch(spec: RunSpec, prediction: Footprint | None = None) -> Run:
    """Start a new run of `spec` (resolved) in a folder of its own; it goes on when this process ends.

    `prediction` is what it is expected to need; what it then does need is measured against it.
    Raises OSError where the folder cannot be written.
    """
    data = [spec.data.train] if isinstance(spec.data.train, str) else spec.data.train
    run = create_run(spec.model.name_or_path, hidden=True)
    write_atomically(run.spec_path, write_spec(spec).encode())
    if prediction is not None:
        write_prediction(run, Prediction(prediction, card_of(spec.hardware.device).name, spec.hardware.device == "cpu"))
    run.write_status(
        RunStatus(
            model=Path(spec.model.name_or_path).name,
            data=", ".join(Path(path).name for path in data),
            created=time.time(),
            total_steps=spec.training.max_steps if spec.training.max_steps > 0 else None,
        )
    )
    with run.lock() as lock:
        run = reveal(run)
        _start_supervisor(run, lock)
    return run


def resume(run: Run) -> Path | None:
    """Start `run` again in its folder and return the checkpoint it goes on from (None: from the beginning).

    Raises RunBusy if it runs already, NotResumable if there is nothing left to train.
    """
    if not run.spec_path.exists():
        raise NotResumable(f"{run.folder} holds no run.yaml: it is not a run that can go on.")
    state = run.read_status().state
    if state not in ENDED:
        raise RunBusy(f"{run.id} is running already. Watch it with `loradeck attach {run.id}`, or stop it first.")
    if state == "finished":
        raise NotResumable(f"{run.id} is finished: its adapter is in {run.adapter_folder}.")
    with run.lock() as lock:
        _start_supervisor(run, lock)
    return run.newest_checkpoint()


def _start_supervisor(run: Run, lock: IO[bytes]) -> None:
    """Start the supervisor of `run`, detached from this terminal; it inherits the run's lock."""
    # The state is written under the lock, so that no reader takes the gap before the supervisor's own for `lost`.
    before = run.read_status()
    if before.state in ENDED:
        before = replace(before, cause=None, message="", ended=None, exit_code=None)
    run.write_status(
        replace(
            before,
            state="starting",
            started=time.time(),
            heartbeat=time.time(),
            host=os.uname().nodename,
            supervisor_pid=None,
            trainer_pid=None,
        )
    )
    with open(run.supervisor_log_path, "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "engine.runs.supervisor", str(run.folder), str(lock.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
            # `-m` looks for `engine` in the working directory first: a run folder holds none, the user's may.
            cwd=run.folder,
        )
