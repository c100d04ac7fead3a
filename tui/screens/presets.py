"""Presets, each with what it would change and why, before it is applied."""

from __future__ import annotations

import textwrap
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.presets import CARDS, GOALS, PRESETS, Preset, differences
from engine.spec import RunSpec
from tui.glyphs import UNICODE, Glyphs
from tui.planning.spec_fields import spec_fields
from tui.widgets.words import Words


class PresetScreen(ModalScreen[dict[str, object] | None]):
    """Returns the values to give to `Draft.change_all`, or None. It changes nothing itself."""

    DEFAULT_CSS = """
    PresetScreen { align: center bottom; background: $background 40%; }
    PresetScreen > .dialog { height: 80%; }
    PresetScreen Horizontal { height: 1fr; margin-top: 1; }
    PresetScreen OptionList {
        width: 20;
        height: 1fr;
        padding: 0;
        border: none;
        background: $panel;
        &:focus { background-tint: $panel 0%; }
        & > .option-list--option { padding: 0; }
        & > .option-list--option-highlighted, &:focus > .option-list--option-highlighted {
            background: $primary 25%;
            color: $foreground;
            text-style: none;
        }
    }
    PresetScreen VerticalScroll { width: 1fr; padding-left: 2; scrollbar-size: 1 1; scrollbar-gutter: stable; }
    PresetScreen VerticalScroll > Words { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", "back", key_display="esc", id="presets.back"),
    ]

    def __init__(self, spec: RunSpec, glyphs: Glyphs = UNICODE) -> None:
        super().__init__()
        self.spec = spec
        self.glyphs = glyphs
        self._what = Words()

    def compose(self) -> ComposeResult:
        options = [
            Option(Content.styled("by goal", "$secondary"), disabled=True),
            *(Option(Content(f"  {preset.name}"), id=preset.name) for preset in GOALS),
            Option(Content.styled("by card", "$secondary"), disabled=True),
            *(Option(Content(f"  {preset.name}"), id=preset.name) for preset in CARDS),
        ]
        with Vertical(classes="dialog"):
            yield Words(Content.styled("Presets", "bold"))
            with Horizontal():
                yield OptionList(*options, compact=True)
                with VerticalScroll():
                    yield self._what
            yield Words(Content.styled("enter apply   tab scroll   esc back", "$secondary"))

    def on_mount(self) -> None:
        listed = self.query_one(OptionList)
        listed.highlighted = 1
        listed.focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @on(OptionList.OptionHighlighted)
    def _show(self) -> None:
        preset = self._highlighted()
        if preset is not None:
            self._what.say(what_changes(preset, self.spec, max(30, self._what.size.width), self.glyphs))

    @on(OptionList.OptionSelected)
    def _apply(self) -> None:
        preset = self._highlighted()
        if preset is not None:
            self.dismiss({setting.field: setting.value for setting, _ in differences(preset, self.spec)})

    def _highlighted(self) -> Preset | None:
        option = self.query_one(OptionList).highlighted_option
        return next((preset for preset in PRESETS if option is not None and preset.name == option.id), None)


def what_changes(preset: Preset, spec: RunSpec, width: int, glyphs: Glyphs) -> Content:
    """The differences between a preset and `spec`, with a reason for each, wrapped to `width` cells."""
    lines = [Content.styled(textwrap.fill(preset.summary, width), "bold"), Content()]
    changes = list(differences(preset, spec))
    if not changes:
        lines.append(Content("All of its values are set already."))
    column = max((len(setting.field) for setting, _ in changes), default=0) + 2
    for setting, now in changes:
        field = spec_fields()[setting.field]
        values = f"{glyphs.plain(field.shown(now))} {glyphs.arrow} {field.shown(setting.value)}"
        space = " " * (column - len(setting.field)) if column + len(values) <= width else "\n  "
        reason = textwrap.fill(setting.reason, width, initial_indent="  ", subsequent_indent="  ")
        lines += [
            Content.assemble((setting.field, "$primary"), space, values),
            Content.styled(reason, "$secondary"),
        ]
    same = len(preset.settings) - len(changes)
    if changes and same:
        lines.append(
            Content.styled(f"\n{same} more of its values {'is' if same == 1 else 'are'} set already", "$secondary")
        )
    return Content("\n").join(lines)
