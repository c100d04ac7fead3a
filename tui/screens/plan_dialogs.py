"""The plan's dialogs: model, presets, files, the person's own editor. Each ends in an edit of the draft, or in none."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from engine.checks import Problem
from engine.targets import PRESETS
from tui.background import result_of
from tui.glyphs import Glyphs
from tui.planning.draft import Draft
from tui.planning.meant_targets import meant_targets
from tui.screens.choose import Choice, ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.problems import ProblemsScreen
from tui.widgets.memory_bar import MemoryBar

ALL_LINEAR = "all-linear"
"""PEFT has a word for this one; as a selection it would be written as names."""
MODEL_FIRST = "Choose a model first, with F2."
LOOKING = "Looking for settings that fit ..."


class PlanDialogs(Screen[None]):
    """What the plan screen asks in dialogs. One is open at a time."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2", "model", "model", key_display="F2", show=False, id="plan.model", tooltip="Choose the model."),
        Binding("f3", "cards", "presets", key_display="F3", show=False, id="plan.presets", tooltip="By card or goal."),
        Binding("g", "fit", "fit", id="plan.fit", tooltip="Settings that fit what is free, the fastest first."),
        Binding("ctrl+s", "save", "save", key_display="^s", id="plan.save", tooltip="Save the settings as YAML."),
        Binding("f12", "save_as", "save as", show=False, id="plan.save_as", tooltip="Save under another name."),
        Binding("ctrl+o", "open", "open", show=False, id="plan.open", tooltip="Open settings from a YAML file."),
        Binding("ctrl+e", "editor", "editor", show=False, id="plan.editor", tooltip="The YAML in your $EDITOR."),
    ]
    draft: Draft
    glyphs: Glyphs
    memory: MemoryBar
    is_looking_for_a_fit = False

    class Looked(Message):
        """Another step of the search for settings that fit, from the background."""

        def __init__(self, words: str, number: int, most: int) -> None:
            super().__init__()
            self.words, self.number, self.most = words, number, most

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where relative paths of the draft start."""

    @property
    @abstractmethod
    def layer_presets(self) -> dict[str, frozenset[str]]:
        """What each preset of layers means for the model; empty while there is none."""

    @property
    @abstractmethod
    def layer_preset(self) -> str:
        """The preset that is chosen, or what is said in its place."""

    @abstractmethod
    def draft_changed(self) -> None:
        """Bring the screen up to date with the draft."""

    @abstractmethod
    def flash_up(self, words: str) -> None:
        """Say something until the next edit."""

    @abstractmethod
    def show_draft(self, draft: Draft) -> None:
        """Plan another draft from now on."""

    @work(exclusive=True, group="dialog")
    async def choose_preset(self) -> None:
        """Ask which layers are to be adapted, by name."""
        choices = [Choice(name, name, meaning) for name, meaning in PRESETS.items()]
        chosen = await self.app.push_screen_wait(ChooseScreen("What to adapt", choices, self.layer_preset))
        if chosen is not None:
            self.take_preset(chosen)

    def take_preset(self, name: str) -> None:
        """Adapt exactly what the preset `name` means for this model."""
        presets = self.layer_presets
        if not presets:
            self.flash_up(MODEL_FIRST)
        elif name == ALL_LINEAR:
            self._take({"lora.target_modules": name, "lora.layers_to_transform": None, "lora.exclude_modules": None})
        else:
            self.flash_up(self.draft.choose(presets[name]))
            self.draft_changed()

    @work(exclusive=True, group="dialog")
    async def action_model(self) -> None:
        from tui.screens.pick_model import PickModelScreen

        current = self.draft.spec.model.name_or_path
        name = await self.app.push_screen_wait(PickModelScreen(current, self.glyphs, self.folder))
        if name is not None:
            self._take({"model.name_or_path": name})

    @work(exclusive=True, group="dialog")
    async def action_cards(self) -> None:
        from tui.screens.presets import PresetScreen

        values = await self.app.push_screen_wait(PresetScreen(self.draft.spec, self.glyphs))
        if values is not None:
            self._take(values)

    @work(exclusive=True, group="dialog")
    async def action_fit(self) -> None:
        from tui.planning.traces import settings_that_fit
        from tui.screens.fit import FitScreen

        question, spec, memory = self.draft.question, self.draft.spec, self.memory
        if question is None:
            self.flash_up(MODEL_FIRST)
            return
        self.flash_up(LOOKING)
        self.is_looking_for_a_fit = True
        memory.hold(True)
        try:
            search = partial(settings_that_fit, question, self.folder, memory.tracer, self._tell)
            found = await result_of(search, "fit")
        finally:
            self.is_looking_for_a_fit = False
            memory.hold(False)
        if isinstance(found, str):
            self.flash_up(found)
        elif self.draft.spec is not spec:
            self.flash_up("The settings were changed meanwhile: look again for some that fit.")
        else:
            self.flash_up("")
            before = (memory.footprint, memory.tier) if memory.footprint is not None else None
            if await self.app.push_screen_wait(FitScreen(found, before, question.card, self.glyphs)):
                self._take({field: new for field, (_, new) in found.changes.items()})

    def _tell(self, words: str, number: int, most: int) -> None:
        if self.is_running:
            self.post_message(self.Looked(words, number, most))

    @on(Looked)
    def _show_step(self, message: Looked) -> None:
        if self.is_looking_for_a_fit:
            self.flash_up(f"{LOOKING} trace {message.number + 1} of {message.most} at most: {message.words}")

    def _take(self, values: dict[str, object]) -> None:
        problems = self.draft.change_all(values)
        self.flash_up(str(problems[0]) if problems else "")
        self.draft_changed()

    @work(exclusive=True, group="dialog")
    async def action_save(self) -> None:
        from tui.screens.files import save

        self._saved(await save(self.app, self.draft, self.glyphs))

    @work(exclusive=True, group="dialog")
    async def action_save_as(self) -> None:
        from tui.screens.files import SaveAsScreen

        self._saved(await self.app.push_screen_wait(SaveAsScreen(self.draft, self.glyphs)))

    def _saved(self, path: Path | None) -> None:
        if path is not None:
            self.draft_changed()
            self.flash_up(f"Saved: loradeck train {path} starts the same run.")

    @work(exclusive=True, group="dialog")
    async def action_open(self) -> None:
        from tui.screens.files import OpenSpecScreen

        if not await self.may_leave_draft():
            return
        draft = await self.app.push_screen_wait(OpenSpecScreen(self.folder, self.glyphs))
        if draft is not None:
            self.show_draft(draft)

    async def may_leave_draft(self) -> bool:
        """Whether nothing is lost by leaving the draft; asks, and saves it if that is the answer. From a worker."""
        from tui.screens.files import UnsavedScreen, save

        if not self.draft.is_unsaved:
            return True
        answer = await self.app.push_screen_wait(UnsavedScreen(self.draft, self.glyphs))
        if answer == "save":
            return await save(self.app, self.draft, self.glyphs) is not None
        return answer == "discard"

    def action_editor(self) -> None:
        from tui.editor import edit_in_editor

        if problems := edit_in_editor(self.app, self.draft):
            self.show_problems(problems, "Not taken over")
        self.draft_changed()

    @work(exclusive=True, group="dialog")
    async def show_problems(self, problems: list[Problem], what: str) -> None:
        """List what is wrong; choosing a line leads to its setting."""
        field = await self.app.push_screen_wait(ProblemsScreen(problems, self.glyphs, what))
        if field is not None and self._is_setting(field):
            self.show_field(field)

    @work(exclusive=True, group="dialog")
    async def ask_about_names(self) -> None:
        """Say which names the model does not have and what was probably meant; taking that chooses it in the tree."""
        architecture, before = self.draft.architecture, self.draft.spec
        meant = None if architecture is None else meant_targets(before.lora, architecture)
        if architecture is None or meant is None:
            if problems := [problem for problem in self.draft.problems() if problem.field.startswith("lora.")]:
                self.show_problems(problems, "The run could not start")
            return
        question = f"Not in this {architecture.class_name}: {', '.join(meant.absent)}"
        lines = [self.glyphs.plain(line) for line in meant.lines(self.glyphs.arrow)]
        if not meant.values:
            self.flash_up(" ".join([f"{question}.", *lines]))
            return
        taken = await self.app.push_screen_wait(
            ConfirmScreen(
                self.glyphs.plain(question),
                "\n".join(["What was probably meant:", *lines]),
                yes="choose these in the tree",
                no="choose by hand",
            )
        )
        if not taken or self.draft.spec is not before:
            self.flash_up(" ".join([f"{question}.", *lines]))
            return
        self._take(meant.values)
        if meant.first:
            self.go_to_module(meant.first)
        if left := [problem for problem in self.draft.problems() if problem.field.startswith("lora.")]:
            self.flash_up(str(left[0]))
        else:
            self.flash_up(f"Chosen: {'; '.join(lines)}. F5 starts the run.")

    @abstractmethod
    def go_to_module(self, name: str) -> None:
        """Put the cursor on a module of the tree."""

    def _is_setting(self, field: str) -> bool:
        section, _, name = field.partition(".")
        return section in type(self.draft.spec).model_fields and hasattr(getattr(self.draft.spec, section), name)

    @abstractmethod
    def show_field(self, field: str) -> None:
        """Put the cursor on a setting."""
