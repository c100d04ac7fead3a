"""A plan screen with a model that is known by heart, and what tests say about it."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot

from engine.architecture import Architecture
from engine.memory.card import Card
from tests.tui.conftest import GIB, NOW, until
from tests.tui.models import KnownModels, llama
from tui.app import LoradeckApp
from tui.planning.draft import Draft
from tui.screens.plan import PlanScreen
from tui.widgets.line import Line
from tui.widgets.module_tree import ModuleTree

SMOLLM = llama("HuggingFaceTB/SmolLM2-135M-Instruct")
FREE = Card("RTX 4070 SUPER", int(11.1 * GIB))


def planning_app(model: Architecture = SMOLLM, free: Card = FREE, data: str = "", **options: Any) -> LoradeckApp:
    """An app whose plan has `model` chosen already. It traces nothing, as the model is nowhere on the disk."""
    known = {"inspector": KnownModels(model), "tracing": False}
    app = LoradeckApp(now=lambda: NOW, read_card=lambda _: free, **{**known, **options})
    app.plan_screen().draft.change_all({"model.name_or_path": model.name_or_path, "data.train": data})
    return app


async def planned(pilot: Pilot[None]) -> PlanScreen:
    """The plan screen, once the model and the free memory are known."""
    await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
    screen = pilot.app.screen
    assert isinstance(screen, PlanScreen)
    await until(pilot, lambda: screen.draft.architecture and screen.draft.card, "the model is read")
    await until(pilot, lambda: tree_of(pilot).display and tree_of(pilot).size.width > 0, "the tree is shown")
    return screen


def tree_of(pilot: Pilot[None]) -> ModuleTree:
    return pilot.app.screen.query_one(ModuleTree)


def draft_of(pilot: Pilot[None]) -> Draft:
    screen = pilot.app.screen
    assert isinstance(screen, PlanScreen)
    return screen.draft


def rows_of(pilot: Pilot[None]) -> list[str]:
    """The tree's lines in sight, as text."""
    tree = tree_of(pilot)
    return [tree.render_line(y).text.rstrip() for y in range(tree.size.height)]


def line(pilot: Pilot[None], id: str) -> str:
    """What one of the screen's lines says."""
    return str(pilot.app.screen.query_one(f"#{id}", Line).words)
