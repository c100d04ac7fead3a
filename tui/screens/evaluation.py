"""A run's evaluations: what they prove, the figures, and the rows that changed most, with both answers."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.timer import Timer

from engine.evaluation.results import Evaluation
from engine.runs.store import Run
from tui.background import result_of
from tui.data_view.preview import flowing
from tui.evaluating import csv_text
from tui.evaluating.changes import Change, Order, arranged, counted, parts_of
from tui.evaluating.figures import table
from tui.evaluating.findings import VERDICT_STYLES, facts, findings, one_word, time_is_over, verdict_sign
from tui.evaluating.for_real import evaluated
from tui.evaluating.loading import Looked, changes_of, look
from tui.evaluating.progress_words import progress_words, share
from tui.evaluating.row_words import part_name
from tui.evaluating.under_way import UnderWay, begin, under_way
from tui.glyphs import Glyphs
from tui.listing.columns import shown
from tui.screens import evaluation_keys
from tui.screens.choose import Choice, ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.evaluate import EvaluateScreen
from tui.screens.evaluations_end import tell_end
from tui.watching.chart_data import write_copy
from tui.widgets.answer_pair import AnswerPair
from tui.widgets.changed_rows import ChangedRows
from tui.widgets.key_line import KeyLine
from tui.widgets.progress import ProgressLine
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.app import LoradeckApp
    from tui.evaluating.under_way import Evaluate

WIDE = 112
"""Columns from which the footer has room for spaces."""
BESIDE_TITLE = 44
"""Cells of the first line that are not for the run and the evaluation."""
TICK_S = 0.2
"""How often it is looked how far an evaluation is."""
FLASH_S = 6.0
LARGEST_CLIPBOARD = 64 * 1024
"""Characters that are sent to the terminal's clipboard; xterm and tmux take hardly more."""
VIEWS = ("", "-figures", "-rows")
"""What is in sight: all, the table alone, the rows alone. Where lines are few, it is one of the two."""

NOTHING_YET = """\
This run was not evaluated yet.

"The loss fell" is not "it got better". An evaluation measures base and adapter on the same rows: \
those that the run held out, a benchmark of yours, and a general text that shows what was forgotten. \
"Better" is only said where it is not chance.

{key}  evaluates it here. On the command line:
   loradeck eval {run}
"""


