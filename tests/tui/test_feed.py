from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tui.conftest import BEGAN, RunFolder
from tui.feed import LOG_HISTORY_BYTES, LogTail, RunReader
from tui.state import RunState


def loaded(reader: RunReader) -> RunState:
    state = RunState()
    while reader.load(state, patience_s=0.0) < 1.0:
        pass
    return state


def test_history_is_loaded_in_slices_and_then_followed(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.steps(1, 1000)  # several chunks
    reader = RunReader(folder.run)
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
