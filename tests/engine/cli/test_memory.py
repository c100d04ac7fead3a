"""`estimate` and `fit` as a person calls them: real processes, a model of which only the config is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from engine.checks import write_spec
from engine.spec import RunSpec
from tests.conftest import loradeck

MIB = 2**20


@pytest.fixture(scope="module")
def known_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with config and tokenizer, and no weights, beside the cache in which all tests here find it."""
    folder = tmp_path_factory.mktemp("known") / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture
def spec_file(
    tiny_spec: Callable[..., RunSpec], known_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A spec of that model."""
    monkeypatch.setenv("LORADECK_CACHE", str(known_model.parent / "cache"))
    path = tmp_path / "spec.yaml"
    path.write_text(write_spec(tiny_spec(model={"name_or_path": str(known_model)}, data={"max_length": 64})))
    return path


def test_estimate_tells_scripts_the_whole_footprint(spec_file: Path) -> None:
    done = loradeck("estimate", str(spec_file), "--gpu", "t4", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["tier"], told["card"], told["verdict"]) == ("full", "T4", "fits")
    assert sum(told["categories"].values()) == told["device_bytes"]
    assert told["allocated_bytes"] <= told["reserved_bytes"] < told["device_bytes"]
    assert told["categories"]["context"] == 141 * MIB
    assert told["versions"]["trl"]
    assert told["batch"]["rows"] == 4


def test_estimate_tells_people_what_holds_it_and_where_that_is_from(spec_file: Path) -> None:
    done = loradeck("estimate", str(spec_file), "--gpu", "100MiB")
    assert done.returncode == 0, done.stderr
    for words in ("frozen weights", "CUDA context", "predicted (traced: torch", "at least", "does not fit: 100 MiB"):
        assert words in done.stdout


def test_estimate_by_formula_for_several_processes(spec_file: Path) -> None:
    done = loradeck("estimate", str(spec_file), "--formula", "--gpu", "12GiB", "--processes", "2", "--json")
    told = json.loads(done.stdout)
    assert told["tier"] == "formula"
    assert any("NCCL" in words for words in told["not_modelled"])

    alone = json.loads(loradeck("estimate", str(spec_file), "--formula", "--gpu", "12GiB", "--json").stdout)
    raw = yaml.safe_load(spec_file.read_text())
    spec_file.write_text(yaml.safe_dump({**raw, "hardware": {"num_processes": 4, "strategy": "fsdp"}}))
    done = loradeck("estimate", str(spec_file), "--formula", "--gpu", "12GiB", "--json")
    assert json.loads(done.stdout)["categories"]["adapters"] == alone["categories"]["adapters"] / 4


@pytest.mark.parametrize("command", ["estimate", "fit"])
def test_an_unknown_card_is_wrong_input(spec_file: Path, command: str) -> None:
    done = loradeck(command, str(spec_file), "--gpu", "t5")
    assert done.returncode == 2
    assert "Did you mean T4" in done.stderr


def test_every_problem_of_the_spec_is_told(spec_file: Path) -> None:
    text = spec_file.read_text().replace("q_proj", "no_such_proj")
    spec_file.write_text(text)
    done = loradeck("estimate", str(spec_file), "--gpu", "12GiB")
    assert done.returncode == 2
    assert "Nothing was predicted" in done.stderr
    assert "no_such_proj" in done.stderr


def test_fit_gives_settings_each_with_its_reason(spec_file: Path) -> None:
    done = loradeck("fit", str(spec_file), "--gpu", "12GiB", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["fits"] is True
    assert set(told["changes"]) <= set(told["reasons"])


def test_fit_says_when_nothing_fits_and_what_would(spec_file: Path) -> None:
    done = loradeck("fit", str(spec_file), "--gpu", "64MiB")
    assert done.returncode == 1
    assert "smallest" in done.stdout


def test_a_runs_own_limit_is_what_verdicts_are_against(spec_file: Path) -> None:
    spec_file.write_text(spec_file.read_text().replace("memory_limit: null", "memory_limit: 300MiB"))
    told = json.loads(loradeck("estimate", str(spec_file), "--formula", "--gpu", "12GiB", "--json").stdout)
    assert (told["free_bytes"], told["limit_bytes"]) == (300 * MIB, 300 * MIB)
    shown = loradeck("estimate", str(spec_file), "--formula").stdout
    assert "does not fit: 300 MiB allowed by memory_limit" in shown
