"""Rows of files: every text format, packed or not, in ranges, and whatever is broken in them."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.data.json_stream import rows_of_json
from engine.data.raw import Read
from engine.data.readers import count_lines, read
from engine.data.sources import Source, find_sources
from engine.data.table_text import rows_of_table

TALK = {
    "messages": [
        {"role": "system", "content": "短く答えて。"},
        {"role": "user", "content": "مرحبا 👋🏽 e\u0301"},
        {"role": "assistant", "content": 'He said "no",\nthen\tleft; [bold]\x1b[31m'},
    ],
    "tools": [{"name": "look_up", "parameters": {"type": "object"}}],
}


def written(path: Path, content: str | bytes) -> Source:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (source,) = find_sources("data.train", str(path), None, None)
    return source


def rows_of(source: Source) -> list[Any]:
    read_rows = list(read(source))
    assert [each.fault for each in read_rows] == [None] * len(read_rows)
    return [each.row for each in read_rows]


def faults_of(source: Source) -> list[tuple[int, str, str]]:
    return [(each.line, *each.fault) for each in read(source) if each.fault is not None]


# ---- jsonl


def test_lines_are_rows_and_blank_ones_are_counted(tmp_path: Path) -> None:
    content = f'{{"text": "a"}}\r\n\n  \n{json.dumps(TALK)}\n{json.dumps(TALK, ensure_ascii=False)}'
    source = written(tmp_path / "a.jsonl", content)
    read_rows = list(read(source))
    assert [(each.line, each.row) for each in read_rows] == [(1, {"text": "a"}), (4, TALK), (5, TALK)]
    assert sum(each.raw_bytes for each in read_rows) == source.size_bytes


def test_broken_lines_are_told_by_kind_and_those_after_them_are_read(tmp_path: Path) -> None:
    source = written(
        tmp_path / "a.jsonl",
        b"\n".join(
            [
                b'{"text": "cut',
                b"[1]",
                b"null",
                b'{"text": "\xff"}',
                b'{"text": "a\0b"}',
                b'{"text": "a\\u0000b"}',
                b'{"text": "\\ud83d"}',
                b'{"\\udc00": 1}',
                b'{"number": ' + b"9" * 5000 + b"}",
                b"[" * 20_000,
                b'{"deep": ' + b"[" * 120 + b"]" * 120 + b"}",
                b'{"text": "\\ud83d\\ude00 \\\\u0000"}',
            ]
        ),
    )
    assert [(line, kind) for line, kind, _ in faults_of(source)] == [
        (1, "json"),
        (2, "not-object"),
        (3, "not-object"),
        (4, "utf-8"),
        (5, "nul"),
        (6, "nul"),
        (7, "surrogate"),
        (8, "surrogate"),
        (9, "json"),
        (10, "json"),
        (11, "json"),
    ]
    messages = [message for _, _, message in faults_of(source)]
    assert messages[0] == "is not JSON: Unterminated string starting at character 10"
    assert messages[1] == "is a list, not a JSON object"
    assert messages[6] == "text holds U+D83D, half of a surrogate pair, which is no character"
    assert [each.row for each in read(source)][-1] == {"text": "😀 \\u0000"}


def test_a_mark_at_the_beginning_is_no_text_and_utf16_is_refused_once(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n')) == [{"text": "a"}]
    assert rows_of(written(tmp_path / "a.csv", "\ufefftext\na\n")) == [{"text": "a"}]
    assert rows_of(written(tmp_path / "a.json", '\ufeff[{"text": "a"}]')) == [{"text": "a"}]
    assert rows_of(written(tmp_path / "b.jsonl", "\ufeff")) == []
    for name in ("b.jsonl", "b.json", "b.csv", "b.txt"):
        (fault,) = faults_of(written(tmp_path / name, '{"text": "a"}\n{"text": "b"}\n'.encode("utf-16")))
        assert fault == (1, "utf-8", "is UTF-16, and nothing of it is read: save the file as UTF-8")


@given(
    lines=st.lists(st.sampled_from([b"", b"x", b"\r", b'{"text": "a"}', b'{"text": "\xe6\x97\xa5"}', b"[]"])),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    ends_with_newline=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranges_together_give_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int], ends_with_newline: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "ranges.jsonl"
    source = written(path, b"\n".join(lines) + (b"\n" if ends_with_newline else b""))
    borders = [0, *sorted(min(cut, source.size_bytes) for cut in cuts), source.size_bytes]
    pieces: list[Read] = []
    lines_before = 0
    for begin, end in itertools.pairwise(borders):
        for each in read(source, begin, end):
            pieces.append(Read(each.line + lines_before, each.row, each.fault, 0))
        # A line begins at the first byte, and behind every line's end.
        lines_before += count_lines(source, max(0, begin - 1), end - 1) + (begin == 0 < end)
    whole = [Read(each.line, each.row, each.fault, 0) for each in read(source)]
    assert pieces == whole
    assert lines_before == len(path.read_bytes().splitlines()) or b"\r" in path.read_bytes()


def test_only_plain_lines_are_read_in_ranges(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from its beginning"):
        next(read(written(tmp_path / "a.json", "[]"), 0, 1))


# ---- text


def test_a_line_of_text_is_a_row(tmp_path: Path) -> None:
    source = written(tmp_path / "a.txt", "first line \r\n\n\t\n二行目 👩‍👩‍👧\nlast".encode())
    assert [(each.line, each.row) for each in read(source)] == [
        (1, {"text": "first line "}),
        (4, {"text": "二行目 👩‍👩‍👧"}),
        (5, {"text": "last"}),
    ]
    assert [kind for _, kind, _ in faults_of(written(tmp_path / "b.txt", b"a\0\n\xe6\x97\n"))] == ["nul", "utf-8"]


# ---- tables


def test_quoted_fields_hold_separators_and_line_ends(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", 'question,answer\r\n"1, or 2?\nsay","it is ""2"""\r\n\r\n名前,はい\r\n')
    assert [(each.line, each.row) for each in read(source)] == [
        (2, {"question": "1, or 2?\nsay", "answer": 'it is "2"'}),
        (5, {"question": "名前", "answer": "はい"}),
    ]


