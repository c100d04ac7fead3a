"""Starting a run: its folder, its supervisor, and the one place that says how a trainer process is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from engine.checks import InvalidSpec, read_spec, write_spec
from engine.hardware import visible_gpus
from engine.jobs.process import device_environment
from engine.machines.own import own_rank
from engine.memory.card import card_of, chosen_card
from engine.memory.footprint import Footprint
from engine.memory.outcomes.at_launch import at_launch
from engine.memory.ways_out.candidate import ALLOCATOR
from engine.prepare import is_open, on_gpus
from engine.queue.line import join, locked
from engine.queue.wish import needed_bytes_of, wish_of
from engine.runs import control
from engine.runs.accelerating import accelerated, environment_of_several
from engine.runs.lineage import changed_spec, checkpoint_copied, environment_of, parent_section
from engine.runs.prediction import Prediction, write_prediction
from engine.runs.store import (
    ENDED,
    Run,
    RunBusy,
    RunStatus,
    State,
    checkpoint_step,
    create_run,
    reveal,
    runs_folder,
    write_atomically,
)
from engine.slurm.inside import given_gpus
from engine.slurm.submitting import submit
from engine.spec import LoraSection, RunSpec

LONGEST_TARGETS = 40
"""Characters of `RunStatus.targets`."""


class NotResumable(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class TrainerCommand:
    """How to start the trainer of a run: everything that differs between one process and many."""

    arguments: list[str]
    environment: dict[str, str]


def trainer_command(run: Run, spec: RunSpec, main_port: int | None = None) -> TrainerCommand:
    """The trainer's command line and environment for `spec` (as resolved by `engine.prepare`).

    For several processes the run folder gets accelerate's config file; several machines have agreed on its
    `main_port`. Raises OSError where it cannot be written.
    """
    hardware = spec.hardware
    # A way out of memory that is no setting: the spec has no place for it but the list of what was changed.
    environment = device_environment(hardware.device) | environment_of(spec, os.environ)
    if hardware.num_processes > 1:
        environment |= environment_of_several(spec, os.environ)
    if hardware.launcher == "slurm":
        environment |= given_gpus(hardware.gpu_ids or [hardware.device], os.environ)
    if hardware.num_processes > 1:
        return TrainerCommand(accelerated(run, spec, main_port), environment)
    return TrainerCommand([sys.executable, "-m", "engine.worker", "train", str(run.folder)], environment)


def launch(
    spec: RunSpec, prediction: Footprint | None = None, *, queue: bool = False, shared: str | None = None
) -> Run:
    """Start a new run of `spec` (resolved) in a folder of its own; it goes on when this process ends.

    `prediction` is what it is expected to need; what it then does need is measured against it. With `queue` it first
    waits for a free card; `engine.prepare.left_open` is the spec of one that takes any. `shared` names the run folder
    that several machines have in common: machine 0 makes it, and the others' parts are inside it.
    Raises OSError where the folder cannot be written, FileExistsError where there is one already, SlurmError where
    Slurm does not take the job, QueueError where there can be no queue: nothing is left of the run then.
    """
    return _started(spec, prediction, _first_status(spec), lambda: _made(spec, shared), queue=queue)


def _made(spec: RunSpec, shared: str | None = None) -> Run:
    machine_rank = spec.hardware.machine_rank or 0
    if shared is None or machine_rank == 0:
        return create_run(spec.model.name_or_path, hidden=True, name=shared)
    part = Run(runs_folder() / shared).part(machine_rank)
    part.folder.parent.mkdir(exist_ok=True)
    part.folder.mkdir()
    part.control_folder.mkdir()
    return part


def continue_run(
    parent: Run,
    changes: Mapping[str, Any],
    remedy_ids: Sequence[str] = (),
    *,
    attempt: int = 0,
    fresh: bool = False,
    queue: bool = False,
) -> Run:
    """Start a child of `parent` with other settings, from the parent's newest checkpoint.

    `changes` are full names of fields -> new values. The child has its own copy of the checkpoint; `fresh` begins anew
    instead, and with `queue` it waits for its card first. Raises InvalidSpec for settings that are wrong or do not go
    together, NotResumable if the parent is finished or is no run, RunBusy while it runs, OSError where the child's
    folder cannot be written, SlurmError and QueueError as `launch`.
    """
    parent = own_part(parent)
    _refuse_unless_ended(parent)
    with parent.lock():
        child = start_child(parent, changes, remedy_ids, attempt=attempt, fresh=fresh, queue=queue)
        # The child runs by now and names its parent; the parent's own note of it is only the shorter way to find it.
        with suppress(OSError):
            parent.write_status(replace(parent.read_status(), continued_by=child.id))
    return child


def start_child(
    parent: Run,
    changes: Mapping[str, Any],
    remedy_ids: Sequence[str],
    *,
    attempt: int,
    fresh: bool,
    queue: bool = False,
) -> Run:
    """`continue_run` for who holds the parent's lock already and writes its status: its supervisor."""
    before = read_spec(parent.spec_path)
    checkpoint = None if fresh else parent.newest_checkpoint()
    spec = changed_spec(before, changes)
    section = parent_section(parent, before, spec, changes.get(ALLOCATOR), checkpoint, remedy_ids, attempt)
    spec = spec.model_copy(update={"parent": section})
    earlier = parent.read_status()
    status = replace(
        _first_status(spec),
        parent=parent.whole.id,
        meeting=earlier.meeting,
        step=0 if checkpoint is None else checkpoint_step(checkpoint),
        total_steps=earlier.total_steps,
    )

    def fill(child: Run) -> None:
        if checkpoint is not None:
            checkpoint_copied(checkpoint, child.checkpoints_folder / checkpoint.name)

    return _started(spec, at_launch(spec), status, lambda: _made(spec), fill, queue=queue)


