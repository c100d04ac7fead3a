"""A worker process that is talked to in lines of JSON, and ends with whoever started it.

What is sent are requests; what comes back are objects with a `type`. Three end a job: `done` with its `result`,
`failed` with `cause`, `message` and `hint`, and the end of the pipe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from engine.runs.store import Cause

CANCEL_PERIOD_S = 0.05
"""How often it is asked whether to go on."""
PATIENCE_S = 10.0
"""How long a process that is asked to end may take to clean up."""

OnEvent = Callable[[dict[str, Any]], None]
IsCancelled = Callable[[], bool]


class JobFailed(Exception):
    """A job ended without its result. The message is for the person."""

    def __init__(self, message: str, hint: str = "", cause: Cause = "error") -> None:
        super().__init__(" ".join(filter(None, (message, hint))))
        self.message = message
        self.hint = hint
        self.cause: Cause = cause
        """As of a run: `oom`, `disk-full`, `bad-spec` (what was asked is wrong), `killed` or `error`."""


class JobCancelled(Exception):
    """It was asked to stop, and has."""


def device_environment(device: str) -> dict[str, str]:
    """The environment of a worker that is to use `device`, `cpu` or `cuda:N`, and sees no other."""
    unless_set = {
        # trl reports its use to the hub at each start unless it is told not to.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # On a CPU oneDNN compiles its matrix products for each length of a batch anew, and keeps 1,024 of them at half
        # a MiB each. A pass has some ten, and to compile one takes a millisecond.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    }
    environment = {**unless_set, **os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    # One process sees one GPU: transformers would otherwise spread a batch over all it sees (nn.DataParallel).
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif not visible.startswith("MIG-"):  # an instance of a card has no number that CUDA takes
        environment["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    return environment


class WorkerProcess:
    """`python -m engine.worker TASK` for `device` (`cpu` or `cuda:N`); without one in this process's environment.

    Raises JobFailed where the process cannot be started. `close`, or the end of this process, ends it: it gets SIGTERM
    and cleans up.
    """

    def __init__(self, task: str, doing: str, device: str | None = None) -> None:
        self.doing = doing
        """What it does, to stand before "failed": `Merging`."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._unread = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.worker", task],
                # With -m the current folder is a place to import from: the person's own may hold an `engine`.
                cwd="/",
                stdin=subprocess.PIPE,  # its end tells the process that this one is gone
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=None if device is None else device_environment(device),
                start_new_session=True,  # Ctrl-C is for the program in the foreground, which then ends this one
            )
        except OSError as error:
            self._log.close()
            raise JobFailed(f"{doing} failed: its process cannot be started: {error.strerror}.") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask for something. Of a process that has died, the next read tells."""
        with suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def interrupt(self) -> None:
        """Send SIGUSR1: a task that does one request after the other gives up the one it is at."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """What it says next; None where nothing comes within `timeout_s`. Raises JobFailed at the end of the pipe."""
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" not in self._unread:
                left_s = max(deadline - time.monotonic(), 0.0)
                if not self._poll.poll(left_s * 1000):
                    return None
                chunk = os.read(self._replies.fileno(), 1 << 20)
                if not chunk:
                    raise self._how_it_died()
                self._unread += chunk
            line, _, self._unread = self._unread.partition(b"\n")
            # What Python prints as it starts (a `sitecustomize`, say) comes before the worker can keep the pipe to
            # itself: it belongs to the log.
            with suppress(ValueError):
                if isinstance(event := json.loads(line), dict):
                    return event
            os.write(self._log.fileno(), line + b"\n")

    def events(self, is_cancelled: IsCancelled | None = None) -> Iterator[dict[str, Any]]:
        """What it says until `done`, which comes last. Raises JobFailed, and JobCancelled once `is_cancelled`."""
        while True:
            if is_cancelled is not None and is_cancelled():
                raise JobCancelled
            event = self.read(CANCEL_PERIOD_S if is_cancelled is not None else 3600.0)
            if event is None:
                continue
            if event["type"] == "failed":
                raise JobFailed(event["message"], event["hint"], event["cause"])
            yield event
            if event["type"] == "done":
                return

    def close(self) -> None:
        """End the process and what it has started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(OSError):
                self._requests.close()
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        with suppress(OSError):
            self._requests.close()
        self._replies.close()
        self._log.close()

    def _how_it_died(self) -> JobFailed:
        code = self._process.wait()
        if code < 0:
            short = ", which is how a machine short of memory ends a process" if code == -signal.SIGKILL else ""
            return JobFailed(f"{self.doing} failed: its process was ended by signal {-code}{short}.", cause="killed")
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        said = lines[-1] if lines else f"exit code {code}"
        return JobFailed(
            f"{self.doing} failed: its process ended ({said[:300]}).", "`loradeck doctor` checks this installation."
        )


def run_job(
    task: str,
    request: Mapping[str, Any],
    doing: str,
    device: str,
    on_event: OnEvent | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Any:
    """The result of one job in a process of its own; `on_event` is told of all that comes before it.

    Raises JobFailed and JobCancelled. However it ends, the process is gone.
    """
    with WorkerProcess(task, doing, device) as process:
        process.send(request)
        for event in process.events(is_cancelled):
            if event["type"] == "done":
                return event["result"]
            if on_event is not None:
                on_event(event)
    raise AssertionError("`done` is the last event")