def test_tabs_and_semicolons_separate_too(tmp_path: Path) -> None:
    row = {"question": "a, b", "answer": "c"}
    assert rows_of(written(tmp_path / "a.tsv", "question\tanswer\na, b\tc\n")) == [row]
    assert rows_of(written(tmp_path / "a.csv", "question;answer\na, b;c\n")) == [row]
    assert rows_of(written(tmp_path / "b.csv", "text\nonly; one\n")) == [{"text": "only; one"}]


def test_broken_rows_of_a_table_are_told_by_line(tmp_path: Path) -> None:
    source = written(
        tmp_path / "a.csv",
        b'a,b\n1,2,3\n1\n"x"y,2\n\xff,2\n\0,2\n"not closed,2\n3,4\n',
    )
    assert [(line, kind) for line, kind, _ in faults_of(source)] == [
        (2, "json"),
        (4, "json"),
        (5, "utf-8"),
        (6, "nul"),
        (7, "json"),
    ]
    assert [each.row for each in read(source) if each.row is not None] == [{"a": "1"}]
    assert "not closed before the file ends" in faults_of(source)[-1][2]
    for header in (b"a\0,b\n", b"\xff,b\n", b'"a"a,b\n'):
        assert "nothing of the table is read" in faults_of(written(tmp_path / "b.csv", header + b"1,2\n" * 9))[0][2]
    assert "'a' twice" in faults_of(written(tmp_path / "b.csv", "a,a\n1,2\n"))[0][2]


# ---- json


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([TALK, {"text": "b"}]),
        json.dumps([TALK, {"text": "b"}], indent=2, ensure_ascii=False),
        json.dumps({"version": "1", "data": [TALK, {"text": "b"}], "license": None}),
        json.dumps({"about": {"deep": [1, 2]}, "notes": ["x"], "rows": [TALK, {"text": "b"}]}, indent=4),
        json.dumps(TALK) + "\n" + json.dumps({"text": "b"}),
        json.dumps(TALK, indent=1) + "\n" + json.dumps({"text": "b"}, indent=1) + "\n",
    ],
    ids=["list", "indented list", "object", "indented object", "lines", "objects one after the other"],
)
def test_a_json_file_is_a_list_an_object_with_one_or_lines(tmp_path: Path, content: str) -> None:
    assert rows_of(written(tmp_path / "a.json", content)) == [TALK, {"text": "b"}]
    packed = written(tmp_path / "a.json.gz", gzip.compress(content.encode()))
    assert rows_of(packed) == [TALK, {"text": "b"}]


def test_one_conversation_alone_is_a_row_not_a_list_of_turns(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path / "a.json", json.dumps(TALK, indent=2))) == [TALK]


def test_an_object_longer_than_what_is_looked_at_first_holds_the_rows(tmp_path: Path) -> None:
    rows = [{"text": "x" * 5000, "number": number} for number in range(1100)]
    assert rows_of(written(tmp_path / "a.json", json.dumps({"version": 1, "data": rows}))) == rows


@pytest.mark.parametrize("indent", [None, 2])
def test_reading_goes_on_after_a_malformed_row(tmp_path: Path, indent: int | None) -> None:
    rows = [json.dumps({"number": number, "turns": [{"a": 1}]}, indent=indent) for number in range(5)]
    rows[2] = rows[2].replace('"turns":', '"turns" 7')
    between = ",\n" if indent is None else ",\n  "
    body = between.join(row.replace("\n", "\n  ") for row in rows)
    source = written(tmp_path / "a.json", f"[{between[1:]}{body}\n]")
    read_rows = list(read(source))
    assert [each.row and each.row["number"] for each in read_rows] == [0, 1, None, 3, 4]
    assert faults_of(source) == [(3, "json", "is not JSON: Expecting ':' delimiter")]


