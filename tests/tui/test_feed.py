from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runs.events import READ_CHUNK_BYTES, EventTail, encode
from engine.runs.labels import add_note
from tests.tui.conftest import BEGAN, RunFolder
from tui.watching import feed
from tui.watching.feed import RunReader
from tui.watching.history import history, merged
from tui.watching.log_tail import LOG_HISTORY_BYTES, LogTail
from tui.watching.sketch import sketch
from tui.watching.state import RunState


def loaded(reader: RunReader) -> RunState:
    reader.open()
    state = RunState()
    while reader.load(state, patience_s=0.0) < 1.0:
        pass
    return state


def test_history_is_loaded_in_slices_and_then_followed(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.steps(1, 1000)  # several chunks
    reader = RunReader(folder.run)
    reader.open()
    state = RunState()
    shares = []
    while (share := reader.load(state, patience_s=0.0)) < 1.0:
        shares.append(share)
    assert shares == sorted(shares)
    assert len(shares) >= 2
    assert state.step == 1000
    assert reader.poll().events == []
    folder.steps(1001, 1002)
    assert [event["step"] for event in reader.poll().events] == [1001, 1002]


def test_a_resume_that_only_the_supervisor_tells_of_drops_no_later_step(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.steps(1, 10)
    folder.supervisor.write("state", time=BEGAN + 30.5, state="starting", resumed_from_step=8)
    for step in (9, 10, 11):
        folder.trainer.write("step", time=BEGAN + 40 + step, step=step, loss=5.0)
    state = loaded(RunReader(folder.run))
    assert list(state.series["loss"].points())[-4:] == [(8, 0.375), (9, 5.0), (10, 5.0), (11, 5.0)]


def test_one_look_takes_in_a_bounded_part_and_says_that_there_is_more(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    reader = RunReader(folder.run)
    loaded(reader)
    folder.steps(1, 2000)
    first = reader.poll()
    assert first.more
    assert 0 < len(first.events) < 2000


def test_requests_that_wait_are_seen(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    (folder.run.control_folder / "stop").write_text("")
    assert RunReader(folder.run).poll().requests == ["stop"]


def test_of_a_redrawn_line_the_log_shows_the_last_drawing(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    tail = LogTail(log)
    assert tail.read() == []
    log.write_bytes("start\r\n 10%|#   \r 50%|##  \r100%|####\nnext äö".encode()[:-1])
    assert tail.read() == ["start", "100%|####"]
    with log.open("ab") as file:
        file.write("ö\n".encode()[1:])
    assert tail.read() == ["next äö"]


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = LogTail(log).read()
    assert lines[-1] == "line 99999"
    assert sum(len(line) + 1 for line in lines) <= LOG_HISTORY_BYTES
    assert all(line.startswith("line ") for line in lines)


def test_of_a_line_of_a_million_characters_the_beginning_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "trainer.log"
    tail = LogTail(log)
    log.write_text("before\n")
    assert tail.read() == ["before"]
    with log.open("a") as file:
        file.write("x" * 10**6 + "y\nafter\n")
    assert [line for _ in range(3) for line in tail.read()] == ["x" * 2000, "after"]


def test_notes_stand_in_the_history_at_their_time(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.trainer.write("checkpoint", time=BEGAN + 10, step=10)
    note = {"type": "note", "time": BEGAN + 15, "text": "looks good"}
    folder.run.labels_path.write_bytes(encode(note) + b'{"type": "tags", "time": 1, "tags": ["a"]}\n')
    folder.trainer.write("checkpoint", time=BEGAN + 20, step=20)
    reader = RunReader(folder.run)
    kinds = [event["type"] for event in loaded(reader).recent]
    assert kinds == ["checkpoint", "note", "checkpoint"]
    add_note(folder.run, "and still")
    assert [event["text"] for event in reader.poll().events] == ["and still"]


def child_of(folder: RunFolder, new_run: Callable[..., RunFolder], run_id: str, checkpoint: str | None) -> RunFolder:
    child = new_run(run_id, live=True)
    parent = {"run": folder.run.id, "checkpoint": checkpoint, "changes": {}, "remedies": ["batch"], "attempt": 0}
    child.run.spec_path.write_text(json.dumps({"parent": parent}))
    child.status(parent=folder.run.id)
    return child


def test_a_run_begins_with_the_history_of_those_that_it_continues(new_run: Callable[..., RunFolder]) -> None:
    first = new_run("20261124-050000-m-aaaa")
    first.steps(1, 40, lambda step: 1.0)
    first.trainer.write("oom", time=BEGAN + 61, phase="backward", step=40)
    second = child_of(first, new_run, "20261124-060000-m-bbbb", "checkpoint-30")
    for step in range(31, 51):
        second.trainer.write("step", time=BEGAN + 100 + step, step=step, loss=2.0)
    third = child_of(second, new_run, "20261124-070000-m-cccc", "checkpoint-45")
    third.plan(total_steps=60)
    for step in range(46, 49):
        third.trainer.write("step", time=BEGAN + 200 + step, step=step, loss=3.0)
    state = loaded(RunReader(third.run))
    losses = dict(state.series["loss"].points())
    assert list(losses) == list(range(1, 49))
    assert [losses[step] for step in (30, 31, 45, 46)] == [1.0, 2.0, 2.0, 3.0]
    assert (state.joins, state.oom, state.total_steps) == ([30, 45], None, 60)


def test_a_run_whose_parent_is_gone_or_was_not_continued_from_stands_alone(new_run: Callable[..., RunFolder]) -> None:
    parent = new_run("20261124-050000-m-aaaa")
    parent.steps(1, 40)
    fresh = child_of(parent, new_run, "20261124-060000-m-bbbb", None)
    fresh.steps(1, 3)
    assert len(loaded(RunReader(fresh.run)).series["loss"]) == 3
    orphan = child_of(parent, new_run, "20261124-070000-m-cccc", "checkpoint-30")
    orphan.steps(31, 33)
    shutil.rmtree(parent.run.folder)
    state = loaded(RunReader(orphan.run))
    assert [x for x, _ in state.series["loss"].points()] == [31, 32, 33]
    assert state.joins == []


@pytest.mark.parametrize("run_id", ["../../elsewhere", "..", "", 7, "20261124-060000-m-bbbb"])
def test_a_parent_that_is_no_run_beside_this_one_is_not_looked_for(
    new_run: Callable[..., RunFolder], run_id: object
) -> None:
    folder = new_run("20261124-060000-m-bbbb", live=True)
    folder.run.spec_path.write_text(json.dumps({"parent": {"run": run_id, "checkpoint": "checkpoint-3"}}))
    folder.steps(4, 6)
    assert len(loaded(RunReader(folder.run)).series["loss"]) == 3


def test_a_long_history_is_sketched_from_lines_all_over_it(
    new_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "SKETCH_FROM_BYTES", 2**20)
    folder = new_run(live=True)
    folder.status(step=20_000)
    folder.plan(total_steps=20_000)
    line = {"type": "step", "mean_token_accuracy": 0.5, "grad_norm": 0.6, "learning_rate": 1e-4}
    with folder.run.events_path.open("ab") as file:
        for step in range(1, 20_001):
            file.write(encode({**line, "time": BEGAN + 20 + step, "step": step, "loss": 3 / step}))
            if step % 5000 == 0:
                file.write(b"\xff\n[]\n" + encode({"type": "sample", "step": step, "prompt": "x" * 10**5}))
    with folder.run.hardware_path.open("ab") as file:
        for second in range(20_000):
            host = {"trainer_rss_bytes": 10**9 + second, "used_bytes": 2 * 10**9, "total_bytes": 10**10}
            file.write(encode({"type": "hardware", "time": BEGAN + 20 + second, "gpus": [], "host": host}))
    reader = RunReader(folder.run)
    reader.open()
    assert reader.is_long
    (sketched, status), whole = reader.sketch(patience_s=20.0), loaded(RunReader(folder.run))
    assert status.step == 20_000
    assert (sketched.step, sketched.total_steps, sketched.state) == (20_000, 20_000, "training")
    assert 2000 < len(sketched.series["loss"]) < 5000
    assert len(whole.series["loss"]) == 20_000
    # A line in every one of a chart's columns, and each of them true.
    columns = sketched.series["loss"].columns(1, 20_000, 240)
    assert len(columns) == 240
    assert all(column.joined for column in columns[1:])
    assert set(sketched.series["loss"].points()) <= set(whole.series["loss"].points())
    memory = sketched.memory.trainer_resident.columns(0, 20_000, 240)
    assert len(memory) == 240
    assert all(column.joined for column in memory[1:])
    assert sketched.memory.elapsed_s == pytest.approx(whole.memory.elapsed_s, abs=1)


def test_a_sketch_gives_up_in_time(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.steps(1, 2000)
    state = sketch([folder.run.events_path, folder.run.hardware_path], patience_s=0.0)
    assert state.step == 2000
    assert 0 < len(state.series["loss"]) < 2000


times = st.lists(st.integers(0, 20), max_size=12)


@given(st.lists(times, min_size=1, max_size=4), st.integers(1, 5))
def test_files_are_merged_by_time_and_each_stays_in_its_order(files: list[list[int]], chunk: int) -> None:
    events = [
        [{"type": "e", "time": float(t), "file": n, "at": at} for at, t in enumerate(f)] for n, f in enumerate(files)
    ]
    chunks = [iter([each[at : at + chunk] for at in range(0, len(each), chunk)]) for each in events]
    together = [event for block in merged(chunks) for event in block]
    assert len(together) == sum(map(len, files))
    for number, each in enumerate(events):
        assert [event for event in together if event["file"] == number] == each
    if all(each == sorted(each) for each in files):
        keys = [(event["time"], event["file"]) for event in together]
        assert keys == sorted(keys)


def test_a_history_leaves_torn_and_damaged_lines_to_whom_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    long_line = encode({"type": "sample", "time": 2.0, "prompt": "x" * (3 * READ_CHUNK_BYTES)})
    damaged = b'\x80\n\n{}\n[1]\n{"type": 3}\n{"type": "a"} x\nnull\n'
    torn = encode({"type": "late", "time": 4.0})
    path.write_bytes(encode({"type": "first", "time": 1.0}) + damaged + long_line + b' {"type": "b"} \n' + torn[:9])
    tail = EventTail(path)
    assert [event["type"] for block in history([tail]) for event in block] == ["first", "sample"]
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(torn[9:])
    assert [event["type"] for event in tail.read()] == ["late"]
