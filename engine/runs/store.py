"""Run folders on disk: where they are, what state they are in, how to find one by name."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

State = Literal[
    "queued",
    "starting",
    "loading",
    "preflight",
    "training",
    "evaluating",
    "saving",
    "paused",
    "finished",
    "stopped",
    "failed",
    "lost",
]
STATES: tuple[State, ...] = get_args(State)
ENDED: frozenset[State] = frozenset({"finished", "stopped", "failed", "lost"})

Cause = Literal["oom", "error", "killed", "host-oom", "disk-full", "nan-loss", "bad-spec"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""What flock answers on file systems that have none: some NFS and Lustre mounts. The heartbeat decides there."""
HEARTBEAT_OLD_S = 60.0
"""A supervisor writes it every second. Clocks of two hosts differ, and a shared folder shows changes late."""

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RESERVE_BYTES = 64 * 1024
"""Set aside in a run's folder, so that its end can be written even when the disk is full."""
LOST_IN_THE_QUEUE = "It waited in the queue when the machine was restarted, or its supervisor was killed."
PARTS = "machines"
"""Folder of a shared run with a small run folder for each machine but machine 0, named by its number."""

ID_TIME_FORMAT, ID_TIME = "%Y%m%d-%H%M%S", re.compile(r"\d{8}-\d{6}(?=-)")
"""What an id begins with."""
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


class RunNotFound(LookupError):
    """No run folder answers to the given name; the message says what there is."""


class RunBusy(RuntimeError):
    """Another process holds the run's lock; the message says what to do."""


@dataclass(frozen=True)
class RunStatus:
    """`status.json`: what a list of runs shows without opening anything else. Times are Unix seconds."""

    state: State = "starting"
    cause: Cause | None = None
    """Why the run failed; None in any other state."""
    message: str = ""
    """What happened, in words for a person; text from libraries, never markup."""
    model: str = ""
    data: str = ""
    targets: str = ""
    """What is adapted, in short: `q, k, v, o` or `all-linear`."""
    processes: int = 1
    """How many train it together."""
    parent: str | None = None
    """Id of the run that this one continues."""
    continued_by: str | None = None
    """Id of the run that goes on from this one."""
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    best_step: int | None = None
    """Step of the best evaluation so far, where the run looks for it."""
    best_metric: str | None = None
    """What it is the best by: `eval_loss` or `eval_mean_token_accuracy`."""
    best_value: float | None = None
    tokens: int | None = None
    """Trained on so far."""
    predicted_bytes: int | None = None
    """What the run was predicted to hold, where it was."""
    peak_bytes: int | None = None
    """Most memory that one of its processes was seen to hold: on its GPU, or resident on the CPU."""
    rank_peak_bytes: Sequence[int | None] = ()
    """The same of each of several processes, rank 0 first."""
    created: float = 0.0
    started: float = 0.0
    """When the newest supervisor took over: a resumed run starts again."""
    heartbeat: float = 0.0
    ended: float | None = None
    host: str = ""
    supervisor_pid: int | None = None
    trainer_pid: int | None = None
    exit_code: int | None = None
    """The trainer's exit code; a negative one is the signal that ended it."""
    place: int | None = None
    """Place in the queue of its machine, from 1; None where it does not wait there. Slurm's queue is another."""
    machines: list[dict[str, Any]] = field(default_factory=list)
    """Of a run on several, what is known of the others: `machine_rank`, `address`, `host`, `run` (its id there),
    `state`, `step`, and `seen`, when it was last in contact."""
    meeting: str | None = None
    """Made by machine 0 when they first met: runs on other machines with the same one are parts of this run."""

    @property
    def waits_here(self) -> bool:
        """Whether it waits in a machine's own queue: its supervisor lives and holds the lock, as of a run that goes
        on."""
        return self.state == "queued" and self.place is not None


