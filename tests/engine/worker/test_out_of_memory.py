"""Trainers that really run out of memory under `hardware.memory_limit`: what they tell, and what they keep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from engine.checks import write_spec
from engine.runs import control
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.limit import keep_within_limit
from engine.worker.process_memory import own_memory
from tests.engine.worker.training import events_of, fit, new_run, steps_of, train, write_rows

MakeSpec = Callable[..., RunSpec]

MIB = 2**20
LIMIT = "740MiB"
LIMIT_BYTES = 740 * MIB
"""The libraries take 500 of it, and a step of short rows 60."""


def test_memory_that_runs_out_in_a_step_costs_that_step_alone(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    # The second pass of the third step wants 160 MB for the scores of each layer. Dropout draws random numbers before.
    answers = ["short"] * 10 + ["long " * 320] * 2 + ["short"] * 4
    rows = write_rows(tmp_path / "rows.jsonl", answers)

    def spec(**hardware: Any) -> RunSpec:
        return tiny_spec(
            model={"attn_implementation": "eager"},
            data={"train": rows, "max_length": 4000},
            training={
                "max_steps": 4,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "activation_checkpointing": False,
                "train_sampling_strategy": "sequential",
                "learning_rate": 1e-2,
                "save_strategy": "no",
            },
            hardware=hardware,
        )

    whole = new_run(tmp_path / "whole", spec())
    assert train(whole) == 0
    run = new_run(tmp_path / "run", spec(memory_limit=LIMIT))
    control.send(run.control_folder, "evaluate")

    assert train(run) == 3, run.log_path.read_text()

    (oom,) = events_of(run, "oom")
    assert (oom["phase"], oom["step"], oom["preflight"]) == ("forward", 3, False)
    rows_of_batch, tokens = oom["batch_shape"]
    assert (rows_of_batch, oom["longest_row_tokens"]) == (2, tokens)
    assert tokens > 1600
    assert oom["raised_by"] == "cpu-allocator"
    assert "DefaultCPUAllocator" in oom["message"]
    assert (oom["allocated_bytes"], oom["reserved_bytes"], oom["snapshot"], oom["others"]) == (None, None, None, [])
    assert oom["other_processes_bytes"] > 0
    assert_met_the_limit(oom)
    parts = oom["held_by"]
    assert set(parts) == {"weights", "adapters", "gradients", "optimizer", "activations", "context"}
    assert parts["adapters"] == parts["gradients"] == 14_336 * 2, "the first pass had left its gradients"
    assert parts["activations"] > 50 * MIB
    (error,) = events_of(run, "error")
    assert error["message"] == (
        f"Out of memory in the forward pass at step 3, on a batch of 2 rows x {tokens:,} tokens."
    )
    assert [event["code"] for event in events_of(run, "warning")] == ["nothing-held-out"], "it was asked to evaluate"
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2"], "the two steps before are not kept"
    assert checkpoint_events(run) == [2]

    run.spec_path.write_text(write_spec(spec()))
    assert train(run) == 0
    assert steps_of(run) == steps_of(whole)


def assert_met_the_limit(oom: dict[str, Any]) -> None:
    """Memory ran out where the limit is, and the event says how much was held then."""
    assert oom["capacity_bytes"] == LIMIT_BYTES
    assert oom["held_bytes"] <= LIMIT_BYTES * 1.03
    assert oom["held_bytes"] + oom["requested_bytes"] >= LIMIT_BYTES * 0.94
    assert sum(oom["held_by"].values()) == oom["held_bytes"]


def checkpoint_events(run: Run) -> list[int]:
    return [event["step"] for event in events_of(run, "checkpoint")]


def test_in_the_preflight_it_is_known_before_anything_was_trained(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ["short"] * 40 + ["long " * 440] * 2)
    run = new_run(
        tmp_path / "run",
        tiny_spec(
            model={"attn_implementation": "eager"},
            data={"train": rows, "max_length": 4000},
            hardware={"memory_limit": LIMIT, "preflight": True},
        ),
    )

    assert train(run) == 3, run.log_path.read_text()

    (oom,) = events_of(run, "oom")
    assert (oom["preflight"], oom["phase"], oom["step"], oom["batch_shape"][0]) == (True, "forward", 1, 4)
    assert_met_the_limit(oom)
    (error,) = events_of(run, "error")
    assert error["message"].startswith(
        "Out of memory in the preflight, in the forward pass of the largest batch, 4 rows"
    )
    assert error["message"].endswith("nothing was trained yet.")
    assert events_of(run, "step", "checkpoint") == []
    assert run.checkpoints() == []
    assert not list(run.folder.glob(".preflight-*"))


def test_an_evaluation_that_does_not_fit_costs_nothing_that_was_trained(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    held_out = write_rows(tmp_path / "held-out.jsonl", ["long " * 300] * 8)

    def spec(eval_batch: int, **hardware: Any) -> RunSpec:
        return tiny_spec(
            model={"attn_implementation": "eager"},
            data={"eval": held_out, "max_length": 4000},
            training={"max_steps": 2, "per_device_eval_batch_size": eval_batch, "save_strategy": "no"},
            hardware=hardware,
        )

    run = new_run(tmp_path / "run", spec(8, memory_limit=LIMIT))
    control.send(run.control_folder, "evaluate")  # waits until the first step is over

    assert train(run) == 3, run.log_path.read_text()

    (oom,) = events_of(run, "oom")
    assert (oom["phase"], oom["step"], oom["batch_shape"][0]) == ("eval", 1, 8)
    assert_met_the_limit(oom)
    (error,) = events_of(run, "error")
    assert error["message"].startswith("Out of memory in the evaluation at step 1, on a batch of 8 rows x 1,5")
    assert "per_device_eval_batch_size" in error["hint"]
    assert checkpoint_events(run) == [1]

    run.spec_path.write_text(write_spec(spec(1)))
    assert fit(run)
    assert list(steps_of(run)) == [1, 2]
    assert [event["step"] for event in events_of(run, "eval")] == [2]


def test_a_model_that_does_not_fit_is_told_as_such(tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path) -> None:
    folder = larger_model(tiny_model, tmp_path)
    run = new_run(tmp_path / "run", tiny_spec(model={"name_or_path": str(folder)}, hardware={"memory_limit": LIMIT}))

    assert train(run) == 3, run.log_path.read_text()

    (oom,) = events_of(run, "oom")
    assert (oom["phase"], oom["step"], oom["batch_shape"]) == ("load", 0, None)
    assert set(oom["held_by"]) == {"weights", "context"}
    assert oom["held_bytes"] <= LIMIT_BYTES * 1.03
    assert events_of(run, "error")[0]["message"].startswith("Out of memory while loading the model: ")
    assert events_of(run, "state")[-1]["cause"] == "oom"


def larger_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A Llama whose weights take 490 MiB of disk, and of memory while they are read; all zeros."""
    folder = tmp_path / "larger"
    shutil.copytree(tiny_model, folder)
    config = LlamaConfig.from_pretrained(tiny_model)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 1024, 2816, 20
    config.num_attention_heads = config.num_key_value_heads = 8
    config.head_dim = 128
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = LlamaForCausalLM(config).state_dict()
    weights = {name: torch.zeros(like.shape, dtype=torch.bfloat16) for name, like in names.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_limit_that_the_libraries_alone_exceed_is_refused_with_the_least_that_works(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(hardware={"memory_limit": "256MiB"})
    with pytest.raises(BadSpec, match="the other libraries take") as refused:
        keep_within_limit(spec)
    least = int(refused.value.hint.split("MiB")[0].rpartition(" ")[2])
    resident = own_memory().resident_bytes // MIB
    assert resident < least < resident + 100
    keep_within_limit(tiny_spec())  # none is asked for
