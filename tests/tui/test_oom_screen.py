"""The screen after a run ran out of memory, by keys: what it says, what can be chosen, and what is started."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.checks import read_spec
from engine.inspector import Inspector
from engine.memory.card import Card
from engine.memory.ways_out.after_oom import price_of, shortage, ways_out
from engine.runs.store import Run
from tests.conftest import wait_for_end, wait_until
from tests.tui.conftest import GIB, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tests.tui.oom_runs import MIB, MODEL, OOM, fail_of_memory, known_model, oom_spec
from tests.tui.test_plan_traces import Shared, config_only
from tui.app import LoradeckApp
from tui.out_of_memory.work import Price
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.oom import OomScreen
from tui.screens.oom_snapshot import SnapshotScreen
from tui.screens.plan import PlanScreen
from tui.screens.runs import RunsScreen
from tui.widgets.line import Line
from tui.widgets.remedy_list import RemedyList, RemedyRow
from tui.widgets.words import Words

WIDE, NARROW = (120, 40), (80, 24)
SLOW_S = 120.0
BATCH, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"


@pytest.fixture
def oom_run(new_run: Callable[..., RunFolder], tmp_path: Path) -> Callable[..., RunFolder]:
    """Makes a run that ran out of memory; `training__optim` sets a setting, `phase` a field of the event."""

    def make(live: bool = False, **changes: Any) -> RunFolder:
        folder = new_run("20261124-052000-llama-3b-a1b2", live=live)
        settings = {name: value for name, value in changes.items() if "__" in name or name == "on_oom"}
        spec = oom_spec(known_model(tmp_path / "model"), **settings)
        fail_of_memory(folder, spec, **{name: value for name, value in changes.items() if name not in settings})
        return folder

    return make


def app_for(**options: Any) -> LoradeckApp:
    known = {"inspector": KnownModels(MODEL), "tracing": False, "read_card": lambda _: Card("RTX 4070 SUPER", 11 * GIB)}
    return LoradeckApp(now=lambda: NOW, **{**known, **options})


async def opened(pilot: Pilot[None], run: Run, answers: list[Run | None] | None = None) -> OomScreen:
    screen = OomScreen(run, pilot.app.glyphs)  # type: ignore[attr-defined]
    await pilot.app.push_screen(screen, callback=None if answers is None else answers.append)
    await until(pilot, lambda: "Reading" not in said(pilot, "happened"), "what happened is said")
    await until(pilot, lambda: screen.price is not None or not screen.choice.marked, "the choice is priced")
    return screen


def said(pilot: Pilot[None], id: str) -> str:
    part = pilot.app.screen.query_one(f"#{id}")
    assert isinstance(part, (Line, Words))
    return str(part.words)


def rows(screen: OomScreen) -> dict[str, RemedyRow]:
    return {row.id: row for row in screen.query_one(RemedyList).rows}


def marked(screen: OomScreen) -> list[str]:
    return [row.id for row in rows(screen).values() if row.mark == "on"]


async def choose(pilot: Pilot[None], id: str) -> None:
    """Go to a line with the cursor keys, and press space on it."""
    listed = pilot.app.screen.query_one(RemedyList)
    places = [row.id for row in listed.rows]
    steps = places.index(id) - listed.cursor
    await pilot.press(*["down" if steps > 0 else "up"] * abs(steps), "space")


def predicted(run: Run, *ids: str) -> int:
    """What the engine predicts with these ways out together, by the formula."""
    found = shortage(run)
    chosen = {remedy.id: remedy for remedy in ways_out(found, None)}
    return price_of(found, [chosen[id] for id in ids], None).device_bytes


async def priced(pilot: Pilot[None], screen: OomScreen, size_bytes: int) -> None:
    def is_shown() -> bool:
        return isinstance(screen.price, Price) and screen.price.footprint.device_bytes == size_bytes

    await until(pilot, is_shown, "the choice is priced anew")


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_it_says_what_happened_and_marks_the_first_way_out(
    oom_run: Callable[..., RunFolder], size: tuple[int, int]
) -> None:
    run = oom_run().run
    async with app_for().run_test(size=size) as pilot:
        screen = await opened(pilot, run)
        happened = said(pilot, "happened")
        assert "Out of memory in the backward pass at step 37, on a batch of 4 rows x 1,024 tokens" in happened
        assert "PyTorch wanted 512 MiB more; this run held 10.9 of 11.6 GiB" in happened
        assert "Nothing is lost: checkpoint-30 is safe, 6 steps to repeat." in happened
        assert "activations 7.7 GiB" in said(pilot, "held")
        assert marked(screen) == ["batch-1"]
        assert screen.query_one(RemedyList).highlighted == "batch-1"
        header, first = (screen.query_one(RemedyList).render_line(y).text for y in (0, 1))
        assert ("saves" in header) == ("batch" in header) == (size == WIDE)
        assert [word in header for word in ("peak", "speed", "training")] == [True] * 3
        assert first.split("  ")[0] == " [x] batch 4 → 1, accumulation 4 → 16"
        assert first.rstrip().endswith("the same")
        assert "fits" in first
        assert "saves 15.0 GiB; effective batch 16" in said(pilot, "detail")
        line = said(pilot, "choice")
        assert line.startswith("with the choice: 6.8 of 10.9 GiB ")
        assert ", fits (formula), effective batch 16, " in line
        assert line.endswith("training the same, continues from checkpoint-30")


async def test_the_keys_of_the_app_lead_away_from_it(oom_run: Callable[..., RunFolder]) -> None:
    run = oom_run().run
    app = app_for(run=run)
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, OomScreen), "the monitor has opened it")
        assert len(app.screen_stack) == 3
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen), "the list of runs is shown")
        assert len(app.screen_stack) == 1


async def test_several_are_priced_together_and_those_that_set_the_same_exclude_each_other(
    oom_run: Callable[..., RunFolder],
) -> None:
    run = oom_run().run
    async with app_for().run_test(size=NARROW) as pilot:
        screen = await opened(pilot, run)
        await choose(pilot, "checkpointing")
        both = predicted(run, "batch-1", "checkpointing")
        await priced(pilot, screen, both)
        assert both < predicted(run, "checkpointing")
        await choose(pilot, "batch-2")
        assert marked(screen) == ["checkpointing", "batch-2"]
        assert said(pilot, "said") == "Not chosen any more: batch 4 → 1, accumulation 4 → 16, which sets the same."
        await priced(pilot, screen, predicted(run, "checkpointing", "batch-2"))
        assert said(pilot, "choice").startswith("with the choice: ")
        await choose(pilot, "larger-card")
        assert "nothing to set" in said(pilot, "said")
        assert marked(screen) == ["checkpointing", "batch-2"]


async def test_a_choice_that_changes_what_is_learnt_says_so(oom_run: Callable[..., RunFolder]) -> None:
    run = oom_run().run
    async with app_for().run_test(size=WIDE) as pilot:
        screen = await opened(pilot, run)
        await pilot.press("e")
        assert rows(screen)["batch-1"].what == "batch 4 → 1"
        assert rows(screen)["batch-1"].batch == "4"
        assert rows(screen)["batch-1"].training == "changes"
        assert "effective batch 4 instead of 16, training changes" in said(pilot, "choice")
        assert screen.choice.values == {BATCH: 1}
        await pilot.press("e", "r")
        assert "effective batch 16, training the same" in said(pilot, "choice")
        assert said(pilot, "choice").endswith("next time by itself")
        assert screen.choice.values == {BATCH: 1, ACCUMULATION: 16, "on_oom": "retry"}
        await choose(pilot, "rank-8")
        assert "training changes, begins anew" in said(pilot, "choice")


async def test_enter_asks_once_where_something_speaks_against_it(oom_run: Callable[..., RunFolder]) -> None:
    folder = oom_run()
    folder.status(state="failed", cause="oom", step=36, continued_by="20261124-060000-llama-3b-0001")
    run, answers = folder.run, list[Run | None]()
    async with app_for().run_test(size=NARROW) as pilot:
        screen = await opened(pilot, run, answers)
        await pilot.press("space", "enter")
        assert said(pilot, "said") == "Nothing is chosen: space chooses the line under the cursor."
        await choose(pilot, "rank-8")
        await priced(pilot, screen, predicted(run, "rank-8"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "it asks")
        dialog = pilot.app.screen
        assert isinstance(dialog, ConfirmScreen)
        assert "predicted not to fit: it takes 21.7 of 10.9 GiB" in dialog.meaning
        assert "begins anew: checkpoint-30" in dialog.meaning
        assert "20261124-060000-llama-3b-0001 goes on from this run already." in dialog.meaning
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen, "it is not started")
        await pilot.press("escape")
        await until(pilot, lambda: answers, "the screen is left")
        assert answers == [None]


async def test_a_run_that_is_busy_is_words_on_the_screen(oom_run: Callable[..., RunFolder]) -> None:
    run = oom_run(live=True).run
    async with app_for().run_test(size=WIDE) as pilot:
        screen = await opened(pilot, run)
        await pilot.press("enter")
        await pilot.press("escape")
        assert pilot.app.screen is screen, "what is being started is waited for"
        await until(pilot, lambda: "is running already" in said(pilot, "said"), "it says why it cannot")
        assert pilot.app.screen is screen


async def test_enter_starts_a_run_that_goes_on_from_the_checkpoint(oom_run: Callable[..., RunFolder]) -> None:
    parent = oom_run().run
    answers: list[Run | None] = []
    async with app_for().run_test(size=WIDE) as pilot:
        await opened(pilot, parent, answers)
        await pilot.press("r", "enter")
        await until(pilot, lambda: answers, "it is started")
    child = answers[0]
    assert child is not None
    spec = read_spec(child.spec_path)
    assert spec.effective_batch_size == 16
    assert spec.on_oom == "retry"
    assert spec.parent is not None
    assert (spec.parent.run, spec.parent.checkpoint, spec.parent.remedies) == (parent.id, "checkpoint-30", ["batch-1"])
    assert spec.parent.changes[BATCH] == (4, 1)
    assert [path.name for path in child.checkpoints()] == ["checkpoint-30"]
    assert parent.read_status().continued_by == child.id
    trainer_pid = wait_until(lambda: child.read_status().trainer_pid, "its trainer is started")
    os.kill(trainer_pid, signal.SIGKILL)  # there are no weights for it
    wait_for_end(child)


async def test_the_memory_snapshot_and_help(oom_run: Callable[..., RunFolder]) -> None:
    folder = oom_run(snapshot="memory.pickle")
    path = folder.run.folder / "memory.pickle"
    path.write_bytes(b"")
    async with app_for().run_test(size=NARROW) as pilot:
        screen = await opened(pilot, folder.run)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, SnapshotScreen), "the snapshot is told of")
        words = "\n".join(str(part.words) for part in pilot.app.screen.query(Words))
        assert str(path) in words
        assert "https://pytorch.org/memory_viz" in words
        assert OOM["message"] in words
        assert pilot.app.clipboard == str(path)
        await pilot.press("escape", "f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen), "help is open")
        keys = "\n".join(str(part.words) for part in pilot.app.screen.query(Words))
        assert all(name in keys for name in ("oom.go_on", "oom.effective_batch", "remedies.mark"))
        await pilot.press("escape")
        assert pilot.app.screen is screen


async def test_the_plan_opens_with_the_run_and_what_is_chosen(oom_run: Callable[..., RunFolder]) -> None:
    run = oom_run().run
    async with app_for().run_test(size=WIDE) as pilot:
        await opened(pilot, run)
        await choose(pilot, "checkpointing")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        plan = pilot.app.screen
        assert isinstance(plan, PlanScreen)
        await until(pilot, lambda: plan.draft.spec.training.activation_checkpointing, "the run is planned with")
        spec = plan.draft.spec
        assert (spec.training.per_device_train_batch_size, spec.effective_batch_size) == (1, 16)
        assert spec.parent is None
        await pilot.press("ctrl+z")
        assert plan.draft.spec == read_spec(run.spec_path), "the changes are one edit of what the run had"


NASTY = "[red]ollama[/] \x1b[31m界面[1]"


async def test_names_of_processes_are_shown_as_themselves(oom_run: Callable[..., RunFolder]) -> None:
    others = [{"pid": 4121, "user": "[b]anna", "name": NASTY, "used_bytes": GIB}]
    run = oom_run(others=others, message=f"CUDA {NASTY}").run
    async with app_for().run_test(size=NARROW) as pilot:
        screen = await opened(pilot, run)
        shown = NASTY.replace("\x1b", "␛")
        assert f"({shown}, pid 4121, [b]anna)" in said(pilot, "happened")
        row = rows(screen)["stop-process-4121"]
        assert row.what.startswith(f"stop {shown} (pid 4121")
        place = list(rows(screen)).index(row.id)
        line = screen.query_one(RemedyList).render_line(1 + place)
        assert line.cell_length == screen.query_one(RemedyList).scrollable_content_region.width
        assert "\x1b" not in line.text
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, SnapshotScreen), "the library's words are shown")
        assert f"CUDA {shown}" in "\n".join(str(part.words) for part in pilot.app.screen.query(Words))


async def test_a_model_that_nobody_knows_here_leaves_what_was_recorded(
    oom_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    folder = oom_run()
    found = ways_out(shortage(folder.run), None)
    folder.supervisor.write("remedies", remedies=[*(remedy.to_json() for remedy in found), {"id": "torn"}])
    (tmp_path / "model" / "config.json").unlink()
    async with app_for().run_test(size=WIDE) as pilot:
        screen = await opened(pilot, folder.run)
        assert list(rows(screen)) == [remedy.id for remedy in found]
        assert marked(screen) == ["batch-1"]
        await until(pilot, lambda: "not predicted" in said(pilot, "choice"), "it says that it cannot be priced")
        assert "effective batch 16, training the same, continues from checkpoint-30" in said(pilot, "choice")


async def test_a_run_without_an_event_says_what_its_status_says(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.status(state="failed", cause="host-oom", message="The kernel ended the trainer: no memory.", step=3)
    async with app_for().run_test(size=NARROW) as pilot:
        screen = await opened(pilot, folder.run)
        assert "The kernel ended the trainer: no memory." in said(pilot, "happened")
        assert not rows(screen)
        assert "run.yaml" in said(pilot, "detail")
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, SnapshotScreen), "the snapshot is told of")
        assert "There is none" in "\n".join(str(part.words) for part in pilot.app.screen.query(Words))
        assert pilot.app.clipboard == ""


# ---- traced


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        shared = Shared()
        shared.request("warm", SLOW_S)
        yield shared
        Inspector.close(shared)


FEW_WAYS_OUT = {
    "lora__target_modules": ["q_proj", "v_proj"],
    "lora__r": 1,
    "training__optim": "paged_adamw_8bit",
    "training__per_device_train_batch_size": 2,
    "data__max_length": 160,
}
"""Settings that leave little to try: each trace takes a second."""


async def test_leaving_gives_tracing_up_and_traced_prices_come_in_place(
    new_run: Callable[..., RunFolder], tracer: Inspector, tmp_path: Path
) -> None:
    model = config_only(tmp_path / "model", layers=3)
    known_to_its_cache = tracer.architecture(str(model), timeout_s=SLOW_S)
    assert known_to_its_cache.total_parameters
    folder = new_run()
    sizes = {"held_bytes": 436 * MIB, "capacity_bytes": 438 * MIB, "requested_bytes": 2 * MIB}
    fail_of_memory(folder, oom_spec(model, **FEW_WAYS_OUT), others=[], other_processes_bytes=None, **sizes)
    async with app_for(tracing=True, tracer=tracer, inspector=tracer).run_test(size=WIDE) as pilot:
        left = await opened(pilot, folder.run)
        await until(pilot, lambda: "tracing 2 of " in said(pilot, "said"), "progress is told", SLOW_S)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not left, "the screen is left")
        threads = threading.enumerate
        await until(pilot, lambda: all(one.name != "ways out" for one in threads()), "it is given up", SLOW_S)
        assert not left.is_traced
        screen = await opened(pilot, folder.run)
        before, chosen = list(rows(screen)), marked(screen)
        assert chosen
        assert "MiB usable" in said(pilot, "choice"), "the prediction of what failed fell short"
        assert "(formula)" in said(pilot, "choice")
        await until(pilot, lambda: screen.is_traced, "it is traced", SLOW_S)
        assert list(rows(screen))[: len(before)] == before
        assert marked(screen) == chosen
        found = shortage(folder.run, tracer)
        prices = {remedy.id: remedy.predicted_peak_bytes for remedy in ways_out(found, tracer)}
        listed = {remedy.id: remedy for remedy in screen.choice.remedies}
        assert {id: listed[id].predicted_peak_bytes for id in prices} == prices
        assert listed["batch-1"].tier == "full"
        await until(pilot, lambda: "(traced)" in said(pilot, "choice"), "the choice is traced, too", SLOW_S)
        await priced(pilot, screen, price_of(found, screen.choice.chosen, tracer).device_bytes)
        assert said(pilot, "said") == "prices traced, 1 by the formula"
