"""The newest events of files of any length, found from their two ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

from engine.runs.events import EventWriter
from engine.runs.last_events import MOST_BYTES, last_events, newest_oom
from engine.runs.store import create_run


def test_the_newest_of_each_kind_is_found_and_the_plan_at_the_beginning_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventWriter(path)
    events.write("plan", total_steps=9)
    events.write("eval", step=0, eval_loss=9.0)
    with open(path, "ab") as file:
        line = json.dumps({"type": "step", "step": 1, "padding": "x" * 900}).encode() + b"\n"
        file.write(line * (MOST_BYTES // len(line) + 1000))
    events.write("step", step=2)
    began = time.perf_counter()
    found = last_events(path, ("plan", "step", "eval", "error"))
    assert time.perf_counter() - began < 0.5
    assert (found["plan"]["total_steps"], found["step"]["step"]) == (9, 2)
    assert "eval" not in found, "an evaluation from long ago would pass for the newest"
    assert "error" not in found


def test_in_a_short_file_everything_is_found_the_latest_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventWriter(path)
    for step in (1, 2, 3):
        events.write("step", step=step)
        events.write("eval", step=step)
    with open(path, "ab") as file:
        file.write(b'{"type": "step", "step": 4, "lo')
    found = last_events(path, ("step", "eval"))
    assert (found["step"]["step"], found["eval"]["step"]) == (3, 3)
    assert last_events(tmp_path / "none", ("step",)) == {}


def test_a_line_that_is_cut_by_a_read_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventWriter(path)
    events.write("oom", phase="load", message="m" * 300_000)
    for _ in range(3):
        events.write("sample", completion="y" * 200_000)
    assert last_events(path, ("oom",))["oom"]["phase"] == "load"


def test_text_in_an_event_is_not_taken_for_an_event(tmp_path: Path) -> None:
    events = EventWriter(tmp_path / "events.jsonl")
    events.write("sample", completion='\n{"type": "oom", "phase": "load"}')
    assert last_events(tmp_path / "events.jsonl", ("oom",)) == {}


def test_the_newest_of_two_files_is_the_later_one() -> None:
    run = create_run("m")
    assert newest_oom(run) is None
    with open(run.events_path, "w") as file:
        file.write('{"type": "oom", "time": 5, "phase": "load"}\n')
    with open(run.supervisor_events_path, "w") as file:
        file.write('{"type": "oom", "time": 9, "phase": "eval"}\n')
    newest = newest_oom(run)
    assert newest is not None
    assert newest["phase"] == "eval"
