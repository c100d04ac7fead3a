"""The spec: what it accepts, what it says about what it does not, and that nothing is lost in writing it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.checks import InvalidSpec, parse_spec, read_spec, write_spec
from engine.spec import TOP_SETTINGS, RunSpec, Section
from engine.starter import starter_spec

LEAST: dict[str, Any] = {"model": {"name_or_path": "some/model"}, "data": {"train": "rows.jsonl"}}
HELD_OUT: dict[str, Any] = {"train": "a.jsonl", "eval_fraction": 0.1}
BY_STEPS: dict[str, Any] = {
    "load_best_model_at_end": True,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "steps",
    "save_steps": 20,
}


def problems(raw: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as caught:
        parse_spec(raw)
    return {problem.field: str(problem) for problem in caught.value.problems}


def test_defaults_are_the_guides() -> None:
    spec = parse_spec(LEAST)
    assert spec.quantization.bnb_4bit_quant_type == "nf4"
    assert spec.quantization.bnb_4bit_use_double_quant
    assert (spec.lora.r, spec.lora.lora_alpha, spec.lora.lora_dropout) == (16, 32, 0.05)
    assert spec.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert spec.effective_batch_size == 16
    assert spec.training.learning_rate == 2e-4
    assert spec.training.num_train_epochs == 3
    assert spec.training.save_strategy == "epoch"


def test_every_problem_is_told_at_once_with_what_to_write_instead() -> None:
    raw = yaml.safe_load("""
        model: {name_or_path: some/model}
        lora: {rank: 8, r: many, lora_alpa: 16}
        data: {train: rows.jsonl, max_seq_length: 512}
        training: {per_device_train_batch_size: 0, gradient_checkpointing: true, max_length: 3}
        trainning: {}
        hardware: {device: gpu}
    """)
    told = problems(raw)
    assert "did you mean lora.r?" in told["lora.rank"]
    assert "did you mean lora.lora_alpha?" in told["lora.lora_alpa"]
    assert "did you mean data.max_length?" in told["data.max_seq_length"]
    assert "did you mean training.activation_checkpointing?" in told["training.gradient_checkpointing"]
    assert "did you mean data.max_length?" in told["training.max_length"]
    assert "did you mean training?" in told["trainning"]
    assert "integer" in told["lora.r"]
    assert "many" in told["lora.r"]
    assert "greater than or equal to 1" in told["training.per_device_train_batch_size"]
    assert "cuda:1" in told["hardware.device"]
    assert len(told) == 9


def test_a_number_that_yaml_reads_as_text_is_a_number() -> None:
    raw = yaml.safe_load("training: {learning_rate: 2e-4}")
    assert raw["training"]["learning_rate"] == "2e-4"  # YAML 1.1 wants a dot: the trap this test is about
    assert parse_spec({**LEAST, **raw}).training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"training": {"bf16": True, "fp16": True}}, "training.fp16"),
        ({"lora": {"target_modules": []}}, "lora.target_modules"),
        ({"lora": {"target_modules": "all-linear", "layers_to_transform": [0]}}, "lora.layers_to_transform"),
        ({"lora": {"init_lora_weights": "pissa"}}, "lora.init_lora_weights"),
        ({"training": {"eval_strategy": "epoch"}}, "training.eval_strategy"),
        ({"training": {"save_strategy": "steps"}}, "training.save_steps"),
        ({"data": {"train": "a.jsonl", "eval": "b.jsonl", "eval_fraction": 0.1}}, "data.eval_fraction"),
        ({"data": {"train": "a.jsonl", "packing": True, "max_length": None}}, "data.max_length"),
        ({"data": {"train": "a.jsonl", "samples": 3}}, "data.samples"),
        ({"data": HELD_OUT, "training": BY_STEPS | {"save_steps": 15}}, "training.save_steps"),
        ({"data": HELD_OUT, "training": BY_STEPS | {"save_strategy": "epoch"}}, "training.save_strategy"),
        ({"data": HELD_OUT, "training": BY_STEPS | {"eval_strategy": "no"}}, "training.load_best_model_at_end"),
        ({"data": HELD_OUT, "training": {"early_stopping_patience": 2}}, "training.early_stopping_patience"),
        ({"training": {"early_stopping_patience": 2}}, "training.early_stopping_patience"),
        ({"training": BY_STEPS}, "training.load_best_model_at_end"),
        ({"training": {"metric_for_best_model": "eval_loss"}}, "training.metric_for_best_model"),
        (
            {"data": HELD_OUT, "training": BY_STEPS | {"early_stopping_threshold": 1}},
            "training.early_stopping_threshold",
        ),
        ({"data": HELD_OUT | {"samples_at_eval": True}, "training": BY_STEPS}, "data.samples_at_eval"),
        ({"data": HELD_OUT | {"samples_at_eval": True, "samples": 2}}, "data.samples_at_eval"),
        ({"data": {"train": "a.jsonl", "sample_prompts": [""]}}, "data.sample_prompts"),
        ({"training": {"report_to": ["tensorbord"]}}, "training.report_to"),
        ({"hardware": {"device": "cpu"}, "training": {"optim": "paged_adamw_32bit"}}, "training.optim"),
        ({"hardware": {"device": "cpu"}, "training": {"fp16": True}}, "training.fp16"),
        ({"hardware": {"memory_limit": "12MiB"}}, "hardware.memory_limit"),
    ],
)
def test_settings_that_cannot_go_together_are_refused(changes: dict[str, Any], field: str) -> None:
    assert field in problems({**LEAST, **changes})


@pytest.mark.parametrize(
    ("data", "training"),
    [
        (HELD_OUT, BY_STEPS),
        (HELD_OUT, BY_STEPS | {"save_steps": 30, "metric_for_best_model": "eval_mean_token_accuracy"}),
        (HELD_OUT, {"eval_strategy": "epoch", "load_best_model_at_end": True}),
        # Without a best to keep, checkpoints may fall where they like.
        (HELD_OUT, {"eval_strategy": "epoch", "save_strategy": "no", "early_stopping_patience": 2}),
        ({"train": "a.jsonl", "sample_prompts": ["hello"]}, {"report_to": ["wandb", "tensorboard"]}),
    ],
)
def test_what_transformers_takes_is_not_refused(data: dict[str, Any], training: dict[str, Any]) -> None:
    parse_spec({**LEAST, "data": data, "training": training})


def test_a_multiple_of_the_evaluations_steps_is_named() -> None:
    told = problems({**LEAST, "data": HELD_OUT, "training": BY_STEPS | {"save_steps": 15}})
    assert "15 is no multiple of eval_steps: 10" in told["training.save_steps"]
    assert "write 20" in told["training.save_steps"]


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        ("12GiB", 12 * 2**30),
        ("12 gb", 12 * 2**30),
        ("1.5g", 3 * 2**29),
        ("900MiB", 900 * 2**20),
        (12_000_000_000, 12_000_000_000),
    ],
)
def test_a_memory_limit_is_written_as_people_write_sizes(written: str | int, size_bytes: int) -> None:
    spec = parse_spec({**LEAST, "hardware": {"memory_limit": written}})
    assert spec.hardware.memory_limit_bytes == size_bytes
    assert parse_spec(yaml.safe_load(write_spec(spec))) == spec


@pytest.mark.parametrize("written", ["12", "much", "", "-4GiB", "0GiB", 12, True, 1.5, "12TiB"])
def test_what_is_no_size_is_no_memory_limit(written: Any) -> None:
    assert "hardware.memory_limit" in problems({**LEAST, "hardware": {"memory_limit": written}})


def test_a_setting_outside_the_sections_is_suggested_like_the_others() -> None:
    told = problems({**LEAST, "on_ooom": "retry", "training": {"on_oom": "retry", "auto_find_batch_size": True}})
    assert len(told) == 3
    assert all("did you mean on_oom?" in words for words in told.values())
    assert "'retry' or 'stop'" in problems({**LEAST, "on_oom": "again"})["on_oom"]
    assert "parent" not in problems({**LEAST, "parnt": {}})["parnt"].partition(";")[2], "nobody writes it by hand"


def test_a_spec_of_another_version_says_only_that() -> None:
    told = problems({"version": 7, "nonsense": 1})
    assert list(told) == ["version"]
    assert "version 7" in told["version"]
    assert "version 1" in told["version"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {name: [", "line 1"),
        ("lora:\n  r: 1\n bad indent: 2\n", "line 3"),
        ("", "holds no settings"),
        ("- a\n- b\n", "holds no settings"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_is_no_yaml_says_where(tmp_path: Any, text: str, expected: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSpec, match=r"spec\.yaml") as caught:
        read_spec(path)
    assert expected in str(caught.value)


def test_yaml_that_would_run_code_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: !!python/object/apply:os.system ['touch /tmp/never']")
    with pytest.raises(InvalidSpec, match="not YAML"):
        read_spec(path)


sections = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-9, 1, allow_nan=False),
        "num_train_epochs": st.floats(0.01, 100),
        "max_steps": st.integers(-1, 10**9),
        "seed": st.integers(0, 2**32 - 1),
        "bf16": st.one_of(st.none(), st.booleans()),
        "optim": st.sampled_from(["auto", "adamw_torch", "lion_8bit"]),
    },
)
loras = st.fixed_dictionaries(
    {},
    optional={
        "r": st.integers(1, 512),
        "lora_dropout": st.floats(0, 0.99),
        "target_modules": st.one_of(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=1)),
        "rank_pattern": st.dictionaries(st.text(min_size=1), st.integers(1, 64), max_size=3),
        "modules_to_save": st.one_of(st.none(), st.lists(st.text())),
    },
)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
tops = st.fixed_dictionaries(
    {},
    optional={
        "on_oom": st.sampled_from(["ask", "retry", "stop"]),
        "hardware": st.fixed_dictionaries(
            {},
            optional={
                "memory_limit": st.integers(10**9, 10**12) | st.sampled_from(["12GiB", "900 mb"]),
                "preflight": st.one_of(st.none(), st.booleans()),
            },
        ),
        "parent": st.fixed_dictionaries(
            {"run": st.text(min_size=1)},
            optional={
                "checkpoint": st.none() | st.text(),
                "changes": st.dictionaries(st.text(), st.tuples(values, values), max_size=3),
                "remedies": st.lists(st.text(), max_size=3),
                "attempt": st.integers(0, 4),
            },
        ),
    },
)


@settings(deadline=None)
@example(training={}, lora={}, top={}, name="\x85")
@given(training=sections, lora=loras, top=tops, name=st.text(min_size=1))
def test_writing_and_reading_a_spec_loses_nothing(training: Any, lora: Any, top: Any, name: str) -> None:
    least = {"model": {"name_or_path": name}, "data": {"train": name}}
    spec = parse_spec({**least, "training": training, "lora": lora, **top})
    assert parse_spec(yaml.safe_load(write_spec(spec))) == spec


def test_a_run_that_continues_another_keeps_where_it_came_from(tmp_path: Any) -> None:
    parent = {
        "run": "20260101-000000-m-0000",
        "checkpoint": "checkpoint-30",
        "changes": {"training.per_device_train_batch_size": [4, 1]},
        "remedies": ["smaller-batch"],
        "attempt": 1,
    }
    path = tmp_path / "run.yaml"
    path.write_text(write_spec(parse_spec({**LEAST, "parent": parent})))
    read = read_spec(path).parent
    assert read is not None
    assert (read.run, read.changes) == (parent["run"], {"training.per_device_train_batch_size": (4, 1)})
    assert "parent" not in write_spec(parse_spec(LEAST))


def test_every_setting_says_what_it_does() -> None:
    silent = [
        f"{section}.{name}"
        for section, info in RunSpec.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
        for name, field in info.annotation.model_fields.items()
        if not field.description
    ]
    silent += [name for name in TOP_SETTINGS if not RunSpec.model_fields[name].description]
    assert silent == []


def test_the_starter_spec_is_valid_and_lists_every_setting() -> None:
    text = starter_spec("some/model", "rows.jsonl")
    spec = parse_spec(yaml.safe_load(text))
    assert spec.model.name_or_path == "some/model"
    everything = yaml.safe_load(text.replace("#| ", ""))
    assert parse_spec(everything) == spec
    assert names_in(everything) == names_in(spec.model_dump(exclude={"parent"}))
    assert "#| on_oom: ask" in text.splitlines()
    assert "parent" not in everything


def names_in(raw: dict[str, Any]) -> set[str]:
    sections = {section: values for section, values in raw.items() if isinstance(values, dict)}
    inside = {f"{section}.{name}" for section, values in sections.items() for name in values}
    return inside | (raw.keys() - sections.keys())
