"""A run that goes on with another batch size sees the rows that it would have seen, at the same learning rates."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.sampling import LengthGroupsByEpoch
from tests.engine.worker.training import events_of, fit, new_run, steps_of, write_rows

MakeSpec = Callable[..., RunSpec]


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_smaller_batches_and_more_accumulation_go_on_with_the_same_rows(
    tiny_spec: MakeSpec, tmp_path: Path, strategy: str
) -> None:
    # 22 rows by 4: the last step of an epoch has 2. Steps 8 to 14 end the second epoch and begin the third.
    rows = write_rows(tmp_path / "rows.jsonl", ["x" * (1 + number * 7 % 40) for number in range(22)])

    def spec(batch: int, accumulated: int) -> RunSpec:
        training: dict[str, Any] = {
            "max_steps": 14,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulated,
            "learning_rate": 1e-2,
            "train_sampling_strategy": strategy,
            "save_strategy": "steps",
            "save_steps": 7,
        }
        return tiny_spec(data={"train": rows}, lora={"lora_dropout": 0.0}, training=training)

    parent = new_run(tmp_path / "parent", spec(4, 1))
    assert fit(parent)
    whole = steps_of(parent)

    for batch, accumulated in ((4, 1), (1, 4)):
        child = new_run(tmp_path / f"child-{batch}", spec(batch, accumulated))
        shutil.copytree(parent.checkpoints_folder / "checkpoint-7", child.checkpoints_folder / "checkpoint-7")
        assert fit(child)
        steps = steps_of(child)
        assert list(steps) == list(range(8, 15))
        assert plan(child)["total_steps"] == plan(parent)["total_steps"] == 14
        for step, now in steps.items():
            assert (now["learning_rate"], now["tokens"]) == (whole[step]["learning_rate"], whole[step]["tokens"]), step
            assert now["loss"] == pytest.approx(whole[step]["loss"], rel=0 if batch == 4 else 1e-2)


def plan(run: Run) -> dict[str, Any]:
    (event,) = events_of(run, "plan")
    return event


def test_length_groups_are_another_order_each_epoch_and_the_same_each_time() -> None:
    sampler = LengthGroupsByEpoch(4, [number * 7 % 40 for number in range(50)], seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    assert sorted(second) == sorted(first) == list(range(50))
