"""The settings form, driven by keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input

from engine.checks import parse_spec
from engine.field_help import HELP
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.planning.draft import Draft
from tui.planning.spec_fields import spec_fields
from tui.screens.pick_model import PickModelScreen
from tui.themes import DEFAULT_THEME, load_themes
from tui.widgets.field_help import FieldHelp, help_of_field
from tui.widgets.settings_list import SettingsList
from tui.widgets.settings_panel import SettingsPanel


def draft(**sections: dict[str, Any]) -> Draft:
    raw: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "data": {"train": "alpaca_clean.jsonl"},
    }
    for section, values in sections.items():
        raw.setdefault(section, {}).update(values)
    return Draft(parse_spec(raw))


class PanelApp(App[None]):
    """The panel alone, and what it tells."""

    CSS = "PanelApp Screen { background: $background; }"

    def __init__(self, edited: Draft, glyphs: Glyphs = UNICODE, with_help: bool = False) -> None:
        super().__init__()
        for theme in load_themes():
            self.register_theme(theme)
        self.theme = DEFAULT_THEME
        self.panel = SettingsPanel(edited, glyphs)
        self.help_panel = FieldHelp() if with_help else None
        self.changed: list[str] = []
        self.focused_fields: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.panel
        if self.help_panel:
            yield self.help_panel

    def on_mount(self) -> None:
        self.panel.focus()

    def on_settings_panel_changed(self, message: SettingsPanel.Changed) -> None:
        self.changed.append(message.field)

    def on_settings_panel_field_focused(self, message: SettingsPanel.FieldFocused) -> None:
        self.focused_fields.append(message.field)
        if self.help_panel:
            self.help_panel.show(message.field)


def lines(pilot: Pilot[None]) -> list[str]:
    """What the list shows now."""
    shown = pilot.app.query_one(SettingsList)
    return [shown.render_line(y).text.rstrip() for y in range(shown.size.height)]


async def go_to(pilot: Pilot[None], field: str) -> SettingsPanel:
    panel = pilot.app.query_one(SettingsPanel)
    await pilot.pause()
    panel.show_field(field)
    await pilot.pause()
    return panel


async def type_text(pilot: Pilot[None], text: str) -> None:
    """Replace what is in the editor."""
    pilot.app.query_one(Input).value = text
    await pilot.pause()


async def test_common_settings_come_first_and_the_rest_unfolds() -> None:
    async with PanelApp(draft()).run_test(size=(60, 60)) as pilot:
        await pilot.pause()
        shown = [line.split()[0] for line in lines(pilot) if line.strip()]
        assert "r" in shown
        assert "use_dora" not in shown
        await go_to(pilot, "lora.target_modules")
        await pilot.press("down", "enter")
        assert any("use_dora" in line for line in lines(pilot))
        await pilot.press("left")
        assert not any("use_dora" in line for line in lines(pilot))


async def test_a_number_takes_effect_while_it_is_typed_and_is_one_step_to_undo() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        await go_to(pilot, "lora.r")
        await pilot.press("enter", "backspace", "backspace", "6")
        assert edited.spec.lora.r == 6
        await pilot.press("4")
        assert edited.spec.lora.r == 64
        await pilot.press("enter")
        assert edited.spec.lora.r == 64
        assert isinstance(pilot.app.focused, SettingsList)
        assert edited.undo()
        assert edited.spec.lora.r == 16
        assert not edited.undo()
        assert set(pilot.app.changed) == {"lora.r"}  # type: ignore[attr-defined]


async def test_escape_takes_a_typed_number_back() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        panel = await go_to(pilot, "lora.r")
        await pilot.press("enter", "4", "escape")
        assert edited.spec.lora.r == 16
        assert not panel.is_editing
        assert not edited.is_unsaved


async def test_wrong_text_stays_in_the_editor_with_the_reason_below_it() -> None:
    edited = draft()
    async with PanelApp(edited).run_test(size=(60, 60)) as pilot:
        panel = await go_to(pilot, "lora.r")
        await pilot.press("enter", "x", "enter")
        assert panel.is_editing
        assert pilot.app.query_one(Input).value == "16x"
        assert edited.spec.lora.r == 16
        assert any("should be a valid integer" in line for line in lines(pilot))
        await pilot.press("down")
        assert panel.focused_field == "lora.r"
        await pilot.press("backspace", "enter")
        assert not panel.is_editing
        assert not any("should be" in line for line in lines(pilot))


async def test_wrong_text_comes_back_when_its_editor_had_to_close() -> None:
    async with PanelApp(draft()).run_test() as pilot:
        await go_to(pilot, "lora.target_modules")
        await pilot.press("enter")
        await type_text(pilot, "[q_proj, ")
        await go_to(pilot, "lora.r")
        await go_to(pilot, "lora.target_modules")
        await pilot.press("enter")
        assert pilot.app.query_one(Input).value == "[q_proj, "


async def test_text_takes_effect_on_enter_or_on_moving_on() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        panel = await go_to(pilot, "data.train")
        await pilot.press("enter")
        await type_text(pilot, "other.jsonl")
        assert edited.spec.data.train == "alpaca_clean.jsonl"
        await pilot.press("down")
        assert edited.spec.data.train == "other.jsonl"
        assert panel.focused_field == "data.eval_fraction"


async def test_yes_and_no_switch_with_space_enter_and_arrows() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        await go_to(pilot, "lora.use_dora")
        for key, value in (("space", True), ("enter", False), ("right", True), ("left", False)):
            await pilot.press(key)
            assert edited.spec.lora.use_dora is value
        await go_to(pilot, "training.bf16")
        await pilot.press("right")
        assert edited.spec.training.bf16 is True
        await pilot.press("delete")
        assert edited.spec.training.bf16 is None


async def test_choices_turn_with_arrows_and_open_as_a_list() -> None:
    edited = draft()
    async with PanelApp(edited).run_test(size=(60, 60)) as pilot:
        panel = await go_to(pilot, "quantization.load_in")
        await pilot.press("right")
        assert edited.spec.quantization.load_in == "8bit"
        await go_to(pilot, "training.optim")
        await pilot.press("enter")
        assert any(line.strip() == "> auto" for line in lines(pilot))
        await pilot.press("down", "down", "escape")
        assert edited.spec.training.optim == "auto"
        assert not panel.is_editing
        await pilot.press("enter", "down", "enter")
        assert edited.spec.training.optim == "adamw_torch"


async def test_settings_that_do_not_go_together_are_marked_where_the_problem_is() -> None:
    edited = draft()
    async with PanelApp(edited).run_test(size=(70, 70)) as pilot:
        await go_to(pilot, "training.eval_strategy")
        await pilot.press("right")
        assert edited.spec.training.eval_strategy == "steps"
        shown = lines(pilot)
        assert any(line.startswith("! eval_strategy") for line in shown)
        assert any("no rows are held out" in line for line in shown)
        assert any("32 more" in line and "! 1 wrong" in line for line in shown)  # eval_steps is missing


async def test_changed_settings_are_marked_and_counted_where_they_are_folded() -> None:
    async with PanelApp(draft(lora={"r": 64, "use_dora": True})).run_test(size=(60, 60)) as pilot:
        await pilot.pause()
        shown = lines(pilot)
        assert any(line.split() == ["·", "r", "64"] for line in shown)
        assert any("10 more" in line and "1 changed" in line for line in shown)


async def test_the_panel_shows_what_others_did_to_the_draft() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        panel = await go_to(pilot, "lora.r")
        await pilot.press("enter", "backspace")
        assert edited.spec.lora.r == 1
        edited.undo()
        panel.refresh_values()
        assert pilot.app.query_one(Input).value == "16"
        await pilot.press("enter")
        edited.change("lora.r", 8)
        panel.refresh_values()
        assert any(line.split()[-2:] == ["r", "8"] for line in lines(pilot) if line.strip())


async def test_keys_alone_reach_every_setting() -> None:
    app = PanelApp(draft())
    async with app.run_test(size=(40, 20)) as pilot:
        await pilot.pause()
        shown = pilot.app.query_one(SettingsList)
        for _ in range(20):
            if shown.line.kind == "heading":
                await pilot.press("right")
            await pilot.press("down")
        await pilot.press("home")
        shown.opened = {field.section for field in spec_fields().values()}
        shown.lay_out()
        for _ in range(len(shown.lines)):
            await pilot.press("down")
            assert shown.scroll_y <= shown.place(shown.cursor) < shown.scroll_y + shown.size.height
        assert set(spec_fields()) <= set(app.focused_fields)


async def test_the_model_is_chosen_on_a_screen_of_its_own() -> None:
    edited = draft()
    async with PanelApp(edited).run_test() as pilot:
        await go_to(pilot, "model.name_or_path")
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, PickModelScreen)
        await pilot.press(*"me/mine", "enter")
        await pilot.pause()
        assert edited.spec.model.name_or_path == "me/mine"
        assert isinstance(pilot.app.focused, SettingsList)


async def test_names_from_elsewhere_are_text_and_never_markup_or_escape_codes() -> None:
    edited = draft(model={"name_or_path": "[b]x[/b]\x1b[31m"})
    async with PanelApp(edited).run_test(size=(60, 40)) as pilot:
        await pilot.pause()
        assert any("[b]x[/b]\\e[31m" in line or "[b]x[/b]\\x1B[31m" in line for line in lines(pilot))


async def test_an_ascii_terminal_gets_ascii() -> None:
    async with PanelApp(draft(lora={"r": 64}), ASCII).run_test(size=(60, 40)) as pilot:
        await pilot.pause()
        assert all(character < "\x7f" for line in lines(pilot) for character in line)
        assert any(line.startswith("* r") for line in lines(pilot))


@pytest.mark.parametrize("width", [40, 80])
async def test_name_and_value_share_a_line_at_any_width(width: int) -> None:
    async with PanelApp(draft()).run_test(size=(width, 60)) as pilot:
        await pilot.pause()
        words = [line.split() for line in lines(pilot)]
        assert ["bnb_4bit_use_double_quant", "yes"] in words
        assert any(line[:2] == ["per_device_train_batch_size", "4"] for line in words)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(set(spec_fields()) - {"model.name_or_path"})), text=st.text())
async def test_whatever_is_typed_the_draft_gets_a_value_or_stays_as_it_was(field: str, text: str) -> None:
    edited = draft()
    before = edited.spec
    async with PanelApp(edited).run_test(size=(40, 20)) as pilot:
        panel = await go_to(pilot, field)
        if spec_fields()[field].choices:
            await pilot.press("right", "left")
            assert edited.spec == before
            return
        await pilot.press("enter")
        await type_text(pilot, text)
        await pilot.press("enter")
        if panel.is_editing:
            assert edited.spec == before
            assert panel.query_one(SettingsList).problems[field]
        else:
            again = Draft(before)
            assert again.change(field, spec_fields()[field].parsed(pilot.app.query_one(Input).value)) == []
            assert edited.spec == again.spec


# ---- help


def test_what_is_helped_with_is_a_setting() -> None:
    assert set(HELP) <= set(spec_fields())


def test_common_lora_and_quantization_settings_say_all_there_is_to_say() -> None:
    wanted = [f for f in spec_fields().values() if f.main or f.section in ("lora", "quantization")]
    for field in wanted:
        help = HELP[field.full_name]
        assert help.typical
        assert help.memory
        assert help.training
        assert help.source
        assert field.help


@pytest.mark.parametrize("width", [38, 44, 80])
def test_help_keeps_to_its_width(width: int) -> None:
    for field in spec_fields().values():
        assert max(map(len, help_of_field(field, width).plain.splitlines())) <= width, field.full_name


async def test_help_follows_the_cursor() -> None:
    app = PanelApp(draft(), with_help=True)
    async with app.run_test(size=(60, 60)) as pilot:
        await go_to(pilot, "lora.r")
        assert app.help_panel is not None
        assert app.help_panel.about == "lora.r"
        await pilot.press("home")
        assert app.help_panel.about == "model"


# ---- what it looks like


def snapshot_app(**sections: dict[str, Any]) -> PanelApp:
    return PanelApp(draft(**sections))


async def edit_wrongly(pilot: Pilot[None]) -> None:
    await go_to(pilot, "lora.r")
    await pilot.press("enter", "x")


@pytest.mark.parametrize("size", [(40, 30), (60, 40)], ids=["40x30", "60x40"])
def test_panel(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    app = snapshot_app(lora={"r": 64, "use_dora": True})
    assert snap_compare(app, terminal_size=size, run_before=edit_wrongly)
