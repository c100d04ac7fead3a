"""A GPU for each process: what is chosen, and what is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.checks import InvalidSpec, impossible_combinations, typed_spec
from engine.hardware import Gpu
from engine.prepare import on_gpus
from engine.runs.accelerating import accelerated, environment_of_several
from engine.runs.store import create_run
from engine.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
FOUR = [Gpu(index, "NVIDIA A100", f"GPU-{index}", 40 * 2**30, (8, 0)) for index in (0, 1, 3, 5)]
UNRESOLVED = {"bf16": None, "fp16": None, "optim": "auto"}


def chosen(make: MakeSpec, gpus: list[Gpu] = FOUR, **hardware: Any) -> RunSpec:
    return on_gpus(make(training=UNRESOLVED, hardware=hardware), gpus)


def test_the_first_gpus_are_taken_or_those_that_are_named(tiny_spec: MakeSpec) -> None:
    first = chosen(tiny_spec, device="cuda", num_processes=3).hardware
    assert (first.device, first.gpu_ids, first.strategy) == ("cuda:0", [0, 1, 3], "ddp")
    later = chosen(tiny_spec, device="cuda:2", num_processes=2).hardware
    assert (later.device, later.gpu_ids) == ("cuda:3", [3, 5])
    named = chosen(tiny_spec, device="cuda", num_processes=2, gpu_ids=[5, 1])
    assert (named.hardware.device, named.hardware.gpu_ids) == ("cuda:5", [5, 1])
    assert environment_of_several(named, {})["CUDA_VISIBLE_DEVICES"] == "5,1"
    alone = chosen(tiny_spec, device="cuda").hardware
    assert (alone.device, alone.gpu_ids, alone.strategy) == ("cuda:0", [], "none")


@pytest.mark.parametrize(
    ("gpus", "hardware", "words"),
    [
        (FOUR, {"device": "cuda", "num_processes": 5}, "num_processes: 5 processes need a GPU each, .* has 4 GPUs"),
        (FOUR, {"device": "cuda:3", "num_processes": 2}, "4 GPUs, 1 of them from cuda:3 on; write 1"),
        (
            FOUR,
            {"device": "cuda", "num_processes": 2, "gpu_ids": [0, 2]},
            "gpu_ids: 2 asked for, .*there are 0, 1, 3, 5",
        ),
        ([], {"device": "cuda", "num_processes": 2}, "no NVIDIA GPU; write device: cpu"),
    ],
)
def test_gpus_that_the_machine_lacks_are_told(
    tiny_spec: MakeSpec, gpus: list[Gpu], hardware: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        chosen(tiny_spec, gpus, **hardware)


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"device": "cpu", "num_processes": 2, "strategy": "none"}, "none is for one process"),
        ({"device": "cpu", "gpu_ids": [0]}, "device is cpu, which has no GPUs"),
        ({"device": "cuda", "num_processes": 2, "gpu_ids": [1, 1]}, "names a GPU twice"),
        ({"device": "cuda", "num_processes": 3, "gpu_ids": [0, 1]}, "2 GPUs for 3 processes; write num_processes: 2"),
        ({"device": "cuda:1", "num_processes": 2, "gpu_ids": [0, 1]}, "does not begin with device: cuda:1"),
        (
            {"device": "cuda", "num_processes": 4, "launcher": "slurm", "slurm": {"gpus": "a100:2"}},
            "the job asks for 2 GPUs, and num_processes is 4; write gpus: 4",
        ),
    ],
)
def test_what_does_not_go_together_is_told(tiny_spec: MakeSpec, hardware: dict[str, Any], words: str) -> None:
    spec = typed_spec(tiny_spec().model_dump(exclude={"parent", "hardware"}) | {"hardware": hardware})
    assert words in "\n".join(map(str, impossible_combinations(spec)))


def test_a_strategy_that_is_not_there_is_refused(tiny_spec: MakeSpec) -> None:
    with pytest.raises(InvalidSpec, match="strategy: should be 'none', 'ddp' or 'fsdp', not 'zero3'"):
        tiny_spec(hardware={"num_processes": 2, "strategy": "zero3"})


def test_the_run_folder_holds_the_config_of_accelerate(tiny_spec: MakeSpec) -> None:
    run = create_run("tiny")
    command = accelerated(run, tiny_spec(hardware={"num_processes": 2}))
    config = (run.folder / "accelerate.yaml").read_text()
    assert command[-4:] == ["-m", "engine.worker", "train", str(run.folder)]
    assert "num_processes: 2" in config
    assert "main_process_ip: 127.0.0.1" in config
