"""The list of runs: the first screen."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.timer import Timer

from tui.background import result_of
from tui.glyphs import Glyphs
from tui.listing.catalog import Look, RunCatalog, RunRow
from tui.listing.columns import direction, shown
from tui.listing.detail import detail
from tui.listing.filter import RunFilter
from tui.listing.lineage import Descent, as_trees, read_descent
from tui.listing.order import ORDERS, in_order
from tui.screens import runs_actions
from tui.screens.runs_actions import MOST_COMPARED
from tui.widgets.key_line import KeyLine
from tui.widgets.line import Line
from tui.widgets.prompt import Prompt
from tui.widgets.run_table import RunTable
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

if TYPE_CHECKING:
    from tui.app import LoradeckApp

PERIOD_S = 1.0
FIRST_SLICE_S = 0.03
"""The first look ends when there is a screenful to show; one run takes some 50 us, on a busy box thrice that."""
SLICE_S = 0.5
FLASH_S = 6.0
FILTER_HINT = "words that a run must have; state:failed tag:x model: data: targets: note: id: host:"
LIST_ACTIONS = frozenset((
    "filter", "sort", "turn", "tree", "mark", "compare", "try", "evaluation", "tags", "note", "place", "delete", "back",
))  # fmt: skip
"""Actions that need a list of runs, and wait while something is typed."""
RARE = frozenset({"runs.tree", "runs.tags", "runs.note"})
"""Keys that a narrow terminal shows only in the help."""
PLACE = Binding.Group("place")
FORWARD, BACK = "One place forward in the queue.", "One place back in the queue."

EMPTY = """\
There are no runs yet.

  1                        plans one: layers, settings, and the memory they need
  loradeck demo            fine-tunes a small real model here, in minutes
  loradeck new             writes a run.yaml to fill in
  loradeck train run.yaml  starts it
