"""Which prediction is shown and what is asked for next; no tracer is needed for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.memory.card import Card, OtherProcess
from engine.memory.footprint import Category, Footprint, Tier
from tests.tui.models import llama
from tui.glyphs import ASCII, UNICODE
from tui.planning import words as plan_words
from tui.planning.draft import Draft
from tui.planning.memory import Answer, PlanMemory, Trace

MODEL = llama(layers=4)
CARD = Card("RTX 4090", 20 * 2**30, total_bytes=24 * 2**30, compute_capability=(8, 9))


@pytest.fixture
def draft() -> Draft:
    draft = Draft()
    draft.change("model.name_or_path", MODEL.name_or_path)
    draft.architecture, draft.card = MODEL, CARD
    return draft


@pytest.fixture
def memory(draft: Draft) -> PlanMemory:
    memory = PlanMemory()
    assert memory.follow(draft)
    return memory


def traced(tier: Tier, size_bytes: int = 2**30) -> Trace:
    footprint = Footprint(tier, {"weights": size_bytes}, {}, size_bytes, size_bytes, versions={"trl": "1.16.0"})
    return Trace(footprint, 3 if tier == "shallow" else None)


def answer(memory: PlanMemory, tier: Tier, size_bytes: int = 2**30) -> None:
    asked = memory.next()
    assert asked is not None
    assert asked.tier == tier
    memory.take(asked, Answer(traced(tier, size_bytes)))


def test_the_formula_speaks_first_then_few_layers_then_all(draft: Draft, memory: PlanMemory) -> None:
    assert memory.footprint is draft.footprint
    for tier in ("shallow", "full"):
        answer(memory, tier)
        assert memory.footprint is not None
        assert memory.footprint.tier == tier
    assert memory.next() is None


def test_what_a_full_trace_leaves_to_the_formula_is_not_asked_for_again(memory: PlanMemory) -> None:
    answer(memory, "shallow")
    asked = memory.next()
    assert asked is not None
    memory.take(asked, Answer(traced("formula", 7)))
    assert memory.trace == traced("formula", 7)
    assert memory.next() is None


def test_one_request_is_made_at_a_time(draft: Draft, memory: PlanMemory) -> None:
    first = memory.next()
    assert first is not None
    assert memory.is_tracing
    draft.change("lora.r", 64)
    assert memory.follow(draft)
    assert not memory.is_tracing
    assert memory.next() is None
    memory.take(first, Answer(traced("shallow")))
    assert memory.footprint is draft.footprint, "the answer is about an earlier state"
    second = memory.next()
    assert second is not None
    assert second.question.spec.lora.r == 64


def test_an_answer_that_came_too_late_is_there_when_an_edit_leads_back(draft: Draft, memory: PlanMemory) -> None:
    asked = memory.next()
    assert asked is not None
    draft.change("lora.r", 64)
    memory.follow(draft)
    memory.take(asked, Answer(traced("shallow")))
    draft.undo()
    memory.follow(draft)
    assert memory.trace == traced("shallow")


def test_what_memory_does_not_depend_on_keeps_the_trace(draft: Draft, memory: PlanMemory) -> None:
    answer(memory, "shallow")
    draft.change_all({"training.learning_rate": 1e-5, "training.num_train_epochs": 7, "data.train": "other.jsonl"})
    draft.card = replace(CARD, free_bytes=1, others=(OtherProcess(7, None, None, 5),))
    assert not memory.follow(draft)
    assert memory.trace == traced("shallow")


def test_another_card_is_another_prediction(draft: Draft, memory: PlanMemory) -> None:
    answer(memory, "shallow")
    draft.card = replace(CARD, name="T4", compute_capability=(7, 5))
    assert memory.follow(draft)
    assert memory.trace is None


def test_a_failure_is_told_and_not_repeated_until_an_edit(draft: Draft, memory: PlanMemory) -> None:
    asked = memory.next()
    assert asked is not None
    memory.take(asked, Answer(None, "the process died"))
    assert (memory.why_not, memory.footprint) == ("the process died", draft.footprint)
    assert memory.next() is None
    draft.change("lora.r", 64)
    memory.follow(draft)
    assert memory.why_not == ""
    assert memory.next() is not None


def test_where_only_the_full_trace_fails_the_other_stays(draft: Draft, memory: PlanMemory) -> None:
    answer(memory, "shallow")
    asked = memory.next()
    assert asked is not None
    memory.take(asked, Answer(None, "too long"))
    assert memory.trace == traced("shallow")
    assert memory.why_not == "too long"


def test_another_model_begins_anew(draft: Draft, memory: PlanMemory) -> None:
    asked = memory.next()
    assert asked is not None
    draft.architecture = None
    assert memory.follow(draft)
    assert memory.footprint is None
    draft.architecture = llama(layers=5)
    memory.follow(draft)
    memory.take(asked, Answer(traced("full"), config_folder=Path("/of/the/other")))
    assert memory.trace is None
    again = memory.next()
    assert again is not None
    assert again.question.config_folder is None


@pytest.mark.parametrize(
    ("trace", "words"), [(traced("shallow"), "traced on 3 layers"), (traced("full"), "traced, trl 1.16")]
)
def test_a_tier_is_told_in_words(trace: Trace, words: str) -> None:
    assert plan_words.tier(trace.footprint, trace.layers) == words


@pytest.mark.parametrize("width", [78, 118, 218])
def test_the_legend_has_the_largest_parts_and_fits_its_line(width: int) -> None:
    gib = 2**30
    sizes: dict[Category, int] = {"weights": 5 * gib, "adapters": 9, "logits": gib, "workspaces": 7}
    sizes |= {"cache": 2 * gib, "context": gib}
    footprint = replace(traced("full").footprint, categories=sizes, device_bytes=9 * gib + 16)
    for glyphs in (UNICODE, ASCII):
        first, second = str(plan_words.memory(footprint, "traced, trl 1.16", CARD, glyphs, width)).splitlines()
        assert len(first) == len(second) == width
        assert second.endswith("predicted, traced, trl 1.16")
        assert "weights 5.0 GiB" in second
        assert "cached 2.0 GiB" in second
        assert first.endswith("9.0 GiB of 20.0 GiB free   FITS")
        if width > 200:
            assert "context 1.0 GiB" in second


def test_on_the_cpu_the_context_is_called_what_it_is() -> None:
    footprint = replace(traced("full").footprint, categories={"context": 2**29}, device_bytes=2**29)
    host = Card("host memory", 2**34, on_cpu=True)
    assert "libraries 512 MiB" in str(plan_words.memory(footprint, "formula", host, UNICODE, 118))


def test_the_memory_of_several_processes_is_that_of_a_rank(draft: Draft, memory: PlanMemory) -> None:
    assert memory.footprint is not None
    seen = [memory.footprint.device_bytes]
    for field, value in (("hardware.num_processes", 4), ("hardware.strategy", "fsdp")):
        draft.change(field, value)
        assert memory.follow(draft)
        assert memory.footprint is not None
        seen.append(memory.footprint.device_bytes)
    assert seen[1] > seen[0], "DDP's buckets"
    assert seen[2] not in seen[:2]
    _, second = str(plan_words.memory(memory.footprint, "formula", CARD, UNICODE, 118, processes=4)).splitlines()
    assert "predicted a rank, formula" in second
