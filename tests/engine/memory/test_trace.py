"""What a trace says of small models, and that it follows the libraries. Each runs in a fork of a real inspector."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.inspector import Inspector, InspectorError, RequestRefused
from engine.memory.request import Batch, TraceRequest
from tests.engine.memory.tracing import AMPERE, HOPPER, LLAMA, MIXTRAL, TURING, request_of

MIB = 2**20


def trace(inspector: Inspector, request: TraceRequest) -> dict[str, Any]:
    answer: dict[str, Any] = inspector.request("trace", 120, request=request.to_json())
    return answer


@pytest.fixture
def traced(inspector: Inspector, tmp_path: Path) -> Any:
    """Traces a small Llama, or `config`, with changes to its spec."""

    def run(**options: Any) -> dict[str, Any]:
        return trace(inspector, request_of(tmp_path, **options))

    return run


def test_a_request_survives_json(tmp_path: Path) -> None:
    batch = Batch(2, 64, padded=True, packed_lengths=(40, 24))
    request = replace(request_of(tmp_path, lora__r=8), evaluation=batch, layers=2)
    assert TraceRequest.from_json(request.to_json()) == request


def test_phases_and_categories_are_told_apart_and_add_up(traced: Any) -> None:
    told = traced(batch=Batch(2, 64, padded=True))
    assert set(told["phases"]) == {"load", "forward", "backward", "optimizer"}
    assert told["allocated_bytes"] == max(told["phases"][name] for name in ("forward", "backward", "optimizer"))
    assert sum(told["categories"].values()) == told["allocated_bytes"]
    assert told["allocated_bytes"] <= told["least_bytes"] <= told["reserved_bytes"]


def test_adapters_gradients_and_optimizer_state_have_the_sizes_that_the_libraries_give_them(traced: Any) -> None:
    told = traced(batch=Batch(1, 8))["categories"]
    numbers = LLAMA["num_hidden_layers"] * 16 * sum((256 + out) for out in (256, 128, 128, 256))
    # bf16 on a quantized base (trl); blocks of 512 bytes round each of them up a little
    assert numbers * 2 <= told["adapters"] <= numbers * 2 * 1.05
    assert numbers * 4 <= told["optimizer"] <= numbers * 4 * 1.1


def test_two_cublas_workspaces_are_held_forwards_and_backwards(traced: Any) -> None:
    ampere, hopper = traced(capability=AMPERE), traced(capability=HOPPER)
    more = hopper["allocated_bytes"] - ampere["allocated_bytes"]
    assert more == pytest.approx(2 * (32 * MIB - 8_519_680), abs=MIB)


def test_checkpointing_trades_memory(traced: Any) -> None:
    batch = Batch(4, 256)
    off = traced(batch=batch, training__activation_checkpointing=False)
    assert traced(batch=batch)["allocated_bytes"] < off["allocated_bytes"]


def test_without_flash_attention_groups_of_heads_are_expanded(traced: Any) -> None:
    batch, settings = Batch(4, 256), {"training__activation_checkpointing": False}
    half = {"training__fp16": True, "training__bf16": False, "model__dtype": "float16"}
    turing = traced(capability=TURING, batch=batch, **settings, **half, quantization__bnb_4bit_compute_dtype="float16")
    assert turing["allocated_bytes"] > traced(batch=batch, **settings)["allocated_bytes"]


def test_eager_attention_keeps_the_whole_matrix(traced: Any) -> None:
    batch, settings = Batch(4, 256), {"training__activation_checkpointing": False}
    eager = traced(batch=batch, model__attn_implementation="eager", **settings)
    matrices = LLAMA["num_hidden_layers"] * 4 * 8 * 256 * 256 * 2
    assert eager["allocated_bytes"] - traced(batch=batch, **settings)["allocated_bytes"] > matrices


def test_a_padding_mask_costs_what_no_mask_does_not(traced: Any) -> None:
    settings = {"training__activation_checkpointing": False}
    padded = traced(batch=Batch(4, 256, padded=True), **settings)
    assert padded["allocated_bytes"] > traced(batch=Batch(4, 256), **settings)["allocated_bytes"]


def test_on_a_gpu_the_loss_expands_only_labelled_rows(traced: Any) -> None:
    every, few = (traced(batch=Batch(4, 256, labelled_share=share)) for share in (1.0, 0.05))
    assert few["phases"]["forward"] < every["phases"]["forward"]


def test_on_the_cpu_the_loss_is_computed_by_other_code(traced: Any) -> None:
    batch = Batch(8, 256)
    assert traced(capability=None, batch=batch)["allocated_bytes"] > 2 * traced(batch=batch)["allocated_bytes"]


@pytest.mark.parametrize(
    ("optim", "state_bytes"), [("adamw_torch", 4), ("adamw_8bit", 2), ("lion_8bit", 1), ("sgd", 0), ("ademamix", 12)]
)
def test_optimizers_take_the_bytes_a_number_that_they_are_known_for(traced: Any, optim: str, state_bytes: int) -> None:
    told = traced(training__optim=optim, lora__r=64)["categories"]
    numbers = told["adapters"] / 2
    assert told.get("optimizer", 0) == pytest.approx(numbers * state_bytes, rel=0.1, abs=4096)


def test_only_large_states_are_paged(traced: Any) -> None:
    # bitsandbytes pages what has 100,000 numbers and more: of rank 256, A and B of most modules, of rank 16 none
    assert traced(training__optim="paged_adamw_32bit")["paged_bytes"] == 0
    assert traced(training__optim="paged_adamw_32bit", lora__r=512)["paged_bytes"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"lora__use_dora": True},
        {"lora__modules_to_save": ["lm_head"]},
        {"model__dtype": "float32", "quantization__bnb_4bit_compute_dtype": "float32", "training__bf16": False},
        {"quantization__load_in": "none"},
        {"quantization__bnb_4bit_use_double_quant": False},
    ],
    ids=["dora", "a module in full", "float32", "not quantized", "no double quantization"],
)
def test_what_takes_more_is_traced_as_more(traced: Any, settings: dict[str, Any]) -> None:
    assert traced(**settings)["allocated_bytes"] > traced()["allocated_bytes"]


@pytest.mark.parametrize(
    "settings",
    [
        {"lora__use_rslora": True},
        {"quantization__bnb_4bit_quant_type": "fp4"},
        {"quantization__bnb_4bit_quant_storage": "bfloat16"},
        {"training__loss_type": "dft"},
        {"training__optim": "adafactor"},
        {"training__optim": "paged_ademamix_8bit"},
        {"training__neftune_noise_alpha": 5.0},
        {"training__max_grad_norm": 0.0},
        {"model__attn_implementation": "flash_attention_2"},
        {"training__gradient_accumulation_steps": 4},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_setting_can_be_traced(traced: Any, settings: dict[str, Any]) -> None:
    assert traced(**settings)["allocated_bytes"] > 0


def test_packed_rows_are_traced_as_trl_joins_them(traced: Any) -> None:
    batch = Batch(2, 64, packed_lengths=(40, 24))
    assert traced(batch=batch, data__packing=True, data__max_length=64)["allocated_bytes"] > 0


def test_fused_experts_can_be_adapted(traced: Any) -> None:
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = traced(config=MIXTRAL, lora__target_parameters=experts, lora__lora_dropout=0.0)
    assert adapted["categories"]["adapters"] > traced(config=MIXTRAL)["categories"]["adapters"]


def test_evaluation_is_a_phase_of_its_own(inspector: Inspector, tmp_path: Path) -> None:
    request = replace(request_of(tmp_path), evaluation=Batch(16, 64))
    told = trace(inspector, request)
    assert told["phases"]["evaluation"] > told["phases"]["forward"]
    assert told["allocated_bytes"] == told["phases"]["evaluation"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"quantization__load_in": "8bit"}, "int8"), ({"training__activation_offloading": True}, "offloading")],
)
def test_what_cannot_be_traced_is_refused_with_its_reason(traced: Any, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestRefused, match=reason):
        traced(**settings)


def test_an_impossible_model_is_an_error_that_names_it(inspector: Inspector, tmp_path: Path) -> None:
    with pytest.raises(InspectorError, match="head"):
        trace(inspector, request_of(tmp_path, config={**LLAMA, "num_attention_heads": 7, "head_dim": None}))
    assert trace(inspector, request_of(tmp_path))["allocated_bytes"] > 0


def test_a_trace_that_dies_leaves_the_inspector_alive(inspector: Inspector, tmp_path: Path) -> None:
    pid = inspector.pid
    killed: list[int] = []

    def kill_the_fork() -> None:
        deadline = time.monotonic() + 30
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process(pid).children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    killer = threading.Thread(target=kill_the_fork)
    killer.start()
    with pytest.raises(InspectorError, match="signal 9"):
        trace(inspector, request_of(tmp_path, config={**LLAMA, "num_hidden_layers": 24}))
    killer.join()
    assert inspector.pid == pid
    assert trace(inspector, request_of(tmp_path))["allocated_bytes"] > 0
