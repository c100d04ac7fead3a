"""Starting several processes of one run: accelerate's config file, its command, and the environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

import yaml

from engine.machines.own import interface_of
from engine.runs.store import Run, write_atomically
from engine.spec import RunSpec

CONFIG_NAME = "accelerate.yaml"
FSDP_CONFIG = {
    "fsdp_version": 1,  # `engine.worker.sharding` says why
    "fsdp_sharding_strategy": "FULL_SHARD",
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # transformers puts PEFT's `fsdp_auto_wrap_policy` in its place
    "fsdp_use_orig_params": False,
    "fsdp_backward_prefetch": "BACKWARD_PRE",
    "fsdp_forward_prefetch": False,
    "fsdp_offload_params": False,
    # A quantized model is loaded by every process whatever this says: only its weights could be sent, not their scales.
    "fsdp_cpu_ram_efficient_loading": False,
    "fsdp_sync_module_states": False,
    "fsdp_activation_checkpointing": False,  # the trainer's own is used
}
SUPERVISOR_VARIABLE = "LORADECK_SUPERVISOR_PID"
"""Tells the processes of a run who has to live for them to go on: their parent is accelerate's launcher."""


def accelerated(run: Run, spec: RunSpec, main_port: int | None = None) -> list[str]:
    """Write accelerate's config of this start into the run folder. Returns the command. Raises OSError.

    `main_port` is what the machines have agreed on where there are several.
    """
    hardware = spec.hardware
    several = hardware.num_machines > 1
    config: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        # On the CPU too: with MULTI_CPU accelerate 1.15 starts a single process unless MPI is there.
        "distributed_type": "MULTI_GPU",
        "num_processes": hardware.num_processes,
        "num_machines": hardware.num_machines,
        "machine_rank": hardware.machine_rank or 0,
        "same_network": True,
        "gpu_ids": "all",
        "mixed_precision": "no",  # the trainer's own arguments say
        "main_process_ip": hardware.machines_in_order[0].address if several else "127.0.0.1",
        "main_process_port": main_port if main_port is not None else _free_port(),
        "rdzv_backend": "static",
        "use_cpu": False,
    }
    if spec.hardware.strategy == "fsdp":
        config |= {"distributed_type": "FSDP", "fsdp_config": FSDP_CONFIG}
    path = run.folder / CONFIG_NAME
    write_atomically(path, yaml.safe_dump(config, sort_keys=False).encode())
    launcher = [sys.executable, "-m", "engine.worker", "launch", "--config_file", str(path)]
    return [*launcher, "-m", "engine.worker", "train", str(run.folder)]


def environment_of_several(spec: RunSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """What the processes see beside a single trainer's environment."""
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.hardware.gpu_ids))}
    if spec.hardware.device == "cpu":
        variables = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    variables[SUPERVISOR_VARIABLE] = str(os.getpid())
    if (interface := _interface(spec)) is not None:
        # Of one machine nobody outside needs to reach them. NCCL takes a name for the beginning of one without the =.
        names = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
        variables |= {name: value for name, value in names.items() if name not in environment}
    if "OMP_NUM_THREADS" not in environment:
        variables["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // spec.hardware.processes_here))
    return variables


def _interface(spec: RunSpec) -> str | None:
    """The network interface that the processes listen at; None where the libraries have to find it."""
    hardware = spec.hardware
    if hardware.num_machines > 1:
        return interface_of(hardware.machines_in_order[hardware.machine_rank or 0])
    return "lo" if sys.platform == "linux" else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
