"""What names in a spec mean: files by their endings, patterns, saved folders, the hub."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from engine.checks import InvalidSpec
from engine.data.sources import Source, find_sources, is_path_like, sources_of
from engine.spec import DataSection


def touched(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return [str(folder / name) for name in names]


def refusal(names: str | list[str], field: str = "data.train", split: str | None = None) -> str:
    with pytest.raises(InvalidSpec) as caught:
        find_sources(field, names, None, split)
    return str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    rows = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    rows.save_to_disk(str(folder / "one"))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(folder / "several"))
    return folder


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.jsonl", "jsonl", None),
        ("a.ndjson", "jsonl", None),
        ("A.JSON", "json", None),
        ("a.b.csv", "csv", None),
        ("a.tsv.gz", "tsv", "gzip"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.txt", "txt", None),
        ("a.parquet", "parquet", None),
        ("a.arrow", "arrow", None),
    ],
)
def test_a_file_is_known_by_its_ending(tmp_path: Path, name: str, format: str, compression: str | None) -> None:
    (path,) = touched(tmp_path, name)
    (source,) = find_sources("data.train", path, None, None)
    assert source == Source("file", path, format, compression, size_bytes=1)


def test_a_pattern_gives_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    b, a, deep = touched(tmp_path, "b.jsonl", "a.jsonl", "more/c.jsonl")
    assert [each.name for each in find_sources("data.train", str(tmp_path / "*.jsonl"), None, None)] == [a, b]
    everywhere = find_sources("data.train", [str(tmp_path / "**/*.jsonl")], None, None)
    assert [each.name for each in everywhere] == [a, b, deep]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (path,) = touched(tmp_path, "rows[1].jsonl")
    assert [each.name for each in find_sources("data.train", path, None, None)] == [path]


def test_names_are_absolute_wherever_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = touched(tmp_path, "a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert find_sources("data.train", "a.jsonl", None, None)[0].name == path


def test_every_name_that_means_nothing_is_told(tmp_path: Path) -> None:
    told = refusal(
        [
            str(tmp_path / "none.jsonl"),
            str(tmp_path / "*.csv"),
            *touched(tmp_path, "a.xlsx", "plain/a.jsonl")[:1],
            str(tmp_path / "plain"),
        ]
    )
    assert "data.train: there is no file" in told
    assert "no file matches" in told
    assert "a.xlsx has none of the known endings; use .jsonl, .json, .csv" in told
    assert "plain is a folder, and not one that `datasets` saved" in told
    assert "names nothing" in refusal([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (path,) = touched(tmp_path, "a.jsonl")
    Path(path).chmod(0)
    assert "cannot be read" in refusal(path)


def test_a_saved_folder_is_read_as_one_table_or_by_its_splits(saved: Path) -> None:
    (one,) = find_sources("data.train", str(saved / "one"), None, "train")
    (test,) = find_sources("data.train", str(saved / "several"), None, "test")
    assert (one.kind, one.split, test.split) == ("saved", None, "test")
    assert one.size_bytes > 100
    assert test.size_bytes > 100
    assert one.stamp()[1] > 100
    assert test.short_name == "several (test)"
    told = refusal(str(saved / "several"), split="validation")
    assert "data.split" in told
    assert "has no split 'validation'; write train or test" in told


@pytest.mark.parametrize("name", ["openai/gsm8k", "HuggingFaceH4/ultrachat_200k", "squad", "org/data-v1.5"])
def test_what_is_no_path_here_is_a_dataset_on_the_hub(name: str) -> None:
    assert not is_path_like(name)
    (source,) = find_sources("data.train", name, "main", None)
    assert source == Source("hub", name, config="main", split="train")
    assert source.place(3) == f"{name} (main, train), row 3"


@pytest.mark.parametrize("name", ["a.jsonl", "a/b.json.gz", "./a", "/a/b", "~/a", "a/b/c", "*.txt", "rows.xlsx"])
def test_what_can_only_be_a_path_is_one(name: str) -> None:
    assert is_path_like(name)


def test_a_name_that_is_a_folder_here_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert is_path_like("owner/name", tmp_path)
    assert not is_path_like("owner/other", tmp_path)


def test_a_split_of_files_is_refused_instead_of_held_out_from_what_is_trained_on(tmp_path: Path) -> None:
    (path,) = touched(tmp_path, "a.jsonl")
    assert "data.eval_split: files have no split 'test'" in refusal(path, "data.eval_split", "test")
    with pytest.raises(InvalidSpec, match="files have no split"):
        sources_of(DataSection(train=path, eval_split="test"))


def test_a_file_may_be_held_out_beside_a_split_of_the_hub(tmp_path: Path) -> None:
    (path,) = touched(tmp_path, "a.jsonl")
    train, held_out = sources_of(DataSection(train="owner/name", split="train_sft", eval=path))
    assert (train[0].split, held_out[0].name) == ("train_sft", path)
    train, held_out = sources_of(DataSection(train="owner/name", eval_split="test"))
    assert (train[0].split, held_out[0].split) == ("train", "test")
    assert sources_of(DataSection(train=path))[1] == []


def test_problems_of_both_sides_come_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        sources_of(DataSection(train=str(tmp_path / "a.jsonl"), eval=str(tmp_path / "b.jsonl")))
    assert [problem.field for problem in caught.value.problems] == ["data.train", "data.eval"]


def test_the_stamp_changes_with_the_file_and_never_raises(tmp_path: Path) -> None:
    (path,) = touched(tmp_path, "a.jsonl")
    (source,) = find_sources("data.train", path, None, None)
    before = source.stamp()
    assert before == source.stamp()
    os.utime(path, ns=(1, 1))
    assert source.stamp() != before
    Path(path).unlink()
    assert source.stamp()[1] == -1


def test_places_are_lines_of_text_and_rows_of_tables() -> None:
    assert Source("file", "/data/chat.jsonl", "jsonl").place(17) == "chat.jsonl, line 17"
    assert Source("file", "/data/chat.parquet", "parquet").place(17) == "chat.parquet, row 17"
