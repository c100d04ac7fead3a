"""Planning a run: the model's layers on one side, the settings on the other, what the choice means below."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.timer import Timer

from engine.architecture import Architecture
from engine.checks import Problem
from engine.units import amount
from tui.background import in_background
from tui.glyphs import Glyphs
from tui.planning import words as plan_words
from tui.planning import work as plan_work
from tui.planning.draft import UNSET, Draft
from tui.planning.run_draft import RunDraft
from tui.screens.plan_dialogs import ALL_LINEAR
from tui.screens.plan_prompts import PlanPrompts
from tui.screens.plan_start import PlanStart
from tui.widgets.field_help import FieldHelp
from tui.widgets.key_line import KeyLine
from tui.widgets.line import Line
from tui.widgets.memory_bar import MemoryBar
from tui.widgets.module_tree import ModuleTree
from tui.widgets.prompt import Prompt
from tui.widgets.settings_panel import SettingsPanel
from tui.widgets.tab_line import TabLine
from tui.widgets.tree_columns import header
from tui.widgets.words import Words

if TYPE_CHECKING:
    from engine.memory.card import Card

DEBOUNCE_S = 0.3
"""Pause in typing after which the model and the data are looked at."""
CARD_PERIOD_S = 3.0
WIDE = 112
"""Columns from which layers and settings are side by side."""

NO_MODEL = """\
No model is chosen yet.

  F2  choose one: recent ones, the hub's cache, a folder, the small demo model, or a hub id

