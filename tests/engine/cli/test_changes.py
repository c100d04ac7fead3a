"""`resume --set`: which settings a run can go on with, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.checks import InvalidSpec, write_spec
from engine.cli.changes import prepared_changes, values_of
from engine.runs.store import Run, create_run
from engine.spec import RunSpec
from tests.engine.cli.test_runs import here

MakeSpec = Callable[..., RunSpec]


def stopped_run(spec: RunSpec, has_checkpoint: bool = True) -> Run:
    run = create_run("tiny")
    run.spec_path.write_text(write_spec(spec))
    if has_checkpoint:
        (run.checkpoints_folder / "checkpoint-3").mkdir(parents=True)
    return run


def test_names_are_those_of_a_spec_and_values_are_yaml() -> None:
    given = ["num_processes=4", "training.learning_rate=1e-4", "gpu_ids=[0, 2]", "memory_limit=null"]
    assert values_of(given) == {
        "hardware.num_processes": 4,
        "training.learning_rate": "1e-4",
        "hardware.gpu_ids": [0, 2],
        "hardware.memory_limit": None,
    }
    with pytest.raises(InvalidSpec) as refused:
        values_of(["num_gpus=2", "r", "seed=[1"])
    assert [(problem.field, problem.hint) for problem in refused.value.problems] == [
        ("num_gpus", "did you mean hardware.num_processes?"),
        ("r", "write it as in num_processes=4"),
        ("seed=[1", ""),
    ]


@pytest.mark.parametrize(
    ("given", "passes", "processes"),
    [
        ({"hardware.num_processes": 4}, 1, 4),
        ({"hardware.num_processes": 1}, 4, 1),
        ({"hardware.num_processes": 4, "training.per_device_train_batch_size": 1}, 2, 4),
        ({"hardware.num_processes": 4, "training.gradient_accumulation_steps": 2}, 2, 4),
    ],
)
def test_another_number_of_processes_keeps_the_step_unless_the_accumulation_is_named(
    tiny_spec: MakeSpec, given: dict[str, Any], passes: int, processes: int
) -> None:
    before = tiny_spec(
        training={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, hardware={"num_processes": 2}
    )
    changes = prepared_changes(stopped_run(before), given)
    accumulation = changes.get("training.gradient_accumulation_steps", (2, 2))
    assert (accumulation[1], changes["hardware.num_processes"]) == (passes, (2, processes))


def test_what_a_checkpoint_has_no_place_for_is_refused_and_a_run_without_one_takes_it(tiny_spec: MakeSpec) -> None:
    given = {"lora.r": 4, "training.optim": "adamw_8bit", "lora.lora_dropout": 0.1}
    with pytest.raises(InvalidSpec) as refused:
        prepared_changes(stopped_run(tiny_spec()), given)
    assert [problem.field for problem in refused.value.problems] == ["lora.r", "training.optim"]
    assert prepared_changes(stopped_run(tiny_spec(), has_checkpoint=False), given)["lora.r"] == (16, 4)


def test_the_command_starts_nothing_where_a_setting_is_wrong(tiny_spec: MakeSpec) -> None:
    run = stopped_run(tiny_spec(hardware={"num_processes": 2}))
    told = here("resume", run.id, "--set", "num_processes=3")
    assert told.exit_code == 2, told.output
    assert "3 processes with batches of 4 cannot make the 8 rows" in told.output
