"""FSDP on the CPU: real processes share a real model over gloo, by torch's own sharding and accelerate's launcher."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from engine.checks import InvalidSpec, impossible_combinations, typed_spec
from engine.prepare import for_device
from engine.runs.accelerating import accelerated
from engine.runs.launch import continue_run, launch
from engine.runs.lineage import changed_spec
from engine.runs.ranks import read_record
from engine.runs.store import Run, checkpoint_step, create_run
from engine.spec import RunSpec
from tests.conftest import losses, wait_for_end, wait_for_step
from tests.engine.worker.training import events_of, fit, new_run, write_rows

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("no_run_outlives")


@pytest.fixture(scope="module")
def uneven_rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """27 rows, 22 of them to train on."""
    path = tmp_path_factory.mktemp("uneven") / "rows.jsonl"
    return write_rows(path, ["x" * (1 + number * 7 % 40) for number in range(27)])


def spec_of(make: MakeSpec, rows: str, processes: int, **sections: dict[str, Any]) -> RunSpec:
    """Steps of 8 rows, by two processes that share the model or by one that has it."""
    of_all: dict[str, dict[str, Any]] = {
        "quantization": {"bnb_4bit_quant_storage": "bfloat16"},
        "lora": {"lora_dropout": 0.0, "target_modules": "all-linear"},
        "data": {"train": rows, "eval_fraction": 0.2},
        "training": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4 // processes,
            "per_device_eval_batch_size": 2,
            "learning_rate": 2e-3,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        },
        "hardware": {"num_processes": processes, "strategy": "fsdp" if processes > 1 else "none"},
    }
    return make(**{name: {**values, **sections.get(name, {})} for name, values in of_all.items()})


def assert_same_adapter(one: Run, other: Run) -> None:
    mine, yours = (load_file(run.adapter_folder / "adapter_model.safetensors") for run in (one, other))
    assert mine.keys() == yours.keys()
    assert len(mine) >= 2 * 7 * 2
    for name, tensor in mine.items():
        assert (tensor.dtype, tensor.shape) == (yours[name].dtype, yours[name].shape)
        assert (tensor - yours[name]).abs().max() < 2e-3, name


def test_a_quantized_model_is_trained_as_by_one_process_and_goes_on_after_one_is_killed(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path
) -> None:
    def spec(processes: int, steps: int, save: str = "no") -> RunSpec:
        saving = {"save_strategy": save, "save_steps": 2 if save == "steps" else None}
        return spec_of(tiny_spec, uneven_rows, processes, training={"max_steps": steps, **saving})

    killed = launch(spec(2, 100_000, "steps"))
    wait_for_step(killed, 5)
    record = read_record(killed, 1)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    status = wait_for_end(killed, 10)
    assert (status.state, status.cause) == ("failed", "killed"), (status, killed.log_path.read_text())
    assert status.message.startswith("Rank 1 was killed by signal 9 (SIGKILL).")
    checkpoint = killed.newest_checkpoint()
    assert checkpoint is not None
    saved = checkpoint_step(checkpoint)
    assert saved % 2 == 0, "a checkpoint of a step of which one process' share is lost"
    last = saved + 3

    child = continue_run(killed, {"training.max_steps": last, "training.save_strategy": "no"})
    assert wait_for_end(child).state == "finished", child.log_path.read_text()
    alone = new_run(tmp_path / "alone", spec(1, last))
    assert fit(alone)
    before, after, whole = losses(killed), losses(child), losses(alone)
    assert list(after) == list(range(saved + 1, last + 1))
    assert {**{step: before[step] for step in range(1, saved + 1)}, **after} == pytest.approx(whole, abs=1e-3)
    assert_same_adapter(child, alone)
    assert [event["eval_loss"] for event in events_of(child, "eval")] == pytest.approx(
        [event["eval_loss"] for event in events_of(alone, "eval")], abs=1e-3
    )
    (plan,), (single,) = events_of(child, "plan"), events_of(alone, "plan")
    same = ("effective_batch_size", "trainable_parameters", "total_parameters")
    assert [plan[name] for name in same] == [single[name] for name in same]

    # Checkpoints are those of any strategy: one process goes on from what two had shared.
    fewer = new_run(tmp_path / "fewer", spec(1, last))
    shutil.copytree(checkpoint, fewer.checkpoints_folder / checkpoint.name)
    assert fit(fewer)
    assert losses(fewer) == pytest.approx({step: whole[step] for step in after}, abs=1e-3)


def test_the_best_adapter_of_an_unquantized_model_is_kept(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path
) -> None:
    def spec(processes: int) -> RunSpec:
        return spec_of(
            tiny_spec,
            uneven_rows,
            processes,
            quantization={"load_in": "none"},
            lora={"use_dora": True},
            training={
                "max_steps": 2,
                "learning_rate": 8.0,  # the second step is worse than the first
                "eval_strategy": "steps",
                "eval_steps": 1,
                "save_strategy": "steps",
                "save_steps": 2,
                "load_best_model_at_end": True,
            },
            hardware={"preflight": True, "num_processes": processes, "strategy": "fsdp" if processes > 1 else "none"},
        )

    several, alone = launch(spec(2)), new_run(tmp_path / "alone", spec(1))
    assert fit(alone)
    assert wait_for_end(several).state == "finished", several.log_path.read_text()
    assert events_of(several, "warning") == []
    assert losses(several)[1] == pytest.approx(losses(alone)[1], abs=1e-3)
    (kept,), (single,) = events_of(several, "kept"), events_of(alone, "kept")
    assert kept["step"] == single["step"] == 1
    best = several.checkpoints_folder / "checkpoint-1"
    mine, saved = (load_file(folder / "adapter_model.safetensors") for folder in (several.adapter_folder, best))
    assert mine.keys() == saved.keys()
    assert all(bool((tensor == saved[name]).all()) for name, tensor in mine.items())


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"hardware": {"num_processes": 1}}, "fsdp shares the model among processes, and there is one"),
        ({"quantization": {"load_in": "8bit"}}, "int8 weights are none; write 4bit"),
        ({"quantization": {"bnb_4bit_quant_storage": "uint8"}}, "bfloat16, not uint8; leave it unset"),
        ({"model": {"dtype": "float32"}}, "model.dtype: fsdp shares a layer's norms with its 4-bit weights"),
        ({"training": {"optim": "paged_adamw_32bit"}}, "memory of bitsandbytes' own"),
        ({"training": {"optim": "adamw_8bit"}}, "blocks of 256 numbers that shares would cut"),
        ({"training": {"optim": "adafactor"}}, "adafactor does not treat every number by itself"),
        ({"training": {"activation_offloading": True}}, "it would take gathered weights for activations"),
        ({"lora": {"use_dora": True}}, "DoRA reads a 4-bit weight past its layer"),
        ({"lora": {"bias": "all"}}, "all trains biases in it; write none"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "lora.modules_to_save: fsdp shares"),
        ({"lora": {"target_parameters": ["experts.down_proj"]}}, "lora.target_parameters: adapters on bare parameters"),
        ({"data": {"sample_prompts": ["Hello"]}}, "data.sample_prompts: the process that answers would need the whole"),
    ],
)
def test_what_cannot_be_shared_is_told_with_its_reason(
    tiny_spec: MakeSpec, uneven_rows: str, sections: dict[str, dict[str, Any]], words: str
) -> None:
    raw = spec_of(tiny_spec, uneven_rows, 2).model_dump(exclude={"parent"})
    assert list(impossible_combinations(typed_spec(raw))) == []
    for section, values in sections.items():
        raw[section] |= values
    assert words in "\n".join(map(str, impossible_combinations(typed_spec(raw))))


def test_float16_is_refused_where_a_gpu_has_nothing_else(tiny_spec: MakeSpec, uneven_rows: str) -> None:
    raw = spec_of(tiny_spec, uneven_rows, 2).model_dump(exclude={"parent"})
    raw["hardware"]["device"] = "cuda"
    raw["training"] |= {"bf16": None, "fp16": None}
    raw["quantization"] |= {"bnb_4bit_quant_storage": None, "bnb_4bit_compute_dtype": "auto"}
    raw["model"]["dtype"] = "auto"
    resolved = for_device(typed_spec(raw), "cuda:0", has_bf16=False)
    assert resolved.quantization.bnb_4bit_quant_storage == "float16"
    (problem,) = impossible_combinations(resolved)
    assert problem.field == "training.fp16"


def test_what_is_left_open_is_chosen_for_fsdp(tiny_spec: MakeSpec, uneven_rows: str) -> None:
    raw = spec_of(tiny_spec, uneven_rows, 2).model_dump(exclude={"parent"})
    raw["hardware"]["device"] = "cuda"
    raw["training"]["optim"] = "auto"
    raw["quantization"]["bnb_4bit_quant_storage"] = None
    for strategy, storage, optim in (
        ("fsdp", "bfloat16", "adamw_torch"),
        ("ddp", "uint8", "paged_adamw_32bit"),
        (None, "uint8", "paged_adamw_32bit"),
    ):
        raw["hardware"]["strategy"] = strategy
        resolved = for_device(typed_spec(raw), "cuda:0", has_bf16=True)
        assert resolved.quantization.bnb_4bit_quant_storage == storage
        assert resolved.training.optim == optim
        assert resolved.hardware.strategy == strategy or strategy is None
        assert list(impossible_combinations(resolved)) == []


def test_a_run_that_goes_on_with_other_processes_keeps_or_changes_its_strategy(
    tiny_spec: MakeSpec, uneven_rows: str
) -> None:
    shared = spec_of(tiny_spec, uneven_rows, 2)
    four = changed_spec(shared, {"hardware.num_processes": 4})
    assert (four.hardware.strategy, four.effective_batch_size) == ("fsdp", 8)
    one = changed_spec(shared, {"hardware.num_processes": 1})
    assert (one.hardware.strategy, one.effective_batch_size) == ("none", 8)
    copies = changed_spec(shared, {"hardware.strategy": "ddp", "quantization.bnb_4bit_quant_storage": "uint8"})
    again = changed_spec(copies, {"hardware.strategy": "fsdp"})
    assert again.quantization.bnb_4bit_quant_storage == "bfloat16"
    with pytest.raises(InvalidSpec, match="not uint8"):
        changed_spec(copies, {"hardware.strategy": "fsdp", "quantization.bnb_4bit_quant_storage": "uint8"})


def test_accelerate_is_told_all_of_it_by_its_config_file(tiny_spec: MakeSpec, uneven_rows: str) -> None:
    run = create_run("tiny")
    accelerated(run, spec_of(tiny_spec, uneven_rows, 2))
    config = yaml.safe_load((run.folder / "accelerate.yaml").read_text())
    assert (config["distributed_type"], config["num_processes"]) == ("FSDP", 2)
    assert config["fsdp_config"] == {
        "fsdp_version": 1,
        "fsdp_sharding_strategy": "FULL_SHARD",
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_use_orig_params": False,
        "fsdp_backward_prefetch": "BACKWARD_PRE",
        "fsdp_forward_prefetch": False,
        "fsdp_offload_params": False,
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_sync_module_states": False,
        "fsdp_activation_checkpointing": False,
    }