def _first_status(spec: RunSpec) -> RunStatus:
    data = [spec.data.train] if isinstance(spec.data.train, str) else spec.data.train
    return RunStatus(
        model=Path(spec.model.name_or_path).name,
        data=", ".join(Path(path).name for path in data),
        targets=targets_in_short(spec.lora),
        processes=spec.hardware.num_processes,
        created=time.time(),
        total_steps=spec.training.max_steps if spec.training.max_steps > 0 else None,
    )


def targets_in_short(lora: LoraSection) -> str:
    """What is adapted, for a list of runs: `q, k, v, o`, `all-linear`, or the beginning of a regular expression."""
    names = lora.target_modules or []
    if isinstance(names, str):
        words = names
    else:
        last_parts = (name.rpartition(".")[2] for name in (*names, *(lora.target_parameters or [])))
        words = ", ".join(dict.fromkeys(part.removesuffix("_proj") for part in last_parts))
    return words if len(words) <= LONGEST_TARGETS else f"{words[: LONGEST_TARGETS - 3]}..."


def _started(
    spec: RunSpec,
    prediction: Footprint | None,
    status: RunStatus,
    made: Callable[[], Run],
    fill: Callable[[Run], None] | None = None,
    *,
    queue: bool = False,
) -> Run:
    """A new run in the folder that `made` makes and `fill` completes before anything starts in it."""
    run = made()
    try:
        write_atomically(run.spec_path, write_spec(spec).encode())
        if prediction is not None:
            card = chosen_card(spec.hardware.device) if is_open(spec) else card_of(spec.hardware.device)
            write_prediction(run, Prediction(prediction, card.name, spec.hardware.device == "cpu"))
            status = replace(status, predicted_bytes=prediction.device_bytes)
        run.write_status(status)
        if fill is not None:
            fill(run)
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    with run.lock() as lock:
        run = reveal(run) if run.id.startswith(".") else run
        try:
            _start(run, spec, lock, queue)
        except BaseException:
            shutil.rmtree(run.folder, ignore_errors=True)
            raise
    return run


