"""The inspector's client against the real process: answers, deaths, timeouts, refusals and the cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import architecture_cache
from engine.architecture import Architecture
from engine.catalog import ModelUnavailable
from engine.inspector import Inspector, InspectorError, RequestRefused
from tests.conftest import loradeck, wait_until

WARM_TIMEOUT_S = 120.0
"""The process imports torch and transformers first: seconds, and far more on a busy machine."""
HUGE = {"hidden_size": 64, "num_hidden_layers": 20_000}
"""Takes the inspector many seconds to build: time enough to kill it."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(cache))


@pytest.fixture(scope="module")
def shared(cache: Path) -> Iterator[Inspector]:
    """One warm inspector for the tests that do it no harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(cache))
        with Inspector() as inspector:
            inspector.start()
            yield inspector


def model_folder(folder: Path, **changes: Any) -> Path:
    """A folder with only a config.json, of a small Llama."""
    config = {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def refusal(inspector: Inspector, folder: Path) -> str:
    with pytest.raises(ModelUnavailable) as error:
        inspector.architecture(str(folder))
    return str(error.value)


# ---- answers


def test_a_folder_with_a_config_and_no_weights_has_an_architecture(shared: Inspector, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "tiny")
    architecture = shared.architecture(str(folder))
    assert architecture.class_name == "LlamaForCausalLM"
    assert architecture.name_or_path == str(folder)
    assert architecture.by_name["model.layers.2.mlp.down_proj"].targets[0].in_features == 48


def test_what_a_library_prints_does_not_reach_the_replies(shared: Inspector, tmp_path: Path) -> None:
    # transformers warns about this rope on stdout or stderr, both of which are the log.
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 7, "nonsense": 1}
    folder = model_folder(tmp_path / "noisy", rope_scaling=rope, max_position_embeddings=64)
    assert shared.architecture(str(folder)).class_name == "LlamaForCausalLM"
    assert shared.request("ping", WARM_TIMEOUT_S) is None


def test_several_threads_get_their_own_answers(shared: Inspector, tmp_path: Path) -> None:
    answers: dict[int, Architecture] = {}

    def ask(layers: int) -> None:
        folder = model_folder(tmp_path / f"layers-{layers}", num_hidden_layers=layers)
        answers[layers] = shared.architecture(str(folder))

    threads = [threading.Thread(target=ask, args=(layers,)) for layers in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {layers: a.config["num_hidden_layers"] for layers, a in answers.items()} == {n: n for n in range(1, 7)}


def test_an_unknown_task_fails_alone(shared: Inspector) -> None:
    shared.request("ping", WARM_TIMEOUT_S)
    pid = shared.pid
    with pytest.raises(InspectorError, match="no such task"):
        shared.request("no such task", WARM_TIMEOUT_S)
    assert shared.pid == pid
    assert shared.request("ping", WARM_TIMEOUT_S) is None


# ---- deaths


def kill_when_busy(inspector: Inspector) -> None:
    """Kill the process once it has burnt processor time on the request that it was given when warm."""
    import psutil

    assert inspector.pid is not None
    process = psutil.Process(inspector.pid)
    before = process.cpu_times().user
    wait_until(lambda: process.cpu_times().user > before + 0.3, "the inspector works")
    process.send_signal(signal.SIGKILL)


def test_a_request_during_which_the_process_is_killed_fails_and_the_next_is_answered(tmp_path: Path) -> None:
    with Inspector() as inspector:
        inspector.request("ping", WARM_TIMEOUT_S)
        killed = inspector.pid
        killer = threading.Thread(target=kill_when_busy, args=(inspector,))
        killer.start()
        with pytest.raises(InspectorError, match="signal 9") as error:
            inspector.architecture(str(model_folder(tmp_path / "huge", **HUGE)))
        killer.join()
        assert "short of memory" in str(error.value)
        assert inspector.pid not in (None, killed), "a new process is started at once"
        assert inspector.architecture(str(model_folder(tmp_path / "tiny", vocab_size=97))).modules


def test_a_process_killed_between_requests_costs_no_request(tmp_path: Path) -> None:
    with Inspector() as inspector:
        inspector.request("ping", WARM_TIMEOUT_S)
        assert inspector.pid is not None
        os.kill(inspector.pid, signal.SIGKILL)
        wait_until(lambda: inspector.pid is None, "the process is gone")
        assert inspector.request("ping", WARM_TIMEOUT_S) is None


def test_a_request_that_takes_too_long_is_stopped_and_the_next_is_answered(tmp_path: Path) -> None:
    with Inspector() as inspector:
        inspector.request("ping", WARM_TIMEOUT_S)
        with pytest.raises(InspectorError, match="took more than 1 s"):
            inspector.architecture(str(model_folder(tmp_path / "huge", **HUGE)), timeout_s=1.0)
        assert inspector.request("ping", WARM_TIMEOUT_S) is None


def test_closing_ends_a_request_in_progress(tmp_path: Path) -> None:
    inspector = Inspector()
    inspector.request("ping", WARM_TIMEOUT_S)
    pid = inspector.pid
    failure: list[str] = []

    def ask() -> None:
        try:
            inspector.architecture(str(model_folder(tmp_path / "huge", **HUGE)))
        except InspectorError as error:
            failure.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: inspector._one_request.locked(), "the request is sent")
    inspector.close()
    asking.join(timeout=30)
    assert failure
    assert "closed" in failure[0]
    assert inspector.pid is None
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(InspectorError, match="closed"):
        inspector.request("ping", WARM_TIMEOUT_S)


def test_a_process_that_cannot_start_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('half an installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Inspector() as inspector, pytest.raises(InspectorError, match="half an installation"):
        inspector.request("ping", WARM_TIMEOUT_S)


def test_the_process_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from engine.inspector import Inspector\n"
        "inspector = Inspector()\n"
        f"inspector.request('ping', {WARM_TIMEOUT_S})\n"
        "print(inspector.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pid = int(done.stdout)

    def is_gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    wait_until(is_gone, "the inspector ends")


def test_no_log_is_left_behind(cache: Path) -> None:
    with Inspector() as inspector:
        inspector.request("ping", WARM_TIMEOUT_S)
        assert list((cache / "inspector").glob(f"{os.getpid()}-*.log"))
        log = inspector._log_path
    assert not log.exists()


# ---- refusals


def test_an_unknown_model_type_is_told_with_the_version_that_lacks_it(shared: Inspector, tmp_path: Path) -> None:
    message = refusal(shared, model_folder(tmp_path / "new", model_type="llamma9"))
    assert "does not know model type 'llamma9'" in message


def test_code_of_the_models_own_is_refused_with_what_it_would_take(shared: Inspector, tmp_path: Path) -> None:
    own = {"AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}
    assert "trust_remote_code: true" in refusal(shared, model_folder(tmp_path / "odd", model_type="odd", auto_map=own))


def test_models_that_do_not_continue_text_are_refused(shared: Inspector, tmp_path: Path) -> None:
    assert "bert is an encoder" in refusal(shared, model_folder(tmp_path / "bert", model_type="bert"))
    assert "encoder-decoder" in refusal(shared, model_folder(tmp_path / "t5", model_type="t5"))


def test_a_config_that_contradicts_itself_is_refused(shared: Inspector, tmp_path: Path) -> None:
    for name, changes in (("negative", {"vocab_size": -1}), ("words", {"hidden_size": "wide"})):
        message = refusal(shared, model_folder(tmp_path / name, **changes))
        assert "config.json" in message, message
        assert "\n" not in message


def test_a_malformed_config_is_told_without_asking_the_process(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "broken")
    (folder / "config.json").write_text('{"model_type": "llama", ')
    with Inspector() as inspector:
        assert "not JSON" in refusal(inspector, folder)
        assert inspector.pid is None


def test_a_refused_request_is_an_inspector_error_of_its_own(shared: Inspector, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "unknown", model_type="unknown")
    with pytest.raises(RequestRefused):
        shared.request("architecture", WARM_TIMEOUT_S, folder=str(folder), name_or_path="unknown")


# ---- the cache


def test_what_was_seen_is_answered_without_a_process(shared: Inspector, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "seen", vocab_size=101)
    first = shared.architecture(str(folder))
    with Inspector() as cold:
        assert cold.architecture(str(folder)) == first
        assert cold.pid is None


def test_a_cached_architecture_has_the_name_that_was_asked_for(shared: Inspector, tmp_path: Path) -> None:
    shared.architecture(str(model_folder(tmp_path / "one", vocab_size=102)))
    with Inspector() as cold:
        twin = cold.architecture(str(model_folder(tmp_path / "two", vocab_size=102)))
    assert twin.name_or_path == str(tmp_path / "two")


def test_a_changed_config_is_read_anew(shared: Inspector, tmp_path: Path) -> None:
    shared.architecture(str(model_folder(tmp_path / "grows", num_hidden_layers=2)))
    grown = shared.architecture(str(model_folder(tmp_path / "grows", num_hidden_layers=5)))
    assert "model.layers.4" in grown.by_name


def test_other_library_versions_or_other_code_miss_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_folder(tmp_path / "same") / "config.json"
    before = architecture_cache.key(config)
    assert architecture_cache.key(config) == before
    architecture_cache._made_with.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(architecture_cache, "installed_versions", lambda: {"transformers": "99"})
        assert architecture_cache.key(config) != before
    architecture_cache._made_with.cache_clear()
    assert architecture_cache.key(config) == before


@pytest.mark.parametrize("content", [b"", b"{}", b'{"modules": 3}', b"[1]", b"\xff"])
def test_a_damaged_cache_file_is_made_anew(shared: Inspector, cache: Path, tmp_path: Path, content: bytes) -> None:
    folder = model_folder(tmp_path / "damaged", vocab_size=103)
    first = shared.architecture(str(folder))
    path = cache / "architectures" / f"{architecture_cache.key(folder / 'config.json')}.json"
    path.write_bytes(content)
    assert shared.architecture(str(folder)) == first
    assert json.loads(path.read_bytes())["class_name"] == "LlamaForCausalLM"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    shared: Inspector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.request("ping", WARM_TIMEOUT_S)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "file"))
    assert shared.architecture(str(model_folder(tmp_path / "tiny"))).modules


# ---- the command


def test_tree_prints_folded_layers_and_reasons(tmp_path: Path) -> None:
    done = loradeck("tree", str(model_folder(tmp_path / "tiny", vocab_size=104)))
    assert done.returncode == 0, done.stderr
    assert "layers.0-2  x3" in done.stdout
    assert "Linear4bit" in done.stdout
    assert "lm_head: TRL computes" in done.stdout
    unfolded = loradeck("tree", str(tmp_path / "tiny"), "--unfold", "--depth", "2")
    assert unfolded.stdout.count("LlamaDecoderLayer") == 3
    assert "q_proj" not in unfolded.stdout


def test_tree_as_json_is_the_architecture_and_the_folded_tree(tmp_path: Path) -> None:
    done = loradeck("tree", str(model_folder(tmp_path / "tiny", vocab_size=105)), "--json")
    document = json.loads(done.stdout)
    tree = document.pop("tree")
    architecture = Architecture.from_json(document)
    assert tree["parameter_count"] == architecture.total_parameters
    layers = next(node for node in tree["children"][0]["children"] if node["folded"] > 1)
    assert (layers["label"], layers["count"]) == ("layers.0-2", 3)


def test_tree_of_what_is_no_model_exits_with_2_and_a_message(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "vit", model_type="vit")
    done = loradeck("tree", str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not continue text" in done.stderr
    assert "Traceback" not in done.stderr
    as_json = loradeck("tree", str(folder), "--json")
    assert as_json.returncode == 2
    assert "does not continue text" in json.loads(as_json.stdout)["error"]


def test_tree_of_a_misspelt_hub_id_says_so_within_seconds() -> None:
    began = time.monotonic()
    done = loradeck("tree", "org/no-such-model", env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert "org/no-such-model" in done.stderr
    assert time.monotonic() - began < 30


def test_a_name_of_markup_and_escape_codes_is_printed_as_plain_text(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "[red]evil\x1b[31m\x9b2J[", vocab_size=106)
    for arguments in ((), ("--json",)):
        done = loradeck("tree", str(folder), *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "[red]evil" in done.stdout
    unknown = model_folder(tmp_path / "odd", model_type="\x1b[31m[bold]")
    assert "\x1b" not in loradeck("tree", str(unknown)).stderr


def test_what_python_prints_as_it_starts_is_no_reply(printing_python: None) -> None:
    with Inspector() as inspector:
        assert inspector.request("ping", timeout_s=WARM_TIMEOUT_S) is None
