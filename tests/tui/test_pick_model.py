"""The model picker, driven by keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine.catalog import ModelUnavailable
from engine.models_here import ModelHere
from tests.tui.conftest import until
from tui.glyphs import UNICODE
from tui.screens import pick_model
from tui.screens.pick_model import PickModelScreen
from tui.themes import DEFAULT_THEME, load_themes

HERE = [
    ModelHere("org/used-before", "recent"),
    ModelHere("demo", "demo", "llama", None),
    ModelHere("/models/mine", "folder", "qwen3", 1_500_000_000),
    ModelHere("Qwen/Qwen3-0.6B", "cache", "qwen3", 1_200_000_000),
    ModelHere("[b]bold[/b]\x1b[31m", "folder", "llama", 1000),
]
TUI = Path(pick_model.__file__).parent.parent


class PickerApp(App[None]):
    CSS_PATH: ClassVar[list[str]] = [str(TUI / "app.tcss"), str(TUI / "screens" / "dialog.tcss")]  # type: ignore[assignment]

    def __init__(self, current: str = "") -> None:
        super().__init__()
        for theme in load_themes():
            self.register_theme(theme)
        self.theme = DEFAULT_THEME
        self.current = current
        self.answers: list[str | None] = []

    def on_mount(self) -> None:
        self.push_screen(PickModelScreen(self.current, UNICODE, Path("/nowhere")), self.answers.append)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The models of this machine and the hub's, and what was remembered or searched for."""
    seen: dict[str, Any] = {"remembered": [], "searched": [], "hub": []}

    def search(words: str) -> list[ModelHere]:
        seen["searched"].append(words)
        if isinstance(seen["hub"], Exception):
            raise seen["hub"]
        return list(seen["hub"])

    monkeypatch.setattr(pick_model, "models_here", lambda folder: HERE)
    monkeypatch.setattr(pick_model, "remember_model", seen["remembered"].append)
    monkeypatch.setattr(pick_model, "search_hub", search)
    return seen


def options(pilot: Pilot[None]) -> list[str]:
    return [str(option.prompt) for option in pilot.app.screen.query_one(OptionList).options]


async def listed(pilot: Pilot[None]) -> PickModelScreen:
    await until(pilot, lambda: isinstance(pilot.app.screen, PickModelScreen), "the picker is open")
    screen = pilot.app.screen
    assert isinstance(screen, PickModelScreen)
    await until(pilot, lambda: screen.models and options(pilot), "models are listed")
    return screen


async def test_models_are_listed_by_where_they_are_without_asking_the_hub(machine: dict[str, Any]) -> None:
    async with PickerApp().run_test(size=(100, 30)) as pilot:
        await listed(pilot)
        shown = "\n".join(options(pilot))
        assert shown.index("used before") < shown.index("to try things out") < shown.index("in the hub's cache")
        assert "Qwen/Qwen3-0.6B" in shown
        assert "1.1 GiB" in shown
        assert "fetched once" in shown
        assert machine["searched"] == []


async def test_enter_takes_the_highlighted_model_and_remembers_it(machine: dict[str, Any]) -> None:
    app = PickerApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.answers and machine["remembered"], "it is answered")
        assert app.answers == machine["remembered"] == ["demo"]


async def test_the_model_of_now_is_highlighted() -> None:
    app = PickerApp("Qwen/Qwen3-0.6B")
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("enter")
        assert app.answers == ["Qwen/Qwen3-0.6B"]


async def test_what_is_typed_filters_and_can_be_taken_as_it_is() -> None:
    app = PickerApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press(*"qwen")
        assert not any("/models/mine" in option for option in options(pilot))
        assert any("Qwen/Qwen3-0.6B" in option for option in options(pilot))
        await pilot.press(*"/new", "enter")
        assert app.answers == ["qwen/new"]


async def test_a_filtered_model_is_one_key_away() -> None:
    app = PickerApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press(*"mine", "down", "enter")
        assert app.answers == ["/models/mine"]


async def test_escape_changes_nothing(machine: dict[str, Any]) -> None:
    app = PickerApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("x", "escape")
        assert app.answers == [None]
        assert machine["remembered"] == []


async def test_the_hub_is_searched_when_asked(machine: dict[str, Any]) -> None:
    machine["hub"] = [ModelHere("org/smol-new", "hub", downloads=1234567)]
    app = PickerApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press(*"smol", "up", "enter")  # from the first line up to the last one: the search
        await until(pilot, lambda: any("org/smol-new" in option for option in options(pilot)), "it is listed")
        assert machine["searched"] == ["smol"]
        assert any("1,234,567 downloads" in option for option in options(pilot))
        await pilot.press("down", "enter")
        assert app.answers == ["org/smol-new"]


async def test_a_hub_that_cannot_be_reached_is_told_plainly(machine: dict[str, Any]) -> None:
    machine["hub"] = ModelUnavailable("The hub cannot be searched: it cannot be reached.")
    async with PickerApp().run_test() as pilot:
        screen = await listed(pilot)
        message = screen._message
        await pilot.press("ctrl+f")
        assert "first" in str(message.words)
        await pilot.press(*"smol", "ctrl+f")
        await until(pilot, lambda: "cannot be reached" in str(message.words), "the reason is shown")
        assert machine["searched"] == ["smol"]


async def test_names_are_text_and_never_markup_or_escape_codes() -> None:
    async with PickerApp().run_test() as pilot:
        await listed(pilot)
        assert any("[b]bold[/b]␛[31m" in option for option in options(pilot))


def test_picker(snap_compare: Callable[..., bool]) -> None:
    async def filtered(pilot: Pilot[None]) -> None:
        await listed(pilot)
        await pilot.press("e")

    assert snap_compare(PickerApp(), terminal_size=(80, 24), run_before=filtered)
