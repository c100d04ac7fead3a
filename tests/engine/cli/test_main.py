"""The command line: exit codes, messages for people, one JSON document for programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.checks import parse_spec, write_spec
from engine.runs.events import EventWriter
from engine.runs.store import Run, RunStatus, create_run, list_runs
from engine.spec import RunSpec
from tests.conftest import loradeck, wait_for_end, wait_for_step, wait_until

MakeSpec = Callable[..., RunSpec]


def write(path: Path, raw: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def one_document(text: str) -> Any:
    """The JSON document that is the whole of `text`."""
    return json.loads(text)


def good(tiny_model: Path, rows_file: Path) -> dict[str, Any]:
    return {"model": {"name_or_path": str(tiny_model)}, "data": {"train": str(rows_file)}}


WRONG_INPUTS: dict[str, tuple[Callable[[dict[str, Any], Path], None], list[str]]] = {
    "no such local model": (
        lambda raw, folder: raw["model"].update(name_or_path="./no/such/model"),
        ["model.name_or_path", "no/such/model"],
    ),
    "a folder without config.json": (
        lambda raw, folder: raw["model"].update(name_or_path=str(folder)),
        ["model.name_or_path", "config.json"],
    ),
    "a hub model with the hub offline": (
        lambda raw, folder: raw["model"].update(name_or_path="meta-llama/Llama-3.1-8B"),
        ["model.name_or_path", "meta-llama/Llama-3.1-8B"],
    ),
    "no such data file": (
        lambda raw, folder: raw["data"].update(train="none.jsonl"),
        ["data.train", "none.jsonl"],
    ),
    "malformed JSON on a line": (
        lambda raw, folder: raw["data"].update(train=str(broken_rows(folder))),
        ["broken.jsonl, line 2", "not JSON"],
    ),
    "empty data": (
        lambda raw, folder: raw["data"].update(train=str(empty_rows(folder))),
        ["data.train", "no rows"],
    ),
    "no CUDA but device: cuda": (
        lambda raw, folder: raw.update(hardware={"device": "cuda"}),
        ["hardware.device", "no NVIDIA GPU", "device: cpu"],
    ),
    "a spec of another version": (lambda raw, folder: raw.update(version=99), ["version", "99"]),
    "an unknown setting": (lambda raw, folder: raw.update(lora={"rank": 4}), ["lora.rank", "did you mean lora.r?"]),
}


def broken_rows(folder: Path) -> Path:
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    return folder / "broken.jsonl"


def empty_rows(folder: Path) -> Path:
    (folder / "empty.jsonl").write_text("")
    return folder / "empty.jsonl"


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_input_is_a_message_of_one_screen_and_exit_code_2(
    case: str, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    spoil, words = WRONG_INPUTS[case]
    raw = good(tiny_model, rows_file)
    spoil(raw, tmp_path)
    # This machine's hub may or may not be reachable: the test asks for an offline one.
    done = loradeck("train", write(tmp_path / "spec.yaml", raw), env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert len(done.stderr.splitlines()) <= 24
    assert list_runs() == [], "a run was started all the same"


def test_all_problems_are_told_at_once_also_as_json(tmp_path: Path) -> None:
    raw = {"model": {"name_or_path": "./none"}, "data": {"train": "none.jsonl"}, "hardware": {"device": "cuda:3"}}
    done = loradeck("train", write(tmp_path / "spec.yaml", raw), "--json")
    assert done.returncode == 2
    fields = {problem["field"] for problem in one_document(done.stdout)["problems"]}
    assert fields == {"model.name_or_path", "data.train", "hardware.device"}


def test_text_from_a_spec_cannot_steer_the_terminal(tmp_path: Path) -> None:
    raw = {"model": {"name_or_path": "./\x1b[31mred\x07"}, "data": {"train": "[bold]x[/bold].jsonl"}}
    done = loradeck("train", write(tmp_path / "spec.yaml", raw))
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr
    assert "[bold]x[/bold].jsonl" in done.stderr


def test_a_missing_spec_says_how_to_get_one(tmp_path: Path) -> None:
    done = loradeck("train", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "loradeck new" in done.stderr


def test_new_writes_a_spec_that_train_accepts_up_to_what_is_yours(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "run.yaml"
    assert loradeck("new", "--model", str(tiny_model), "--train", "mine.jsonl", "-o", str(path)).returncode == 0
    assert parse_spec(yaml.safe_load(path.read_text())).model.name_or_path == str(tiny_model)
    done = loradeck("train", str(path))
    assert done.returncode == 2
    assert str(tmp_path / "mine.jsonl") in done.stderr
    again = loradeck("new", "-o", str(path))
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_an_unknown_run_is_exit_code_2() -> None:
    for command in ("show", "stop", "pause", "resume", "attach"):
        done = loradeck(command, "nothing")
        assert done.returncode == 2, command
        assert "no runs yet" in done.stderr
        assert one_document(loradeck(command, "nothing", "--json").stdout)["error"]


def ended_run(**status: Any) -> Run:
    run = create_run("some-model")
    run.write_status(RunStatus(model="some-model", **status))
    return run


def test_runs_and_show_tell_what_is_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "loradeck demo" in loradeck("runs").stdout
    run = ended_run(state="failed", cause="oom", step=7, total_steps=10, message="[red]wants\x1b[2J more")
    events = EventWriter(run.events_path)
    events.write("plan", total_steps=10)
    events.write("step", step=7, loss=1.5)
    events.write("oom", phase="backward", step=7)
    (listed,) = one_document(loradeck("runs", "--json").stdout)
    assert (listed["id"], listed["state"], listed["cause"], listed["step"]) == (run.id, "failed", "oom", 7)
    for columns in ("160", "52", None):
        table = loradeck("runs", env={} if columns is None else {"COLUMNS": columns}).stdout
        assert run.id in table, "it is what other commands want"
        assert "failed: oom" in table
        assert ("some-model  " in table) is (columns != "52"), "the id holds its model's name"
    facts = one_document(loradeck("show", "last", "--json").stdout)
    assert {"state", "cause", "plan", "last_step", "oom", "remedies", "parent"} <= facts.keys()
    assert facts["last_step"]["loss"] == 1.5
    assert facts["oom"]["phase"] == "backward"
    shown = loradeck("show", run.id).stdout
    assert "\x1b" not in shown
    assert "[red]wants" in shown


def test_an_ended_run_cannot_be_stopped_or_paused() -> None:
    run = ended_run(state="finished")
    for command in ("stop", "pause"):
        done = loradeck(command, run.id)
        assert done.returncode == 1
        assert "not running: finished" in done.stderr
    assert loradeck("resume", run.id).returncode == 1


def spec_file(tiny_spec: MakeSpec, folder: Path, **sections: Any) -> str:
    path = folder / "spec.yaml"
    path.write_text(write_spec(tiny_spec(**sections)))
    return str(path)


def test_train_follows_a_run_to_its_end_and_exits_0(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    done = loradeck("train", spec_file(tiny_spec, tmp_path, training={"max_steps": 3}))
    assert done.returncode == 0, done.stderr
    assert "3 steps" in done.stdout
    assert "Finished. Adapter:" in done.stdout


def test_train_as_json_prints_one_document_with_the_outcome(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))  # nobody has looked at the model yet
    path = spec_file(tiny_spec, tmp_path, lora={"target_modules": ["c_attn"]})
    done = loradeck("train", path, "--json")
    assert done.returncode == 2
    facts = one_document(done.stdout)
    assert (facts["state"], facts["cause"]) == ("failed", "bad-spec")
    assert "c_attn -> q_proj, k_proj, v_proj" in facts["message"]

    assert loradeck("targets", str(tiny_model), "--select", "qv").returncode == 0
    done = loradeck("train", path, "--json")  # now the launch knows
    assert done.returncode == 2
    assert [problem["field"] for problem in one_document(done.stdout)["problems"]] == ["lora.target_modules"]
    assert len(list_runs()) == 1


def test_targets_prints_the_fields_of_a_selection(tiny_model: Path) -> None:
    done = loradeck("targets", str(tiny_model), "--select", "qv", "--layers", "-1:", "--r", "8", "--json")
    assert done.returncode == 0, done.stderr
    document = one_document(done.stdout)
    assert (document["lora"]["target_modules"], document["lora"]["layers_to_transform"]) == (["q_proj", "v_proj"], [1])
    assert document["lora"]["r"] == 8
    assert document["modules_matched"] == len(document["modules"]) == 2
    assert 0 < document["trainable_parameters"] < document["total_parameters"]

    done = loradeck("targets", str(tiny_model), "--select", r".*\.(up|down)_proj", "--exclude", "up_proj")
    assert done.returncode == 0, done.stderr
    assert "target_modules: [down_proj]" in done.stdout
    assert "2 modules matched: down_proj x2" in done.stdout


def test_targets_that_mean_nothing_are_told_with_exit_code_2(tiny_model: Path) -> None:
    done = loradeck("targets", str(tiny_model), "--select", "query_key_value")
    assert done.returncode == 2
    assert "query_key_value -> q_proj, k_proj, v_proj" in done.stderr
    done = loradeck("targets", str(tiny_model), "--select", "qv", "--layers", "0-99", "--json")
    assert done.returncode == 2
    assert "layers 0 to 1" in one_document(done.stdout)["problems"][0]["reason"]


def test_detach_pause_resume_and_stop_from_the_shell(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    path = spec_file(tiny_spec, tmp_path, training={"max_steps": 100_000, "save_strategy": "no"})
    started = one_document(loradeck("train", path, "--detach", "--json").stdout)
    run = Run(Path(started["folder"]))
    wait_for_step(run, 1)
    assert one_document(loradeck("pause", run.id, "--json").stdout) == {"id": run.id, "request": "pause"}
    wait_until(lambda: run.read_status().state == "paused", "the run pauses")
    assert loradeck("resume", run.id).returncode == 0
    wait_until(lambda: run.read_status().state == "training", "the run goes on")
    busy = loradeck("resume", run.id)
    assert busy.returncode == 1
    assert "is running already" in busy.stderr
    assert loradeck("stop", run.id).returncode == 0
    assert wait_for_end(run).state == "stopped"


def test_ctrl_c_stops_a_run_with_a_checkpoint_and_exits_130(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    path = spec_file(tiny_spec, tmp_path, training={"max_steps": 100_000, "save_strategy": "no"})
    command = subprocess.Popen(
        [sys.executable, "-m", "tui", "train", path],
        stdout=subprocess.PIPE,
        text=True,
        # Tests started in a shell's background ignore Ctrl-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    run = wait_until(lambda: next(iter(list_runs()), None), "the run starts")
    wait_for_step(run, 1)
    os.kill(command.pid, signal.SIGINT)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "Stopped after step" in output
    assert run.newest_checkpoint() is not None


def test_doctor_names_each_thing_and_what_to_do_and_never_the_token() -> None:
    token = "hf_" + "x" * 30
    done = loradeck("doctor", "--json", env={"HF_TOKEN": token, "HF_HUB_OFFLINE": "1"})
    findings = {finding["name"]: finding for finding in one_document(done.stdout)["findings"]}
    assert done.returncode == 0, findings
    assert {"python", "torch", "bitsandbytes", "driver", "cpu", "disk", "hub", "hub login"} <= findings.keys()
    assert findings["hub login"]["verdict"] == "ok"
    assert "HF_HUB_OFFLINE" in findings["hub"]["found"]
    assert "tested with" in findings["peft"]["found"]
    assert token not in done.stdout + done.stderr
