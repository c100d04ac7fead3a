"""The three tiers behind one call, and what is kept on disk. Traces run in a real inspector."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.architecture import Architecture
from engine.inspector import Inspector
from engine.memory.card import Card, card_named
from engine.memory.depths import shallow_depths
from engine.memory.footprint import Footprint
from engine.memory.lengths import Lengths
from engine.memory.predict import NotPredicted, Question, best, by_formula, kept, predict, request_for
from tests.engine.memory.tracing import LLAMA, spec_of

CARD = card_named("24GiB")
DEEP = {**LLAMA, "num_hidden_layers": 8}


@pytest.fixture
def ask(inspector: Inspector, tmp_path: Path, deck_home: Path) -> Any:
    """Makes a Question about a small model."""

    def question(config: dict[str, Any] | None = None, card: Card = CARD, **changes: Any) -> Question:
        (tmp_path / "config.json").write_text(json.dumps(config or DEEP))
        architecture: Architecture = inspector.architecture(str(tmp_path))
        spec = spec_of(model__name_or_path=str(tmp_path), data__max_length=64, **changes)
        return Question(spec, architecture, card, config_folder=tmp_path)

    return question


def test_few_layers_tell_what_all_of_them_need(ask: Any, inspector: Inspector) -> None:
    question = ask()
    shallow = predict(question, "shallow", inspector)
    full = predict(question, "full", inspector)
    assert (shallow.tier, full.tier) == ("shallow", "full")
    assert shallow.allocated_bytes == pytest.approx(full.allocated_bytes, rel=0.002)  # blocks' slack differs a little
    assert shallow.least_bytes is None
    assert full.least_bytes is not None
    assert predict(question, "shallow", inspector) == full  # it is kept, and better


@pytest.mark.parametrize("card", [CARD, Card("host memory", 2**34, True)], ids=["gpu", "cpu"])
def test_every_tier_adds_up_and_says_where_it_is_from(ask: Any, inspector: Inspector, card: Card) -> None:
    question = ask(card=card)
    for tier in ("formula", "shallow", "full"):
        footprint = predict(question, tier, inspector)
        assert sum(footprint.categories.values()) == footprint.device_bytes
        assert footprint.phases["backward"] <= footprint.allocated_bytes
        assert footprint.tier in ("formula", "shallow", "full")
        assert {"torch", "transformers", "peft", "bitsandbytes", "trl"} <= set(footprint.versions)
        assert Footprint.from_json(json.loads(json.dumps(footprint.to_json()))) == footprint


def test_a_trace_is_made_once(ask: Any, inspector: Inspector) -> None:
    question = ask()
    first = predict(question, "full", inspector)
    assert kept(request_for(question)) is not None
    gone = Inspector()
    gone.close()
    assert predict(question, "full", gone) == first


def test_settings_that_memory_does_not_depend_on_find_the_same_trace(ask: Any, inspector: Inspector) -> None:
    predict(ask(), "full", inspector)
    assert kept(request_for(ask(training__learning_rate=1e-5, training__seed=7, lora__lora_alpha=32))) is not None
    assert kept(request_for(ask(lora__r=8))) is None


def test_another_config_makes_another_trace(ask: Any, inspector: Inspector) -> None:
    predict(ask(), "full", inspector)
    assert kept(request_for(ask({**DEEP, "vocab_size": 5000}))) is None


def test_what_cannot_be_traced_gets_the_formulas_number_with_the_reason(ask: Any, inspector: Inspector) -> None:
    question = ask(quantization__load_in="8bit")
    with pytest.raises(NotPredicted, match="int8"):
        predict(question, "full", inspector)
    footprint = best(question, inspector)
    assert footprint.tier == "formula"
    assert any("int8" in words for words in footprint.not_modelled)


def test_without_a_config_only_the_formula_answers(ask: Any, inspector: Inspector) -> None:
    question = replace(ask(), config_folder=None)
    assert predict(question, "formula").allocated_bytes > 0
    with pytest.raises(NotPredicted):
        predict(question, "full", inspector)


def test_short_rows_lower_the_prediction(ask: Any, inspector: Inspector) -> None:
    question = ask()
    short = replace(question, lengths=Lengths((8, 9, 10), 3))
    assert (
        predict(short, "shallow", inspector).allocated_bytes < predict(question, "shallow", inspector).allocated_bytes
    )
    assert predict(short, "shallow", inspector).batch["tokens"] == 10


def test_a_sample_of_rows_does_not_promise_the_longest(ask: Any) -> None:
    question = replace(ask(), lengths=Lengths((8, 9, 10), 300))
    assert request_for(question).train.tokens == 64


def test_the_verdict_is_tight_between_the_least_and_all_of_it(ask: Any, inspector: Inspector) -> None:
    footprint = predict(ask(training__activation_checkpointing=False), "full", inspector)
    least = footprint.least_bytes
    assert least is not None
    assert footprint.verdict(least - 1) == "does not fit"
    assert footprint.verdict(footprint.device_bytes) == "fits"
    assert footprint.verdict(least) in ("tight", "fits")


def test_layers_that_differ_are_traced_whole(ask: Any) -> None:
    question = ask()
    assert shallow_depths(question.architecture, question.spec.lora) is not None
    some = question.spec.lora.model_copy(update={"layers_to_transform": [0, 1]})
    assert shallow_depths(question.architecture, some) is None


def test_sliding_and_full_attention_repeat_as_a_pattern(ask: Any) -> None:
    gemma = {**DEEP, "model_type": "gemma2", "head_dim": 32, "num_hidden_layers": 9}
    depths = shallow_depths(ask(gemma).architecture, spec_of().lora)
    assert depths is not None
    assert (depths.more - depths.fewer) == 2
    assert (9 - depths.fewer) % 2 == 0


def test_the_formula_answers_at_once(ask: Any) -> None:
    question = ask({**DEEP, "num_hidden_layers": 80})
    predict(question)
    times = []
    for _ in range(9):
        began = time.perf_counter()
        predict(question)
        times.append(time.perf_counter() - began)
    assert sorted(times)[4] < 0.02  # 5 ms on an idle machine: tests/benchmarks/prediction_time.py


def test_a_rank_has_buckets_under_ddp_and_a_share_under_fsdp(ask: Any, inspector: Inspector) -> None:
    question = ask({**DEEP, "num_hidden_layers": 24})

    def of(processes: int, strategy: str) -> Question:
        spec = question.spec
        hardware = spec.hardware.model_copy(update={"num_processes": processes, "strategy": strategy})
        changed = spec.training.model_copy(update={"optim": "adamw_torch", "gradient_accumulation_steps": 4})
        return replace(question, spec=spec.model_copy(update={"hardware": hardware, "training": changed}))

    def by_trace(of_run: Question) -> Footprint:
        return predict(of_run, "full", inspector)

    for told in (by_trace, by_formula):
        one, ddp, fsdp, eight = (told(of(n, how)) for n, how in ((1, "none"), (4, "ddp"), (4, "fsdp"), (8, "fsdp")))
        assert ddp.device_bytes - one.device_bytes == one.categories["adapters"], "buckets are as large as gradients"
        assert one.device_bytes > fsdp.device_bytes > eight.device_bytes
        assert fsdp.categories["optimizer"] == pytest.approx(one.categories["optimizer"] / 4, abs=1)
        assert one.categories["weights"] / 4 < fsdp.categories["weights"] < one.categories["weights"]
        for footprint in (ddp, fsdp, eight):
            assert sum(footprint.categories.values()) == footprint.device_bytes
            assert any("NCCL" in words for words in footprint.not_modelled)
            assert footprint.categories["activations"] == one.categories["activations"]
        assert fsdp.phases["load"] < one.phases["load"], "no GPU holds the whole model at any time"
        assert any("of host memory" in words for words in fsdp.notes)
        assert fsdp.categories["gradients"] == one.categories["gradients"] > 0, "whole ones wait for the last pass"


def test_what_may_come_out_above_what_is_free_is_tight() -> None:
    footprint = Footprint("formula", {}, {}, allocated_bytes=600, device_bytes=1000, range_bytes=(1000, 1400))
    assert [footprint.verdict(free) for free in (999, 1000, 1399, 1400)] == ["does not fit", "tight", "tight", "fits"]
    measured_least = replace(footprint, least_bytes=900)
    assert [measured_least.verdict(free) for free in (899, 900, 1000)] == ["does not fit", "tight", "fits"]
