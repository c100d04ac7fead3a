"""The plan with a real tracer: bars that become exact, edits during a trace, and a tracer that dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from textual.pilot import Pilot

from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.predict import predict
from tests.conftest import wait_until
from tests.tui.conftest import GIB, NOW, until
from tests.tui.models import KnownModels, llama
from tests.tui.planning import line, planned
from tui.app import LoradeckApp
from tui.planning import traces as plan_traces
from tui.planning.memory import PlanMemory
from tui.screens.fit import FitScreen
from tui.screens.plan import PlanScreen
from tui.screens.runs import RunsScreen

SLOW_S = 120.0
"""A tracer imports the training stack first, and the machine may be busy."""
CARD = Card("RTX 4090", 23 * GIB, total_bytes=24 * GIB, compute_capability=(8, 9))
SIZE = (120, 40)
LONG = {"lora.layers_to_transform": [0, 1]}
"""Layers that differ have to be traced all: there is time to do something meanwhile."""


class Shared(Inspector):
    """Stays warm from app to app: an app that closes leaves it alone."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        shared = Shared()
        shared.request("warm", SLOW_S)
        yield shared
        Inspector.close(shared)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return config_only(tmp_path / "six-layers", layers=6)


def config_only(folder: Path, layers: int) -> Path:
    """A small Llama of which only the config is there."""
    config = {
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def app_for(
    model: Path, tracer: Inspector | None, inspector: Inspector | None = None, card: Card = CARD, **settings: Any
) -> LoradeckApp:
    """An app whose plan has `model` and `settings`; one process both traces and inspects unless there is another."""
    app = LoradeckApp(
        now=lambda: NOW,
        read_card=lambda _: card,
        inspector=inspector or tracer,
        tracer=tracer,
        tracing=tracer is not None,
    )
    app.plan_screen().draft.change_all({"model.name_or_path": str(model), **settings})
    return app


async def shown(pilot: Pilot[None]) -> PlanScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
    screen = pilot.app.screen
    assert isinstance(screen, PlanScreen)
    await until(pilot, lambda: screen.draft.architecture, "the model is read", SLOW_S)
    return await planned(pilot)


async def until_told(pilot: Pilot[None], words: str, id: str = "memory") -> None:
    await until(pilot, lambda: words in line(pilot, id), words, SLOW_S)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def change(screen: PlanScreen, field: str, value: object) -> None:
    assert screen.draft.change(field, value) == []
    screen.draft_changed()


async def test_the_formula_is_shown_at_once_then_few_layers_then_all(model: Path, tracer: Inspector) -> None:
    async with app_for(model, tracer).run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        assert "predicted, formula" in line(pilot, "memory")
        await until_told(pilot, "predicted, traced on 3 layers")
        await until_told(pilot, "predicted, traced, trl ")
        assert "context 420 MiB" in line(pilot, "memory")
        question = screen.draft.question
        assert question is not None
        exact = predict(plan_traces.located(question, Path()), "full", tracer)
        assert screen.memory.footprint == exact
        change(screen, "training.learning_rate", 1e-5)
        assert "predicted, traced, trl " in line(pilot, "memory"), "memory does not depend on it"
        change(screen, "lora.r", 64)
        assert "predicted, formula" in line(pilot, "memory")
        await pilot.press("ctrl+z")
        assert "predicted, traced, trl " in line(pilot, "memory")


async def test_an_edit_during_a_trace_ends_with_the_newest_settings_traced(tmp_path: Path, tracer: Inspector) -> None:
    async with app_for(config_only(tmp_path / "model", layers=16), tracer, **LONG).run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        await until(pilot, lambda: screen.memory.predictions.in_flight, "a trace is asked for")
        first = screen.memory.predictions.in_flight
        for r in (32, 64):
            change(screen, "lora.r", r)
        assert "predicted, formula" in line(pilot, "memory")
        assert screen.memory.predictions.in_flight is first, "it is not waited for, and no other is asked beside it"
        await until_told(pilot, "predicted, traced, trl ")
        trainable = screen.draft.totals().trainable_parameters
        assert screen.memory.footprint is not None
        assert screen.memory.footprint.categories["adapters"] == 2 * (trainable or 0)
        assert not screen.memory.predictions.in_flight


async def test_a_tracer_that_is_killed_leaves_the_formula_and_the_next_edit_traces_again(tmp_path: Path) -> None:
    model = config_only(tmp_path / "model", layers=40)
    with Inspector() as tracer:
        tracer.request("warm", SLOW_S)
        async with app_for(model, tracer, **LONG).run_test(size=SIZE) as pilot:
            screen = await shown(pilot)
            pid = tracer.pid
            assert pid is not None
            await until(pilot, psutil.Process(pid).children, "it is tracing", SLOW_S)
            forks = psutil.Process(pid).children()
            os.kill(pid, signal.SIGKILL)
            await until_told(pilot, "no trace: Tracing the run's memory failed", "note")
            await until(pilot, lambda: not any(map(is_running, forks)), "the trace itself is ended with it")
            assert "predicted, formula" in line(pilot, "memory")
            await until(pilot, lambda: tracer.pid not in (None, pid), "it is started anew")
            change(screen, "lora.layers_to_transform", None)
            assert "no trace" not in line(pilot, "note")
            await until_told(pilot, "predicted, traced on 3 layers")


async def test_a_model_whose_config_is_nowhere_keeps_the_formula(tracer: Inspector, tmp_path: Path) -> None:
    nowhere = llama(str(tmp_path / "gone"), layers=2)
    async with app_for(tmp_path / "gone", tracer, KnownModels(nowhere)).run_test(size=(80, 24)) as pilot:
        await shown(pilot)
        await until_told(pilot, "no trace: ", "note")
        assert "predicted, formula" in line(pilot, "memory")


async def test_what_fits_is_traced_taken_as_one_edit_and_undone(model: Path, tracer: Inspector) -> None:
    async with app_for(model, tracer).run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        await until_told(pilot, "predicted, traced, trl ")
        assert screen.memory.footprint is not None
        least = screen.memory.footprint.needed_bytes
        screen.deck.read_card = lambda _: Card(CARD.name, least - 2**20, False, 24 * GIB, (8, 9))
        screen._read_card()
        await until_told(pilot, "DOES NOT FIT")
        before = screen.draft.spec
        await pilot.press("g")
        await until(pilot, lambda: isinstance(pilot.app.screen, FitScreen), "what fits is listed", SLOW_S)
        dialog = pilot.app.screen
        assert isinstance(dialog, FitScreen)
        assert dialog.fit.fits
        assert dialog.fit.footprint.tier == "full"
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen, "it is taken")
        assert screen.draft.spec.effective_batch_size == before.effective_batch_size
        assert "DOES NOT FIT" not in line(pilot, "memory")
        assert "predicted, traced, trl " in line(pilot, "memory"), "it was traced already"
        await pilot.press("ctrl+z")
        assert screen.draft.spec == before


