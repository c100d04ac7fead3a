"""Event files: whole lines in, whole events out, whatever happened to the writer."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.runs.events import EventTail, EventWriter, encode, read_events


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("step", step=1, loss=0.5)
    writer.write("sample", completion="line\nbreak \x1b[31m \u2028 \U0001f600")
    step, sample = read_events(tmp_path / "events.jsonl")
    assert (step["type"], step["step"], step["loss"]) == ("step", 1, 0.5)
    assert sample["completion"] == "line\nbreak \x1b[31m \u2028 \U0001f600"


def test_a_loss_that_is_not_a_number_is_null_and_the_file_stays_json(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    writer.write("step", loss=math.nan, nested={"a": [math.inf, 1.0]})
    line = (tmp_path / "events.jsonl").read_text()
    assert "NaN" not in line
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["nested"] == {"a": [None, 1.0]}


def test_a_torn_line_is_closed_by_the_next_writer_and_skipped_by_readers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "step", "step": 1}\n{"type": "ste')
    EventWriter(path).write("step", step=2)
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_a_tail_keeps_half_a_line_until_its_rest_arrives(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    path.write_bytes(b'{"type": "step", "st')
    assert tail.read() == []
    with open(path, "ab") as file:
        file.write(b'ep": 5}\n')
    assert tail.read() == [{"type": "step", "step": 5}]
    assert tail.read() == []


def test_lines_that_are_no_events_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'junk\n[1]\n{"no": "type"}\n\xff\xfe\n{"type": "step", "step": 1}\n')
    assert read_events(path) == [{"type": "step", "step": 1}]


@given(st.lists(st.integers(1, 40), min_size=1), st.lists(st.text(max_size=30), max_size=20))
def test_however_a_file_is_cut_into_reads_the_same_events_come_out(sizes: list[int], texts: list[str]) -> None:
    import tempfile

    content = b"".join(encode({"type": "sample", "completion": text}) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        tail, seen, written = EventTail(path), [], 0
        while written < len(content):
            for size in sizes:
                with open(path, "ab") as file:
                    file.write(content[written : written + size])
                written += size
                seen += tail.read(most_bytes=size)
        seen += tail.read()
    assert [event["completion"] for event in seen] == texts
