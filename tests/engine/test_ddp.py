"""Several processes of one run on the CPU: gloo and accelerate's launcher, real supervisors, real signals."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checks import InvalidSpec
from engine.runs import control
from engine.runs.events import read_events
from engine.runs.launch import launch, resume
from engine.runs.lineage import changed_spec
from engine.runs.ranks import RankRecord, read_record
from engine.runs.store import Cause, Run, State
from engine.spec import RunSpec
from engine.worker.checkpoint import load_training_state
from tests.conftest import losses, wait_for_end, wait_for_step, wait_until
from tests.engine.worker.training import events_of, fit, new_run, write_rows

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("no_run_outlives")


@pytest.fixture(scope="module")
def uneven_rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """27 rows, 22 of them to train on: an epoch's last batches are short, or none for one of the processes."""
    path = tmp_path_factory.mktemp("uneven") / "rows.jsonl"
    return write_rows(path, ["x" * (1 + number * 7 % 40) for number in range(27)])


def spec_of(
    make: MakeSpec, rows: str, processes: int, passes: int, data: dict[str, Any] | None = None, **training: Any
) -> RunSpec:
    """Steps of 8 rows; two epochs of 22 rows are 6 steps."""
    return make(
        lora={"lora_dropout": 0.0},
        data={"train": rows, "eval_fraction": 0.2, **(data or {})},
        training={
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": passes,
            "per_device_eval_batch_size": 2,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_strategy": "no",
            **training,
        },
        hardware={"num_processes": processes},
    )


def record_of(run: Run, rank: int) -> RankRecord:
    record: RankRecord = wait_until(lambda: read_record(run, rank), f"rank {rank} begins")
    return record