def test_offloading_is_counted_from_a_trace(model: Path, tracer: Inspector) -> None:
    draft = app_for(model, tracer, **{"training.activation_offloading": True}).plan_screen().draft
    draft.architecture, draft.card = tracer.architecture(str(model), timeout_s=SLOW_S), CARD
    memory = PlanMemory()
    memory.follow(draft)
    while asked := memory.next():
        memory.take(asked, plan_traces.trace(asked, Path(), tracer))
    assert memory.why_not == ""
    assert memory.footprint is not None
    assert "counted, not traced" in " ".join(memory.footprint.notes)


def test_a_trace_of_an_earlier_session_is_shown_without_a_request(model: Path, tracer: Inspector) -> None:
    screen = app_for(model, tracer).plan_screen()
    draft = screen.draft
    draft.architecture, draft.card = tracer.architecture(str(model), timeout_s=SLOW_S), CARD
    earlier, later = PlanMemory(), PlanMemory()
    earlier.follow(draft)
    while asked := earlier.next():
        earlier.take(asked, plan_traces.trace(asked, Path(), tracer))
    assert earlier.trace is not None
    draft.change("lora.r", 64)
    later.follow(draft)
    asked = later.next()
    assert asked is not None
    later.take(asked, plan_traces.trace(asked, Path(), tracer))
    draft.undo()
    later.follow(draft)
    assert later.trace == earlier.trace


async def test_a_tracer_begins_when_the_plan_is_shown_and_ends_with_the_app(new_run: Any, model: Path) -> None:
    new_run().status(state="finished", step=1)
    tracer = Inspector()
    app = app_for(model, tracer, KnownModels())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen), "the runs are shown")
        await pilot.pause(0.2)
        assert tracer.pid is None
        await pilot.press("1")
        await until(pilot, lambda: tracer.pid is not None, "it is started")
        pid = tracer.pid
    assert pid is not None
    assert tracer.pid is None
    wait_until(lambda: not psutil.pid_exists(pid), "its process has ended")


async def test_where_tracing_is_off_there_is_no_tracer(model: Path, tracer: Inspector) -> None:
    app = app_for(model, None, tracer)
    async with app.run_test(size=SIZE) as pilot:
        await shown(pilot)
        assert app.tracer is None
        assert "predicted, formula" in line(pilot, "memory")


async def test_rows_are_measured_and_the_bar_is_for_the_longest_of_them(
    tracer: Inspector, tiny_model: Path, rows_file: Path
) -> None:
    app = app_for(tiny_model, tracer, **{"data.train": str(rows_file), "data.max_length": 4096})
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("1")
        screen = await shown(pilot)
        await until(pilot, lambda: screen.draft.lengths is not None, "the rows are measured", SLOW_S)
        lengths = screen.draft.lengths
        assert lengths is not None
        assert 0 < lengths.longest < 4096
        assert 0 < lengths.labelled_share < 1
        await until_told(pilot, "traced")
        footprint = screen.memory.footprint
        assert footprint is not None
        assert footprint.batch["tokens"] == lengths.longest
        screen.draft.change("data.columns", {"question": "prompt"})
        screen.draft_changed()
        assert screen.draft.lengths is None, "they were of other rows"
