"""Runs as they live and die: real supervisors, real trainers on a tiny model, real signals."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engine.runs import control
from engine.runs.events import read_events
from engine.runs.launch import NotResumable, launch, resume
from engine.runs.store import Run, RunBusy, find_run
from engine.spec import RunSpec
from tests.conftest import losses, wait_for_end, wait_for_step, wait_until

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("no_run_outlives")

ENDLESS = {"max_steps": 100_000, "save_strategy": "no"}
"""A run that only a stop or a failure ends."""


def trainer_pid(run: Run) -> int:
    pid = run.read_status().trainer_pid
    assert pid is not None
    return pid


def types(run: Run) -> list[str]:
    return [event["type"] for event in read_events(run.events_path)]


def test_a_run_that_ends_early_is_finished_and_says_which_adapter_it_leaves(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": f"zq{n}"}]})
            + "\n"
            for n in range(4)
        )
    )
    by_steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = launch(
        tiny_spec(
            data={"eval": str(held_out)},
            training={
                "max_steps": 200,
                "learning_rate": 0.1,
                **by_steps,
                "load_best_model_at_end": True,
                "early_stopping_patience": 1,
                "early_stopping_threshold": 0.5,
                "save_total_limit": 1,
            },
        )
    )
    status = wait_for_end(run)
    assert (status.state, status.exit_code, status.total_steps) == ("finished", 0, 200)
    assert 1 < status.step < 200
    assert status.best_metric == "eval_loss"
    assert status.best_step is not None
    assert f"at step {status.step} of 200: the last evaluation was no better" in status.message
    assert f"that of step {status.best_step}, the best: eval_loss {status.best_value:.4f}" in status.message
    with pytest.raises(NotResumable, match="finished"):
        resume(run)


def test_a_run_from_start_to_adapter(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        data={"eval_fraction": 0.2, "samples": 2, "samples_max_new_tokens": 4},
        training={"max_steps": 4, "eval_on_start": True, "learning_rate": 1e-2},
    )
    run = launch(spec)
    status = wait_for_end(run)
    assert (status.state, status.step, status.exit_code) == ("finished", 4, 0)
    assert (status.targets, status.parent, status.continued_by) == ("q, k, v, o", None, None)
    events = read_events(run.events_path)
    plan = next(event for event in events if event["type"] == "plan")
    assert plan["total_steps"] == 4
    assert plan["effective_batch_size"] == 4
    assert plan["predicted_peak_bytes"] is None
    assert not run.prediction_path.exists()
    memory = [(event["when"], event["predicted_device_bytes"]) for event in events if event["type"] == "memory"]
    assert memory == [("first step", None), ("end", None)]
    # r 16 on q, k, v and o of two layers: 16 x (in + out) each
    assert plan["trainable_parameters"] == 2 * 16 * ((64 + 64) + 2 * (64 + 32) + (64 + 64))
    steps = [event for event in events if event["type"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    assert all(event["loss"] > 0 and event["tokens_per_s"] > 0 and event["grad_norm"] > 0 for event in steps)
    assert all(0 <= event["padding_share"] < 1 for event in steps)
    assert steps[-1]["tokens"] > steps[0]["tokens"]
    assert status.tokens == steps[-1]["tokens"]
    evals = [event for event in events if event["type"] == "eval"]
    assert [event["step"] for event in evals] == [0, 4]
    assert evals[1]["eval_loss"] < evals[0]["eval_loss"]
    samples = [(event["model"], event["prompt_index"]) for event in events if event["type"] == "sample"]
    assert samples == [("base", 0), ("base", 1), ("adapter", 0), ("adapter", 1)]
    hardware = read_events(run.hardware_path)
    assert hardware[-1]["host"]["trainer_rss_bytes"] > 50 * 2**20
    assert {path.suffix for path in run.folder.rglob("*") if path.is_file()}.isdisjoint({".pt", ".pth", ".bin", ".pkl"})
    check = (
        "import sys; from transformers import AutoModelForCausalLM; from peft import PeftModel\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(type(PeftModel.from_pretrained(base, sys.argv[2])).__name__)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", check, spec.model.name_or_path, str(run.adapter_folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "PeftModelForCausalLM"


def test_losses_after_stop_and_resume_equal_those_of_an_uninterrupted_run_bit_for_bit(tiny_spec: MakeSpec) -> None:
    # Dropout, several epochs, accumulation and evaluations between: whatever draws random numbers takes part.
    spec = tiny_spec(
        data={"eval_fraction": 0.2},
        training={
            "max_steps": 30,
            "gradient_accumulation_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "learning_rate": 1e-2,
        },
    )
    whole = launch(spec)
    wait_for_end(whole)
    parts = launch(spec)
    for step in (5, 11):
        wait_for_step(parts, step)
        control.send(parts.control_folder, "stop")
        assert wait_for_end(parts).state == "stopped"
        assert resume(parts) is not None
    assert wait_for_end(parts).state == "finished"
    assert types(parts).count("plan") == 3, "it was not interrupted twice"
    assert losses(parts) == losses(whole)
    assert len(losses(whole)) == 30

    def last_tokens(run: Run) -> int:
        return max(event["tokens"] for event in read_events(run.events_path) if event["type"] == "step")

    assert last_tokens(parts) == last_tokens(whole)


def test_pause_holds_a_run_and_resume_lets_it_go_on(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 2)
    control.send(run.control_folder, "pause")
    wait_until(lambda: run.read_status().state == "paused", "the run pauses")
    held_at = max(losses(run))
    samples = len(read_events(run.hardware_path))
    beat = run.read_status().heartbeat
    wait_until(lambda: len(read_events(run.hardware_path)) >= samples + 2, "two more seconds of hardware samples")
    assert run.read_status().heartbeat > beat
    assert abs(time.time() - run.read_status().heartbeat) < 5
    assert find_run("last").read_status().state == "paused"
    assert max(losses(run)) == held_at
    control.send(run.control_folder, "resume")
    wait_for_step(run, held_at + 2)
    control.send(run.control_folder, "stop")
    assert wait_for_end(run).state == "stopped"
    asked = [event["request"] for event in read_events(run.events_path) if event["type"] == "control"]
    assert asked == ["pause", "resume", "stop"]


def test_save_writes_a_checkpoint_and_the_run_goes_on(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 2)
    control.send(run.control_folder, "save")
    checkpoint = wait_until(run.newest_checkpoint, "a checkpoint appears")
    assert (checkpoint / "adapter_model.safetensors").exists()
    wait_for_step(run, int(checkpoint.name.split("-")[1]) + 2)


@pytest.mark.parametrize(("whom", "number"), [("trainer_pid", signal.SIGINT), ("supervisor_pid", signal.SIGTERM)])
def test_signals_mean_stop(tiny_spec: MakeSpec, whom: str, number: signal.Signals) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 2)
    os.kill(getattr(run.read_status(), whom), number)
    status = wait_for_end(run)
    assert (status.state, status.exit_code) == ("stopped", 130)
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == f"checkpoint-{max(losses(run))}"


def test_a_stop_is_obeyed_from_the_first_moment_on(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    control.send(run.control_folder, "stop")
    assert wait_for_end(run).state == "stopped"
    assert losses(run) == {}


def test_a_killed_trainer_is_failed_as_killed_within_5_seconds(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training={**ENDLESS, "save_strategy": "steps", "save_steps": 2}))
    wait_for_step(run, 4)
    os.kill(trainer_pid(run), signal.SIGKILL)
    status = wait_for_end(run, timeout_s=5)
    assert (status.state, status.cause, status.exit_code) == ("failed", "killed", -9)
    assert "signal 9" in status.message
    assert "no sign of the kernel's OOM killer" in status.message
    newest = run.newest_checkpoint()
    assert resume(run) == newest
    wait_until(lambda: types(run).count("plan") == 2, "the run goes on")
    wait_until(lambda: run.newest_checkpoint() != newest, "it reaches the next checkpoint")


def checkpoint_steps(run: Run) -> list[int]:
    return [int(path.name.split("-")[1]) for path in run.checkpoints()]


def test_without_its_supervisor_a_trainer_saves_and_ends_and_the_run_is_lost_and_resumable(
    tiny_spec: MakeSpec,
) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 2)
    trainer = psutil.Process(trainer_pid(run))
    supervisor_pid = run.read_status().supervisor_pid
    assert supervisor_pid is not None
    os.kill(supervisor_pid, signal.SIGKILL)
    steps_at_kill = max(losses(run))
    # Until the trainer has saved, it holds the lock: nobody can start a second one on top of it.
    wait_until(lambda: run.read_status().state == "lost", "the trainer lets the lock go", 30)
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    assert max(losses(run)) <= steps_at_kill + 2  # the step under way, and one that was just written
    assert checkpoint_steps(run) == [max(losses(run))]
    assert resume(run) == run.newest_checkpoint()
    wait_for_step(run, steps_at_kill + 3)


def test_a_run_whose_trainer_outlives_its_supervisor_cannot_be_started_twice(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 1)
    trainer, supervisor_pid = psutil.Process(trainer_pid(run)), run.read_status().supervisor_pid
    assert supervisor_pid is not None
    trainer.suspend()  # a long step, say
    os.kill(supervisor_pid, signal.SIGKILL)
    with pytest.raises(RunBusy, match="is running already"):
        resume(run)
    trainer.resume()
    wait_until(lambda: run.read_status().state == "lost", "the trainer lets the lock go", 30)


def test_two_resumes_at_once_start_one_trainer(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training=ENDLESS))
    wait_for_step(run, 1)
    control.send(run.control_folder, "stop")
    wait_for_end(run)
    outcomes: list[object] = []

    def attempt() -> None:
        try:
            outcomes.append(resume(run))
        except RunBusy as error:
            outcomes.append(str(error))

    both = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PosixPath", "str"]
    assert any("is running already" in str(outcome) for outcome in outcomes)
    wait_for_step(run, 3)
    assert types(run).count("plan") == 2


def test_a_file_size_limit_while_saving_is_a_full_disk_and_earlier_checkpoints_stay(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(training={**ENDLESS, "save_strategy": "steps", "save_steps": 5}))
    first = wait_until(run.newest_checkpoint, "the first checkpoint")
    size = (first / "training_state.safetensors").stat().st_size
    resource.prlimit(trainer_pid(run), resource.RLIMIT_FSIZE, (size - 1, size - 1))
    status = wait_for_end(run)
    assert (status.state, status.cause) == ("failed", "disk-full")
    assert "Free some space" in status.message
    assert_checkpoints_are_whole(run)


def test_a_full_disk_while_saving_is_told_and_earlier_checkpoints_stay(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    monkeypatch.setenv("LORADECK_HOME", str(disk))
    try:
        run = launch(tiny_spec(training={**ENDLESS, "save_strategy": "steps", "save_steps": 2}))
        status = wait_for_end(run)
        assert (status.state, status.cause) == ("failed", "disk-full")
        assert_checkpoints_are_whole(run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def assert_checkpoints_are_whole(run: Run) -> None:
    assert run.checkpoints()
    expected = {path.name for path in run.checkpoints()[0].iterdir()}
    for checkpoint in run.checkpoints():
        assert {path.name for path in checkpoint.iterdir()} == expected
        assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] in checkpoint_steps(run)
    assert sorted(path.name for path in run.checkpoints_folder.iterdir()) == sorted(
        path.name for path in run.checkpoints()
    ), "something half-written is left"


def test_a_loss_that_is_not_a_number_warns_at_once_and_ends_the_run_after_three(tiny_spec: MakeSpec) -> None:
    run = launch(
        tiny_spec(
            training={
                **ENDLESS,
                "learning_rate": 1e30,
                "warmup_steps": 0,
                "max_grad_norm": 0,
                "save_strategy": "steps",
                "save_steps": 1,
            }
        )
    )
    status = wait_for_end(run)
    assert (status.state, status.cause) == ("failed", "nan-loss")
    assert "learning_rate" in status.message
    events = read_events(run.events_path)
    nan_steps = [event["step"] for event in events if event["type"] == "step" and event["loss"] is None]
    assert len(nan_steps) == 3
    warned_at = next(index for index, event in enumerate(events) if event.get("code") == "nan-loss")
    first_nan = next(index for index, event in enumerate(events) if event["type"] == "step" and event["loss"] is None)
    assert warned_at == first_nan + 1
    assert all(step < nan_steps[0] for step in checkpoint_steps(run)), "a checkpoint of NaN weights was written"


def test_out_of_memory_is_told_with_the_phase_and_the_batch(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    rows = tmp_path / "long.jsonl"
    rows.write_text((json.dumps({"text": "x" * 1000}) + "\n") * 64)
    # Eager attention over 64 x 1,000 tokens wants 1 GB for each score matrix.
    run = launch(
        tiny_spec(
            model={"attn_implementation": "eager"},
            data={"train": str(rows), "max_length": 2000},
            training={"per_device_train_batch_size": 64, "activation_checkpointing": False},
        ).model_copy(update={"on_oom": "stop"})
    )
    wait_until(lambda: "state" in types(run), "the trainer has imported its libraries")
    limit = psutil.Process(trainer_pid(run)).memory_info().data + 700 * 2**20
    resource.prlimit(trainer_pid(run), resource.RLIMIT_DATA, (limit, limit))
    status = wait_for_end(run)
    assert (status.state, status.cause, status.exit_code) == ("failed", "oom", 3), status
    assert "per_device_train_batch_size" in status.message
    oom = next(event for event in read_events(run.events_path) if event["type"] == "oom")
    assert (oom["phase"], oom["step"]) == ("forward", 1)
    assert oom["batch_shape"] == [64, 1001]
    told = read_events(run.supervisor_events_path)
    assert [event["type"] for event in told] == ["state", "remedies", "state"], "it only reports"
    remedies = told[1]
    first = next(remedy for remedy in remedies["remedies"] if remedy["changes"])
    assert (first["fits"], first["changes_training"], first["effective_batch_size"]) == (True, False, 64)
    assert (remedies["checkpoint"], remedies["steps_to_repeat"]) == (None, 0)
    assert told[2]["time"] - told[1]["time"] < 1


def test_targets_that_the_model_lacks_end_as_bad_spec_in_words(tiny_spec: MakeSpec) -> None:
    run = launch(tiny_spec(lora={"target_modules": ["query_key_value"]}))
    status = wait_for_end(run)
    assert (status.state, status.cause, status.exit_code) == ("failed", "bad-spec", 2)
    assert "query_key_value" in status.message
    assert "q_proj" in status.message
