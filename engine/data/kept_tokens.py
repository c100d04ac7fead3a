"""Token stores of earlier runs, found without a tokenizer: by the rows, the tokenizer's files and the settings."""

from __future__ import annotations

import hashlib
import json
from array import array
from functools import cache
from pathlib import Path
from typing import Any

from engine.architecture import installed_versions
from engine.catalog import cache_folder
from engine.data.caches import INDEX, file_stamp, mark_used
from engine.data.lengths import RowLengths
from engine.data.report import DataReport
from engine.spec import RunSpec

TOKENIZER_FILES = ("*token*", "vocab*", "merges*", "*.model", "*.tiktoken", "*.jinja", "chat_template*", "config.json")
"""What `AutoTokenizer` may read of a model's folder."""


def tokens_index_key(spec: RunSpec, report: DataReport) -> str:
    """Names the tokens that the rows of `report` become; the file of that name tells the folder that has them.

    Of files it takes sizes and times, as reading them costs more than tokenizing small data does.
    """
    data, model = spec.data, spec.model
    parts: list[Any] = [
        report.format,
        report.train.content,
        [data.eval_fraction, spec.training.seed] if data.eval_fraction else None,
        [data.chat_template_path, data.completion_only_loss, data.assistant_only_loss],
        [model.name_or_path, model.revision, model.trust_remote_code],
        _stamps(_model_folder(model.name_or_path, model.revision)),
        None if data.chat_template_path is None else _stamps(Path(data.chat_template_path)),
        installed_versions(),
        _made_with(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_lengths(spec: RunSpec, report: DataReport) -> RowLengths | None:
    """Lengths of the training rows, if an earlier run has tokenized them and its store is whole."""
    stores = cache_folder() / "tokens"
    try:
        entry = json.loads((stores / "by-spec" / f"{tokens_index_key(spec, report)}.json").read_bytes())
        folder = stores / entry["folder"]
        rows = json.loads((folder / INDEX).read_bytes())["rows"]
        tokens, learnt, first_learnt = (
            _counts(folder / f"{name}.u32", rows) for name in ("lengths", "learnt", "first_learnt")
        )
    except (OSError, ValueError, EOFError, LookupError, TypeError):
        return None
    mark_used(folder)
    return RowLengths(tokens, learnt, first_learnt, rows)


def _counts(path: Path, rows: int) -> array[int]:
    """Raises OSError, EOFError where there are fewer, ValueError where there are more."""
    counts = array("I")
    with open(path, "rb") as file:
        counts.fromfile(file, rows)
        if file.read(1):
            raise ValueError(f"{path} has more than {rows} entries")
    return counts


def _model_folder(name_or_path: str, revision: str | None) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name_or_path, "config.json", revision=revision)
    except HFValidationError:
        return folder
    return Path(config).parent if isinstance(config, str) else folder


def _stamps(path: Path) -> list[list[Any]]:
    """Of a tokenizer's folder, or of one file; nothing of what is not there."""
    try:
        files = {file for pattern in TOKENIZER_FILES for file in path.glob(pattern)} if path.is_dir() else {path}
        return [[file.name, *file_stamp(file)] for file in sorted(files)]
    except OSError:
        return []


@cache
def _made_with() -> str:
    """The code that makes tokens of rows; it is read, never imported here."""
    worker = Path(__file__).parents[1] / "worker" / "data"
    content = b"".join((worker / f"{name}.py").read_bytes() for name in ("encode", "template"))
    return hashlib.sha256(content).hexdigest()
