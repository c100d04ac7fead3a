"""What the data screen asks in the background, and what became of it. Nothing waits, and leaving gives it all up."""

from __future__ import annotations

import threading
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.message import Message
from textual.screen import Screen

from engine.data.asking import Progress
from engine.data.report import DataReport
from engine.spec import RunSpec
from tui.background import result_of
from tui.data_view import asking
from tui.data_view.asking import Note
from tui.data_view.choices import AtLine, Measured, at_line
from tui.data_view.preview import Preview, SideName
from tui.planning.draft import Draft

if TYPE_CHECKING:
    from engine.inspector import Inspector
    from tui.app import LoradeckApp


class DataAsking(Screen[None]):
    """One row at a time, the check of all rows, their lengths, and notes. An answer for an older draft is dropped."""

    draft: Draft
    folder: Path
    """Where relative paths of the draft start."""

    class Progressed(Message):
        """The check of the rows, or the count of their tokens, has come further."""

        def __init__(self, of: RunSpec, progress: Progress) -> None:
            super().__init__()
            self.of, self.progress = of, progress

    def __init__(self) -> None:
        super().__init__()
        self.preview: Preview | None = None
        """The row that is shown."""
        self.trouble = ""
        """Why no row can be shown, for a person."""
        self.report: DataReport | None = None
        self.report_trouble = ""
        self.measured: Measured | None = None
        """Lengths of some rows, then of all of them."""
        self.lengths_trouble = ""
        self.at: AtLine | None = None
        """What is known of the place of the line."""
        self.notes: list[Note] = []
        self.progress: Progress | None = None
        self._resolved: RunSpec | None = None
        self._wanted: tuple[int, SideName] | None = None
        self._asked: tuple[int, SideName] | None = None
        self._is_asking_row = False
        self._can_show_rows = False

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    @property
    @abstractmethod
    def line(self) -> int | None:
        """The max_length that figures are wanted for."""

    @abstractmethod
    def row_came(self) -> None:
        """Show the row, or why there is none."""

    @abstractmethod
    def lengths_came(self) -> None:
        """Show the lengths."""

    @abstractmethod
    def say_all(self) -> None:
        """Bring the words up to date."""

    @property
    def row(self) -> tuple[int, SideName]:
        """The row that is wanted, also while it is not there yet."""
        return self._wanted or self._asked or (0, "train")

    @property
    def has_all_lengths(self) -> bool:
        return self.measured is not None and not self.measured.figures.is_sample

    def ask_all(self) -> None:
        """Ask everything anew; what is on the screen stays until the answers come."""
        self.report, self.measured, self.at, self.notes, self.progress = None, None, None, [], None
        self.trouble = self.report_trouble = self.lengths_trouble = ""
        self.look()

    def ask_again(self) -> None:
        """Ask what depends on settings that neither the check nor the lengths depend on."""
        self.look(anew=False)

    @work(exclusive=True, group="look")
    async def look(self, anew: bool = True) -> None:
        """Find the model, then ask for the row, and with `anew` for everything else."""
        found = await result_of(partial(asking.located, self.draft.spec, self.folder), "model")
        self._resolved, self.trouble = found.spec, found.trouble
        self._can_show_rows = not found.trouble
        if found.trouble:
            self.lengths_trouble = found.trouble
            self.row_came()
        if (spec := found.spec) is None:
            return
        if not found.trouble:
            self.ask_row(*self.row)  # first of all: it is waited for
            self._read_notes(spec)
        if anew:
            self._check_rows(spec, counts_tokens=not found.trouble)
            if not found.trouble:
                self._measure_sample(spec)
        self.work_out()

    # ---- one row

    def ask_row(self, index: int, side: SideName) -> None:
        """Show another row as soon as it is there. Of several that are asked for meanwhile, the last one counts."""
        self._wanted = index, side
        if not self._is_asking_row and self._can_show_rows:
            self._is_asking_row = True
            self._read_rows()

    @work(group="row")
    async def _read_rows(self) -> None:
        try:
            while self._wanted is not None and (spec := self._resolved) is not None:
                self._asked, self._wanted = self._wanted, None
                answer = await result_of(partial(asking.preview, spec, *self._asked, self.deck.inspector), "row")
                if self._resolved is not spec:
                    self._wanted = self._wanted or self._asked  # settings have changed meanwhile
                elif self._wanted is None:
                    self._take_row(answer)
        finally:
            self._is_asking_row = False

    def _take_row(self, answer: Preview | str) -> None:
        self.trouble = answer if isinstance(answer, str) else ""
        if not isinstance(answer, str):
            self.preview = answer
        self.row_came()

    # ---- all rows

    @work(exclusive=True, group="rows")
    async def _check_rows(self, spec: RunSpec, counts_tokens: bool) -> None:
        """Check every row, then count the tokens of all of them."""
        left = threading.Event()
        tell = partial(self._tell, spec)
        try:
            report = await result_of(partial(asking.check, spec, tell, left.is_set), "check")
            self.progress = None
            if isinstance(report, str):
                self.report_trouble = report
                self.say_all()
                return
            self.report = report
            self.say_all()
            if self.preview is not None and self.preview.rows is None:
                self.ask_row(self.preview.index, self.preview.side)  # its number of rows is known now
            if not counts_tokens or not report.train_rows:
                return
            counted = await result_of(partial(asking.count_tokens, spec, tell, left.is_set), "tokens")
            self.progress = None
            self._take_lengths(counted)
        finally:
            left.set()

    def _tell(self, of: RunSpec, progress: Progress) -> None:
        if self.is_running:
            self.post_message(self.Progressed(of, progress))

    @on(Progressed)
    def _show_progress(self, message: Progressed) -> None:
        if message.of is self._resolved and not self.has_all_lengths:
            self.progress = message.progress
            self.say_all()

    @work(exclusive=True, group="sample")
    async def _measure_sample(self, spec: RunSpec) -> None:
        measured = await result_of(partial(asking.sample, spec, self._helper), "lengths")
        if not self.has_all_lengths:
            self._take_lengths(measured)

    def _take_lengths(self, measured: Measured | str) -> None:
        if isinstance(measured, str):
            self.lengths_trouble = measured
            self.say_all()
            return
        self.measured, self.lengths_trouble = measured, ""
        self.lengths_came()
        self.work_out()

    @work(exclusive=True, group="notes")
    async def _read_notes(self, spec: RunSpec) -> None:
        notes = await result_of(partial(asking.notes, spec, self._helper), "notes")
        self.notes = [] if isinstance(notes, str) else notes
        self.say_all()

    @property
    def _helper(self) -> Inspector:
        """For what takes seconds: the tracer, so that rows can be walked through meanwhile."""
        return self.deck.tracer or self.deck.inspector

    # ---- what the line means

    @work(exclusive=True, group="figures")
    async def work_out(self) -> None:
        """Work out what the line's place would mean."""
        if (measured := self.measured) is None:
            return
        asked = partial(at_line, measured, self.draft.spec, self.line, self.draft.question)
        self.at = await result_of(asked, "figures")
        self.say_all()