def resume(run: Run, *, queue: bool = False) -> Path | None:
    """Start `run` again in its folder and return the checkpoint it goes on from (None: from the beginning). With
    `queue` it waits for its card first.

    Of one on several machines it is this machine's part that starts: `own_part`. Raises RunBusy if it runs already,
    NotResumable if there is nothing left to train, InvalidSpec if it had no card yet and there is none, SlurmError
    where Slurm refuses, QueueError where there can be no queue.
    """
    run = own_part(run)
    _refuse_unless_ended(run)
    spec: RunSpec | None = None
    with suppress(InvalidSpec):  # the supervisor says what is wrong with it, as with any other failure
        spec = read_spec(run.spec_path)
    with run.lock() as lock:
        _start(run, spec, lock, queue)
    return run.newest_checkpoint()


def own_part(run: Run, machine_rank: int | None = None) -> Run:
    """What of a run is this machine's: the run itself, or of one on several machines its part in the shared folder.

    `machine_rank` says which machine this is where its addresses do not. Raises NotResumable where the run is another
    machine's.
    """
    try:
        hardware = read_spec(run.spec_path).hardware
        if hardware.num_machines == 1:
            return run
        rank = own_rank(hardware.model_copy(update={"machine_rank": machine_rank}))
    except InvalidSpec:  # no run at all, or addresses that do not tell
        return run
    if rank is None or rank == hardware.machine_rank:
        return run
    part = run.whole if rank == 0 else run.whole.part(rank)
    if part.spec_path.exists():
        return part
    machine, own = hardware.machines_in_order[rank], hardware.machine_rank
    raise NotResumable(
        f"This is {machine.name}, and {run.id} is the run of machine {own}. Resume this machine's own; or if the "
        f"folder was copied from there, write machine_rank: {rank} into its run.yaml first."
    )


def _refuse_unless_ended(run: Run) -> None:
    if not run.spec_path.exists():
        raise NotResumable(f"{run.folder} holds no run.yaml: it is not a run that can go on.")
    state = run.read_status().state
    if state not in ENDED:
        raise RunBusy(f"{run.id} is running already. Watch it with `loradeck attach {run.id}`, or stop it first.")
    if state == "finished":
        raise NotResumable(f"{run.id} is finished: its adapter is in {run.adapter_folder}.")


def _start(run: Run, spec: RunSpec | None, lock: IO[bytes], queue: bool) -> None:
    """Start the supervisor of `run`, which may have to wait for its turn, or have Slurm do it. Raises SlurmError,
    QueueError, InvalidSpec for a run whose card is to be chosen and that finds none."""
    if spec is not None and spec.hardware.launcher == "slurm":
        submit(run, spec.hardware.slurm_settings)
        return
    if queue and spec is not None:
        enqueue(run, spec)
    else:
        if spec is not None and is_open(spec):  # it left the queue before it had a card
            write_atomically(run.spec_path, write_spec(on_gpus(spec, visible_gpus())).encode())
        _write_started(run, "starting")
    _start_supervisor(run, lock)


def enqueue(run: Run, spec: RunSpec) -> None:
    """Put `run`, whose lock the caller holds, at the end of this machine's queue, and say so in its status;
    `engine.queue.waiting` is what then waits. Raises QueueError, OSError."""
    wish = wish_of(spec, needed_bytes_of(run))
    with locked():
        _write_started(run, "queued", join(run, wish))


def _write_started(run: Run, state: State, place: int | None = None) -> None:
    """Say that `run` begins, under its lock: no reader takes the gap before the supervisor's own status for `lost`.

    Requests that an earlier trainer never took are forgotten before: those that come from now on are for this start.
    """
    control.clear(run.control_folder)
    before = run.read_status()
    if before.state in ENDED:
        before = replace(before, cause=None, message="", ended=None, exit_code=None)
    now = time.time()
    begins = replace(
        before,
        state=state,
        place=place,
        started=now,
        heartbeat=now,
        host=os.uname().nodename,
        supervisor_pid=None,
        trainer_pid=None,
    )
    run.write_status(begins)


def _start_supervisor(run: Run, lock: IO[bytes]) -> None:
    """Start the supervisor of `run`, detached from this terminal; it inherits the run's lock."""
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
