"""A run as a config for `trl sft`: trl's own parser reads it, and what it cannot say is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser, get_dataset, get_peft_config

from engine.spec import RunSpec
from engine.worker.data.run_data import load_data
from engine.worker.export.facts import facts_of
from engine.worker.export.trl_config import trl_yaml
from engine.worker.failures import BadSpec
from engine.worker.model import lora_config

MakeSpec = Callable[..., RunSpec]


def config_of(spec: RunSpec, folder: Path) -> tuple[Path, dict[str, Any]]:
    data = load_data(spec)
    result = trl_yaml(spec, "a-run", data, facts_of(spec, data), folder / "config.jinja")
    path = folder / "config.yaml"
    path.write_text(result["text"])
    return path, result


def parsed(path: Path) -> tuple[Any, ...]:
    """As `trl sft --config` parses it (trl/scripts/sft.py), and more strictly: unknown names fail."""
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    arguments: tuple[Any, ...] = parser.parse_args_and_config(["--config", str(path)])
    return arguments


def test_trl_s_parser_reads_the_run_s_settings_from_it(tiny_spec: MakeSpec, tmp_path: Path, rows_file: Path) -> None:
    spec = tiny_spec(
        data={"eval_fraction": 0.25},
        lora={"r": 8, "use_rslora": True, "target_modules": "all-linear"},
        training={
            "learning_rate": 3e-4,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "eval_strategy": "steps",
            "eval_steps": 2,
        },
    )
    path, _ = config_of(spec, tmp_path)
    _, training, model, mixture = parsed(path)
    assert (training.learning_rate, training.max_length, training.bf16, training.seed) == (3e-4, 64, True, 42)
    assert training.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert (model.load_in_4bit, model.use_bnb_nested_quant, model.dtype) == (True, True, "bfloat16")
    assert get_peft_config(model).to_dict() == lora_config(spec.lora).to_dict()
    dataset = get_dataset(mixture)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert sorted(map(str, [*dataset["train"]["messages"], *dataset["test"]["messages"]])) == sorted(
        str(row["messages"]) for row in rows
    )
    assert len(dataset["test"]) == 16


def test_what_it_cannot_say_stands_on_top_as_comments(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(
        data={"eval_fraction": 0.25},
        lora={"rank_pattern": {"q_proj": 4}, "layers_to_transform": [1], "bias": "all"},
        quantization={"llm_int8_skip_modules": ["o_proj"]},
        training={"gradient_accumulation_steps": 3},
        hardware={"num_processes": 2},
    )
    path, result = config_of(spec, tmp_path)
    text = path.read_text()
    for told in (
        "lora.rank_pattern: {'q_proj': 4}; here it is {}",
        "lora.layers_to_transform",
        "The run had 2 processes with gradient_accumulation_steps: 3, and this is one with 6",
        "lora.bias: 'all'",
        "quantization.llm_int8_skip_modules",
        "data.eval_fraction: rows held out by a hash",
        "the last answer of a conversation is learnt",
        "the order of rows",
    ):
        assert any(told in difference for difference in result["differences"]), result["differences"]
    assert yaml.safe_load(text)["gradient_accumulation_steps"] == 6
    assert all(f"\n#   {difference}\n" in text for difference in result["differences"])
    assert not [difference for difference in result["differences"] if difference.startswith("training.")]
    assert all(line.startswith("#") for line in text.splitlines()[: 2 + len(result["differences"])])


def test_a_template_of_one_s_own_goes_into_a_file_beside_it(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(data={"chat_template_path": "chatml"}, training={"train_sampling_strategy": "random"})
    path, result = config_of(spec, tmp_path)
    _, training, _, _ = parsed(path)
    assert training.assistant_only_loss is True
    assert training.chat_template_path == str(tmp_path / "config.jinja")
    assert "{%- generation %}" in result["template"]
    assert not [difference for difference in result["differences"] if "last answer" in difference]


@pytest.mark.parametrize(
    ("row", "data", "why"),
    [
        ({"instruction": "a", "output": "b"}, {}, "format alpaca"),
        ({"question": "a", "answer": "b"}, {}, "looks for the columns prompt, completion"),
        ({"a": "b", "c": "d"}, {"columns": {"prompt": "a", "completion": "c"}}, "these rows have a, c"),
    ],
)
def test_rows_that_trl_does_not_read_are_refused(
    row: dict[str, str], data: dict[str, Any], why: str, tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadSpec, match=why):
        config_of(tiny_spec(data={"train": str(rows), **data}), tmp_path)


def test_a_name_in_it_starts_no_line_of_its_own(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec()
    data = load_data(spec)
    text = trl_yaml(spec, "a\nuse_cpu: false\nb", data, facts_of(spec, data), tmp_path / "t.jinja")["text"]
    assert yaml.safe_load(text)["use_cpu"] is True
