"""Two network namespaces with a cable between them: as far as a process can tell, two machines."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.runs.store import Run
from tests.conftest import wait_until

ADDRESSES = ("10.77.0.1", "10.77.0.2")
MACHINES = [{"address": ADDRESSES[0], "port": 29511}, {"address": ADDRESSES[1]}]


class TwoMachines:
    """Each has its own network, and a folder where its runs are kept. Skips the test where they cannot be made."""

    def __init__(self, folder: Path) -> None:
        name = f"deck{os.getpid()}{secrets.token_hex(2)}"
        self.names = (f"{name}a", f"{name}b")
        self.homes = [folder / "machine-0", folder / "machine-1"]
        if shutil.which("ip") is None:
            pytest.skip("there is no `ip` (iproute2) to make network namespaces with")
        made = subprocess.run(["ip", "netns", "add", self.names[0]], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        try:
            _ip("netns", "add", self.names[1])
            _ip(*f"link add cable netns {self.names[0]} type veth peer name cable netns {self.names[1]}".split())
            for name, address in zip(self.names, ADDRESSES, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                for interface in ("lo", "cable"):
                    _ip("-n", name, "link", "set", interface, "up")
        except BaseException:
            self.remove()
            raise

    def cable(self, state: str) -> None:
        """Plug it in (`up`) or cut it (`down`)."""
        _ip("-n", self.names[1], "link", "set", "cable", state)

    def on(self, rank: int, *arguments: str) -> dict[str, Any]:
        """What the `loradeck` command says in JSON on a machine. Fails the test where it fails."""
        process = self.start(rank, *arguments)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, (output, errors)
        answer: dict[str, Any] = json.loads(output)
        return answer

    def start(self, rank: int, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[rank], sys.executable, "-m", "tui", *arguments, "--json"],
            env={**os.environ, "LORADECK_HOME": str(self.homes[rank])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, *arguments: str) -> list[Run]:
        """Start the same on both, and return the run of each."""
        started = [self.start(rank, "train", *arguments, "--detach") for rank in (0, 1)]
        outputs = [process.communicate(timeout=120) for process in started]
        assert [process.returncode for process in started] == [0, 0], outputs
        return [Run(Path(json.loads(output)["folder"])) for output, _ in outputs]

    def listening(self, rank: int) -> set[str]:
        """Addresses at which something listens."""
        told = _ip("netns", "exec", self.names[rank], "ss", "-Hltn").splitlines()
        return {line.split()[3].rpartition(":")[0] for line in told}

    def remove(self) -> None:
        for name in self.names:
            self._end_all(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _end_all(self, name: str) -> None:
        def left() -> list[int]:
            told = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            return [int(pid) for pid in told.stdout.split()]

        def are_gone() -> bool:
            for pid in left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left()

        wait_until(are_gone, f"nothing runs in {name}", 30)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout
