"""Wrong targets are refused before any weights are read: here is a model that has none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import architecture_cache
from engine.checks import InvalidSpec
from engine.prepare import for_device, prepare
from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.inspect import describe
from engine.worker.meta import read_config
from engine.worker.train import check_targets

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def without_weights(tiny_model: Path, tmp_path: Path) -> str:
    """A folder with the tiny model's config.json and no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    return str(folder)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["query_key_value"], ["query_key_value", "q_proj"]),
        (["q_proj", "c_attn"], ["c_attn", "gate_proj"]),
        (["lm_head"], ["lm_head"]),
        ("q_proj", ["q_proj"]),
        (["norm"], ["norm"]),
    ],
)
def test_the_trainer_refuses_wrong_targets(
    tiny_spec: MakeSpec, without_weights: str, targets: list[str] | str, words: list[str]
) -> None:
    spec = tiny_spec(model={"name_or_path": without_weights}, lora={"target_modules": targets})
    with pytest.raises(BadSpec, match=r"lora\.target_modules") as refused:
        check_targets(spec)
    said = f"{refused.value} {refused.value.hint}"
    assert all(word in said for word in words), said


def test_the_trainer_goes_on_with_right_ones(tiny_spec: MakeSpec, without_weights: str) -> None:
    check_targets(tiny_spec(model={"name_or_path": without_weights}, lora={"target_modules": "all-linear"}))


def test_the_launch_refuses_them_where_the_model_was_looked_at_before(
    tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    wrong = tiny_spec(lora={"target_modules": ["q_proj", "c_attn"], "modules_to_save": ["down_proj"]})
    # Not yet looked at: left to the trainer.
    assert prepare(wrong, tiny_model) == for_device(wrong, "cpu", has_bf16=True)

    architecture = describe(read_config(tiny_model, "tiny"), str(tiny_model))
    architecture_cache.write(architecture_cache.key(tiny_model / "config.json"), architecture)
    with pytest.raises(InvalidSpec) as refused:
        prepare(wrong, tiny_model)
    assert [problem.field for problem in refused.value.problems] == ["lora.target_modules", "lora.modules_to_save"]