"""


class RunsScreen(Screen[None]):
    """All runs, read again every second; what has not changed is not painted again."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (104, "-wide")]  # noqa: RUF012  (Textual declares it so)
    HELP = (
        "All runs of this machine and those copied here. A run goes on whether or not it is looked at.\n"
        "The filter (/) takes words that must all be found in a run: its id, model, data, targets, state, tags or "
        "notes. state:failed or tag:baseline looks in one of them. esc takes the filter and the marks away.\n"
        "A queued run starts by itself when its turn comes and a card is free; < and > give it another place."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", key_display="/", id="runs.filter", tooltip="Show only some runs."),
        Binding("s", "sort", "sort", id="runs.sort", tooltip="Sort by the next column: loss, tokens, ..."),
        Binding("r", "turn", "reverse", show=False, id="runs.reverse", tooltip="Turn the order round."),
        Binding("v", "tree", "tree", id="runs.tree", tooltip="Children under the runs that they continue, and back."),
        Binding("space", "mark", "mark", id="runs.mark", tooltip="Mark this run, to compare or delete several."),
        Binding("c", "compare", "compare", id="runs.compare", tooltip="The marked runs (2 to 8) side by side."),
        Binding("T", "try", "try", show=False, id="runs.try", tooltip="Ask its model: base and adapter side by side."),
        Binding("E", "evaluation", "evaluate", show=False, id="runs.evaluation", tooltip="Base against adapter."),
        Binding("less_than_sign,shift+up", "place(-1)", "sooner", id="runs.sooner", group=PLACE, tooltip=FORWARD),
        Binding("greater_than_sign,shift+down", "place(1)", "later", id="runs.later", group=PLACE, tooltip=BACK),
        Binding("t", "tags", "tags", id="runs.tags", tooltip="Edit the tags of this run or the marked ones."),
        Binding("n", "note", "note", id="runs.note", tooltip="Add a note to this run."),
        Binding("d,delete", "delete", "delete", id="runs.delete", tooltip="Delete this run or the marked ones. Asks."),
        Binding("escape", "back", "clear", show=False, id="runs.clear", tooltip="Take the filter and marks away."),
    ]

    def __init__(self, glyphs: Glyphs, now: Callable[[], float]) -> None:
        super().__init__()
        self.glyphs = glyphs
        self.now = now
        self.all_rows: Sequence[RunRow] = ()
        """Every run that is read, newest first by id."""
        self.filter = RunFilter()
        self.is_tree = False
        """Whether children stand below their parents."""
        self._order, self._turned = 0, False
        self._catalog = RunCatalog()
        self._unread = 0
        self._is_read = False
        self._wanted = asyncio.Event()
        """Set where the list should be read again at once."""
        self._children: dict[str, list[str]] = {}
        self._descents: dict[str, Descent | None] = {}
        self._count = Words(id="count", classes="rest")
        self._empty = Words(EMPTY, id="empty")
        self._table = RunTable(glyphs, now, id="runs")
        self._prompt = Prompt(id="prompt")
        self._flash = Words(id="flash")
        self._flash_timer: Timer | None = None
        self._detail = Line(id="detail")

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("runs")
            yield self._count
        yield self._empty
        yield self._table
        yield self._prompt
        yield self._flash
        yield self._detail
        yield KeyLine()

    def on_mount(self) -> None:
        self._table.focus()
        self.follow()

    def on_screen_resume(self) -> None:
        self.read_again()

    def read_again(self) -> None:
        """Read the list now: something was changed from here."""
        self._wanted.set()

    # ---- reading

    @work(exclusive=True)
    async def follow(self) -> None:
        """Keep the list true for as long as the screen is there; while another covers it, the disk is left alone."""
        slice_s = FIRST_SLICE_S
        while True:
            self._wanted.clear()
            if self.is_active:
                try:
                    look = await result_of(lambda: self._catalog.look(slice_s), "runs")  # noqa: B023  (awaited here)
                except OSError as error:
                    self._detail.say(shown(f"The runs cannot be read: {error}", self.glyphs))
                else:
                    slice_s = SLICE_S
                    self._take_in(look)
                    if look.unread:
                        await self._painted()
                        continue
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), PERIOD_S)

    async def _painted(self) -> None:
        """Returns once what was changed is on the terminal: the next look would take its time from that."""
        painted = asyncio.Event()
        self.call_after_refresh(painted.set)
        with suppress(asyncio.TimeoutError):  # nothing is painted while another screen covers this one
            await asyncio.wait_for(painted.wait(), PERIOD_S)

    def _take_in(self, look: Look) -> None:
        self._unread = look.unread
        if look.rows is None:
            self._table.repaint_changed()  # ages grow
            self._say_count()
            if self._table.row is not None:
                self._say_detail(self._table.row)
            return
        was_empty, self.all_rows = not self.all_rows, look.rows
        if was_empty == bool(look.rows):
            self.refresh_bindings()
        self._children = {}
        for row in reversed(look.rows):
            if row.status.parent:
                self._children.setdefault(row.status.parent, []).append(row.run.id)
        if self._table.marked:
            self._table.marked &= {row.run.id for row in look.rows}
        self._arrange()

    def _arrange(self) -> None:
        """List what is wanted in the order that is wanted."""
        order = ORDERS[self._order]
        rows = [row for row in self.all_rows if self.filter.takes(row)] if self.filter else self.all_rows
        rows = in_order(rows, order, self._turned, self.now())
        guides: list[str] = []
        if self.is_tree:
            branches = as_trees(rows, self.glyphs)
            rows, guides = [branch.row for branch in branches], [branch.guide for branch in branches]
        self._table.sorted_by = (order.name, order.down != self._turned)
        self._table.show(rows, guides, tagged=any(row.labels.tags for row in self.all_rows))
        if self.all_rows and not self._table.display:
            self.call_after_refresh(self._table.focus)  # while it was hidden, it could not have it
        self._table.display = self._detail.display = bool(self.all_rows)
        self._empty.display = not self.all_rows and not self._unread
        if not rows and self.all_rows:
            self._detail.say("No run has all of that: esc takes the filter away.")
        self._say_count()

    def _say_count(self) -> None:
        total = len(self.all_rows)
        going = sum(row.is_going for row in self.all_rows)
        parts = [f"{total:,} run{'s' if total != 1 else ''}" if total else "no runs", f"{going:,} going on"]
        if self._unread:
            parts[1:] = [f"{self._unread:,} more to read"]
        if self.filter:
            parts[0] = f"{len(self._table.rows):,} of {parts[0]}"
            parts.insert(1, f"filter {shown(self.filter.text, self.glyphs, 40)}")
        if self._order or self._turned:
            order = ORDERS[self._order]
            parts.append(f"by {order.name} {direction(order.down != self._turned, self.glyphs)}")
        if self._table.marked:
            parts.append(f"{len(self._table.marked):,} marked")
        self._count.say(", ".join(parts) if total else "no runs")

    # ---- the run under the cursor

    @on(RunTable.Highlighted)
    def show_detail(self, message: RunTable.Highlighted) -> None:
        row = message.row
        self.refresh_bindings()  # places are for queued runs only
        if row.status.parent and row.run.id not in self._descents:
            self._read_descent(row)
        self._say_detail(row)

    def _say_detail(self, row: RunRow) -> None:
        children, descent = self._children.get(row.run.id, ()), self._descents.get(row.run.id)
        lines = 3 if self.has_class("-narrow") else 4
        self._detail.say(detail(row, children, descent, self.glyphs, self.now(), lines))

    @work(exclusive=True, group="descent")
    async def _read_descent(self, row: RunRow) -> None:
        self._descents[row.run.id] = await result_of(lambda: read_descent(row.run), "descent")
        if self._table.row is not None and self._table.row.run.id == row.run.id:
            self._say_detail(self._table.row)

    @on(RunTable.Opened)
    def open_run(self, message: RunTable.Opened) -> None:
        cast("LoradeckApp", self.app).open_run(message.run)

    # ---- order, filter, marks

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """The keys; on a narrow terminal the footer has no room for all of them."""
        bindings = super().active_bindings
        left_out = set(RARE) if self.has_class("-narrow") else set()
        if self.check_action("place", ()):
            left_out.add("runs.compare")  # a queued run has places in its stead, and nothing to compare
        return {
            key: active._replace(binding=replace(active.binding, show=False))
            if active.binding.id in left_out
            else active
            for key, active in bindings.items()
        }

    def on_resize(self) -> None:
        self.refresh_bindings()
        if self._table.row is not None:
            self._say_detail(self._table.row)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "place" and (self._table.row is None or not self._table.row.status.waits_here):
            return False
        return action not in LIST_ACTIONS or (bool(self.all_rows) and not self._prompt.display)

    def action_sort(self) -> None:
        self._order, self._turned = (self._order + 1) % len(ORDERS), False
        self._arrange()

    def action_turn(self) -> None:
        self._turned = not self._turned
        self._arrange()

    def action_tree(self) -> None:
        self.is_tree = not self.is_tree
        self._arrange()

    def action_mark(self) -> None:
        if (row := self._table.row) is None:
            return
        self._table.marked ^= {row.run.id}
        self._table.repaint_changed()
        self._table.action_move(1)
        self._say_count()

    def action_back(self) -> None:
        if self.filter:
            self.filter = RunFilter()
            self._arrange()
        elif self._table.marked:
            self._table.marked.clear()
            self._table.repaint_changed()
            self._say_count()

    def action_filter(self) -> None:
        self._ask("filter", "/", FILTER_HINT, self.filter.text)

    def _ask(self, what: str, label: str, hint: str, text: str) -> None:
        self._before = self.filter
        self._prompt.ask(what, label, hint, text)
        self.refresh_bindings()

    @on(Prompt.Typed)
    def _typed(self, message: Prompt.Typed) -> None:
        if message.what == "filter":
            self.filter = RunFilter(message.text)
            self._arrange()
            listed = f"{len(self._table.rows):,} of {len(self.all_rows):,} runs"
            self._prompt.hint(listed if self.filter else FILTER_HINT)

    @on(Prompt.GivenUp)
    def _given_up(self, message: Prompt.GivenUp) -> None:
        if message.what == "filter":
            self.filter = self._before
            self._arrange()
        self._table.focus()
        self.refresh_bindings()

    @on(Prompt.Answered)
    def _answered(self, message: Prompt.Answered) -> None:
        self._prompt.close()
        self._table.focus()
        self.refresh_bindings()
        if message.what != "filter":
            self._write_labels(message.what, message.text)

    # ---- what concerns one run or the marked ones

    def chosen(self) -> list[RunRow]:
        """The marked runs in the order of the list, or else the one under the cursor."""
        marked = [row for row in self.all_rows if row.run.id in self._table.marked]
        return marked or ([self._table.row] if self._table.row is not None else [])

    def action_compare(self) -> None:
        from tui.screens.compare import CompareScreen

        rows = self.chosen()
        if len(rows) == 1 and self._table.row is not None and self._table.row is not rows[0]:
            rows.append(self._table.row)
        if not 2 <= len(rows) <= MOST_COMPARED:
            self.flash(f"{len(rows)} marked: space marks the 2 to {MOST_COMPARED} runs that are to be compared.")
            return
        screen = CompareScreen(rows, self.all_rows, self.glyphs, self.now)
        if self.app.screen_stack[0] is self:  # the screen that an app began with is never replaced
            self.app.push_screen(screen)
        else:
            self.app.switch_screen(screen)

    def action_try(self) -> None:
        from tui.screens.chat import ChatScreen

        if self._table.row is not None:
            self.app.push_screen(ChatScreen(self._table.row.run, self.glyphs))

    def action_evaluation(self) -> None:
        from tui.screens.evaluation import EvaluationScreen

        if self._table.row is not None:
            self.app.push_screen(EvaluationScreen(self._table.row.run, self.glyphs))

    @work
    async def action_place(self, by: int) -> None:
        """Give the queued run under the cursor another place."""
        if (row := self._table.row) is not None:
            self.flash(await result_of(lambda: runs_actions.moved(row, by), "queue"))
            self.read_again()

    def action_tags(self) -> None:
        if rows := self.chosen():
            label = "tags" if len(rows) == 1 else f"tags of {len(rows)} runs"
            self._ask("tags", label, "words with commas between", ", ".join(runs_actions.common_tags(rows)))

    def action_note(self) -> None:
        if (row := self._table.row) is not None:
            self._ask("note", "note", shown(row.run.id, self.glyphs), "")

    @work
    async def _write_labels(self, what: str, text: str) -> None:
        rows = self.chosen() if what == "tags" else [row for row in (self._table.row,) if row is not None]
        try:
            await result_of(lambda: runs_actions.write_labels(what, rows, text), "labels")
        except OSError as error:
            self.flash(f"It could not be written: {error}")
        self.read_again()

    @work(exclusive=True, group="delete")
    async def action_delete(self) -> None:
        rows = self.chosen()
        ended = [row for row in rows if not row.is_going]
        if not ended:
            self.flash("It is going on: stop it first." if rows else "There is nothing to delete.")
            return
        question = await result_of(lambda: runs_actions.deletion(rows, self._children, self.glyphs), "sizes")
        if not await self.app.push_screen_wait(question):
            return
        gone, problems = await result_of(lambda: runs_actions.delete(ended), "delete")
        app = cast("LoradeckApp", self.app)
        if app.watched_run in gone:
            app.watched_run = None
        self._table.marked -= {run.id for run in gone}
        words = f"Deleted {len(gone)} run{'s' if len(gone) != 1 else ''}." if gone else ""
        self.flash(" ".join([words, *problems]).strip(), math.inf if problems else FLASH_S)
        self.read_again()

    def flash(self, words: str, seconds: float = FLASH_S) -> None:
        """Say something for a few seconds."""
        self._flash.say(shown(words, self.glyphs, 1000))
        self._flash.display = True
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(seconds, self._end_flash) if math.isfinite(seconds) else None

    def _end_flash(self) -> None:
        self._flash.display = False