Its layers then show here: no weights are read for that.
"""


class PlanScreen(PlanStart):
    """Edits one draft. Whatever takes time runs in the background and comes back as a message."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide"), (170, "-broad")]  # noqa: RUF012  (Textual declares it so)
    AUTO_FOCUS = "ModuleTree"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "edit", id="plan.settings", tooltip="To the settings, and back to the layers."),
        Binding("d", "data", "data", id="plan.data", tooltip="Rows as the model sees them, and how long they are."),
        Binding("f5", "start", "start", key_display="F5", id="plan.start", tooltip="Check everything, then train."),
        Binding("ctrl+z", "undo", "undo", show=False, id="plan.undo", tooltip="Take the last edit back."),
        Binding("ctrl+y", "redo", "redo", show=False, id="plan.redo", tooltip="Do it again."),
        Binding("escape", "layers", "layers", show=False, id="plan.layers", tooltip="Back to the layers."),
    ]

    class ModelRead(Message):
        """The model's tree has arrived, or why there is none."""

        def __init__(self, asked: tuple[str, str | None], answer: Architecture | str) -> None:
            super().__init__()
            self.asked, self.answer = asked, answer

    class RowsCounted(Message):
        """The training rows have been counted, or what is wrong with them."""

        def __init__(self, asked: object, answer: int | list[Problem]) -> None:
            super().__init__()
            self.asked, self.answer = asked, answer

    class CardRead(Message):
        """The free memory has been read."""

        def __init__(self, device: str, card: Card) -> None:
            super().__init__()
            self.device, self.card = device, card

    def __init__(self, draft: Draft, glyphs: Glyphs) -> None:
        super().__init__()
        self.draft = draft
        self.glyphs = glyphs
        self.model_error = ""
        self.data_problems: list[Problem] = []
        self._asked_model: tuple[str, str | None] | None = None
        self._asked_data: object = None
        self._asked_card = ""
        self._doubtful: Draft | None = None
        self._flash = ""
        self._pause: Timer | None = None
        self._what = Words(id="what", classes="rest")
        self._head = Line(id="head")
        self._columns = Line(id="columns")
        self._no_model = Words(NO_MODEL, id="no-model")
        self._tree = ModuleTree(draft, glyphs, edited=self._tree_edited, moved=self._tree_moved, id="tree")
        self._note = Line(id="note")
        self._prompt = Prompt(id="prompt")
        self._settings = SettingsPanel(draft, glyphs, id="settings")
        self._help = FieldHelp(id="field-help")
        self._totals = Line(id="totals")
        self.memory = MemoryBar(glyphs, id="memory")
        self._footer = KeyLine()
        self._prompts = PlanPrompts(draft, self._tree, self._prompt)

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("plan")
            yield self._what
        with Horizontal(id="plan"):
            with Vertical(id="layers"):
                yield self._head
                yield self._columns
                yield self._no_model
                yield self._tree
            with Vertical(id="side"):
                yield self._settings
                yield self._help
        yield self._note
        yield self._prompt
        yield self._totals
        yield self.memory
        yield self._footer

    @property
    def folder(self) -> Path:
        return self.draft.path.parent if self.draft.path is not None else Path.cwd()

    def on_mount(self) -> None:
        self._tree.show_model()
        self._help.show(self._settings.focused_field or "model")
        self.set_interval(CARD_PERIOD_S, self._read_card)
        self.draft_changed()

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < WIDE  # all of its keys fit into 80 columns then
        self.call_after_refresh(self._say_all)

    # ---- after every edit

    def draft_changed(self) -> None:
        self._settings.refresh_values()
        self._tree.refresh_figures()
        self._say_all()
        self._look_soon()

    def _tree_edited(self, note: str) -> None:
        self.flash_up(note)
        self._settings.refresh_values()
        self._say_all()

    @on(SettingsPanel.Changed)
    def _settings_changed(self, message: SettingsPanel.Changed) -> None:
        self.flash_up("")
        self._tree.refresh_figures()
        self._say_all()
        self._look_soon()

    @on(SettingsPanel.FieldFocused)
    def _explain(self, message: SettingsPanel.FieldFocused) -> None:
        self._help.show(message.field)

    def _say_all(self) -> None:
        spec, glyphs, width = self.draft.spec, self.glyphs, self.size.width - 2
        totals = self.draft.totals()
        data = spec.data.train if isinstance(spec.data.train, str) else ", ".join(spec.data.train)
        names = [name.rstrip("/").rpartition("/")[2] for name in (spec.model.name_or_path, data) if name]
        mark = "not saved" if self.draft.is_unsaved else ""
        self._what.say(f" {glyphs.between} ".join(filter(None, [*map(glyphs.plain, names), mark])))
        self._head.say(self._heading(totals.adapter_bytes))
        self._say_columns()
        self._totals.say(plan_words.totals(spec, totals, glyphs, width))
        without = "reading the model" if self._is_reading else "no model, no prediction"
        if self.draft.architecture is not None:
            without = "the formula does not know this kind of model"
        self.memory.follow(self.draft, self.folder, without, width)
        self.say_note()

    def _heading(self, adapter_bytes: int | None) -> Content:
        tree = self._tree.layer_tree
        if tree is None:
            return Content.styled("Layers", "bold")
        parts: list[str | tuple[str, str]] = [
            ("Layers", "bold"),
            ("   p", "bold $primary"),
            (" preset: ", "$secondary"),
        ]
        parts.append(self.layer_preset)
        if self.has_class("-narrow") and adapter_bytes is not None:
            parts.append((f"   adapter {amount(adapter_bytes)} on disk", "$secondary"))
        if self._tree.pattern:
            number = len(self._tree.matches)
            parts += [("   filter: ", "$secondary"), self.glyphs.plain(self._tree.pattern)]
            parts += [(f"   {number:,} match{'es' if number != 1 else ''}   a select   esc all", "$secondary")]
        return Content.assemble(*parts)

    @property
    def layer_presets(self) -> dict[str, frozenset[str]]:
        return self._tree.layer_tree.presets if self._tree.layer_tree is not None else {}

    @property
    def layer_preset(self) -> str:
        targets = self.draft.selection.targets
        if not targets:
            return "nothing is chosen"
        if self.draft.spec.lora.target_modules == ALL_LINEAR and self.layer_presets.get(ALL_LINEAR) == targets:
            return ALL_LINEAR  # on many models the same as another preset
        return next((name for name, meant in self.layer_presets.items() if meant == targets), "own choice")

    def _tree_moved(self) -> None:
        self._say_columns()
        self.say_note()

    def _say_columns(self) -> None:
        self._columns.say(Content.styled(header(self._tree.columns), "$secondary"))

    @on(MemoryBar.Changed)
    def _memory_changed(self) -> None:
        self._say_all()

    def say_note(self) -> None:
        words, remark = self._note_words(), self.memory.remark
        width = self.size.width - 2
        if remark and len(words) <= width:  # else there is no room for it
            line = Content.styled(self.glyphs.shortened(remark, width), "$warning")
            words = Content("\n").join([words, line]) if words else line
        self._note.say(words)

    def _note_words(self) -> Content:
        plain = self.glyphs.plain
        if self.is_checking:
            return Content.styled("Checking model, data and settings before the start ...", "$primary")
        if self._flash:
            return Content.styled(plain(self._flash), "$warning")
        if self._is_reading:
            return Content.styled("Reading the model's structure from its config ...", "$primary")
        if self.model_error:
            return Content.styled(plain(" ".join(self.model_error.splitlines())), "$error")
        if self.data_problems:
            return Content.styled(plain(str(self.data_problems[0])), "$error")
        place = self._tree.place
        if place is None or place.module is None:
            return Content("")
        if place.module.obstacle:
            return Content.assemble((plain(place.names[0]), "bold"), f"  {place.module.obstacle}")
        more = f"  and the same in {len(place.names) - 1:,} more" if len(place.names) > 1 else ""
        return Content.assemble((plain(place.names[0]), ""), (more, "$secondary"))

    def flash_up(self, words: str) -> None:
        self._flash = words
        self.say_note()

    # ---- the model, the data and the card

    @property
    def _is_reading(self) -> bool:
        return self._asked_model is not None and self.draft.architecture is None and not self.model_error

    def _look_soon(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        spec = self.draft.spec
        if spec.model.name_or_path != UNSET and (spec.model.name_or_path, spec.model.revision) != self._asked_model:
            self._look()  # a model is chosen or typed whole: there is no more to wait for
        else:
            self._pause = self.set_timer(DEBOUNCE_S, self._look)

    def _look(self) -> None:
        spec = self.draft.spec
        wanted = (spec.model.name_or_path, spec.model.revision)
        if wanted != self._asked_model and wanted[0] != UNSET:
            self._asked_model = wanted
            self.draft.architecture, self.model_error = None, ""
            self._show_model()
            in_background(partial(self._read_model, wanted, self.folder), "model")
        counted = {"train", "eval_fraction", "name", "split", "format", "columns", "on_bad_row"}
        data = (spec.data.model_dump(include=counted), spec.training.seed)
        if data != self._asked_data and spec.data.train not in (UNSET, []):
            self._asked_data = data
            self.draft.train_rows, self.data_problems = None, []
            counting = partial(plan_work.count_rows, spec.data, spec.training.seed, self.folder)
            in_background(lambda: self.post_soon(self.RowsCounted(data, counting())), "rows")
        if spec.hardware.device != self._asked_card:
            self._read_card()

    def _read_model(self, wanted: tuple[str, str | None], folder: Path) -> None:
        answer = plan_work.read_architecture(self.deck.inspector, *wanted, folder)
        self.post_soon(self.ModelRead(wanted, answer))

    def _read_card(self) -> None:
        device, read = self.draft.spec.hardware.device, self.deck.read_card
        self._asked_card = device
        in_background(lambda: self.post_soon(self.CardRead(device, read(device))), "card")

    @on(ModelRead)
    def _take_model(self, message: ModelRead) -> None:
        if message.asked != self._asked_model:
            return
        if isinstance(message.answer, str):
            self.model_error = message.answer
        else:
            self.draft.architecture = message.answer
            # What is there by now stays: a full collection of it takes 100 ms, now and then in the middle of a key.
            gc.freeze()
        self._show_model()
        if self._doubtful is self.draft and self.draft.architecture is not None:
            self._doubtful = None
            self.ask_about_names()

    def _show_model(self) -> None:
        known = self.draft.architecture is not None
        self._no_model.display = not known
        self._tree.display = self._columns.display = known
        self._no_model.say(NO_MODEL if self._asked_model is None else "")
        had_focus = self.focused
        self._tree.show_model()
        if known and (had_focus is None or not had_focus.is_attached):
            self._tree.focus()
        self.call_after_refresh(self._say_all)
        self._settings.refresh_values()

    @on(RowsCounted)
    def _take_rows(self, message: RowsCounted) -> None:
        if message.asked != self._asked_data:
            return
        if isinstance(message.answer, int):
            self.draft.train_rows = message.answer
        else:
            self.data_problems = message.answer
        self._say_all()

    @on(CardRead)
    def _take_card(self, message: CardRead) -> None:
        if message.device == self.draft.spec.hardware.device:
            self.draft.card = message.card
            self._say_all()

    # ---- what is typed

    @on(ModuleTree.Asked)
    def _ask(self, message: ModuleTree.Asked) -> None:
        if message.what == "preset":
            self.choose_preset()
        else:
            self._prompts.ask(message.what)

    @on(Prompt.Typed)
    def _typed(self, message: Prompt.Typed) -> None:
        if self._prompts.typed(message.what, message.text):
            self._say_all()

    @on(Prompt.Answered)
    def _answered(self, message: Prompt.Answered) -> None:
        refusal = self._prompts.answer(message.what, message.text)
        if refusal:
            self._prompt.refuse(self.glyphs.plain(refusal))
            return
        self._prompt.close()
        self._tree.focus()
        self.draft_changed()

    @on(Prompt.GivenUp)
    def _given_up(self) -> None:
        self._tree.focus()
        self._say_all()

    # ---- keys

    def action_edit(self) -> None:
        """To the settings; from them, back to the layers."""
        if self._settings.has_focus_within:
            self.action_layers()
        else:
            self.add_class("-settings")
            self._settings.focus()

    def action_data(self) -> None:
        from tui.screens.data import DataScreen

        spec = self.draft.spec
        if spec.model.name_or_path == UNSET or spec.data.train in (UNSET, []):
            self.flash_up("First choose a model, with F2, and name the training data in the settings.")
        else:
            self.app.push_screen(DataScreen(self.draft, self.folder, self.glyphs, self.draft_changed))

    def action_layers(self) -> None:
        self.remove_class("-settings")
        self._tree.focus()
        self.call_after_refresh(self._say_all)

    def show_field(self, field: str) -> None:
        self.add_class("-settings")
        self._settings.show_field(field)

    def action_undo(self) -> None:
        self.flash_up("" if self.draft.undo() else "There is nothing to undo.")
        self.draft_changed()

    def action_redo(self) -> None:
        self.flash_up("" if self.draft.redo() else "There is nothing to do again.")
        self.draft_changed()

    def show_run(self, planned: RunDraft, note: str = "") -> None:
        """Plan with what a run was made of; names that its model lacks are asked about once that is read."""
        self._doubtful = planned.draft if planned.names_are_doubtful else None
        self.show_draft(planned.draft)
        self.action_layers()
        self.flash_up(note or planned.note)

    def go_to_module(self, name: str) -> None:
        self.action_layers()
        self._tree.go_to(name)

    def show_draft(self, draft: Draft) -> None:
        draft.card = self.draft.card
        self.draft = self._tree.draft = self._prompts.draft = draft
        self._asked_model = self._asked_data = None
        self._asked_card = ""
        self.model_error, self.data_problems = "", []
        self._settings.show_draft(draft)
        self._show_model()
        self.draft_changed()
