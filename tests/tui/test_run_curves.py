"""Reading a run's curves out of a file of any length."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from engine.runs.store import Run
from tui.listing.curves import MOST_POINTS, WHOLE_FILE_BYTES, CurveReader, Curves


def step_line(step: int, time: float | None = None, loss: float | None = 1.0, **more: object) -> str:
    event = {"type": "step", "time": step * 2.0 if time is None else time, "step": step, "loss": loss}
    return json.dumps({**event, "tokens": step * 100, "step_time_s": 2.0, **more}) + "\n"


def eval_line(step: int, loss: float) -> str:
    return json.dumps({"type": "eval", "time": step * 2.0, "step": step, "eval_loss": loss}) + "\n"


def read(folder: Path, text: str) -> Curves:
    (folder / "events.jsonl").write_text(text)
    return CurveReader(Run(folder)).read()


def test_a_short_run_is_read_whole(tmp_path: Path) -> None:
    curves = read(
        tmp_path, "".join([step_line(1), "no JSON\n", step_line(2, loss=None), eval_line(2, 0.9), step_line(3)])
    )
    assert [(point.step, point.tokens, point.elapsed_s, point.loss) for point in curves.points] == [
        *((1, 100, 2.0, 1.0), (2, 200, 4.0, None), (3, 300, 6.0, 1.0)),
    ]
    assert curves.evaluations == ((2, 0.9),)
    assert not curves.is_sampled


def test_a_run_that_has_not_begun_has_no_points(tmp_path: Path) -> None:
    assert CurveReader(Run(tmp_path)).read() == Curves()


def test_a_long_run_is_sampled_from_its_first_to_its_last_step_with_all_evaluations(tmp_path: Path) -> None:
    padding = "x" * 400
    lines = [
        step_line(step, padding=padding) + (eval_line(step, 1 / step) if step % 1000 == 0 else "")
        for step in range(1, 10_001)
    ]
    curves = read(tmp_path, "".join(lines))
    steps = [point.step for point in curves.points]
    assert curves.is_sampled
    assert (steps[0], steps[-1]) == (1, 10_000)
    assert MOST_POINTS * 0.9 <= len(steps) <= MOST_POINTS + 1
    assert max(after - before for before, after in pairwise(steps)) <= 20
    assert all(point.elapsed_s == pytest.approx(point.step * 2.0) for point in curves.points)
    assert [evaluation.step for evaluation in curves.evaluations] == list(range(1000, 10_001, 1000))


def test_lines_of_a_megabyte_among_the_steps_do_no_harm(tmp_path: Path) -> None:
    sample = json.dumps({"type": "sample", "step": 1, "completion": '"step" ' * 150_000}) + "\n"
    assert len(sample) > WHOLE_FILE_BYTES
    curves = read(tmp_path, "".join([step_line(1), sample, step_line(2), eval_line(2, 0.5), sample, step_line(3)]))
    assert [point.step for point in curves.points] == [1, 2, 3]
    assert curves.evaluations == ((2, 0.5),)


def test_steps_that_were_trained_again_replace_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    lines = [*(step_line(step, loss=9.0) for step in range(1, 6)), eval_line(5, 9.0)]
    lines += [*(step_line(step, time=100 + step * 2.0) for step in range(3, 5)), eval_line(4, 1.0)]
    curves = read(tmp_path, "".join(lines))
    assert [(point.step, point.loss) for point in curves.points] == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]
    assert curves.evaluations == ((4, 1.0),)


def test_a_night_between_two_steps_is_no_training_time(tmp_path: Path) -> None:
    curves = read(tmp_path, step_line(1) + step_line(2) + step_line(3, time=40_000.0))
    assert [point.elapsed_s for point in curves.points] == [2.0, 4.0, 6.0]


def test_what_is_new_is_added_and_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    whole, last = step_line(1) + eval_line(1, 0.9), eval_line(2, 0.8)
    path = tmp_path / "events.jsonl"
    path.write_text(whole + last[:30])
    reader = CurveReader(Run(tmp_path))
    assert reader.read().evaluations == ((1, 0.9),)
    path.write_text(whole + last + step_line(2))
    curves = reader.read()
    assert curves.evaluations == ((1, 0.9), (2, 0.8))
    assert [point.step for point in curves.points] == [1, 2]
    assert reader.read() is curves
