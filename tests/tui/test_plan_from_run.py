"""From a run back to the plan: its settings as a draft, and names of targets that its model does not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.checks import parse_spec, read_spec, write_spec
from engine.memory.card import Card
from tests.tui.conftest import GIB, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tests.tui.oom_runs import oom_spec
from tests.tui.planning import FREE, SMOLLM, draft_of, line, planned, planning_app, tree_of
from tui.app import LoradeckApp
from tui.planning.draft import Draft
from tui.planning.meant_targets import meant_targets
from tui.planning.run_draft import draft_of as draft_of_run
from tui.screens.confirm import ConfirmScreen
from tui.screens.files import UnsavedScreen
from tui.screens.plan import PlanScreen
from tui.screens.problems import ProblemsScreen

WIDE = (120, 40)


@pytest.fixture
def bad_run(new_run: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    """Makes a run that failed before any weights were loaded; arguments are settings of its `lora` section."""

    def make(**lora: Any) -> RunFolder:
        folder = new_run()
        spec = oom_spec(Path("/nowhere")).model_dump(exclude={"parent"})
        spec["model"]["name_or_path"] = SMOLLM.name_or_path
        spec["lora"] |= lora
        spec["parent"] = {"run": "20261101-000000-earlier-0000", "checkpoint": "checkpoint-10"}
        folder.run.spec_path.write_text(write_spec(parse_spec(spec)))
        folder.status(state="failed", cause="bad-spec", message="lora.target_modules: no such module")
        return folder

    return make


def deck(**options: Any) -> LoradeckApp:
    """An app with nothing planned yet, which knows one model."""
    known = {"inspector": KnownModels(SMOLLM), "tracing": False, "read_card": lambda _: FREE}
    return LoradeckApp(now=lambda: NOW, **{**known, **options})


async def asked(pilot: Pilot[None]) -> ConfirmScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "what was meant is asked")
    dialog = pilot.app.screen
    assert isinstance(dialog, ConfirmScreen)
    return dialog


async def test_names_of_another_family_end_in_the_tree_with_what_was_meant(bad_run: Callable[..., RunFolder]) -> None:
    run = bad_run(target_modules=["query_key_value", "dense", "foo", "up_proj"]).run
    app = deck()
    async with app.run_test(size=(80, 24)) as pilot:
        app.plan_from(run)
        dialog = await asked(pilot)
        assert dialog.question == "Not in this LlamaForCausalLM: query_key_value, dense, foo"
        lines = dialog.meaning.splitlines()
        assert lines[1:3] == ["query_key_value → q_proj, k_proj, v_proj", "dense → o_proj"]
        assert lines[3].startswith("foo: nothing here is like it; linear layers are q_proj, k_proj")
        await pilot.press("y")
        await until(pilot, lambda: "F5 starts the run" in line(pilot, "note"), "it is chosen")
        await planned(pilot)
        spec = draft_of(pilot).spec
        assert spec.lora.target_modules == ["up_proj", "q_proj", "k_proj", "v_proj", "o_proj"]
        assert spec.parent is None
        assert not [problem for problem in draft_of(pilot).problems() if problem.field.startswith("lora.")]
        assert pilot.app.screen.focused is tree_of(pilot)
        place = tree_of(pilot).place
        assert place is not None
        assert place.names[0] == "model.layers.0.self_attn.q_proj"
        await pilot.press("ctrl+z")
        assert draft_of(pilot).spec == read_spec(run.spec_path).model_copy(update={"parent": None})


async def test_a_person_may_choose_by_hand_instead(bad_run: Callable[..., RunFolder]) -> None:
    run = bad_run(target_modules=["query_key_value"]).run
    app = deck(ascii=True)
    async with app.run_test(size=WIDE) as pilot:
        app.plan_from(run)
        assert "query_key_value -> q_proj, k_proj, v_proj" in (await asked(pilot)).meaning
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is there")
        assert "Not in this LlamaForCausalLM: query_key_value." in line(pilot, "note")
        assert draft_of(pilot).selection.targets == frozenset()
        assert pilot.app.screen.focused is tree_of(pilot)
        await pilot.press("space")
        assert draft_of(pilot).selection.targets, "the tree is where it is put right"


async def test_a_name_that_is_like_nothing_here_is_said_in_the_tree(bad_run: Callable[..., RunFolder]) -> None:
    run = bad_run(target_modules=["[b]xyzzy[/]"]).run
    app = deck()
    async with app.run_test(size=WIDE) as pilot:
        app.plan_from(run)
        await planned(pilot)
        await until(pilot, lambda: "[b]xyzzy[/]: nothing here is like it" in line(pilot, "note"), "it is said")


async def test_other_names_are_listed_with_their_settings(bad_run: Callable[..., RunFolder]) -> None:
    run = bad_run(target_modules=r".*\.nothing").run
    app = deck()
    async with app.run_test(size=WIDE) as pilot:
        app.plan_from(run)
        await until(pilot, lambda: isinstance(pilot.app.screen, ProblemsScreen), "the problems are listed")
        screen = pilot.app.screen
        assert isinstance(screen, ProblemsScreen)
        assert [problem.field for problem in screen.problems] == ["lora.target_modules"]


async def test_a_plan_that_would_be_lost_is_asked_about(bad_run: Callable[..., RunFolder]) -> None:
    run = bad_run(target_modules=["q_proj"]).run
    app = deck()
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press("1")
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        screen = pilot.app.screen
        assert isinstance(screen, PlanScreen)
        mine = screen.draft
        screen.draft.change("lora.r", 8)
        app.plan_from(run, {"lora.r": 4}, problem="Said by who asked for it.")
        await until(pilot, lambda: isinstance(pilot.app.screen, UnsavedScreen), "it asks")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen, "it is left")
        assert screen.draft is mine
        app.plan_from(run, {"lora.r": 4}, problem="Said by who asked for it.")
        await until(pilot, lambda: isinstance(pilot.app.screen, UnsavedScreen), "it asks")
        await pilot.press("d")
        await until(pilot, lambda: screen.draft is not mine, "the run is planned with")
        assert screen.draft.spec.lora.r == 4
        assert "Said by who asked for it." in line(pilot, "note")


async def test_a_folder_without_settings_is_a_notice(new_run: Callable[..., RunFolder]) -> None:
    run = new_run().run
    app = deck()
    async with app.run_test(size=WIDE) as pilot:
        app.plan_from(run)
        await until(pilot, lambda: app._notifications, "it is said")
        words = next(iter(app._notifications)).message
        assert words.startswith(f"{run.id} cannot be planned with: ")


def test_what_is_no_setting_is_said(bad_run: Callable[..., RunFolder]) -> None:
    changes = {"environment.PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "on_oom": "retry", "lora.r": 4}
    planned_with = draft_of_run(bad_run().run, changes)
    assert planned_with.note.startswith("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True is no setting")
    assert planned_with.draft.spec.on_oom == "retry"
    assert planned_with.draft.is_unsaved


def test_names_that_mean_something_need_no_mapping() -> None:
    spec = oom_spec(Path("/nowhere"), lora__target_modules=["q_proj", "self_attn.v_proj"])
    assert meant_targets(spec.lora, SMOLLM) is None


# ---- hardware.memory_limit


async def test_the_bar_ends_at_the_runs_own_limit() -> None:
    app = planning_app(free=Card("RTX 4070 SUPER", 11 * GIB))
    async with app.run_test(size=WIDE) as pilot:
        screen = await planned(pilot)
        assert "of 11.0 GiB free" in line(pilot, "memory")
        for limit, words in (("2GiB", "of 2.0 GiB limit"), ("20GiB", "of 11.0 GiB free"), ("900MiB", "DOES NOT FIT")):
            assert screen.draft.change("hardware.memory_limit", limit) == []
            screen.draft_changed()
            await until(pilot, lambda words=words: words in line(pilot, "memory"), words)
        assert screen.draft.question is not None
        assert screen.draft.question.card.free_bytes == 900 * 2**20, "settings that fit are looked for in the limit"


def test_a_limit_keeps_the_prediction() -> None:
    draft = Draft(oom_spec(Path("/nowhere"), hardware__memory_limit="4GiB"))
    draft.architecture, draft.card = SMOLLM, Card("RTX 4070 SUPER", 11 * GIB)
    assert draft.card_in_limit is draft.card_in_limit
    assert draft.footprint is draft.footprint
