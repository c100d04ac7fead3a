from __future__ import annotations

from pathlib import Path

import pytest

from engine.runs.store import Run
from tui.listing.facts import RunFacts, read_facts
from tui.watching.schedule import Every, Schedule, schedule_of


def test_every_so_many_steps_and_at_the_end() -> None:
    every = Every(steps=100)
    following = {step: every.next_after(step, 250, None) for step in (0, 99, 100, 200, 249, 250)}
    assert following == {0: 100, 99: 100, 100: 200, 200: 250, 249: 250, 250: None}
    assert every.next_after(250, None, None) == 300


@pytest.mark.parametrize(
    ("total_steps", "epochs", "ends"),
    [(300, 3.0, [100, 200, 300]), (250, 2.5, [100, 200, 250]), (40, 0.4, [40]), (31, 3.1, [10, 20, 30, 31])],
)
def test_at_the_end_of_each_epoch(total_steps: int, epochs: float, ends: list[int]) -> None:
    every, step, found = Every(epochs=True), 0, []
    while (following := every.next_after(step, total_steps, epochs)) is not None:
        found.append(following)
        step = following
    assert found == ends


def test_without_a_plan_the_end_of_an_epoch_cannot_be_told() -> None:
    assert Every(epochs=True).next_after(5, None, None) is None


def test_the_settings_are_read_as_transformers_takes_them() -> None:
    assert schedule_of({"eval_strategy": "steps", "logging_steps": 20, "save_strategy": "steps"}, True) == Schedule(
        Every(steps=20), Every(steps=500)
    )
    assert schedule_of({"eval_strategy": "steps", "eval_steps": 7, "save_strategy": "no"}, True) == Schedule(
        Every(steps=7), None
    )
    assert schedule_of({"eval_strategy": "epoch"}, False) == Schedule(None, Every(epochs=True))


def test_facts_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.spec_path.write_text(
        "training: {eval_strategy: steps, eval_steps: 50, save_strategy: epoch}\n"
        "data: {train: a.jsonl, eval_fraction: 0.1}\n"
        "hardware: {memory_limit: 12GiB}\non_oom: retry\n"
        "parent: {run: the-one-before, checkpoint: checkpoint-30}\n"
    )
    assert read_facts(run) == RunFacts(
        parent="the-one-before",
        parent_step=30,
        schedule=Schedule(Every(steps=50), Every(epochs=True)),
        has_eval=True,
        memory_limit_bytes=12 * 2**30,
    )


@pytest.mark.parametrize(
    "text", ["", "- a\n", "{", "data: 3\ntraining: []\nparent: x\nhardware: {memory_limit: soon}\n"]
)
def test_a_spec_that_is_none_tells_nothing(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.spec_path.write_text(text)
    facts = read_facts(run)
    assert (facts.parent, facts.memory_limit_bytes, facts.has_eval) == (None, None, False)
