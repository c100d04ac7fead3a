"""Which models are offered: recent ones, the hub's cache, folders nearby, and what the hub says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

from engine.catalog import ModelUnavailable
from engine.checks import parse_spec, write_spec
from engine.models_here import (
    cached_models,
    demo_folder,
    models_here,
    models_in,
    recent_models,
    remember_model,
    search_hub,
)
from engine.runs.store import runs_folder

CLOSED = "http://127.0.0.1:9"
"""Nobody listens on the discard port: connecting fails at once."""


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache of the person who runs the tests is read."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    return cache


def make_model(folder: Path, config: Any = None, weights_bytes: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    (folder / "model.safetensors").write_bytes(b"\0" * weights_bytes)
    return folder


def make_run(name: str, model: str) -> None:
    folder = runs_folder() / name
    folder.mkdir(parents=True)
    spec = parse_spec({"model": {"name_or_path": model}, "data": {"train": "rows.jsonl"}})
    (folder / "run.yaml").write_text(write_spec(spec))


def names(models: Iterator[Any] | list[Any]) -> list[str]:
    return [model.name_or_path for model in models]


def test_folders_of_models_are_found_two_levels_down(tmp_path: Path) -> None:
    here = tmp_path / "here"
    near = make_model(here / "near")
    deep = make_model(here / "a" / "deep", weights_bytes=2000)
    make_model(here / "a" / "b" / "too-deep")
    make_model(here / ".hidden")
    make_model(here / "no-model", config={"name": "a web page"})
    make_model(here / "broken", config=["x"])
    (here / "link").symlink_to(tmp_path)
    found = list(models_in(here))
    assert names(found) == [str(near), str(deep)]
    assert [model.weights_bytes for model in found] == [1000, 2000]
    assert {model.model_type for model in found} == {"llama"}


def test_a_folder_with_many_folders_is_looked_through_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.models_here.FOLDERS_READ", 5)
    for number in range(20):
        make_model(tmp_path / "many" / f"{number:02}")
    assert len(list(models_in(tmp_path / "many"))) == 4  # and the folder itself


def test_recent_models_are_those_chosen_and_those_trained(tmp_path: Path) -> None:
    mine = make_model(tmp_path / "mine")
    make_run("20261124-052000-a-0001", "org/older")
    make_run("20261124-062000-a-0002", str(mine))
    make_run("20261124-072000-a-0003", str(tmp_path / "deleted"))
    make_run("20261124-082000-a-0004", str(demo_folder()))
    (runs_folder() / "20261124-092000-a-0005").mkdir()
    (runs_folder() / "20261124-102000-a-0006").mkdir()
    (runs_folder() / "20261124-102000-a-0006" / "run.yaml").write_text("model: [")
    assert names(recent_models()) == [str(mine), "org/older"]
    remember_model("org/older")
    remember_model("org/chosen")
    assert names(recent_models()) == ["org/chosen", "org/older", str(mine)]


def test_only_the_newest_are_remembered() -> None:
    for number in range(12):
        remember_model(f"org/{number}")
    assert names(recent_models()) == [f"org/{number}" for number in range(11, 3, -1)]


@pytest.mark.parametrize("text", ["", "{", "3", '{"a": 1}', '[1, null, ""]'])
def test_a_broken_memory_is_none(text: str, deck_home: Path) -> None:
    deck_home.mkdir()
    (deck_home / "recent-models.json").write_text(text)
    assert names(recent_models()) == []


def test_the_hubs_cache_offers_models_with_weights(own_caches: Path) -> None:
    commit = "0" * 40
    for repo, config in (("models--org--fine", {"model_type": "qwen3"}), ("models--org--adapter", {"r": 8})):
        make_model(own_caches / repo / "snapshots" / commit, config)
        (own_caches / repo / "refs").mkdir()
        (own_caches / repo / "refs" / "main").write_text(commit)
    only_config = own_caches / "models--org--config" / "snapshots" / commit
    only_config.mkdir(parents=True)
    (only_config / "config.json").write_text('{"model_type": "llama"}')
    (model,) = cached_models()
    assert (model.name_or_path, model.model_type, model.weights_bytes) == ("org/fine", "qwen3", 1000)


def test_each_model_is_offered_once_and_the_demo_always(tmp_path: Path) -> None:
    near = make_model(tmp_path / "here" / "near")
    remember_model(str(near))
    assert [(model.name_or_path, model.kind) for model in models_here(tmp_path / "here")] == [
        (str(near), "recent"),
        ("demo", "demo"),
    ]


# ---- the hub


class Hub(BaseHTTPRequestHandler):
    asked: str = ""

    def do_GET(self) -> None:
        Hub.asked = self.path
        status = 503 if "broken" in self.path else 200
        answer: Any = [{"id": "org/a", "downloads": 12}, {"id": "org/b[x]"}, {"no": "id"}, 3]
        body = json.dumps({"error": "x"} if "odd" in self.path else answer).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_search_asks_the_hub_for_text_generation_models() -> None:
    found = search_hub("smol lm")
    assert [(model.name_or_path, model.downloads) for model in found] == [("org/a", 12), ("org/b[x]", None)]
    assert "pipeline_tag=text-generation" in Hub.asked
    assert "search=smol" in Hub.asked


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("words", ["broken", "odd"])
def test_a_hub_that_answers_badly_is_told_plainly(words: str) -> None:
    with pytest.raises(ModelUnavailable, match="The hub cannot be searched"):
        search_hub(words)


def test_without_a_network_a_search_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        search_hub("smollm")
