"""What `data.train` and `data.eval` name: files, folders that `datasets` saved, datasets on the hub."""

from __future__ import annotations

import glob
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.checks import InvalidSpec, Problem
from engine.spec import DataSection

FileFormat = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"]
Compression = Literal["gzip", "zstd"]

FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

FOREIGN_ENDINGS = (".xlsx", ".xls", ".ods", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".pkl", ".yaml", ".md", ".pdf")
"""A name that ends so means a file, and never a dataset on the hub; no reader takes it."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """Where rows come from: one file, one split of a saved folder, or one split of a dataset on the hub."""

    kind: Literal["file", "saved", "hub"]
    """`saved` is a folder that `save_to_disk` of `datasets` wrote."""
    name: str
    """Absolute path, or id on the hub."""
    format: FileFormat | None = None
    """Of a file."""
    compression: Compression | None = None
    config: str | None = None
    """Of a dataset on the hub."""
    split: str | None = None
    """Of a hub dataset, and of a saved folder that has splits."""
    size_bytes: int = 0
    """On disk, packed where it is packed; 0 for the hub."""

    def stamp(self) -> tuple[str, int, int, str | None, str | None]:
        """Name, size in bytes, time of the last change in ns, config, split: as long as it stays, so do the rows.

        Sizes are -1 for what is gone. Of the hub, which is not asked, only the names count.
        """
        size_bytes, changed_ns = 0, 0
        try:
            for path in _files_of(self):
                stat = path.stat()
                size_bytes += stat.st_size
                changed_ns = max(changed_ns, stat.st_mtime_ns)
        except OSError:
            size_bytes = -1
        return self.name, size_bytes, changed_ns, self.config, self.split

    @property
    def short_name(self) -> str:
        """For a person: `chat.jsonl`, `saved (test)`, `owner/name (main, train)`."""
        inside = ", ".join(part for part in (self.config, self.split) if part)
        name = self.name if self.kind == "hub" else Path(self.name).name
        return f"{name} ({inside})" if inside else name

    def place(self, number: int) -> str:
        """Where row or line `number` (from 1) is, for a person: `chat.jsonl, line 17`, `chat.parquet, row 17`."""
        unit = "line" if self.format in ("jsonl", "csv", "tsv", "txt") else "row"
        return f"{self.short_name}, {unit} {number}"


def sources_of(data: DataSection) -> tuple[list[Source], list[Source]]:
    """Where training rows and held-out ones come from; the second is empty where none of their own are named.

    Raises InvalidSpec with the problems of both.
    """
    problems: list[Problem] = []
    both: list[list[Source]] = []
    for field, names, split in (
        ("data.train", data.train, data.split),
        ("data.eval", data.eval, data.split),
        ("data.eval_split", data.train if data.eval_split is not None else None, data.eval_split),
    ):
        try:
            both.append([] if names is None else find_sources(field, names, data.name, split))
        except InvalidSpec as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise InvalidSpec(problems)
    return both[0], [*both[1], *both[2]]


def find_sources(field: str, names: str | list[str], config: str | None, split: str | None) -> list[Source]:
    """What `names` mean here: paths, patterns (their files in the order of their names), hub ids.

    Raises InvalidSpec, naming `field`, with every name that means nothing.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    for name in [names] if isinstance(names, str) else names:
        try:
            for each in _matches(field, name):
                sources.append(_source(field, each, config, split))
        except InvalidSpec as error:
            problems += error.problems
    if not problems and not sources:
        problems.append(Problem(field, "names nothing", "write a file, a pattern, a folder, or an id on the hub"))
    if not problems and field != "data.eval" and split not in (None, "train") and not any(s.split for s in sources):
        # Otherwise rows that are trained on would be taken for held-out ones.
        which = "data.eval_split" if field == "data.eval_split" else "data.split"
        problems.append(Problem(which, f"files have no split {split!r}", "name a file of held-out rows in data.eval"))
    if problems:
        raise InvalidSpec(problems)
    return sources


