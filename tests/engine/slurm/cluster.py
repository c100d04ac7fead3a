"""A real Slurm of one node in a folder of its own: munged, slurmctld and slurmd as ordinary processes, no cgroups."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
START_TIMEOUT_S = 30.0
CPUS = 2
DAEMONS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian has the daemons; not everybody's PATH."""

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits for as long as credentials live; less than 5 s is not taken.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class NoSlurm(RuntimeError):
    """There is none here, or it does not start; the message says why."""


@dataclass(frozen=True)
class Cluster:
    """A Slurm that runs."""

    folder: Path

    @property
    def config(self) -> Path:
        """What `SLURM_CONF` has to name."""
        return self.folder / "slurm.conf"

    def run(self, *command: str) -> str:
        """A Slurm command's output."""
        return subprocess.run(
            command, env=environment(self.folder), check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def fill(self, cpus: int = CPUS, partition: str = "debug") -> str:
        """Occupy the node with a job that only sleeps; its id."""
        asked = ("--parsable", f"--cpus-per-task={cpus}", f"--partition={partition}", "--output=/dev/null")
        return self.run("sbatch", *asked, "--chdir=/", "--wrap", "exec sleep 600").strip()

    def clear(self) -> None:
        """End every job, and wait until the node is free."""
        self.run("scancel", "--quiet", f"--user={_user()}")
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.run("squeue", "--noheader").strip():
            if time.monotonic() > deadline:
                self.run("scancel", "--quiet", "--signal=KILL", "--full", f"--user={_user()}")
            time.sleep(0.1)


def environment(folder: Path) -> dict[str, str]:
    """What Slurm's commands need to find the cluster in `folder`."""
    path = f"{os.environ.get('PATH', '')}:{DAEMONS}"
    return {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """A cluster in `folder`, which is empty. Raises NoSlurm."""
    search = environment(folder)["PATH"]
    if missing := [name for name in NEEDED if shutil.which(name, path=search) is None]:
        raise NoSlurm(f"no Slurm here: {', '.join(missing)} missing (Debian: slurm-wlm, munge)")
    _configure(folder)
    munge = [f"--{name}={folder}/{file}" for name, file in MUNGE_FILES.items()]
    try:
        _start(folder, "munged", "--force", *munge)
        _start(folder, "slurmctld", "-f", str(folder / "slurm.conf"))
        _start(folder, "slurmd", "-f", str(folder / "slurm.conf"), "-N", _host())
        cluster = Cluster(folder)
        _wait_until_idle(cluster)
        yield cluster
        with suppress(subprocess.SubprocessError):
            cluster.clear()
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            _end(folder / f"{name}.pid")


MUNGE_FILES = {
    "key-file": "munge.key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munge.seed",
}


def _configure(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    controller_port, node_port = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            folder=folder,
            host=_host(),
            user=_user(),
            cpus=CPUS,
            controller_port=controller_port,
            node_port=node_port,
        )
    )


def _start(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=(folder / f"{command[0]}.out").open("wb"),
        stderr=subprocess.STDOUT,
        timeout=START_TIMEOUT_S,
    )
    if done.returncode:
        raise NoSlurm(f"{command[0]} does not start: {(folder / f'{command[0]}.out').read_text().strip()}")


def _wait_until_idle(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while time.monotonic() < deadline:
        try:
            said = cluster.run("sinfo", "--noheader", "--format=%T", "--partition=debug").strip()
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip()
        if said == "idle":
            return
        time.sleep(0.1)
    raise NoSlurm(f"the node is not ready after {START_TIMEOUT_S:.0f} s: {said}")


def _end(pid_file: Path) -> None:
    with suppress(FileNotFoundError, ValueError, ProcessLookupError):
        # A controller that is asked to end takes five seconds, to save what nobody will read.
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