@dataclass(frozen=True)
class Run:
    """One run folder. Making this object touches no file."""

    folder: Path

    @property
    def id(self) -> str:
        """What commands call it: `20260131-120000-model-1a2b`; another machine's part of it is `.../machines/1`."""
        whole = self.whole
        return self.folder.name if whole is self else f"{whole.id}/{PARTS}/{self.folder.name}"

    @property
    def spec_path(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def prediction_path(self) -> Path:
        """The memory it was predicted to need, where it was launched with a prediction."""
        return self.folder / "prediction.json"

    @property
    def status_path(self) -> Path:
        return self.folder / "status.json"

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def supervisor_events_path(self) -> Path:
        return self.folder / "supervisor.jsonl"

    @property
    def hardware_path(self) -> Path:
        return self.folder / "hardware.jsonl"

    @property
    def log_path(self) -> Path:
        """The trainer's stdout and stderr, raw."""
        return self.folder / "trainer.log"

    @property
    def supervisor_log_path(self) -> Path:
        return self.folder / "supervisor.log"

    @property
    def reserve_path(self) -> Path:
        """`RESERVE_BYTES` that are set aside while it goes on."""
        return self.folder / ".reserve"

    @property
    def labels_path(self) -> Path:
        """A person's notes and tags: `engine.runs.labels`."""
        return self.folder / "labels.jsonl"

    @property
    def control_folder(self) -> Path:
        return self.folder / "control"

    @property
    def whole(self) -> Run:
        """Of another machine's part in a shared run folder, the run that it is a part of; else this run."""
        is_part = self.folder.parent.name == PARTS and self.folder.name.isdigit()
        return Run(self.folder.parent.parent) if is_part else self

    def part(self, machine_rank: int) -> Run:
        """Another machine's part in this run's folder, where that is shared: all that its own processes write."""
        return Run(self.folder / PARTS / str(machine_rank))

    def parts(self) -> list[Run]:
        """The parts of other machines that are there."""
        return [Run(path) for path in sorted(self.folder.glob(f"{PARTS}/*/")) if (path / "run.yaml").exists()]

    @property
    def checkpoints_folder(self) -> Path:
        return self.whole.folder / "checkpoints"

    @property
    def adapter_folder(self) -> Path:
        return self.whole.folder / "adapter"

    @property
    def lock_path(self) -> Path:
        return self.folder / "lock"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest step first. Only a complete one ever has its final name."""
        try:
            entries = list(self.checkpoints_folder.iterdir())
        except FileNotFoundError:
            return []
        return sorted((path for path in entries if CHECKPOINT_NAME.fullmatch(path.name)), key=checkpoint_step)

    def newest_checkpoint(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def newest_step(self) -> int:
        """The step that it would go on from; 0 is the beginning."""
        checkpoint = self.newest_checkpoint()
        return 0 if checkpoint is None else checkpoint_step(checkpoint)

    def is_alive(self) -> bool:
        """Whether a supervisor, or the trainer it left behind, holds the lock. Never guessed from a pid.

        Where the file system has no locks, whether the heartbeat is young.
        """
        try:
            with open(self.lock_path, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return _beats(self.written_status())
        return False

    def read_status(self) -> RunStatus:
        """The run's status now. A run without a final state whose lock is free is `lost`.

        Not so one that waits in Slurm's queue, nor one on another host whose heartbeat is young: a shared file system
        need not show that host's locks here.
        """
        written = self.written_status()
        if written.state in ENDED or self.is_alive() or (written.state == "queued" and not written.waits_here):
            return written
        # It may have ended between the two looks.
        written = self.written_status()
        if written.state in ENDED or (written.host != os.uname().nodename and _beats(written)):
            return written
        if written.waits_here:
            return replace(written, state="lost", place=None, message=LOST_IN_THE_QUEUE)
        return replace(written, state="lost")

    def write_status(self, status: RunStatus) -> None:
        """Replace `status.json` in one step. Raises OSError, and then the old one still stands."""
        write_atomically(self.status_path, json.dumps(asdict(status), indent=1).encode() + b"\n")

    def written_status(self) -> RunStatus:
        """What `status.json` says, whether or not somebody is still there to keep it true."""
        try:
            raw = json.loads(self.status_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return RunStatus()
        if not isinstance(raw, dict) or raw.get("state") not in STATES:
            return RunStatus()
        known = {each.name for each in fields(RunStatus)}
        return RunStatus(**{key: value for key, value in raw.items() if key in known})

    def lock(self, patience_s: float = 1.0) -> IO[bytes]:
        """The run's exclusive lock as an open file; it is held until every process that inherits it has closed it.

        A reader's look at the lock lasts microseconds, so a taken lock is tried again for `patience_s` seconds.
        Raises RunBusy if another supervisor or a trainer that is still saving holds it.
        """
        lock = open(self.lock_path, "ab")  # noqa: SIM115  (outlives this call: it is the lock)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError as error:
                if error.errno in NO_LOCKS and not _beats(self.written_status()):
                    return lock
                if error.errno not in NO_LOCKS and not isinstance(error, BlockingIOError):
                    lock.close()
                    raise
                if time.monotonic() > deadline:
                    lock.close()
                    raise RunBusy(
                        f"{self.id} is running already: another process holds {self.lock_path}. "
                        f"Watch it with `loradeck attach {self.id}`, or stop it first."
                    ) from None
                time.sleep(0.02)


def _beats(status: RunStatus) -> bool:
    """Whether a supervisor has written lately that it lives, or that it begins to."""
    return status.state not in ENDED and time.time() - status.heartbeat < HEARTBEAT_OLD_S


def checkpoint_step(path: Path) -> int:
    """The optimizer step that a checkpoint folder was written after."""
    match = CHECKPOINT_NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def home() -> Path:
    """`$LORADECK_HOME`, or the folder that the XDG rules give to `loradeck`."""
    if chosen := os.environ.get("LORADECK_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs  # not needed where the variable is set, and the app's first paint waits for this file

    return Path(platformdirs.user_data_dir("loradeck"))


def runs_folder() -> Path:
    return home() / "runs"


def list_runs() -> list[Run]:
    """Every run folder, newest first; those of one second in no order."""
    folder = runs_folder()
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    runs = [Run(folder / name) for name in names]
    return sorted(runs, key=lambda run: (_second_of(run), run.id), reverse=True)


def _second_of(run: Run) -> str:
    """When a run was made, as its id begins with, or, where a person named it, as its status says."""
    if (began := ID_TIME.match(run.id)) is not None:
        return began[0]
    return time.strftime(ID_TIME_FORMAT, time.localtime(_created(run)))


def _created(run: Run) -> float:
    with suppress(OSError):
        return run.written_status().created
    return 0.0


def find_run(name: str) -> Run:
    """The run called `name`: a folder's path, an id, the only id that contains it, or `last`.

    Raises RunNotFound with a message for the person.
    """
    if os.sep in name:
        for folder in (Path(name), runs_folder() / name):
            if (folder / "run.yaml").exists():
                return Run(folder.absolute())
    runs = list_runs()
    if not runs:
        raise RunNotFound(f"There are no runs yet in {runs_folder()}. `loradeck demo` makes one.")
    if name == "last":
        newest_second = _second_of(runs[0])
        return max((run for run in runs if _second_of(run) == newest_second), key=_created)
    exact = [run for run in runs if run.id == name]
    matching = exact or [run for run in runs if name and name in run.id]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        newest = ", ".join(run.id for run in runs[:3])
        raise RunNotFound(f"No run is called {name!r} in {runs_folder()}. The newest: {newest}.")
    raise RunNotFound(
        f"{name!r} fits {len(matching)} runs: {', '.join(run.id for run in matching[:5])}. Say more of it."
    )


def create_run(model: str, hidden: bool = False, name: str | None = None) -> Run:
    """A new, empty run folder with an id of its own, or called `name`. Raises OSError where it cannot be made,
    FileExistsError where the name is taken.

    A hidden one is in no list until `reveal`: a run that nobody holds the lock of yet would be shown as lost.
    """
    runs_folder().mkdir(parents=True, exist_ok=True)
    if name is not None:
        if (runs_folder() / name).exists():
            raise FileExistsError(errno.EEXIST, "it exists", str(runs_folder() / name))
        return _made(Run(runs_folder() / (f".{name}" if hidden else name)))
    label = re.sub(r"[^a-z0-9.]+", "-", Path(model).name.lower()).strip("-.")[:32] or "model"
    while True:
        name = f"{time.strftime(ID_TIME_FORMAT)}-{label}-{secrets.token_hex(2)}"
        run = Run(runs_folder() / (f".{name}" if hidden else name))
        if (runs_folder() / name).exists():
            continue
        try:
            return _made(run)
        except FileExistsError:
            continue


def _made(run: Run) -> Run:
    run.folder.mkdir()
    run.control_folder.mkdir()
    return run


def reveal(run: Run) -> Run:
    """A hidden run under its own name. A lock that is held stays held."""
    return Run(run.folder.rename(run.folder.with_name(run.id.removeprefix("."))))


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name beside `path`, then rename. Raises OSError and leaves `path` as it was."""
    fd, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "wb") as file:
            file.write(content)
        os.chmod(staged, 0o644)
        os.replace(staged, path)
    except BaseException:
        os.unlink(staged)
        raise


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `final` only when the block ends well, its files on the disk.

    After an exception nothing is left of it. Raises FileExistsError if `final` exists.
    """
    if final.exists():
        raise FileExistsError(f"{final} exists")
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
                _sync(path)
        os.chmod(staging, 0o755)
        staging.rename(final)
        _sync(final.parent)
    except BaseException:
        import shutil

        shutil.rmtree(staging, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
