"""Who held the memory: measured from tensors that are there, and adding up to what was held."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import get_peft_model

from engine.spec import RunSpec
from engine.worker.holdings import Part, tensor_bytes
from engine.worker.model import load_model, lora_config
from engine.worker.oom_event import Held, held_by, held_on_gpu, let_go
from engine.worker.process_memory import forget_peak, own_memory
from tests.engine.worker.test_oom import CUDA, GIB, MIB, raised

MakeSpec = Callable[..., RunSpec]


def test_tensors_are_counted_once_and_by_what_they_are_for(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec()
    base = load_model(spec)
    packed = sum(weight.in_features * weight.out_features // 2 for weight in linears(base))
    others = sum(p.numel() * 2 for p in base.parameters() if p.dtype == torch.bfloat16)
    model = get_peft_model(base, lora_config(spec.lora)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    trained = model.get_nb_trainable_parameters()[0]

    before = tensor_bytes(model, optimizer)
    assert (before["adapters"], before["gradients"], before["optimizer"]) == (trained * 2, 0, 0)
    # Double quantization: 8 bits for 64 weights, and a little more for 256 of those.
    assert packed + others + packed // 32 <= before["weights"] < (packed + others) * 1.1 + 16 * 1024

    ids = torch.arange(3, 35).reshape(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    assert tensor_bytes(model, optimizer) == {**before, "gradients": trained * 2}
    optimizer.step()
    counters = 4 * sum(p.requires_grad for p in model.parameters())
    assert tensor_bytes(model, optimizer)["optimizer"] == 2 * trained * 2 + counters
    model.zero_grad()
    assert tensor_bytes(model, optimizer)["gradients"] == 0


def linears(model: torch.nn.Module) -> list[Linear4bit]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def test_a_storage_that_two_share_counts_once() -> None:
    tied = torch.nn.Linear(8, 8, bias=False)
    other = torch.nn.Linear(8, 8, bias=False)
    other.weight = torch.nn.Parameter(tied.weight.detach(), requires_grad=False)
    sizes = tensor_bytes(torch.nn.ModuleList([tied, other]), None)
    assert sizes == {"weights": 0, "adapters": 256, "gradients": 0, "optimizer": 0}


KNOWN: dict[Part, int] = {"weights": 5 * GIB, "adapters": GIB // 8, "gradients": GIB // 8, "optimizer": GIB // 4}


@pytest.mark.parametrize(
    ("held", "known", "rest", "expected"),
    [
        (
            Held(11 * GIB, GIB, 9 * GIB, 10 * GIB),
            KNOWN,
            "activations",
            {**KNOWN, "activations": 7 * GIB // 2, "cache": GIB, "context": GIB},
        ),
        (Held(3 * GIB, GIB // 2), {}, "weights", {"weights": 5 * GIB // 2, "context": GIB // 2}),
        # Measured later than it was held: what is known stays, and the rest is nothing.
        (Held(6 * GIB, GIB), KNOWN, "activations", {**KNOWN, "activations": 0, "context": GIB // 2}),
    ],
    ids=["gpu", "loading on the CPU", "known is more than held"],
)
def test_the_parts_add_up_to_what_was_held(
    held: Held, known: dict[Part, int], rest: Part, expected: dict[Part, int]
) -> None:
    parts = held_by(held, known, rest)
    assert parts == expected
    assert sum(parts.values()) == held.total_bytes


def test_on_a_gpu_the_sizes_are_those_of_the_moment_of_the_failure() -> None:
    held = held_on_gpu(CUDA, "cuda:0")
    assert held.allocated_bytes == pytest.approx(10.20 * GIB, rel=1e-6)
    assert held.reserved_bytes == pytest.approx(10.20 * GIB + 318.5 * MIB, rel=1e-6)
    assert held.total_bytes == pytest.approx(10.91 * GIB, rel=1e-6)
    assert held.context_bytes == held.total_bytes - held.reserved_bytes


def test_letting_go_frees_what_only_the_failed_step_holds() -> None:
    def forward() -> None:
        activations = torch.ones(64 * MIB)
        activations @ torch.ones(3)

    error = raised(forward)
    before = own_memory().resident_bytes
    assert before > 256 * MIB
    let_go(error, None)
    assert own_memory().resident_bytes < before - 200 * MIB


def test_a_peak_can_be_forgotten() -> None:
    block = torch.ones(64 * MIB)
    del block
    memory = own_memory()
    assert memory.peak_resident_bytes > memory.resident_bytes + 200 * MIB
    if not forget_peak():
        pytest.skip("this kernel keeps the peak")
    memory = own_memory()
    assert memory.peak_resident_bytes < memory.resident_bytes + 50 * MIB
