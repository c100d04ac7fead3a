"""Removing a run: its folder and all that is in it, for good. A run that goes on is never touched."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from engine.runs.store import ENDED, Run, RunBusy

HIDDEN = ".removed-"
"""How the name of a folder that is being removed begins: no list shows it."""
LOCK_PATIENCE_S = 0.2


def size_bytes(run: Run) -> int:
    """What removing `run` frees on the disk. A file that another run has too, such as a handed-on checkpoint, is not
    counted, and neither is what a link leads to."""
    if run.folder.is_symlink():
        return 0
    total_bytes = 0
    for folder, _, names in os.walk(run.folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            if found.st_nlink == 1:
                total_bytes += found.st_blocks * 512  # the unit of st_blocks on Linux, whatever the file system's is
    return total_bytes


def remove(run: Run) -> None:
    """Remove the folder of `run`; of a link to a folder elsewhere, only the link.

    The folder first takes a hidden name under the run's lock, so that nobody sees or resumes half a run. Raises RunBusy
    if the run goes on, FileNotFoundError if there is none, and OSError where something cannot be removed: the message
    names the folder with the rest.
    """
    if run.folder.is_symlink():
        if run.is_alive():
            raise RunBusy(_still_going(run))
        run.folder.unlink()
        return
    for each in (run, *run.parts()):  # one that is queued, or runs on another host, holds no lock here
        if each.read_status().state not in ENDED:
            raise RunBusy(_still_going(run))
    with _locked(run):
        hidden = run.folder.with_name(f"{HIDDEN}{secrets.token_hex(8)}")
        run.folder.rename(hidden)
    try:
        _remove_tree(hidden)
    except OSError as error:
        raise OSError(f"{run.id} is out of the list, but not all of it could be removed: {error}") from error
    for left_over in hidden.parent.glob(f"{HIDDEN}*"):  # of a removal that was interrupted
        shutil.rmtree(left_over, ignore_errors=True)


def _locked(run: Run) -> IO[bytes] | nullcontext[None]:
    # Opening a lock makes the file, and a link may lead anywhere.
    if run.lock_path.is_symlink() and not run.is_alive():
        return nullcontext()
    try:
        return run.lock(LOCK_PATIENCE_S)
    except RunBusy:
        raise RunBusy(_still_going(run)) from None


def _still_going(run: Run) -> str:
    return f"{run.id} is going on: stop it first."


def _remove_tree(folder: Path) -> None:
    """`rmtree`, while someone else may be removing the same."""
    while True:
        try:
            shutil.rmtree(folder)
            return
        except FileNotFoundError:
            if not folder.exists():
                return
