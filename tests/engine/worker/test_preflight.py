"""The preflight: the largest batches that the data will form, and nothing left of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import optim
from hypothesis import given
from hypothesis import strategies as st

import engine.worker.preflight
from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.data.run_data import load_data
from engine.worker.measured import Measured
from engine.worker.preflight import Preflight, begin_paged_state_anew, coming_batches, largest_batch
from engine.worker.requests import StopRequested
from engine.worker.train import Training
from tests.engine.worker.training import events_of, fit, new_run, steps_of, write_rows

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def uneven_rows(tmp_path: Path) -> str:
    """30 rows, the longest of them late."""
    return write_rows(
        tmp_path / "uneven.jsonl", [f"{'ab' * (1 + number % 11)}{'c' * (number == 23) * 40}" for number in range(30)]
    )


def test_losses_after_a_preflight_equal_those_without_bit_for_bit(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path
) -> None:
    def spec(preflight: bool) -> RunSpec:
        return tiny_spec(
            data={"train": uneven_rows, "eval_fraction": 0.2, "max_length": 200},
            training={
                "max_steps": 8,
                "gradient_accumulation_steps": 2,
                "train_sampling_strategy": "sequential",  # group_by_length begins with the longest
                "learning_rate": 1e-2,
                "eval_strategy": "steps",
                "eval_steps": 3,
                "eval_on_start": True,
                "save_strategy": "steps",
                "save_steps": 5,
            },
            hardware={"preflight": preflight},
        )

    plain = new_run(tmp_path / "plain", spec(False))
    tried = new_run(tmp_path / "tried", spec(True))
    resumed = new_run(tmp_path / "resumed", spec(True))
    assert fit(plain)
    assert fit(tried)
    assert steps_of(tried) == steps_of(plain)
    assert len(steps_of(plain)) == 8
    assert evaluations(tried) == evaluations(plain)

    shutil.copytree(plain.checkpoints_folder / "checkpoint-5", resumed.checkpoints_folder / "checkpoint-5")
    assert fit(resumed)
    assert steps_of(resumed) == {step: values for step, values in steps_of(plain).items() if step > 5}, (
        "what the checkpoint held was not put back"
    )

    states = [event["state"] for event in events_of(tried, "state")]
    assert states[:3] == ["loading", "preflight", "evaluating"] or states[:3] == ["loading", "preflight", "training"]
    assert "preflight" not in [event["state"] for event in events_of(plain, "state")]
    assert not list(tried.folder.glob(".preflight-*"))
    memory = events_of(tried, "memory")
    assert [(event["when"], event["step"]) for event in memory] == [("preflight", 0), ("first step", 1), ("end", 8)]
    longest = max(event["tokens"] for event in memory)
    assert memory[0]["tokens"] == longest, "the preflight's batch was not the largest"
    assert memory[1]["tokens"] < longest, "the first step's memory is told with the preflight's batch"


def evaluations(run: Run) -> list[tuple[int, float]]:
    return [(event["step"], event["eval_loss"]) for event in events_of(run, "eval")]


def test_a_fault_of_the_preflight_itself_does_not_cost_the_run(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(preflight: bool) -> RunSpec:
        return tiny_spec(data={"train": uneven_rows}, training={"max_steps": 3}, hardware={"preflight": preflight})

    def fail(self: Preflight) -> None:
        raise RuntimeError("[red]an odd thing")

    plain, faulty = new_run(tmp_path / "plain", spec(False)), new_run(tmp_path / "faulty", spec(True))
    assert fit(plain)
    monkeypatch.setattr(Preflight, "_save", fail)
    assert fit(faulty)
    assert steps_of(faulty) == steps_of(plain)
    (told,) = [event for event in events_of(faulty, "warning") if event["code"] == "preflight-given-up"]
    assert "an odd thing" in told["message"]


def test_a_stop_during_the_preflight_is_obeyed_and_leaves_nothing(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", tiny_spec(hardware={"preflight": True}))
    measured = Measured.begin_preflight

    def ask_for_a_stop(self: Measured) -> None:
        measured(self)
        control.send(run.control_folder, "stop")

    monkeypatch.setattr(Measured, "begin_preflight", ask_for_a_stop)
    with pytest.raises(StopRequested):
        fit(run)
    assert run.checkpoints() == []
    assert steps_of(run) == {}
    assert not list(run.folder.glob(".preflight-*"))


@pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length"])
def test_the_batches_looked_at_are_those_of_the_run(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path, strategy: str
) -> None:
    # Two epochs and a half of 8 batches, the last one short; three steps of the first are taken already.
    training: dict[str, Any] = {
        "max_steps": 10,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": strategy,
        "save_strategy": "no",
    }
    spec = tiny_spec(data={"train": uneven_rows, "max_length": 200}, training=training)
    run = new_run(tmp_path / strategy, spec)
    torch.set_num_threads(1)
    events = EventWriter(run.events_path)
    trainer = Training(run, events).set_up(spec, load_data(spec))
    seen: list[list[int]] = []
    step = trainer.training_step

    def note(model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
        seen.append(inputs["attention_mask"].sum(dim=1).tolist())
        loss: torch.Tensor = step(model, inputs, items)
        return loss

    trainer.training_step = note
    trainer.train()
    tokens = trainer.train_dataset.lengths.tolist()

    def lengths(steps_taken: int) -> list[list[int]]:
        trainer.state.global_step = steps_taken
        return [[tokens[row] for row in batch] for batch in coming_batches(trainer, trainer.get_train_dataloader())]

    trainer.state.max_steps = 10
    assert lengths(0) == seen
    assert lengths(3) == seen[6:]
    assert lengths(4) == seen[8:]
    assert lengths(9) == seen[18:]


@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=4), min_size=1, max_size=6), st.booleans())
def test_no_batch_is_larger_than_the_largest(batches: list[list[int]], padded: bool) -> None:
    tokens = [(7 * row) % 20 + 1 for row in range(20)]

    def size(batch: list[int]) -> int:
        lengths = [tokens[row] for row in batch]
        return len(lengths) * max(lengths) if padded else sum(lengths)

    chosen = largest_batch(iter(batches), tokens, 4, padded)
    assert chosen in batches
    assert size(chosen) == max(map(size, batches))


def test_of_equally_large_batches_the_one_with_the_least_padding_counts() -> None:
    assert largest_batch([[0, 1], [0, 2], [1, 1]], [10, 3, 8], 2) == [0, 2]


def test_of_more_rows_than_are_looked_at_the_longest_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.worker.preflight, "ROWS_LOOKED_AT", 4)
    tokens = [1, 1, 1, 1, 9, 1, 8]
    assert sorted(largest_batch([[0, 1], [2, 3], [4, 5], [6]], tokens, 2)) == [4, 6]
    assert largest_batch([[0, 1], [2, 3]], tokens, 2) == [0, 1], "these rows are all there is"


def test_packed_blocks_are_joined_and_not_padded(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(data={"packing": True, "max_length": 100}, training={"max_steps": 2}, hardware={"preflight": True})
    run = new_run(tmp_path / "run", spec)
    assert fit(run)
    tried, first, _ = events_of(run, "memory")
    assert tried["rows"] == 1
    assert tried["tokens"] >= first["tokens"] > 100, "one row that holds the blocks of a batch"


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(
    "kind", [optim.PagedAdamW32bit, optim.PagedAdamW8bit, optim.PagedLion8bit, optim.PagedAdEMAMix8bit]
)
def test_a_paged_optimizer_that_begins_anew_steps_like_a_new_one(kind: type[torch.optim.Optimizer]) -> None:
    def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, gradient: torch.Tensor) -> None:
        weight.grad = gradient.clone()
        optimizer.step()

    start, tried, *gradients = torch.randn(5, 128, 64, generator=torch.Generator().manual_seed(0))
    used, fresh = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer, other = kind([used], lr=1e-2), kind([fresh], lr=1e-2)
    step(used, optimizer, tried)
    begin_paged_state_anew(optimizer)
    used.data.copy_(start)
    for gradient in gradients:
        step(used, optimizer, gradient)
        step(fresh, other, gradient)
    assert torch.equal(used, fresh)