def test_what_cannot_be_read_of_a_list_is_told(tmp_path: Path) -> None:
    def told(content: str) -> list[str]:
        return [message for _, _, message in faults_of(written(tmp_path / "a.json", content))]

    assert told('[{"a": 1}, {"a" 2}, {"a": 3}]') == ["is not JSON: Expecting ':' delimiter; nothing after it is read"]
    assert told('[{"a": 1}, {"a": 2}') == ["is cut off: the list of rows is not closed"]
    assert "nothing after it is read" in told('[{"a": 1}, {"a": "cut')[0]
    assert told('[{"a": 1}] {"b": 1}') == ["goes on behind the list of rows, with '{'; that is not read"]
    assert told('{"train": [{"a": 1}], "test": [{"a": 2}]}') == [
        "has a second list of rows, 'test'; only those of 'train' are read"
    ]
    assert told('[{"a": 1}, 7, "text"]') == ["is a number, not a JSON object", "is text, not a JSON object"]
    assert told("") == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["text", "é", "b"]), JSON_VALUES, max_size=3), max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    ensure_ascii=st.booleans(),
    piece_bytes=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_a_list_is_read_the_same_however_it_arrives(
    rows: list[Any], indent: int | None, ensure_ascii: bool, piece_bytes: int
) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=ensure_ascii).encode("utf-8", "replace")
    pieces = [content[begin : begin + piece_bytes] for begin in range(0, len(content), piece_bytes)]
    read_rows = list(rows_of_json(iter(pieces)))
    assert [each.line for each in read_rows] == list(range(1, len(rows) + 1))
    for each, row in zip(read_rows, json.loads(content), strict=True):
        assert each.row == row or each.fault is not None
        assert (each.fault is None) == ("\0" not in "".join(_texts(row)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)


def test_a_long_list_is_read_in_little_memory(tmp_path: Path) -> None:
    row = json.dumps({"text": "word " * 4000, "id": 7})
    source = written(tmp_path / "a.json", "[" + ",".join([row] * 1500) + "]")
    assert source.size_bytes > 30_000_000
    tracemalloc.start()
    count = sum(1 for each in read(source) if each.row)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1500
    assert peak_bytes < 12_000_000


# ---- packed and damaged files


def test_packed_lines_are_rows(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(3000)).encode()
    assert len(rows_of(written(tmp_path / "a.jsonl.gz", gzip.compress(content)))) == 3000


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.txt.gz"])
def test_a_damaged_packed_file_gives_what_can_be_read_and_says_so(tmp_path: Path, name: str) -> None:
    content = "".join(json.dumps({"text": f"row {number} {number**7}"}) + "\n" for number in range(60_000)).encode()
    packed = gzip.compress(content)
    read_rows = list(read(written(tmp_path / name, packed[: len(packed) * 2 // 3])))
    assert len(read_rows) > 10_000
    assert any(each.fault and "damaged or cut off" in each.fault[1] for each in read_rows[-3:])
    (fault,) = list(read(written(tmp_path / name, b"not packed at all")))
    assert "damaged or cut off" in str(fault.fault)


def test_zstd_is_opened_by_who_can(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl.zst", b'{"text": "a"}')  # not packed: what opens it says what is in it
    rows = list(read(source, opener=lambda it: io.BytesIO(Path(it.name).read_bytes())))
    assert [each.row for each in rows] == [{"text": "a"}]
    with pytest.raises(ValueError, match="opener"):
        next(read(source))


# ---- anything


FRAGMENTS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\\",
    b"\\u0000",
    b"\\ud83d",
    b"\0",
    b"\xff",
    b"\xe6\x97\xa5",
    b'"text"',
    b'{"text": "a"}',
    b'{"data": [',
    b"[{",
    b"\xef\xbb\xbf",
    b"12",
    b"-Inf",
    b"null",
]


@example(content=b"0E0")
@given(content=st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join) | st.binary(max_size=80))
@settings(max_examples=120, deadline=None)
def test_no_bytes_raise_in_any_format(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for format in ("jsonl", "json", "csv", "tsv", "txt"):
        for name, packed in ((f"any.{format}", content), (f"any.{format}.gz", gzip.compress(content, 1))):
            for each in read(written(folder / name, packed)):
                assert (each.row is None) == (each.fault is not None)
                assert each.line >= 1
                for text in _texts(each.row):
                    assert "\0" not in text
                    text.encode()  # no lone surrogates
    pieces = [content[begin : begin + 1] for begin in range(len(content))]
    assert list(rows_of_json(iter(pieces))) == list(rows_of_json(iter([content] if content else [])))
    list(rows_of_table(iter(content.splitlines(keepends=True)), None))