class EvaluationScreen(Screen[None]):
    """Reads what is kept in the run's folder. An evaluation that is started here goes on when the screen is left."""

    AUTO_FOCUS = "ChangedRows"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012  (Textual declares it so)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    HELP = (
        "Base and adapter measured on the same rows. The 95 % interval is where the difference would lie 95 times of "
        '100 with other rows of the same kind; p is how often chance alone makes a difference as large. "Better" and '
        '"worse" are said only where both leave no doubt, on 10 rows or more. General text is what no run is trained '
        "on: what is worse there, the adapter made the model forget."
    )
    BINDINGS: ClassVar[list[BindingType]] = evaluation_keys.BINDINGS

    def __init__(self, run: Run, glyphs: Glyphs, evaluate: Evaluate = evaluated) -> None:
        super().__init__()
        self.evaluated = run
        self.glyphs = glyphs
        self.looked: Looked | None = None
        """What there is; None before it was read."""
        self.place = 0
        """Which evaluation is shown; 0 is the newest."""
        self.changes: list[Change] = []
        """All rows of the evaluation that is shown."""
        self.order: Order = "best"
        self.part: str | None = None
        """The part whose rows are listed; None: all."""
        self._evaluate = evaluate
        self._view = ""
        """What is wanted in sight."""
        self._in_sight: str | None = None
        """What is; None before anything was read."""
        self._ticking: Timer | None = None
        self._flash_timer: Timer | None = None
        self._what = Words(id="what", classes="rest")
        self._doing = Words(id="doing")
        self._bar = ProgressLine(glyphs, id="bar")
        self._trouble = Words(id="trouble")
        self._empty = Words(id="empty")
        self._findings = Words("Reading the evaluations ...", id="findings")
        self._table = Words()
        self._figures = VerticalScroll(self._table, id="figures")
        self._count = Words(id="count")
        self._list = ChangedRows(glyphs, id="changed")
        self._answers = AnswerPair(glyphs, id="answers")
        self._said = Words(id="said")
        self._footer = KeyLine()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield self._what
        with Horizontal(id="work"):
            yield self._doing
            yield self._bar
        yield self._trouble
        yield self._empty
        yield self._findings
        yield self._figures
        yield self._count
        yield self._list
        yield self._answers
        yield self._said
        yield self._footer

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    @property
    def evaluation(self) -> Evaluation | None:
        """The one on the screen."""
        kept = self.looked.evaluations if self.looked is not None else []
        return kept[self.place] if kept else None

    @property
    def under_way(self) -> UnderWay | None:
        """The evaluation of this run that has not ended."""
        work = under_way(self.app, self.evaluated)
        return work if work is not None and not work.has_ended else None

    def on_mount(self) -> None:
        self._say_title()
        self.read()
        if under_way(self.app, self.evaluated) is not None:
            self._follow()

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < WIDE
        self.call_after_refresh(self._look)

    # ---- reading

    @work(exclusive=True, group="read")
    async def read(self, evaluation_id: str | None = None) -> None:
        """Read what is kept, and show one evaluation (by default, the newest)."""
        self.looked = await result_of(partial(look, self.evaluated), "evaluations")
        ids = [evaluation.id for evaluation in self.looked.evaluations]
        self.place = ids.index(evaluation_id) if evaluation_id in ids else 0
        await self._show()

    @work(exclusive=True, group="read")
    async def show_at(self, place: int) -> None:
        """Show the evaluation at `place`."""
        self.place = place
        await self._show()

    async def _show(self) -> None:
        evaluation = self.evaluation
        self.changes = []
        if evaluation is not None:
            try:
                self.changes = await result_of(partial(changes_of, self.evaluated, evaluation.id), "rows")
            except OSError as error:
                self.flash(f"Its rows cannot be read: {error.strerror or error}")
        if self.part not in (None, *parts_of(self.changes)):
            self.part = None
        self._look()
        self._arrange()

    # ---- what is said

    def _look(self) -> None:
        """Show what there is room for, and say everything anew."""
        has_any, has_rows = self.evaluation is not None, bool(self.changes)
        is_low = self.has_class("-low")
        view = self._view if has_rows else "-figures"
        if is_low and not view:
            view = "-figures"
        for name in VIEWS[1:]:
            self.set_class(name == view, name)
        is_empty = self.looked is not None and not has_any
        self._empty.display = is_empty
        self._findings.display = self._figures.display = not is_empty and view != "-rows"
        if view != self._in_sight and self.looked is not None:
            self._in_sight = view
            focused = self._figures if view == "-figures" else self._list
            self.call_after_refresh(focused.focus)  # while it was hidden, it could not have it
        self._say_title()
        self._say_findings()
        self._say_count()
        self.refresh_bindings()

    def _say_title(self) -> None:
        """Which run and which evaluation, in the longest way that there is room for."""
        run_id, glyphs, between = shown(self.evaluated.id, self.glyphs), self.glyphs, f" {self.glyphs.between} "
        rest = []
        if (evaluation := self.evaluation) is not None and self.looked is not None:
            rest.append(_moment(evaluation.created))
            if (total := len(self.looked.evaluations)) > 1:
                rest.append(f"{total - self.place} of {total}")
        short = run_id[:15] + glyphs.ellipsis + run_id[-5:]
        names = ([f"evaluation{between}{name}"] for name in (run_id, short))
        tries = [between.join([*name, *rest]) for name in (*names, [f"eval {run_id.rpartition('-')[2]}"])]
        room = self.size.width - BESIDE_TITLE
        self._what.say(next((each for each in tries if cell_len(each) <= room), tries[-1]))

    def _say_findings(self) -> None:
        evaluation, glyphs, width = self.evaluation, self.glyphs, self.size.width - 2
        if evaluation is None:
            if self.looked is not None:
                self._empty.say(NOTHING_YET.format(key="e", run=shown(self.evaluated.id, glyphs)))
            return
        lines = []
        for finding in findings(evaluation, width, glyphs):
            style = VERDICT_STYLES[finding.verdict]
            sign = f"{verdict_sign(finding.verdict, glyphs)} "
            lines.append(Content.assemble((sign, style), (glyphs.plain(finding.lead), "bold"), finding.figures))
        if over := time_is_over(evaluation):
            lines.append(Content.styled(f"{glyphs.attention} {over}", "$warning"))
        lines.append(flowing([(fact, "$secondary") for fact in facts(evaluation, glyphs)], width, glyphs))
        self._findings.say(Content("\n").join(lines))
        self._table.say(table(evaluation, width - 1, glyphs))  # less the scrollbar

    def _say_count(self) -> None:
        if not self.changes:
            return
        listed = [change for change in self.changes if self.part in (None, change.row.part)]
        counts = counted(listed)
        what = "all rows" if self.part is None else f"rows of {part_name(self.part)}"
        order = f"changed most for {'better' if self.order == 'best' else 'worse'} first"
        numbers = f"{counts['better']:,} better, {counts['worse']:,} worse, {counts['same']:,} the same"
        if counts["alone"]:
            numbers += f", {counts['alone']:,} of one model only"
        parts = [(f"{what}: {len(listed):,}", "bold"), (order, ""), (numbers, "$secondary")]
        self._count.say(flowing(parts, max(self.size.width - 2, 0), self.glyphs).split("\n")[0])

    def flash(self, words: str) -> None:
        """Say something for a few seconds."""
        self._said.say(self.glyphs.plain(words))
        self._said.display = True
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(FLASH_S, self._end_flash)

    def _end_flash(self) -> None:
        self._said.display = False

    # ---- rows

    def _arrange(self) -> None:
        self._list.show(arranged(self.changes, self.order, self.part))
        if not self.changes:
            self._answers.show(None)
        self._say_count()

    @on(ChangedRows.Highlighted)
    def _show_row(self, message: ChangedRows.Highlighted) -> None:
        self._answers.show(message.change.row)

    def action_order(self, order: Order) -> None:
        self.order = order
        self._see_rows()
        self._arrange()

    def action_next(self, by: int) -> None:
        self._see_rows()
        self._list.action_move(by)

    def action_part(self) -> None:
        parts: list[str | None] = [None, *parts_of(self.changes)]
        self.part = parts[(parts.index(self.part) + 1) % len(parts)]
        self._see_rows()
        self._arrange()

    def _see_rows(self) -> None:
        if self.changes and self.has_class("-figures"):
            self._view = "-rows" if self.has_class("-low") else ""
            self._look()

    def action_view(self) -> None:
        views = VIEWS[1:] if self.has_class("-low") else VIEWS
        now = next((view for view in VIEWS[1:] if self.has_class(view)), "")
        self._view = views[(views.index(now) + 1) % len(views)]
        self._look()

    def action_whole(self) -> None:
        self._answers.show_all(not self._answers.shows_all)

    def action_page(self, by: int) -> None:
        scrolled = self._figures if self.has_class("-figures") else self._answers
        scrolled.scroll_relative(y=by * max(1, scrolled.size.height - 1), animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that would do nothing now are in no list of keys."""
        if action in ("stop", "evaluate"):
            return (self.under_way is not None) == (action == "stop")
        if action in ("order", "next", "part", "view", "whole", "page"):
            return bool(self.changes) or (action == "page" and self.evaluation is not None)
        if action in ("other", "choose"):
            return self.looked is not None and len(self.looked.evaluations) > 1
        if action == "copy":
            return self.evaluation is not None
        return True

    # ---- other evaluations

    def action_other(self, by: int) -> None:
        kept = self.looked.evaluations if self.looked is not None else []
        if 0 <= self.place + by < len(kept):
            self.show_at(self.place + by)
        else:
            self.flash("That is the newest evaluation." if by < 0 else "That is the oldest evaluation.")

    @work(exclusive=True, group="dialog")
    async def action_choose(self) -> None:
        kept = self.looked.evaluations if self.looked is not None else []
        room = max(20, self.size.width - 45)
        choices = []
        for evaluation in kept:
            point = "final adapter" if evaluation.step is None else f"step {evaluation.step:,}"
            note = self.glyphs.shortened(self.glyphs.plain(one_word(evaluation)), room)
            choices.append(Choice(evaluation.id, f"{_moment(evaluation.created)}  {point}", note))
        current = self.evaluation.id if self.evaluation is not None else None
        chosen = await self.app.push_screen_wait(ChooseScreen("Evaluations of this run", choices, current))
        if chosen is not None:
            self.show_at([evaluation.id for evaluation in kept].index(chosen))

    # ---- evaluating

    @work(exclusive=True, group="dialog")
    async def action_evaluate(self) -> None:
        looked = await result_of(partial(look, self.evaluated), "evaluations")  # a checkpoint may be new
        if looked.why_not:
            self.flash(looked.why_not)
            return
        asked = await self.app.push_screen_wait(
            EvaluateScreen(self.evaluated, looked.first_asked(), looked.holds_out, self.glyphs)
        )
        if asked is not None and self.under_way is None:
            begin(self.app, self.evaluated, asked, partial(tell_end, self.app), self._evaluate)
            self._trouble.display = False
            self._follow()

    def _follow(self) -> None:
        """Show how far the evaluation is until it ends."""
        if self._ticking is None:
            self._ticking = self.set_interval(TICK_S, self._tick)
        self._tick()
        self.refresh_bindings()

    def _tick(self) -> None:
        work = under_way(self.app, self.evaluated)
        if work is None:
            return
        if not work.has_ended:
            self.query_one("#work").display = True
            words = progress_words(work.progress, time.monotonic() - work.began_s, work.is_stopping)
            self._doing.say(self.glyphs.shortened(self.glyphs.plain(words), max(0, self.size.width - 2)))
            self._bar.share = share(work.progress)
            return
        self.query_one("#work").display = False
        if self._ticking is not None:
            self._ticking.stop()
            self._ticking = None
        self.refresh_bindings()
        if work.evaluation is not None:
            self.read(work.evaluation.id)
        elif work.failure:
            self._trouble.say(self.glyphs.plain(work.failure))
            self._trouble.display = True
        else:
            self.flash("Stopped. Nothing of it is kept.")

    @work(exclusive=True, group="dialog")
    async def action_stop(self) -> None:
        agreed = await self.app.push_screen_wait(
            ConfirmScreen("Stop this evaluation?", "Nothing of it is kept.", yes="stop it", no="let it go on")
        )
        if agreed and (work := self.under_way) is not None:
            work.stop()
            self._tick()

    def action_back(self) -> None:
        if self.under_way is not None:
            self.notify("The evaluation goes on; its end is told.", markup=False)
        self.dismiss()

    # ---- copies

    async def action_copy(self) -> None:
        evaluation = self.evaluation
        if evaluation is None:
            return
        text = csv_text.as_csv(evaluation).encode("utf-8", "replace").decode()
        fits = len(text) <= LARGEST_CLIPBOARD
        if fits:
            self.app.copy_to_clipboard(text.rstrip("\n"))
        try:
            path = await asyncio.to_thread(write_copy, self.evaluated, csv_text.file_name(evaluation), text)
        except OSError as error:
            self.flash(f"No file could be written: {error}" + (" It is on the clipboard." if fits else ""))
            return
        self.flash(f"Copied the table{'' if fits else ', too much for the clipboard,'} to {path}")


def _moment(created: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(created))