def is_path_like(name: str, folder: Path | None = None) -> bool:
    """Whether `name` means files, not a dataset on the hub. `folder` is what relative paths start from."""
    if (folder or Path()).joinpath(Path(name).expanduser()).exists():
        return True
    if HUB_ID.fullmatch(name) is None:
        return True
    lowered = name.lower()
    return _format_of(lowered) is not None or lowered.endswith((*COMPRESSIONS, *FOREIGN_ENDINGS))


def _matches(field: str, name: str) -> list[str]:
    path = os.path.expanduser(name)
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    if found := sorted(glob.glob(path, recursive=True)):
        return found
    raise InvalidSpec([Problem(field, f"no file matches {name}", "relative paths start at the spec's folder")])


def _source(field: str, name: str, config: str | None, split: str | None) -> Source:
    path = Path(name)
    if not path.exists():
        if is_path_like(name):
            raise InvalidSpec([Problem(field, f"there is no file {path}", "relative paths start at the spec's folder")])
        return Source("hub", name, config=config, split=split or "train")
    if path.is_dir():
        return _saved_folder(field, path.absolute(), split)
    if not path.is_file():
        raise InvalidSpec([Problem(field, f"{path} is not a file", "write its rows into a file first")])
    if not os.access(path, os.R_OK):
        raise InvalidSpec([Problem(field, f"{path} cannot be read: it belongs to somebody else", "chmod it")])
    if (known := _format_of(path.name.lower())) is None:
        endings = ", ".join(f".{each}" for each in FORMATS)
        raise InvalidSpec(
            [Problem(field, f"{path} has none of the known endings", f"use {endings}, alone or with .gz or .zst")]
        )
    return Source("file", str(path.absolute()), *known, size_bytes=path.stat().st_size)


def _format_of(name: str) -> tuple[FileFormat, Compression | None] | None:
    stem, ending = os.path.splitext(name)
    compression = COMPRESSIONS.get(ending)
    if compression is not None:
        ending = os.path.splitext(stem)[1]
    if ending == ".ndjson":
        return "jsonl", compression
    for each in FORMATS:
        if ending == f".{each}":
            return each, compression
    return None


def _saved_folder(field: str, folder: Path, split: str | None) -> Source:
    if (folder / "state.json").is_file():
        source = Source("saved", str(folder), split=None)
    elif (folder / "dataset_dict.json").is_file():
        splits = _splits_of(field, folder)
        wanted = split or "train"
        if wanted not in splits:
            which = "data.eval_split" if field == "data.eval_split" else "data.split"
            raise InvalidSpec([Problem(which, f"{folder} has no split {wanted!r}", f"write {' or '.join(splits)}")])
        source = Source("saved", str(folder), split=wanted)
    else:
        raise InvalidSpec(
            [
                Problem(
                    field,
                    f"{folder} is a folder, and not one that `datasets` saved",
                    f"name its files, such as {folder / '*.jsonl'}",
                )
            ]
        )
    size_bytes = sum(path.stat().st_size for path in _files_of(source))
    return Source("saved", source.name, split=source.split, size_bytes=size_bytes)


def _splits_of(field: str, folder: Path) -> list[str]:
    try:
        raw = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))
        splits = raw["splits"]
        if isinstance(splits, list) and splits:
            return [str(split) for split in splits]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InvalidSpec([Problem(field, f"{folder}/dataset_dict.json names no splits", "save the dataset again")])


def _files_of(source: Source) -> list[Path]:
    """The files that hold the rows. Raises OSError where a folder is gone."""
    if source.kind == "hub":
        return []
    if source.kind == "file":
        return [Path(source.name)]
    folder = Path(source.name) / (source.split or "")
    return sorted(path for path in folder.iterdir() if path.suffix == ".arrow" or path.name == "state.json")
