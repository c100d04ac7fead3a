"""Try a model out: a question answered by the base and by adapters of it side by side, as they write."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.timer import Timer

from engine.jobs.process import JobCancelled, JobFailed
from engine.runs.store import Run
from engine.units import duration
from tui.chat import words
from tui.chat.columns import in_sight
from tui.chat.editor import NoEditor, edited
from tui.chat.pieces import Pieces
from tui.chat.session_thread import OpenSession, open_session
from tui.chat.settings import Settings
from tui.chat.talk import Talk
from tui.chat.transcript import last_answer, transcript
from tui.glyphs import Glyphs
from tui.screens import chat_keys
from tui.screens.chat_loading import ChatLoading
from tui.screens.chat_settings import ChatSettingsScreen
from tui.watching.chart_data import write_copy
from tui.widgets.exchange_view import ExchangeView, SideBySide
from tui.widgets.key_line import KeyLine
from tui.widgets.line import Line
from tui.widgets.question_box import QuestionBox
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

WIDE = 112
"""Columns from which the footer has room for spaces."""
FLUSH_S = 0.1
"""How often what was written appears: a message for each token would freeze the screen."""
FLASH_S = 6.0
GRACE_S = 1.0
"""Escape so soon after an answer was meant for that answer, and does not leave."""
LARGEST_CLIPBOARD = 64 * 1024
"""Characters that are sent to the terminal's clipboard; xterm and tmux take hardly more."""
SIDES = 4
"""Cells at the sides of the conversation: padding, and the scrollbar's place."""


