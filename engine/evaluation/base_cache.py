"""What the base model made of rows is kept, so that the next adapter of the same base finds it done.

An entry is a file named by all that it depends on: model, quantization, device, rows, how they become tokens, library
versions, the worker's code. Its first line holds a hash of the rest; one that does not fit is no entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.catalog import cache_folder
from engine.data.caches import file_stamp
from engine.evaluation.plan import LossPart, Reported, reported
from engine.jobs.subject import Subject
from engine.runs.store import write_atomically
from engine.spec import RunSpec

UNUSED_DAYS = 30
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
TOKENIZER_FILES = ("*token*", "vocab*", "merges*", "*.model", "*.tiktoken", "*.jinja", "chat_template*")


def losses_key(subject: Subject, part: LossPart, batch_size: int | None) -> str | None:
    """Names the base's losses of `part`; None where they cannot be told from others."""
    data = subject.spec.data
    if part.rows == "held_out":
        rows: Any = _data_key(subject.spec)
    else:
        rows = hashlib.sha256(Path(part.rows).read_bytes()).hexdigest()
    if rows is None:
        return None
    template = data.chat_template_path
    template_stamps = [] if template is None else _stamps(Path(template).parent, (Path(template).name,))
    encoding = [template, template_stamps, data.max_length, data.completion_only_loss, data.assistant_only_loss]
    packing = [data.packing, data.packing_strategy] if data.packing else None
    return _key(subject, "losses", rows, encoding, packing, part.limit, batch_size)


def answers_key(subject: Subject, questions: str, max_new_tokens: int, batch_size: int | None) -> str | None:
    """Names the base's answers to `questions`, as `BenchmarkSet.questions` writes them."""
    return _key(subject, "answers", hashlib.sha256(questions.encode()).hexdigest(), max_new_tokens, batch_size)


def tasks_key(subject: Subject, tasks: Iterable[str], include_path: Path | None, limit: int | None) -> str | None:
    """Names the base's figures on tasks of lm-eval."""
    own = [] if include_path is None else _stamps(include_path, ("**/*",))
    return _key(subject, "tasks", sorted(tasks), own, limit, _version("lm-eval"))


def read(key: str, kind: type[Reported]) -> list[Reported] | None:
    """The entry's rows; None where there is no such entry, or it is not whole."""
    path = _folder() / f"{key}.jsonl"
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        rows = [reported(kind, json.loads(line)) for line in body.splitlines()]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    with suppress(OSError):
        os.utime(path)
    return rows


def keep(key: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write an entry of rows as `dataclasses.asdict` gives them. A disk that is full costs only time."""
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    head = json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
        _remove_unused()
        write_atomically(_folder() / f"{key}.jsonl", head + b"\n" + body)


def _folder() -> Path:
    return cache_folder() / "evaluations"


def _remove_unused() -> None:
    now_s = time.time()
    for path in _folder().iterdir():
        with suppress(OSError):
            if now_s - path.stat().st_mtime > UNUSED_DAYS * 86_400:
                path.unlink()


def _key(subject: Subject, *settings: Any) -> str | None:
    spec = subject.spec
    if (model := _model(spec)) is None:
        return None
    device = "cpu" if spec.hardware.device == "cpu" else "cuda"
    parts = [
        spec.model.model_dump(mode="json"),
        model,
        spec.quantization.model_dump(mode="json"),
        device,
        _tokenizer(subject.adapter),
        [_version(library) for library in LIBRARIES],
        _made_with(),
        *settings,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _model(spec: RunSpec) -> Any:
    """What tells this model's weights from others: sizes and times of a folder's files, or the hub's commit; None where
    neither is known."""
    folder = Path(spec.model.name_or_path)
    if folder.is_dir():
        return _stamps(folder, (*WEIGHTS, *TOKENIZER_FILES))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(spec.model.name_or_path, "config.json", revision=spec.model.revision)
    except HFValidationError:
        return None
    return Path(config).parent.name if isinstance(config, str) else None


def _tokenizer(adapter: Path) -> list[list[str]]:
    """Names and hashes of the tokenizer's files beside the adapter: the worker reads these."""
    names = {path for pattern in TOKENIZER_FILES for path in adapter.glob(pattern) if path.is_file()}
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(names)]


def _data_key(spec: RunSpec) -> list[Any] | None:
    """The content of the rows that are held out; None where they have not been read yet."""
    from engine.data.client import kept_report

    report = kept_report(spec.data, spec.training.seed)
    if report is None:
        return None
    if report.eval is not None:
        return [report.format, report.eval.content]
    return [report.format, report.train.content, spec.data.eval_fraction, spec.training.seed]


def _stamps(folder: Path, patterns: Iterable[str]) -> list[list[Any]]:
    try:
        files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        return [[str(path.relative_to(folder)), *file_stamp(path)] for path in sorted(files)]
    except OSError:
        return []


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def _made_with() -> str:
    """The code that measures: another version of it may come to other figures. It is read, never imported here."""
    worker = Path(__file__).parents[1] / "worker"
    files = [worker / f"{name}.py" for name in ("loaded", "model", "samples")]
    files += [path for folder in ("chat", "data", "evaluation") for path in sorted((worker / folder).glob("*.py"))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
