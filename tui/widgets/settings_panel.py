"""The form for a run's settings: a list of all of them, and an editor for the one that the cursor is on."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input
from typing_extensions import Self

from engine.checks import Problem
from tui.glyphs import UNICODE, Glyphs
from tui.planning.draft import Draft
from tui.planning.spec_fields import SpecField, Unreadable, spec_fields
from tui.widgets.settings_list import SettingsList

MODEL = "model.name_or_path"
"""The one setting that has a screen of its own to choose it."""


class SettingsPanel(Widget):
    """Shows the settings of `draft` and changes them, by keys alone.

    Numbers take effect at each key, so that what they mean can be seen while typing; an edit is still one step to
    undo. Text takes effect on Enter. What is wrong stays in the editor with the reason below it.
    """

    DEFAULT_CSS = """
    SettingsPanel { width: 1fr; height: 1fr; layers: list editor; }
    SettingsPanel > Input {
        layer: editor;
        position: absolute;
        display: none;
        height: 1;
        padding: 0;
        border: none;
        background: $panel;
    }
    SettingsPanel > Input:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", "edit", key_display="enter", id="settings.edit", tooltip="Change this setting."),
        Binding("space", "switch", "switch", show=False, id="settings.toggle", tooltip="Yes or no; fold a group."),
        Binding("left", "turn(-1)", "previous choice", show=False, id="settings.previous"),
        Binding("right", "turn(1)", "next choice", show=False, id="settings.next"),
        Binding("up,k", "move(-1)", "up", show=False, id="settings.up"),
        Binding("down,j", "move(1)", "down", show=False, id="settings.down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="settings.page_up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="settings.page_down"),
        Binding("home", "move(-1000)", "first", show=False, id="settings.first"),
        Binding("end", "move(1000)", "last", show=False, id="settings.last"),
        Binding("delete", "reset", "default", show=False, id="settings.reset", tooltip="Back to the default."),
        Binding("escape", "cancel", "cancel", show=False, id="settings.cancel"),
    ]

    class Changed(Message):
        """The draft was changed by this panel."""

        def __init__(self, panel: SettingsPanel, field: str) -> None:
            super().__init__()
            self.panel = panel
            self.field = field
            """Full name of the setting, such as `lora.r`."""

        @property
        def control(self) -> SettingsPanel:
            return self.panel

    class FieldFocused(Message):
        """The cursor came to another line."""

        def __init__(self, panel: SettingsPanel, field: str) -> None:
            super().__init__()
            self.panel = panel
            self.field = field
            """Full name of the setting; on a group's heading, the section's name. `FieldHelp.show` takes both."""

        @property
        def control(self) -> SettingsPanel:
            return self.panel

    def __init__(self, draft: Draft, glyphs: Glyphs = UNICODE, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.draft = draft
        """What is edited; set another one with `show_draft`."""
        self._list = SettingsList(draft, glyphs)
        self._editor = Input(compact=True, select_on_focus=False)
        self._editor.cursor_blink = False
        self._previewed = False
        """Whether the draft holds a number that is still being typed."""
        self._refused: dict[str, str] = {}
        """Texts that were no value and whose editor had to close: they come back when it opens again."""

    def compose(self) -> ComposeResult:
        yield self._list
        yield self._editor

    def on_mount(self) -> None:
        self.refresh_values()
        self.watch(self._list, "scroll_y", self._place_editor, init=False)

    # ---- for the screen around it

    @property
    def focused_field(self) -> str | None:
        """Full name of the setting that the cursor is on; None on a heading."""
        field = self._list.line.field
        return field.full_name if field else None

    @property
    def is_editing(self) -> bool:
        """Whether an editor or a list of choices is open."""
        return bool(self._list.editing or self._list.options)

    def focus(self, scroll_visible: bool = True) -> Self:
        (self._editor if self._list.editing else self._list).focus(scroll_visible)
        return self

    def show_field(self, full_name: str) -> None:
        """Put the cursor on a setting, unfolding what hides it, and take the focus."""
        self._leave_editor()
        field = spec_fields()[full_name]
        self._list.folded.discard(field.section)
        if not field.main:
            self._list.opened.add(field.section)
        self._list.lay_out()
        self._list.cursor = full_name
        self._list.focus()

    def refresh_values(self) -> None:
        """Show the draft as it is now, after something else changed it."""
        field = self._edited
        if field is not None and self._typed() != self.draft.value(field.full_name):
            self._previewed = False
            with self.prevent(Input.Changed):
                self._editor.value = self._text(field)
                self._editor.cursor_position = len(self._editor.value)
        self._refresh()

    def show_draft(self, draft: Draft) -> None:
        """Edit another draft from now on."""
        self._close_editor()
        self._refused.clear()
        self.draft = self._list.draft = draft
        self._refresh()

    # ---- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # Escape and Delete go on to the screen where they mean nothing here.
        if action == "cancel":
            return self.is_editing
        if action == "reset":
            return self._list.line.field is not None and not self.is_editing
        return True

    def action_edit(self) -> None:
        if self._list.options:
            return self._take_option()
        field = self._list.line.field
        if field is None:
            return self._fold()
        if field.kind == "toggle":
            return self._cycle(field, 1)
        if field.kind == "choice":
            return self._open_options(field)
        if field.full_name == MODEL:
            return self._pick_model(field)
        return self._open_editor(field)

    def action_switch(self) -> None:
        field = self._list.line.field
        if field is not None and field.kind == "choice" and not self._list.options:
            return self._cycle(field, 1)
        return self.action_edit()

    def action_turn(self, by: int) -> None:
        line = self._list.line
        if self._list.options:
            return
        if line.field is not None:
            if line.field.choices:
                self._cycle(line.field, by)
            return
        is_open = line.section not in self._list.folded if line.kind == "heading" else line.section in self._list.opened
        if is_open != (by > 0):
            self._fold()

    def action_move(self, by: int) -> None:
        if self._list.options:
            self._list.option = max(0, min(len(self._list.options) - 1, self._list.option + by))
            self._list.show_cursor()
            self._list.refresh()
        elif self._commit():
            self._list.move(by)

    def action_page(self, direction: int) -> None:
        self.action_move(direction * max(1, self._list.size.height - 2))

    def action_reset(self) -> None:
        field = self._list.line.field
        if field is not None and field.has_default:
            self._change(field, field.default)

    def action_cancel(self) -> None:
        if self._list.options:
            self._close_options()
            return
        field = self._edited
        if field is not None and self._previewed:
            self.draft.undo()
            self.post_message(self.Changed(self, field.full_name))
        self._close_editor()

    @on(SettingsList.CursorMoved)
    def _tell_focus(self) -> None:
        if self._list.options:
            self._close_options()
        self.post_message(self.FieldFocused(self, self._list.cursor.removesuffix(" more")))

    @on(SettingsList.Clicked)
    def _press(self, message: SettingsList.Clicked) -> None:
        if self._commit():
            self.action_edit()

    # ---- choices

    def _cycle(self, field: SpecField, by: int) -> None:
        now = field.choices.index(self.draft.value(field.full_name))
        self._change(field, field.choices[(now + by) % len(field.choices)])

    def _open_options(self, field: SpecField) -> None:
        self._list.options = [field.shown(choice) for choice in field.choices]
        self._list.option = field.choices.index(self.draft.value(field.full_name))
        self._list.lay_out()
        self._list.show_cursor()

    def _take_option(self) -> None:
        field = self._list.line.field
        assert field is not None
        chosen = field.choices[self._list.option]
        self._close_options()
        self._change(field, chosen)

    def _close_options(self) -> None:
        self._list.options = []
        self._list.lay_out()

    def _fold(self) -> None:
        line = self._list.line
        self._list.folded ^= {line.section} if line.kind == "heading" else set()
        self._list.opened ^= {line.section} if line.kind == "more" else set()
        self._list.lay_out()

    def _pick_model(self, field: SpecField) -> None:
        from tui.screens.pick_model import PickModelScreen  # huggingface_hub is not needed before

        def take(name: str | None) -> None:
            if name is not None:
                self._change(field, name)

        self.app.push_screen(PickModelScreen(self.draft.value(MODEL), self._list.glyphs), take)

    # ---- the editor

    @property
    def _edited(self) -> SpecField | None:
        return spec_fields()[self._list.editing] if self._list.editing else None

    def _text(self, field: SpecField) -> str:
        value = self.draft.value(field.full_name)
        return "" if value is None else field.shown(value)

    def _typed(self) -> Any:
        field = self._edited
        assert field is not None
        try:
            return field.parsed(self._editor.value)
        except Unreadable:
            return None

    def _open_editor(self, field: SpecField) -> None:
        self._previewed = False
        self._list.editing = field.full_name
        with self.prevent(Input.Changed):
            self._editor.value = self._refused.pop(field.full_name, self._text(field))
        self._editor.display = True
        self._place_editor()
        self._editor.focus()
        self._editor.cursor_position = len(self._editor.value)
        self.call_after_refresh(self._scroll_to_cursor)
        self._refresh(self._problems_of_text(field))

    def _scroll_to_cursor(self) -> None:
        """Only when it has its width can the editor scroll to the end of a long text; moving the cursor does it."""
        place = self._editor.cursor_position
        self._editor.cursor_position = 0
        self._editor.cursor_position = place

    def _place_editor(self) -> None:
        field = self._edited
        if field is None:
            return
        column = self._list.editor_column(field)
        row = self._list.place(field.full_name) - round(self._list.scroll_y)
        self._editor.styles.offset = (column, row)
        self._editor.styles.width = max(4, self._list.line_width - column)
        # Scrolled out of sight by a mouse wheel it must not lie over what is above or below the panel.
        self._editor.visible = 0 <= row < self._list.size.height

    def on_resize(self) -> None:
        self.call_after_refresh(self._place_editor)

    @on(Input.Changed)
    def _check_text(self, message: Input.Changed) -> None:
        message.stop()
        field = self._edited
        if field is None:
            return
        problems = self._problems_of_text(field)
        if field.kind == "number":
            self._preview(field, valid=not problems)
        self._refresh(problems)

    def _preview(self, field: SpecField, *, valid: bool) -> None:
        """Let the draft follow a number that is being typed, as one edit; not a number, it is as it was before."""
        if self._previewed:
            self.draft.undo()
            self._previewed = False
        if valid:
            before = self.draft.spec
            self.draft.change(field.full_name, field.parsed(self._editor.value))
            self._previewed = self.draft.spec != before
        self.post_message(self.Changed(self, field.full_name))

    def _problems_of_text(self, field: SpecField) -> list[Problem]:
        try:
            value = field.parsed(self._editor.value)
        except Unreadable as error:
            return [error.problem]
        return Draft(self.draft.spec).change(field.full_name, value)

    @on(Input.Submitted)
    def _enter(self, message: Input.Submitted) -> None:
        message.stop()
        if self._commit():
            self._list.focus()

    def _commit(self) -> bool:
        """Take over what is in the editor and close it. False if it is no value: then it stays open."""
        field = self._edited
        if field is None:
            return True
        if problems := self._problems_of_text(field):
            self._refresh(problems)
            return False
        value = field.parsed(self._editor.value)
        before = self.draft.spec
        if not self._previewed:
            self.draft.change(field.full_name, value)
        self._close_editor()
        if self.draft.spec != before:
            self.post_message(self.Changed(self, field.full_name))
        return True

    def _leave_editor(self) -> None:
        """Close the editor from outside: a text that is no value is kept for when it opens again."""
        field = self._edited
        if field is not None and not self._commit():
            self._refused[field.full_name] = self._editor.value
            self._close_editor()

    def _close_editor(self) -> None:
        had_focus = self._editor.has_focus
        self._list.editing = ""
        self._previewed = False
        self._editor.display = False
        if had_focus:
            self._list.focus()
        self._refresh()

    def on_descendant_blur(self) -> None:
        self._list.refresh()

    def on_descendant_focus(self) -> None:
        # Back in the panel with an open editor: the editor is where the keys belong.
        if self._list.editing and self._list.has_focus:
            self._editor.focus()
        self._list.refresh()

    # ---- the draft

    def _change(self, field: SpecField, value: Any) -> None:
        before = self.draft.spec
        problems = self.draft.change(field.full_name, value)
        self._refresh(problems)
        if self.draft.spec != before:
            self.post_message(self.Changed(self, field.full_name))

    def _refresh(self, problems_of_text: list[Problem] | None = None) -> None:
        """Show values and problems anew; `problems_of_text` are those of the text that is in the editor."""
        problems: dict[str, list[Problem]] = {}
        for problem in self.draft.problems():
            problems.setdefault(problem.field, []).append(problem)
        if self._list.editing and problems_of_text:
            problems[self._list.editing] = problems_of_text
        self._list.problems = problems
        spec = self.draft.spec
        processes = f" x {spec.hardware.num_processes} processes" if spec.hardware.num_processes > 1 else ""
        rows = f"x batch{processes} = {spec.effective_batch_size:,} rows a step"
        self._list.notes = {"training.gradient_accumulation_steps": rows}
        self._list.lay_out()
        self._list.show_cursor()
        self._place_editor()
