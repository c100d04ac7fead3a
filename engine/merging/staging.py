"""The folder that a merge grows in: beside the final one, so that a rename puts it in place, and gone if it fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.runs.store import NO_LOCKS

LOCK_NAME = "lock"


class OutputExists(Exception):
    """There is something under the final name; the message says what to do."""


@contextmanager
def merging_folder(final: Path) -> Iterator[Path]:
    """A new folder `.NAME.merging-xxxx` beside `final`; nothing of it is left when the block ends.

    What merges left behind that were killed is removed first. Raises OutputExists, and OSError where no folder can be
    made there.
    """
    refuse_existing(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(final)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=_prefix(final)))
    try:
        # Held while this process lives, whatever ends it: a folder whose lock is free has no owner. Where there are no
        # locks, what a killed merge leaves behind stays.
        with open(staging / LOCK_NAME, "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(merged: Path, final: Path) -> None:
    """Give the folder `merged`, which is whole, its final name, with everything of it on the disk first.

    Raises OutputExists where something took the name meanwhile, OSError.
    """
    for path in merged.rglob("*"):
        _sync(path)
    os.chmod(merged, 0o755)
    refuse_existing(final)
    merged.rename(final)
    _sync(final.parent)


def refuse_existing(final: Path) -> None:
    """Raises OutputExists. A rename would replace an empty folder without a word."""
    if final.exists() or final.is_symlink():
        raise OutputExists(f"{final} exists and is left as it is. Choose another name.")


def remove_leftovers(final: Path) -> None:
    """Remove the folders of earlier merges to `final` whose processes are gone."""
    for folder in final.parent.glob(f"{_escaped(_prefix(final))}*"):
        with suppress(OSError):
            if _is_free(folder / LOCK_NAME):
                shutil.rmtree(folder, ignore_errors=True)


def _is_free(lock: Path) -> bool:
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _prefix(final: Path) -> str:
    return f".{final.name}.merging-"


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
