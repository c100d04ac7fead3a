"""Client of the inspector: a warm process of its own that answers what needs torch or transformers."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine import architecture_cache
from engine.architecture import Architecture
from engine.catalog import ModelUnavailable, Progress, cache_folder, find_config

ARCHITECTURE_TIMEOUT_S = 120.0
"""A cold start takes seconds and the largest model under one; a machine that swaps is given time."""

DEATH_PERIOD_S = 0.2
"""How often the process is looked at while its reply is waited for: its fork can hold the pipe open when it is dead."""

_numbers = itertools.count()


class InspectorError(Exception):
    """A request got no answer: the process died, took too long, or broke on it. The message is for the person."""


class RequestRefused(InspectorError):
    """The request itself is wrong; asking again changes nothing."""


class Inspector:
    """Starts `python -m engine.worker inspect` when it is first needed, and again if it dies.

    Safe to call from several threads; the process answers one request after the other.
    """

    def __init__(self) -> None:
        self._one_request = threading.Lock()
        self._process_lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._ids = itertools.count(1)
        self._folder = cache_folder() / "inspector"
        self._log_path = self._folder / f"{os.getpid()}-{next(_numbers)}.log"

    def __enter__(self) -> Inspector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process that answers; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process if there is none; it imports torch and transformers at once. Returns at once."""
        with self._process_lock:
            if self._process is None and not self._closed:
                self._process = self._started()

    def close(self) -> None:
        """End the process; a request in progress fails. Nothing can be asked afterwards."""
        with self._process_lock:
            self._closed = True
            if self._process is not None:
                _kill(self._process)
        with self._one_request, self._process_lock:  # the one in progress has met the end of the pipe
            self._end()
            self._log_path.unlink(missing_ok=True)

    def architecture(
        self,
        name_or_path: str,
        revision: str | None = None,
        progress: Progress | None = None,
        timeout_s: float = ARCHITECTURE_TIMEOUT_S,
    ) -> Architecture:
        """The module tree of a model, from the cache on disk if its config was seen before; no weights are read.

        `progress` is told of the demo model's download. Raises ModelUnavailable and InspectorError.
        """
        source, config_path = find_config(name_or_path, revision, progress)
        key = architecture_cache.key(config_path)
        cached = architecture_cache.read(key, source.name_or_path)
        if cached is not None:
            return cached
        try:
            raw = self.request(
                "architecture", timeout_s, folder=str(config_path.parent), name_or_path=source.name_or_path
            )
        except RequestRefused as error:
            raise ModelUnavailable(str(error)) from None
        architecture = Architecture.from_json(raw)
        architecture_cache.write(key, architecture)
        return architecture

    def request(self, task: str, timeout_s: float, **fields: Any) -> Any:
        """The result of `task`; waits for it. Raises InspectorError.

        After a timeout, and when the process dies, a new process is started and this request is not tried again.
        The timeout counts from the moment the request is sent, with the process's own start where it is not warm.
        """
        with self._one_request:
            request = {"id": next(self._ids), "task": task, **fields}
            try:
                process = self._send(request)
                reply = self._reply(process, task, timeout_s)
            except InspectorError:
                if not self._closed:
                    self._restart()
                raise
        if reply["ok"]:
            return reply["result"]
        if reply["kind"] == "refused":
            raise RequestRefused(reply["error"])
        raise InspectorError(f"{_what(task)} failed: {reply['error']}\nThe log has more: {self._log_path}")

    def _send(self, request: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        line = json.dumps(request).encode() + b"\n"
        for attempt in (1, 2):
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                return process
            except OSError:  # it died before it could read the request, which is therefore not to blame
                if attempt == 2:
                    raise InspectorError(self._how_it_died(process, str(request["task"]))) from None
        raise AssertionError("unreachable")

    def _reply(self, process: subprocess.Popen[bytes], task: str, timeout_s: float) -> dict[str, Any]:
        """The next line of the process, which answers in order."""
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        said = bytearray()
        answers = select.poll()
        answers.register(process.stdout, select.POLLIN)
        while not said.startswith(b"{") or not said.endswith(b"\n"):
            if said.endswith(b"\n"):  # what Python printed as it started, before the process kept the pipe to itself
                _, _, said = said.partition(b"\n")
                continue
            left_s = max(deadline - time.monotonic(), 0.0)
            if not answers.poll(min(left_s, DEATH_PERIOD_S) * 1000):
                if process.poll() is not None:
                    raise InspectorError(self._how_it_died(process, task))
                if left_s > DEATH_PERIOD_S:
                    continue
                _kill(process)
                raise InspectorError(f"{_what(task)} took more than {timeout_s:.0f} s and was stopped.")
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise InspectorError(self._how_it_died(process, task))
            said += chunk
        reply: dict[str, Any] = json.loads(said)
        return reply

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none or it has died."""
        with self._process_lock:
            if self._closed:
                raise InspectorError("The inspector was closed.")
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = self._started()
            return self._process

    def _restart(self) -> None:
        with self._process_lock:
            self._end()
            if not self._closed:
                with suppress(InspectorError):  # the next request tells
                    self._process = self._started()

    def _end(self) -> None:
        """Kill the process, if any, and forget it. Only where both locks are held, or no request can be reading."""
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was buffered for a dead process
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove_logs_of_dead_processes(self._folder)
            with open(self._log_path, "wb") as log:
                return subprocess.Popen(
                    [sys.executable, "-m", "engine.worker", "inspect"],
                    # With -m the current folder is a place to import from: the person's own may hold an `engine`.
                    cwd=self._folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the program in the foreground; this ends with its pipe
                )
        except OSError as error:
            raise InspectorError(f"The inspector cannot be started: {error.strerror} ({error.filename}).") from None

    def _how_it_died(self, process: subprocess.Popen[bytes], task: str) -> str:
        code = process.wait()
        if self._closed:
            return f"{_what(task)} was given up: the inspector was closed."
        if code < 0:
            how = f"the process was ended by signal {-code}"
            if code == -9:
                how += ", which is how a machine short of memory ends a process"
            return f"{_what(task)} failed: {how}. It is started anew."
        with open(self._log_path, "rb") as log:
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        said = lines[-1] if lines else f"exit code {code}"
        return f"{_what(task)} failed: the process ended ({said[:300]}). `loradeck doctor` checks this installation."


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It and what it has forked: it leads a process group of its own, which outlives it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _what(task: str) -> str:
    names = {
        "architecture": "Reading the model's structure",
        "trace": "Tracing the run's memory",
        "lengths": "Counting the rows' tokens",
    }
    return names.get(task, f"The inspector's task {task!r}")


def _remove_logs_of_dead_processes(folder: Path) -> None:
    for log in folder.glob("*-*.log"):
        pid = log.name.partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            log.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
