"""`load_best_model_at_end` and early stopping: which adapter a run leaves, and how that lives through stops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import load_peft_weights

from engine.runs import control
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.best import Best
from engine.worker.callbacks import Steering
from engine.worker.trainer import DeckTrainer
from tests.engine.worker.training import events_of, fit, new_run, steps_of, write_rows

MakeSpec = Callable[..., RunSpec]
OVERFITS: dict[str, Any] = {
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-2,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "random",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}
"""At this rate the held-out loss of other answers turns up after a few steps."""


@pytest.fixture
def overfitting(tiny_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """Makes a spec whose held-out rows get worse while the training rows are learnt by heart."""
    rows = write_rows(tmp_path / "rows.jsonl", ["aaaa bbbb" for _ in range(16)])
    held_out = write_rows(tmp_path / "held_out.jsonl", [f"{number * 7919} zyxw" for number in range(8)])

    def make(hardware: dict[str, Any] | None = None, **training: Any) -> RunSpec:
        return tiny_spec(
            data={"train": rows, "eval": held_out}, training={**OVERFITS, **training}, hardware=hardware or {}
        )

    return make


def evaluations(run: Run) -> dict[int, float]:
    return {event["step"]: event["eval_loss"] for event in events_of(run, "eval")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_peft_weights(str(folder), device="cpu")
    return loaded


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_the_run_ends_early_and_leaves_the_adapter_of_its_best_step(overfitting: MakeSpec, tmp_path: Path) -> None:
    run = new_run(
        tmp_path / "run",
        overfitting(
            hardware={"preflight": True},
            load_best_model_at_end=True,
            early_stopping_patience=2,
            save_total_limit=1,
        ),
    )
    assert fit(run)
    measured = evaluations(run)
    best = min(measured, key=measured.__getitem__)
    last = max(measured)
    assert 0 < best < last < 20, f"the data does not do what this test needs: {measured}"
    assert last == best + 2 * 2, "two evaluations without a better one"
    assert max(steps_of(run)) == last

    assert are_equal(weights(run.adapter_folder), weights(run.checkpoints_folder / f"checkpoint-{best}"))
    assert not are_equal(weights(run.adapter_folder), weights(run.checkpoints_folder / f"checkpoint-{last}"))
    assert [path.name for path in run.checkpoints()] == [f"checkpoint-{best}", f"checkpoint-{last}"], (
        "the best and the newest stay, whatever save_total_limit says"
    )
    so_far = [step for step in measured if measured[step] == min(loss for at, loss in measured.items() if at <= step)]
    assert [event["step"] for event in events_of(run, "best")] == so_far
    (early,) = events_of(run, "early_stop")
    assert (early["step"], early["best_step"], early["patience"]) == (last, best, 2)
    (kept,) = events_of(run, "kept")
    assert (kept["step"], kept["last_step"], kept["metric"], kept["value"]) == (best, last, "eval_loss", measured[best])


def test_training_is_the_same_with_and_without_a_best_step(overfitting: MakeSpec, tmp_path: Path) -> None:
    plain = new_run(tmp_path / "plain", overfitting(max_steps=8, eval_strategy="no", save_strategy="no"))
    compared = new_run(tmp_path / "compared", overfitting(max_steps=8, load_best_model_at_end=True))
    assert fit(plain)
    assert fit(compared)
    assert steps_of(compared) == steps_of(plain)


def test_a_resume_goes_on_with_the_best_step_and_with_patience(overfitting: MakeSpec, tmp_path: Path) -> None:
    spec = overfitting(load_best_model_at_end=True, early_stopping_patience=3)
    whole = new_run(tmp_path / "whole", spec)
    assert fit(whole)
    (early,) = events_of(whole, "early_stop")
    best, last = early["best_step"], early["step"]
    assert last == best + 3 * 2

    # One evaluation after the best, in another folder, as a run that continues another one: the best stays behind.
    child = new_run(tmp_path / "child", spec)
    began = f"checkpoint-{best + 2}"
    shutil.copytree(whole.checkpoints_folder / began, child.checkpoints_folder / began)
    assert fit(child)
    (again,) = events_of(child, "early_stop")
    assert (again["step"], again["best_step"]) == (last, best)
    assert are_equal(weights(child.adapter_folder), weights(whole.adapter_folder))
    assert steps_of(child) == {step: values for step, values in steps_of(whole).items() if step > best + 2}

    # From the very step at which it ended: nothing is left to train, and the end is the same.
    over = new_run(tmp_path / "over", spec)
    for step in (best, last):
        name = f"checkpoint-{step}"
        shutil.copytree(whole.checkpoints_folder / name, over.checkpoints_folder / name)
    assert fit(over)
    assert not steps_of(over)
    assert are_equal(weights(over.adapter_folder), weights(whole.adapter_folder))

    # The best is gone altogether: told, and looked for anew.
    shutil.rmtree(whole.checkpoints_folder / f"checkpoint-{best}")
    orphan = new_run(tmp_path / "orphan", spec)
    shutil.copytree(whole.checkpoints_folder / began, orphan.checkpoints_folder / began)
    assert fit(orphan)
    assert [event["code"] for event in events_of(orphan, "warning")] == ["best-gone"]
    (kept,) = events_of(orphan, "kept")
    assert kept["step"] > best


def test_a_stopped_run_keeps_its_newest_checkpoint_and_makes_up_for_the_evaluation(
    overfitting: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = overfitting(max_steps=8, load_best_model_at_end=True, save_total_limit=1)
    whole, run = new_run(tmp_path / "whole", spec), new_run(tmp_path / "run", spec)
    assert fit(whole)

    ended = Steering.on_step_end

    def stop_at_6(self: Steering, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.global_step == 6:
            control.send(run.control_folder, "stop")
        ended(self, args, state, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Steering, "on_step_end", stop_at_6)
        assert not fit(run)
    assert not run.adapter_folder.exists()
    assert list(evaluations(run)) == [2, 4], "the stop came before the evaluation of step 6"
    assert run.newest_checkpoint() == run.checkpoints_folder / "checkpoint-6"

    assert fit(run)
    assert evaluations(run) == evaluations(whole)
    assert [event["step"] for event in events_of(run, "best")] == [event["step"] for event in events_of(whole, "best")]
    assert are_equal(weights(run.adapter_folder), weights(whole.adapter_folder))


def test_an_evaluation_between_checkpoints_that_is_the_best_is_saved_at_once(
    overfitting: MakeSpec, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run", overfitting(max_steps=12, save_steps=12, load_best_model_at_end=True))
    assert fit(run)
    measured = evaluations(run)
    best = min(measured, key=measured.__getitem__)
    assert best < 12
    assert are_equal(weights(run.adapter_folder), weights(run.checkpoints_folder / f"checkpoint-{best}"))


def test_where_no_evaluation_gives_a_number_the_last_adapter_is_left_and_that_is_told(
    overfitting: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = DeckTrainer.evaluate

    def not_a_number(self: DeckTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        return {**evaluate(self, *args, **kwargs), "eval_loss": float("nan")}

    monkeypatch.setattr(DeckTrainer, "evaluate", not_a_number)
    run = new_run(tmp_path / "run", overfitting(load_best_model_at_end=True, early_stopping_patience=2))
    assert fit(run)
    assert max(steps_of(run)) == 4, "what is no number is no better either"
    assert [event["code"] for event in events_of(run, "warning")] == ["no-best"]
    assert are_equal(weights(run.adapter_folder), weights(run.checkpoints_folder / "checkpoint-4"))
    json.loads((run.checkpoints_folder / "checkpoint-4" / "trainer_state.json").read_text(), parse_constant=pytest.fail)


class State:
    """What is judged by, of a TrainerState."""

    def __init__(self) -> None:
        self.global_step = 0
        self.best_metric: float | None = None
        self.best_global_step: int | None = None


def judged(best: Best, values: dict[int, float], asked_for: tuple[int, ...] = ()) -> State:
    state: Any = State()
    for state.global_step, value in values.items():
        best.asked_for = state.global_step in asked_for
        best.judge(value, state)
    return state  # type: ignore[no-any-return]


def test_a_higher_accuracy_is_better_and_a_lower_loss() -> None:
    values = {1: 0.5, 2: 0.7, 3: 0.6}
    assert judged(Best("eval_mean_token_accuracy", True, None, 0.0), values).best_global_step == 2
    assert judged(Best("eval_loss", True, None, 0.0), values).best_global_step == 1


def test_less_than_the_threshold_is_kept_but_does_not_win_time() -> None:
    best = Best("eval_loss", True, patience=2, threshold=0.1)
    state = judged(best, {1: 1.0, 2: 0.95, 3: 0.93})
    assert (state.best_global_step, best.waited) == (3, 2)
    assert best.is_waited_out


def test_an_evaluation_that_a_person_asked_for_uses_up_no_patience_and_may_be_the_best() -> None:
    best = Best("eval_loss", True, patience=2, threshold=0.0)
    state = judged(best, {1: 1.0, 2: 2.0, 3: 3.0, 4: 0.5, 5: 0.8}, asked_for=(2, 3, 4))
    assert (state.best_global_step, best.waited) == (4, 1)


def test_a_step_that_is_measured_twice_counts_once() -> None:
    best, state = Best("eval_loss", True, patience=2, threshold=0.0), State()
    for state.global_step, value in ((1, 1.0), (2, 2.0), (2, 2.0)):
        best.judge(value, state)  # type: ignore[arg-type]
    assert best.waited == 1
