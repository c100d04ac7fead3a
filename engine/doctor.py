"""`loradeck doctor`: what this machine has and lacks for QLoRA, and what to do about each thing missing."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from packaging.requirements import Requirement

from engine.hardware import driver_version, list_gpus
from engine.memory.card import short_name, store_context
from engine.runs.store import HEARTBEAT_OLD_S, home
from engine.slurm import commands

LITTLE_DISK_BYTES = 20 * 2**30
PROBE_TIMEOUT_S = 120.0
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    verdict: Literal["ok", "note", "bad"]
    """note: works, but you may want to know. bad: runs will fail or go wrong."""
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Every finding, the quick ones first."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _versions,
        _gpus,
        _torch,
        _bitsandbytes,
        _disk,
        _locks,
        _slurm,
        _hub,
    ]
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _versions() -> Iterator[Finding]:
    """What is installed, against the ranges that this release was tested with: the package's own requirements."""
    for text in importlib.metadata.requires("loradeck") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "bad", "is not installed", f"pip install '{requirement}'")
            continue
        # A local build such as 2.13.0+cpu is the release it is built from.
        inside = requirement.specifier.contains(version.split("+")[0], prereleases=True)
        yield Finding(
            requirement.name,
            "ok" if inside else "note",
            f"{version}, tested with {requirement.specifier}",
            "" if inside else f"pip install '{requirement}'",
        )


def _gpus() -> Iterator[Finding]:
    driver, gpus = driver_version(), list_gpus()
    if driver is None:
        yield Finding(
            "driver",
            "note",
            "no NVIDIA driver answers (NVML): runs use the CPU",
            "On a GPU box install the driver; in a container start it with the GPUs (such as --gpus all).",
        )
        return
    yield Finding("driver", "ok", driver)
    for gpu in gpus:
        size = f"{gpu.total_bytes / 2**30:.1f} GiB" if gpu.total_bytes else "memory unknown"
        yield Finding(
            f"gpu {gpu.index}",
            "ok" if gpu.has_bf16 else "note",
            f"{gpu.name}, {size}, bfloat16: {'yes' if gpu.has_bf16 else 'no'}",
            "" if gpu.has_bf16 else "Runs use float16 with loss scaling, and train adapters in float32.",
        )


def _torch() -> Iterator[Finding]:
    code, output, errors = _run(["engine.worker", "probe"])
    if code != 0:
        yield Finding(
            "torch",
            "bad",
            f"does not import: {_last_line(errors)}",
            "Install torch again in this environment.",
        )
        return
    probe: dict[str, Any] = json.loads(output.splitlines()[-1])
    for name, context_bytes in (probe["cuda_context_bytes"] or {}).items():
        store_context(short_name(name), context_bytes)  # predictions on this machine know it from now on
        yield Finding("cuda context", "ok", f"{context_bytes / 2**20:,.0f} MiB on {name}")
    has_driver = driver_version() is not None
    if probe["cuda_is_available"]:
        yield Finding(
            "torch.cuda",
            "ok",
            f"available, built for CUDA {probe['built_for_cuda']}: {', '.join(probe['gpus'])}",
        )
    elif has_driver:
        built = f"built for CUDA {probe['built_for_cuda']}" if probe["built_for_cuda"] else "built without CUDA"
        yield Finding(
            "torch.cuda",
            "bad",
            f"not available, though there is a driver ({built})",
            "Install a CUDA build of torch whose version the driver supports (see `nvidia-smi`, top right).",
        )
    else:
        yield Finding("torch.cuda", "note", "not available: no GPU on this machine")
    yield Finding("cpu", "ok", f"{probe['threads']} threads, {probe['cpu_capability']}")


def _bitsandbytes() -> Iterator[Finding]:
    code, output, errors = _run(["bitsandbytes"])
    if code == 0:
        yield Finding("bitsandbytes", "ok", f"self-test passed: {_last_line(output)}")
    else:
        yield Finding(
            "bitsandbytes",
            "bad",
            f"self-test failed: {_last_line(output + errors)}",
            "Run `python -m bitsandbytes` for its report; its CUDA version must match torch's.",
        )


def _disk() -> Iterator[Finding]:
    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        yield Finding("runs", "bad", f"{existing} is not writable", "Set LORADECK_HOME to a folder that is.")
        return
    little = free_bytes < LITTLE_DISK_BYTES
    yield Finding(
        "disk",
        "note" if little else "ok",
        f"{free_bytes / 2**30:.1f} GiB free for runs in {folder}",
        "A 7B model takes about 15 GB to download. Free some space, or set LORADECK_HOME and HF_HOME."
        if little
        else "",
    )


def _locks() -> Iterator[Finding]:
    """Whether flock works where runs are kept: it tells a live run from a lost one."""
    folder = next((path for path in (home(), *home().parents) if path.exists()), None)
    if folder is None or not os.access(folder, os.W_OK):
        return  # told already
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".loradeck-") as first, open(first.name, "rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Finding("locks", "ok", f"flock works in {folder}")
            return
        except OSError as error:
            why = str(error.strerror)
        else:
            why = "two hold the same lock at once"
    yield Finding(
        "locks",
        "note",
        f"flock does not work in {folder}: {why}",
        f"A run there counts as lost when its heartbeat is {HEARTBEAT_OLD_S:.0f} s old. Do not start one run twice.",
    )


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        return
    reason = commands.missing()
    if reason is not None:
        yield Finding("slurm", "note", reason, "Runs with hardware.launcher: slurm need them.")
    else:
        version = commands.version()
        yield Finding(
            "slurm",
            "note" if version is None else "ok",
            version or "its commands are here, and do not answer",
            "`sinfo` says why." if version is None else "",
        )


def _hub() -> Iterator[Finding]:
    """Reachability and login. The token itself never appears."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "hub",
            "note",
            "HF_HUB_OFFLINE is set: only cached models are used",
            "Unset it to download models.",
        )
    else:
        try:
            HfApi().model_info("HuggingFaceTB/SmolLM2-135M-Instruct", timeout=HUB_TIMEOUT_S, token=False)
        except Exception as error:  # whatever the network, a proxy or the hub answers, it is a finding
            yield Finding(
                "hub",
                "note",
                f"{constants.ENDPOINT.split('//')[-1]} cannot be reached ({type(error).__name__})",
                "Local folders and cached models work. Behind a proxy set HTTPS_PROXY.",
            )
        else:
            yield Finding("hub", "ok", "reachable")
    if get_token():
        yield Finding("hub login", "ok", "a token is set")
    else:
        yield Finding("hub login", "note", "no token", "`hf auth login` lets you load gated models.")


def _run(module: list[str]) -> tuple[int, str, str]:
    """Run `python -m MODULE`; a folder of ours is the working directory, so that the user's cannot shadow a package."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", *module],
                capture_output=True,
                text=True,
                timeout=PROBE_TIMEOUT_S,
                cwd=folder,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return -1, "", f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    return done.returncode, done.stdout, done.stderr


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    return lines[-1].strip() if lines else "it said nothing"
