"""The data of a draft: each row as the model sees it, how long rows are, what is wrong with them, and what to do."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content

from engine.data.lengths import RowLengths
from tui.data_view import length_words, report_words, walk
from tui.data_view.asking import what_decides
from tui.data_view.choices import CHOICES, choice_of, next_choice
from tui.data_view.preview import flowing, heading
from tui.data_view.visible import visible
from tui.glyphs import Glyphs
from tui.planning.draft import Draft
from tui.screens.data_asking import DataAsking
from tui.screens.data_list import DataListScreen
from tui.screens.map_columns import MapColumnsScreen
from tui.widgets.key_line import KeyLine
from tui.widgets.length_histogram import LengthHistogram
from tui.widgets.line import Line
from tui.widgets.prompt import Prompt
from tui.widgets.tab_line import TabLine
from tui.widgets.token_view import TokenView
from tui.widgets.words import Words

WIDE = 112
"""Columns from which the footer has room for spaces."""
NOT_COUNTED = "The lengths of all rows are still being counted."


class DataScreen(DataAsking):
    """Shows, and edits the draft where a key says so; each edit can be undone. Closing it leads back to the plan."""

    AUTO_FOCUS = "TokenView"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012  (Textual declares it so)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,down", "step(1)", "next", key_display="n", id="data.next", tooltip="The next row."),
        Binding("p,up", "step(-1)", "previous", show=False, id="data.previous", tooltip="The row before."),
        Binding("r", "random", "random", show=False, id="data.random", tooltip="Any row."),
        Binding(
            "l", "longest", "longest", show=False, id="data.longest", tooltip="The training row with the most tokens."
        ),
        Binding("s", "shortest", "shortest", show=False, id="data.shortest", tooltip="The one with the fewest."),
        Binding("t", "cut", "cut", id="data.cut", tooltip="The next row that the line cuts."),
        Binding("z", "unlearnt", "unlearnt", id="data.unlearnt", tooltip="The next row with nothing to learn."),
        Binding("h", "side", "held out", show=False, id="data.side", tooltip="Held-out rows, or training rows again."),
        Binding("colon", "number", "number", key_display=":", show=False, id="data.number", tooltip="By its number."),
        Binding("v", "view", "raw", id="data.view", tooltip="The row as it is, or as the model sees it."),
        Binding("left", "line(-1)", "shorter", show=False, id="data.shorter", tooltip="The line of max_length."),
        Binding("right", "line(1)", "longer", show=False, id="data.longer", tooltip="The line of max_length."),
        Binding("shift+left", "line(-1, True)", "much shorter", show=False, id="data.much_shorter"),
        Binding("shift+right", "line(1, True)", "much longer", show=False, id="data.much_longer"),
        Binding("enter", "take", "take", key_display="enter", id="data.take", tooltip="The line as data.max_length."),
        Binding("g", "batches", "batch", id="data.batches", tooltip="In random order, grouped by length, packed."),
        Binding("b", "list", "bad", id="data.list", tooltip="All that the check of the rows found."),
        Binding("o", "bad_rows", "skip bad rows", show=False, id="data.bad_rows", tooltip="Leave them out, or refuse."),
        Binding("c", "columns", "columns", show=False, id="data.columns", tooltip="Say which column is what."),
        Binding("w", "next_note", "next warning", show=False, id="data.next_note", tooltip="Where there are several."),
        Binding("f", "fix", "fix", id="data.fix", tooltip="Set what the warning says."),
        Binding("ctrl+z", "undo", "undo", show=False, id="data.undo", tooltip="Take the last edit back."),
        Binding("ctrl+y", "redo", "redo", show=False, id="data.redo", tooltip="Do it again."),
        Binding("escape", "dismiss", "back", key_display="esc", id="data.back", tooltip="The plan again."),
    ]

    def __init__(self, draft: Draft, folder: Path, glyphs: Glyphs, edited: Callable[[], None]) -> None:
        super().__init__()
        self.draft, self.folder, self.glyphs = draft, folder, glyphs
        self.edited = edited
        """Called after each edit of the draft."""
        self.shows_raw = False
        self.note = 0
        """Place of the warning that is shown first."""
        self._flash = ""
        self._has_asked_columns = False
        self._what = Words(id="what", classes="rest")
        self._heading = Words("Reading the first row ...", id="heading")
        self._tokens = TokenView(glyphs, id="tokens")
        self._lengths = Line(id="lengths")
        self._histogram = LengthHistogram(glyphs, id="histogram")
        self._histogram.put_line(draft.spec.data.max_length)
        self._choices = Line(id="choices")
        self._line_words = Line(id="line")
        self._report = Words(id="report")
        self._notes = Words(id="notes")
        self._said = Line(id="said")
        self._prompt = Prompt(id="prompt")
        self._footer = KeyLine()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("plan")
            yield self._what
        yield self._heading
        yield self._tokens
        yield self._lengths
        with Horizontal(id="figures"):
            yield self._histogram
            yield self._choices
        yield self._line_words
        yield self._report
        yield self._notes
        yield self._said
        yield self._prompt
        yield self._footer

    @property
    def line(self) -> int | None:
        return self._histogram.max_length

    def on_mount(self) -> None:
        self.ask_all()
        self.say_all()

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < WIDE
        self.call_after_refresh(self.say_all)

    # ---- what is said

    def flash_up(self, words: str) -> None:
        """Say something until the next key that does something."""
        self._flash = words
        self._say_said()

    def say_all(self) -> None:
        self._say_title()
        self._say_heading()
        self._say_lengths()
        self._say_report()
        self._say_notes()
        self._say_said()

    def _say_title(self) -> None:
        data = self.draft.spec.data.train
        names = [data if isinstance(data, str) else ", ".join(data), self.draft.spec.model.name_or_path]
        shown = [visible(name.rstrip("/").rpartition("/")[2], self.glyphs) for name in names if name]
        self._what.say(f" {self.glyphs.between} ".join(["data", *shown]))

    def _say_heading(self) -> None:
        width = self.size.width - 2
        if self.trouble:
            self._heading.say(Content.styled(visible(self.trouble, self.glyphs), "$error"))
        elif self.preview is not None:
            self._heading.say(heading(self.preview, width, self.glyphs))

    def _say_lengths(self) -> None:
        width, glyphs, spec = self.size.width - 2, self.glyphs, self.draft.spec
        counting = report_words.progress(self.progress) if self.progress and self.progress.doing == "tokens" else ""
        if self.measured is not None:
            self._lengths.say(length_words.tokens_a_row(self.measured.figures, width, glyphs, counting))
        else:
            said = self.lengths_trouble or "measuring how long rows are ..."
            words = glyphs.shortened(visible(said, glyphs), width)
            self._lengths.say(Content.styled(words, "$error" if self.lengths_trouble else "$secondary"))
        self._choices.say(length_words.table(self.at, choice_of(spec), glyphs.closed))
        is_known = self.at is not None and self.at.max_length == self.line
        self._line_words.say(
            length_words.line_words(self.at, spec.data.max_length, width, glyphs) if self.at and is_known else ""
        )

    def _say_report(self) -> None:
        width, glyphs = self.size.width - 2, self.glyphs
        if self.report_trouble:
            self._report.say(Content.styled(visible(self.report_trouble, glyphs), "$error"))
        elif self.report is not None:
            self._report.say(flowing(report_words.summary(self.report, self.draft.spec.data, glyphs), width, glyphs))
        else:
            is_scan = self.progress is not None and self.progress.doing == "scan"
            now = report_words.progress(self.progress) if self.progress and is_scan else f"{report_words.CHECKING} ..."
            self._report.say(Content.styled(now, "$secondary"))

    def _say_notes(self) -> None:
        glyphs, notes = self.glyphs, self.notes
        self.note = min(self.note, max(0, len(notes) - 1))
        lines = []
        for place, note in enumerate([*notes[self.note :], *notes[: self.note]]):
            of = f"   {self.note + 1} of {len(notes)}, w next" if place == 0 and len(notes) > 1 else ""
            fix = "f " if place == 0 and note.changes else "  "
            room = self.size.width - 4
            message = glyphs.shortened(visible(note.message, glyphs), room - len(of))
            lines.append(Content.assemble((f"{glyphs.attention} ", "$warning"), message, (of, "$secondary")))
            hint = visible(note.hint, glyphs)
            if place or self.has_class("-low"):
                hint = glyphs.shortened(hint, room)
            lines.append(Content.assemble((fix, "bold $primary"), (hint, "$secondary")))
        self._notes.say(Content("\n").join(lines))

    def _say_said(self) -> None:
        words = self.glyphs.shortened(self.glyphs.plain(self._flash), max(0, self.size.width - 2))
        self._said.say(Content.styled(words, "$warning"))

    # ---- what has come

    def row_came(self) -> None:
        self._say_heading()
        preview = self.preview
        if preview is None:
            return
        if self.shows_raw or not preview.pieces:
            self._tokens.show_text(preview.as_it_is())
        else:
            self._tokens.show_tokens(preview.pieces, preview.cut_at)
        if preview.is_unrecognised and not self._has_asked_columns:
            self._has_asked_columns = True
            self.action_columns()

    def lengths_came(self) -> None:
        assert self.measured is not None
        self._histogram.show(self.measured.figures, self.line)
        self._say_lengths()

    # ---- rows

    def _go(self, index: int) -> None:
        """To another row of the same side; behind the last one is the first."""
        preview, side = self.preview, self.row[1]
        self.flash_up("")
        rows = preview.rows if preview is not None and preview.side == side else None
        self.ask_row(index % rows if rows else max(0, index), side)

    def action_step(self, by: int) -> None:
        self._go(self.row[0] + by)

    def action_random(self) -> None:
        if self.preview is not None and self.preview.rows:
            self._go(random.randrange(self.preview.rows))
        else:
            self.flash_up("How many rows there are is still being counted.")

    def action_longest(self) -> None:
        self._go_by_length(walk.longest, "")

    def action_shortest(self) -> None:
        self._go_by_length(walk.shortest, "")

    def action_cut(self) -> None:
        line = self.line
        words = "Without a max_length no row is cut." if line is None else f"No row is longer than {line:,}."
        self._go_by_length(lambda lengths: walk.next_cut(lengths, self._after, line), words)

    def action_unlearnt(self) -> None:
        self._go_by_length(
            lambda lengths: walk.next_unlearnt(lengths, self._after, self.line), "Every row has something to learn."
        )

    @property
    def _after(self) -> int:
        """The row from which the next one is looked for: on the held-out side, before the first."""
        index, side = self.row
        return index if side == "train" else -1

    def _go_by_length(self, find: Callable[[RowLengths], int | None], none: str) -> None:
        """To a training row: lengths are of those."""
        if self.measured is None or not self.has_all_lengths:
            self.flash_up(self.lengths_trouble or NOT_COUNTED)
            return
        row = find(self.measured.lengths) if self.measured.lengths.tokens else None
        self.flash_up("" if row is not None else none)
        if row is not None:
            self.ask_row(row, "train")

    def action_side(self) -> None:
        if not self.draft.spec.has_eval:
            self.flash_up("No rows are held out: data.eval or data.eval_fraction says which.")
        else:
            self.flash_up("")
            self.ask_row(0, "held_out" if self.row[1] == "train" else "train")

    def action_number(self) -> None:
        self._prompt.ask("row", "row", "its number, from 1")

    @on(Prompt.Answered)
    def _go_to_number(self, message: Prompt.Answered) -> None:
        rows = self.preview.rows if self.preview is not None else None
        text = message.text.replace(",", "")
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= (rows or int(text))):
            last = f" to {rows:,}" if rows else ""
            self._prompt.refuse(f"{self.glyphs.plain(message.text)} is no number from 1{last}")
            return
        self._close_prompt()
        self._go(int(text) - 1)

    @on(Prompt.GivenUp)
    def _close_prompt(self) -> None:
        self._prompt.close()
        self._tokens.focus()

    def action_view(self) -> None:
        self.shows_raw = not self.shows_raw
        self.row_came()

    # ---- lengths

    def action_line(self, by: int, large: bool = False) -> None:
        self._histogram.move(by, large)

    @on(LengthHistogram.Moved)
    def _line_moved(self) -> None:
        self.work_out()

    def action_take(self) -> None:
        if self.line == self.draft.spec.data.max_length:
            self.flash_up("Left and right move the line; enter then takes it as max_length.")
        else:
            self.edit({"data.max_length": self.line}, f"data.max_length: {self.line}")

    def action_batches(self) -> None:
        choice = next_choice(choice_of(self.draft.spec))
        self.edit(dict(CHOICES[choice]), f"Batches: {choice}.")
        if refusals := [problem for problem in self.draft.problems() if problem.field.startswith("data.packing")]:
            self.flash_up(str(refusals[0]))

    # ---- what is wrong

    def action_list(self) -> None:
        if self.report is None:
            self.flash_up(self.report_trouble or "The rows are still being checked.")
        else:
            words = report_words.whole_list(self.report, self.draft.spec.data, self.glyphs)
            self.app.push_screen(DataListScreen("What the check of every row found", words))

    def action_bad_rows(self) -> None:
        skips = self.draft.spec.data.on_bad_row == "skip"
        said = "Bad rows keep a run from starting." if skips else "Bad rows are left out, and counted."
        self.edit({"data.on_bad_row": "error" if skips else "skip"}, said)

    @work(exclusive=True, group="dialog")
    async def action_columns(self) -> None:
        preview = self.preview
        if preview is None or not preview.columns:
            self.flash_up("There are no columns to choose from yet.")
            return
        why = preview.problem if preview.is_unrecognised else ""
        changes = await self.app.push_screen_wait(MapColumnsScreen(preview.columns, why, self.glyphs))
        if changes is not None:
            self.edit(changes, f"data.format: {changes['data.format']}")

    def action_next_note(self) -> None:
        self.note = (self.note + 1) % max(1, len(self.notes))
        self._say_notes()

    def action_fix(self) -> None:
        if not self.notes:
            self.flash_up("There is no warning.")
        elif not (changes := self.notes[self.note].changes):
            self.flash_up("There is no setting that changes this.")
        else:
            self.edit(changes, ", ".join(f"{field}: {value}" for field, value in changes.items()))

    # ---- edits

    def edit(self, values: dict[str, Any], said: str) -> None:
        """Change the draft, and ask anew what that changes."""
        before = what_decides(self.draft.spec)
        if problems := self.draft.change_all(values):
            self.flash_up(str(problems[0]))
        else:
            self._edited(before, f"{said} (ctrl+z takes it back)")

    def action_undo(self) -> None:
        before = what_decides(self.draft.spec)
        if self.draft.undo():
            self._edited(before, "Taken back.")
        else:
            self.flash_up("There is nothing to undo.")

    def action_redo(self) -> None:
        before = what_decides(self.draft.spec)
        if self.draft.redo():
            self._edited(before, "Done again.")
        else:
            self.flash_up("There is nothing to do again.")

    def _edited(self, before: tuple[object, ...], said: str) -> None:
        self._histogram.put_line(self.draft.spec.data.max_length)
        self.edited()
        if what_decides(self.draft.spec) != before:
            self.ask_all()
        else:
            self.ask_again()
        self.flash_up(said)
        self.say_all()