class ChatScreen(ChatLoading, inherit_bindings=False):
    """Answers with a run's adapter and its base, in a process of its own, which ends when the screen is left."""

    AUTO_FOCUS = "QuestionBox"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]  # noqa: RUF012  (Textual declares it so)
    BINDINGS: ClassVar[list[BindingType]] = chat_keys.BINDINGS

    def __init__(
        self, run: Run, glyphs: Glyphs, checkpoint: str | None = None, open_session: OpenSession = open_session
    ) -> None:
        super().__init__(run, glyphs, open_session, checkpoint)
        self.talk = Talk()
        self.settings = Settings()
        self.is_alone = False
        """Whether only the chosen column is in sight, whatever there is room for."""
        self._pieces = Pieces()
        self._answered_at = 0.0
        self._scrolls = 0
        """How often it is still to scroll to the end."""
        self._flash_timer: Timer | None = None
        self._views: list[ExchangeView] = []
        self._what = Line(id="what", classes="rest")
        self._heads = SideBySide([], range(0), glyphs.divider, id="heads")
        self._hint = Words(id="hint")
        self._talk_view = VerticalScroll(self._hint, id="talk", can_focus=False)
        self._trouble_words = Words(id="trouble")
        self._said = Words(id="said")
        self._settings_line = Line(id="settings")
        self._box = QuestionBox(id="question")
        self._footer = KeyLine()

    def compose(self) -> ComposeResult:
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield self._what
        yield self._heads
        yield self._talk_view
        yield self._trouble_words
        yield self._said
        yield self._settings_line
        with Horizontal(id="ask"):
            yield Line(classes="label")
            yield self._box
        yield self._footer

    def on_mount(self) -> None:
        self.query_one("#ask > .label", Line).say("ask")
        self.say_all()
        self.open()

    def on_resize(self) -> None:
        self._footer.compact = self.size.width < WIDE
        self._look()
        self.say_all()

    # ---- what is said

    def say_all(self) -> None:
        opened, glyphs = self.opened, self.glyphs
        between = f" {glyphs.between} "
        if opened is not None:
            self._what.say(between.join(["try", words.model_name(opened.spec, glyphs), opened.spec.hardware.device]))
            several = len(self.columns) > 1
            self._heads.say(
                {
                    column.model: words.title(column, opened.spec, glyphs, several and place == self.chosen)
                    for place, column in enumerate(self.columns)
                }
            )
        self._trouble_words.say(glyphs.plain(self.trouble))
        self._trouble_words.display = bool(self.trouble)
        self._hint.say(self._hint_words())
        self._hint.display = not self.talk.exchanges
        self._settings_line.say(glyphs.shortened(self._settings_words(), max(0, self.size.width - 2)))
        self.refresh_bindings()

    def _settings_words(self) -> str:
        if loading := self.loading_words:
            return loading
        parts = words.settings_line(self.settings, self.glyphs)
        seen = self._in_sight
        if len(seen) < len(self.columns):
            first, last = seen.start + 1, seen.stop
            which = f"column {first}" if first == last else f"columns {first} to {last}"
            parts.insert(0, f"{which} of {len(self.columns)} (tab)")
        return words.GAP.join(parts)

    def _hint_words(self) -> str:
        opened, loaded = self.opened, self.loaded
        if opened is None or loaded is None:
            return ""
        lines = [f"Loaded in {duration(loaded.seconds)}. A question is answered by each column in turn."]
        if opened.is_moved:
            lines.append(f"{opened.subject.spec.hardware.device} is not here: it answers on the CPU.")
        if not loaded.has_chat_template:
            lines.append("It knows no chat template, or learnt plain text: it goes on from your text as it is.")
        return "\n".join(lines)

    def flash(self, what: str) -> None:
        self._said.say(self.glyphs.plain(what))
        self._said.display = True
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self._flash_timer = self.set_timer(FLASH_S, self._end_flash)

    def _end_flash(self) -> None:
        self._said.display = False

    # ---- columns

    @property
    def _in_sight(self) -> range:
        return in_sight(len(self.columns), self.chosen, self.size.width - SIDES, self.is_alone)

    def _look(self) -> None:
        """Show the columns that there is room for."""
        for side_by_side in (self._heads, *(view.answers for view in self._views)):
            side_by_side.look_at(self._in_sight)

    async def columns_changed(self) -> None:
        heads = SideBySide(self.names, self._in_sight, self.glyphs.divider, id="heads")
        await self._heads.remove()
        self._heads = heads
        await self.mount(heads, before=self._talk_view)
        await self._talk_view.remove_children(ExchangeView)
        self._views = []
        for place in range(len(self.talk.exchanges)):
            await self._show_exchange(place)
        self._go_to_end()

    async def _show_exchange(self, place: int) -> None:
        exchange = self.talk.exchanges[place]
        question = Content("\n").join(map(Content, words.lines_of(exchange.question, self.glyphs)))
        view = ExchangeView(question, self.names, self._in_sight, self.glyphs.divider)
        self._views.append(view)
        self._say_replies(place)
        await self._talk_view.mount(view)

    def _say_replies(self, place: int) -> None:
        exchange = self.talk.exchanges[place]
        said = {model: words.reply_words(exchange, model, self.glyphs) for model in self.names}
        self._views[place].answers.say(said)

    def action_column(self, by: int) -> None:
        if self.columns:
            self.chosen = (self.chosen + by) % len(self.columns)
            self._look()
            self.say_all()

    def action_alone(self) -> None:
        self.is_alone = not self.is_alone
        self._look()
        self.say_all()

    def action_page(self, by: int) -> None:
        if by < 0:
            self._talk_view.scroll_page_up(animate=False)
        else:
            self._talk_view.scroll_page_down(animate=False)

    # ---- questions and answers

    @on(QuestionBox.Asked)
    async def _asked(self, message: QuestionBox.Asked) -> None:
        if not message.text:
            self.flash("Type a question first.")
        elif self._can_ask():
            self.talk.begin(message.box.take(), self.settings.sampling, self.names)
            await self._ask_last()

    def _can_ask(self) -> bool:
        """Whether a question can be sent now; says why not."""
        if self.is_answering:
            self.flash("It is answering: esc stops it.")
        elif self.loaded is None:
            self.flash("Nothing is loaded: F5 loads it." if self.trouble else "It is loading; enter sends it then.")
        return not self.is_answering and self.loaded is not None

    async def action_again(self) -> None:
        if not self.talk.exchanges:
            self.flash("There is no question to ask again.")
        elif self._can_ask():
            was_answered = all(reply.answer is not None for reply in self.talk.exchanges[-1].replies.values())
            if was_answered and not self.settings.is_greedy:
                self.settings = self.settings.with_another_seed()
            elif was_answered and self.talk.exchanges[-1].sampling == self.settings.sampling:
                self.flash("Greedy answers stay the same: F2 sets a temperature.")
                return
            await self._views.pop().remove()
            self.talk.again(self.settings.sampling, self.names)
            await self._ask_last()

    async def _ask_last(self) -> None:
        """Have the last exchange of the conversation answered."""
        self.trouble, self.is_answering = "", True
        self.say_all()
        await self._show_exchange(len(self.talk.exchanges) - 1)
        self._go_to_end()
        self._answer()

    @work(exclusive=True, group="answer")
    async def _answer(self) -> None:
        assert self._session is not None
        exchange = self.talk.exchanges[-1]
        flushing = self.set_interval(FLUSH_S, self._flush)
        try:
            answers = await self._session.ask(
                self.talk.conversations(self.settings.system), exchange.sampling, self._pieces.add
            )
            self._pieces.taken()  # the answers hold them all
            self.talk.finish(answers)
        except JobCancelled:
            return  # the session was closed: the screen is being left
        except JobFailed as error:
            self._flush()
            self.talk.fail()
            self.trouble = words.failed_to_answer(error)
            if error.cause not in ("oom", "bad-spec"):
                self.close_session()
        finally:
            flushing.stop()
            self.is_answering, self._answered_at = False, time.monotonic()
        self._say_newest()
        self.say_all()

    def _flush(self) -> None:
        """Show what was written since the last time."""
        if pieces := self._pieces.taken():
            self.talk.take(pieces)
            self._say_newest()

    def _say_newest(self) -> None:
        """Show the last replies as they are; who looks at the end goes on looking at it."""
        view = self._talk_view
        is_at_end = self.is_going_to_end or view.scroll_offset.y >= view.max_scroll_y - 1
        self._say_replies(-1)
        if is_at_end:
            self._go_to_end()

    def _go_to_end(self) -> None:
        """Scroll to the end once what is new has its size, which takes two refreshes."""
        self._scrolls += 1
        self.call_after_refresh(self.call_after_refresh, self._at_end)

    def _at_end(self) -> None:
        self._scrolls -= 1
        self._talk_view.scroll_end(animate=False, immediate=True)

    @property
    def is_going_to_end(self) -> bool:
        return self._scrolls > 0

    async def action_new(self) -> None:
        if self.is_answering:
            self.flash("It is answering: esc stops it.")
            return
        self.talk.exchanges.clear()
        self.trouble = self.trouble if self.loaded is None else ""
        await self.columns_changed()
        self.say_all()

    def action_stop(self) -> None:
        if self._session is not None:
            self._session.stop()

    def action_leave(self) -> None:
        if time.monotonic() - self._answered_at > GRACE_S:
            self.dismiss()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("stop", "leave"):
            return self.is_answering == (action == "stop")
        return super().check_action(action, parameters)

    # ---- settings, editor, copies

    @work(exclusive=True, group="dialog")
    async def action_settings(self) -> None:
        context_tokens = self.loaded.context_tokens if self.loaded is not None else None
        settings = await self.app.push_screen_wait(ChatSettingsScreen(self.settings, self.glyphs, context_tokens))
        if settings is not None:
            self.settings = settings
            self.say_all()

    def action_editor(self) -> None:
        try:
            self._box.put(edited(self.app, self._box.text))
        except NoEditor as error:
            self.flash(str(error))

    async def action_copy(self) -> None:
        column = self.columns[self.chosen] if self.columns else None
        text = None if column is None else last_answer(self.talk.exchanges, column.model)
        if column is None or text is None:
            self.flash("There is no answer to copy yet.")
        else:
            await self._copy(f"the answer of {column.model}", f"answer-{column.model}", "txt", text)

    async def action_copy_all(self) -> None:
        if self.opened is None or not self.talk.exchanges:
            self.flash("There is no conversation to copy yet.")
            return
        name = self.opened.spec.model.name_or_path
        text = transcript(self.talk.exchanges, self.columns, self.settings, name)
        await self._copy("the conversation", "conversation", "md", text)

    async def _copy(self, what: str, name: str, ending: str, text: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        fits = len(text) <= LARGEST_CLIPBOARD
        if fits:
            self.app.copy_to_clipboard(text)
        file = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.{ending}"
        try:
            path = await asyncio.to_thread(write_copy, self.tried, file, text)
        except OSError as error:
            self.flash(f"No file could be written: {error}" + (" It is on the clipboard." if fits else ""))
            return
        self.flash(f"Copied {what}{'' if fits else ', too much for the clipboard,'} to {path}")