CASES: dict[str, tuple[int, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "two, NF4, after a preflight": (2, "4bit", {}, {}, {"preflight": True}),
    "two, plain LoRA in random order, the best step of few kept, and answers": (
        2,
        "none",
        {"sample_prompts": ["say 3"], "samples_max_new_tokens": 4},
        {
            "train_sampling_strategy": "random",
            "load_best_model_at_end": True,
            "save_strategy": "steps",
            "save_steps": 3,
            "early_stopping_patience": 3,
            "report_to": ["tensorboard"],
        },
        {},
    ),
    "four, NF4, packed": (4, "4bit", {"packing": True, "max_length": 40}, {"dataloader_num_workers": 1}, {}),
}
"""Processes, how weights are held, and settings of data, training and hardware."""


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_a_single_process_with_the_same_effective_batch(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path, case: str
) -> None:
    processes, load_in, data, training, hardware = CASES[case]

    def spec(count: int) -> RunSpec:
        made = spec_of(tiny_spec, uneven_rows, count, 4 // count, data, **training)
        return changed_spec(
            made,
            {"quantization.load_in": load_in, **{f"hardware.{name}": value for name, value in hardware.items()}},
        )

    several = launch(spec(processes))
    assert wait_for_end(several).state == "finished", several.log_path.read_text()
    alone = new_run(tmp_path / "alone", spec(1))
    assert fit(alone)

    assert losses(several) == pytest.approx(losses(alone), abs=1e-3)
    measured = [[event["eval_loss"] for event in events_of(run, "eval")] for run in (several, alone)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)
    assert len(measured[0]) == 2
    for what in ("best", "kept", "sample", "early_stop"):
        steps = [[event["step"] for event in events_of(run, what)] for run in (several, alone)]
        assert steps[0] == steps[1], what
    assert (several.folder / "tracking").exists() is bool(training.get("report_to"))
    states = [event["state"] for event in events_of(several, "state")]
    assert ("preflight" in states) is bool(hardware)
    (plan,), (single,) = events_of(several, "plan"), events_of(alone, "plan")
    same = ("total_steps", "epochs", "effective_batch_size", "trainable_parameters")
    assert [plan[name] for name in same] == [single[name] for name in same]
    assert plan["processes"] == processes
    tokens = [events_of(run, "step")[-1]["tokens"] for run in (several, alone)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.01), "a filler has two tokens"
    assert (several.adapter_folder / "adapter_model.safetensors").exists()
    assert states.count("finished") == 1
    for rank in range(1, processes):
        assert "Traceback" not in (several.folder / f"trainer-{rank}.log").read_text()
    sampled = [event["ranks"] for event in read_events(several.hardware_path) if len(event["ranks"]) == processes]
    assert any(all(each["rss_bytes"] > 2**20 for each in ranks) for ranks in sampled)  # the last are of dying ones


def test_a_killed_rank_ends_its_run_and_a_stopped_run_goes_on_exactly(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path
) -> None:
    def spec(processes: int, steps: int) -> RunSpec:
        constant = {"lr_scheduler_type": "constant", "warmup_steps": 0, "eval_steps": 7}
        made = spec_of(tiny_spec, uneven_rows, processes, 4 // processes, max_steps=steps, **constant)
        return made.model_copy(update={"lora": made.lora.model_copy(update={"lora_dropout": 0.1})})

    killed = launch(spec(2, 100_000))
    wait_for_step(killed, 12)
    os.kill(record_of(killed, 1).pid, signal.SIGKILL)
    status = wait_for_end(killed, 10)
    assert (status.state, status.cause) == ("failed", "killed"), (status, killed.log_path.read_text())
    assert status.message.startswith("Rank 1 was killed by signal 9 (SIGKILL).")
    assert status.exit_code == -signal.SIGKILL
    assert not Path(f"/proc/{record_of(killed, 0).pid}").exists(), "the other one was left behind"
    assert killed.newest_step() >= 12, "what was trained is lost"
    whole = losses(killed)

    stopped = launch(spec(2, 12))
    wait_for_step(stopped, 4)
    control.send(stopped.control_folder, "stop")
    assert wait_for_end(stopped).state == "stopped", stopped.log_path.read_text()
    stopped_at = stopped.newest_step()
    assert 4 <= stopped_at < 12
    checkpoint = f"checkpoint-{stopped_at}"
    fewer = new_run(tmp_path / "fewer", changed_spec(spec(2, 12), {"hardware.num_processes": 1}))
    shutil.copytree(stopped.checkpoints_folder / checkpoint, fewer.checkpoints_folder / checkpoint)

    assert resume(stopped) is not None
    assert wait_for_end(stopped).state == "finished", stopped.log_path.read_text()
    assert losses(stopped) == {step: whole[step] for step in range(1, 13)}
    assert len(events_of(stopped, "plan")) == 2, "it was not interrupted"

    assert fit(fewer)
    went_on = losses(fewer)
    assert list(went_on) == list(range(stopped_at + 1, 13))
    # Dropout draws other numbers for other batches; rows and steps are the same.
    assert went_on[stopped_at + 1] == pytest.approx(whole[stopped_at + 1], abs=0.03)
    assert events_of(fewer, "warning") == []


DIES_IN_ITS_SECOND_SAVE = """
import os
if os.environ.get("RANK") == "1":
    import signal
    from engine.worker.ranks import Ranks
    gathered, saves = Ranks.gathered, []
    def die_in_the_second_save(self, value):
        if isinstance(value, dict) and "numpy" in value:
            saves.append(value)
            if len(saves) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return gathered(self, value)
    Ranks.gathered = die_in_the_second_save
"""


def test_a_rank_that_is_killed_while_all_save_costs_no_step(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES_IN_ITS_SECOND_SAVE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    run = launch(spec_of(tiny_spec, uneven_rows, 2, 2, eval_strategy="no", save_strategy="steps", save_steps=2))
    status = wait_for_end(run)
    assert (status.state, status.cause, status.step) == ("failed", "killed", 4), run.log_path.read_text()
    assert status.message.startswith("Rank 1 was killed by signal 9 (SIGKILL).")
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2", "checkpoint-4"]


def test_whoever_of_launcher_supervisor_and_ranks_is_gone_or_hangs_the_others_save_and_end(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three starts of one run: each goes on from what the one before has saved.
    patience = tmp_path / "patience"
    patience.mkdir()
    (patience / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'engine.runs.supervisor' in sys.orig_argv:\n"
        "    import engine.runs.rank_watch\n"
        "    engine.runs.rank_watch.HANG_LEAST_S = 8.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(patience), prepend=os.pathsep)
    data = {"sample_prompts": ["say 3"], "samples_max_new_tokens": 4}
    spec = spec_of(tiny_spec, uneven_rows, 2, 2, data, max_steps=100_000, eval_steps=100_000, learning_rate=1e-4)
    run = launch(changed_spec(spec, {"lora.lora_dropout": 0.1}))

    def is_over(state: State, cause: Cause | None, says: str) -> None:
        ended = wait_for_end(run, 60)
        assert (ended.state, ended.cause) == (state, cause), (ended, run.log_path.read_text())
        assert says in ended.message
        for rank in (0, 1):
            assert not Path(f"/proc/{record_of(run, rank).pid}").exists(), f"rank {rank} was left behind"

    wait_for_step(run, 2)
    control.send(run.control_folder, "pause")
    wait_until(lambda: run.read_status().state == "paused", "it is paused")
    control.send(run.control_folder, "evaluate")
    control.send(run.control_folder, "save")
    control.send(run.control_folder, "resume")
    wait_until(lambda: events_of(run, "sample") and events_of(run, "checkpoint"), "all of it is done")
    (evaluated,), (saved,) = events_of(run, "eval"), events_of(run, "checkpoint")
    assert evaluated["step"] == saved["step"] == events_of(run, "sample")[0]["step"]
    state = load_training_state(Path(saved["path"]))
    seeds = [torch.Generator().set_state(each["torch"]).initial_seed() for each in states_of(state)]
    assert seeds == [42, 43], "dropout would leave out the same places of different rows"

    wait_for_step(run, saved["step"] + 1)
    launcher = run.read_status().trainer_pid
    assert launcher is not None
    os.kill(launcher, signal.SIGKILL)
    is_over("failed", "killed", "The launcher of its processes was killed by signal 9 (SIGKILL).")
    first = run.newest_step()
    assert first > saved["step"]

    assert resume(run) is not None
    wait_for_step(run, first + 4)  # from three steps on their pace is known
    os.kill(record_of(run, 1).pid, signal.SIGSTOP)
    is_over("failed", "error", "Rank 1 did not go on for ")
    assert "as it was stopped by a signal" in run.read_status().message
    second = run.newest_step()
    assert second >= first + 4

    assert resume(run) is not None
    wait_for_step(run, second + 1)
    supervisor = run.read_status().supervisor_pid
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    is_over("lost", None, "")
    assert run.newest_step() > second
    assert sorted(losses(run)) == list(range(1, run.newest_step() + 1))


def states_of(training_state: dict[str, Any]) -> list[dict[str, Any]]:
    """Random states of all ranks."""
    return [training_state["random"], *training_state["random_of_others"]]


def test_another_number_of_processes_keeps_what_a_step_learns_from(tiny_spec: MakeSpec, uneven_rows: str) -> None:
    spec = spec_of(tiny_spec, uneven_rows, 4, 3)
    assert spec.effective_batch_size == 24
    one = changed_spec(spec, {"hardware.num_processes": 1})
    assert (one.effective_batch_size, one.training.gradient_accumulation_steps, one.hardware.strategy) == (
        24,
        12,
        "none",
    )
    with pytest.raises(InvalidSpec, match="5 processes with batches of 2 cannot make the 24 rows"):
        changed_spec(spec, {"hardware.num_processes": 5})
