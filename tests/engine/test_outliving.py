"""A run outlives the command that started it, its terminal, and the app that watches it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from engine.checks import write_spec
from engine.runs.store import ENDED, list_runs
from engine.spec import RunSpec
from tests.conftest import wait_for_end, wait_for_step, wait_until

MakeSpec = Callable[..., RunSpec]


def test_killing_the_command_that_started_a_run_and_the_app_that_watches_it_does_not_end_it(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    command = start_training_command(tiny_spec, tmp_path)
    run = wait_until(lambda: next(iter(list_runs()), None), "the command starts a run")
    controller, terminal = pty.openpty()
    app = subprocess.Popen(
        [sys.executable, "-m", "tui", "attach", run.id],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(terminal)
    drained = threading.Thread(target=drain, args=(controller,), daemon=True)
    drained.start()
    wait_for_step(run, 1)
    assert [command.poll(), app.poll()] == [None, None], "one ended by itself"
    for process in (command, app):
        process.kill()
        process.wait()
    assert run.read_status().state not in ENDED
    assert wait_for_end(run).state == "finished"


def test_hanging_up_the_terminal_that_started_a_run_does_not_end_it(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = start_training_command(tiny_spec, tmp_path, terminal)
    os.close(terminal)
    run = wait_until(lambda: next(iter(list_runs()), None), "the command starts a run")
    wait_for_step(run, 1)
    os.close(controller)  # the kernel sends SIGHUP to everything in the terminal's session
    command.wait(timeout=60)
    assert wait_for_end(run).state == "finished"


def drain(terminal: int) -> None:
    while True:
        try:
            if not os.read(terminal, 65536):
                return
        except OSError:
            return


def start_training_command(tiny_spec: MakeSpec, folder: Path, terminal: int | None = None) -> subprocess.Popen[bytes]:
    path = folder / "spec.yaml"
    path.write_text(write_spec(tiny_spec(training={"max_steps": 60})))
    stream = terminal if terminal is not None else subprocess.DEVNULL
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, termios\n"
            "if sys.stdin.isatty(): fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "from engine.cli.main import main; main(['train', sys.argv[1]])",
            str(path),
        ],
        stdin=stream,
        stdout=stream,
        stderr=stream,
        start_new_session=True,
    )
