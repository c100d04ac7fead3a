"""`loradeck export` as a person calls it: what it makes, what it refuses, and what it says."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.checks import write_spec
from engine.cli.main import app
from engine.runs.store import Run
from engine.spec import RunSpec
from tests.conftest import loradeck
from tests.engine.export.hub import Hub, running_hub

TOKEN = "hf_thisIsNoRealTokenButSecret"


@pytest.fixture
def run(tiny_spec: Callable[..., RunSpec], deck_home: Path) -> Run:
    """A finished run as its folder holds it: an adapter of one tensor, and a tokenizer's files."""
    run = Run(deck_home / "runs" / "20260102-030405-tiny-llama-0a1b")
    run.adapter_folder.mkdir(parents=True)
    run.spec_path.write_text(write_spec(tiny_spec(lora={"r": 32})))
    config = {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "base_model_name_or_path": "/here", "bias": "none"}
    (run.adapter_folder / "adapter_config.json").write_text(json.dumps(config))
    (run.adapter_folder / "tokenizer.json").write_text("{}")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [32, 1], "data_offsets": [0, 128]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(128)
    (run.adapter_folder / "adapter_model.safetensors").write_bytes(weights)
    return run


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(TOKEN) as hub:
        yield hub


def on_hub(hub: Hub, **changes: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **changes}


def test_without_options_the_adapter_goes_into_a_folder_here(run: Run, tmp_path: Path) -> None:
    done = loradeck("export", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / f"{run.id}-adapter"
    assert f"Adapter: {folder} (4 files, " in done.stdout
    assert "--max-lora-rank 32" in done.stdout
    assert "--base owner/name" in done.stdout
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-llama"
    again = loradeck("export", "last", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == f"{folder} exists and is left as it is. Choose another name.\n"


def test_json_is_one_document(run: Run, tmp_path: Path) -> None:
    done = loradeck("export", run.id, "--adapter", str(tmp_path / "out"), "--base", "owner/base", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)["adapter"]
    assert document["base_model"] == "owner/base"
    assert document["vllm"]["serves"] is True
    assert document["vllm"]["findings"][0]["setting"] == "r"
    assert set(document["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-like-it"], "No run is called 'nothing-like-it'"),
        (["last", "--checkpoint", "7"], "has no checkpoint"),
        (["last", "--base", "no id"], "--base is 'no id'; write a hub id"),
        (["last", "--gguf", "x"], "--gguf needs --llama-cpp"),
        (["last", "--gguf", "x", "--llama-cpp", "nowhere"], "nowhere. --llama-cpp is the folder of a checkout"),
        (["last", "--gguf-type", "q2"], "it can be bf16, f16, f32, q8_0, auto"),
        (["last", "--modelfile", "nowhere"], "There is no folder nowhere"),
        (["last", "--push", "me/mine"], "Without a terminal, or with --json, add --yes"),
        (["last", "--push", "mine", "--yes"], "--push is 'mine'; write owner/name"),
        (["last", "--script", "run.yaml"], "run.yaml exists and is left as it is"),
    ],
)
def test_wrong_input_is_a_message_and_code_2(
    arguments: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", *arguments])
    assert (done.exit_code, message in done.stderr) == (2, True), (done.stderr, done.exception)
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml", "home"}
    assert (tmp_path / "run.yaml").read_text() == "mine"


def test_a_script_and_an_adapter_by_one_command(run: Run, tmp_path: Path) -> None:
    done = loradeck("export", "last", "--script", "train.py", "--adapter", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["script"]["path"] == str(tmp_path / "train.py")
    assert (document["script"]["rows"], document["script"]["rows_checked"]) == (64, 64)
    compile((tmp_path / "train.py").read_text(), "train.py", "exec")
    assert document["adapter"]["folder"] == str(tmp_path / "out")


def test_a_push_sends_the_folder_to_a_private_repository(run: Run, tmp_path: Path, hub: Hub) -> None:
    done = loradeck("export", "last", "--push", "me/mine", "--yes", "--json", env=on_hub(hub), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"me/mine": True}
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert hub.files["adapter_model.safetensors"] == (run.adapter_folder / "adapter_model.safetensors").read_bytes()
    document = json.loads(done.stdout)["push"]
    assert (document["repository"], document["private"], document["commit"]) == ("me/mine", True, "abc")
    assert TOKEN not in done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"home"}, "nothing stays here"


def answered(answer: str, hub: Hub, *options: str) -> tuple[int, str]:
    """Exit code and what a terminal shows of a push that is answered so."""
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tui", "export", "last", "--push", "me/mine", *options],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, **on_hub(hub), "TERM": "dumb"},
    )
    os.close(inner)
    os.write(outer, answer.encode())
    shown = b""
    while True:
        try:
            piece = os.read(outer, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(outer)
    return process.wait(60), shown.decode()


def test_on_a_terminal_it_shows_what_would_go_where_and_asks(run: Run, hub: Hub) -> None:
    code, shown = answered("n\n", hub)
    assert code == 1
    for told in (
        "To me/mine on the hub (new; private), as me:",
        "adapter_model.safetensors",
        "Send it?",
        "Nothing was",
    ):
        assert told in shown
    assert (hub.repositories, hub.files) == ({}, {})
    assert not [asked for asked in hub.asked if asked.startswith("POST")]
    assert TOKEN not in shown

    code, shown = answered("y\n", hub, "--public")
    assert code == 0, shown
    assert "PUBLIC: everybody can read it" in shown
    assert hub.repositories == {"me/mine": False}
    assert "README.md" in hub.files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HF_TOKEN": "hf_anotherTokenThatIsWrong"}, "The hub does not know the token (401)"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set: nothing is sent"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "The hub cannot be reached"),
        ({"HF_TOKEN": "", "HF_HOME": "{folder}"}, "There is no hub token here"),
        ({}, "The token may not write to me/mine (403)"),
    ],
)
def test_why_the_hub_did_not_take_it(changes: dict[str, str], message: str, run: Run, tmp_path: Path, hub: Hub) -> None:
    hub.may_write = False
    environment: dict[str, Any] = {key: value.format(folder=tmp_path) for key, value in changes.items()}
    done = loradeck("export", "last", "--push", "me/mine", "--yes", env=on_hub(hub, **environment))
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_" not in done.stderr + done.stdout
    assert hub.files == {}
