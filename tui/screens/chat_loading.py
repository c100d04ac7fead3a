"""The session behind the screen that tries a model out: which adapters are in it, loading it, and why that failed."""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, cast

from textual import work
from textual.screen import Screen

from engine.chat.session import BASE, Loaded
from engine.checks import InvalidSpec
from engine.jobs.process import JobCancelled, JobFailed
from engine.jobs.subject import NoAdapter
from engine.runs.store import Run
from tui.background import result_of
from tui.chat import words
from tui.chat.columns import MOST, Column, adapters, another, first_columns
from tui.chat.session_thread import OpenSession, SessionThread
from tui.chat.subjects import Candidate, Opened, candidates, open_subject
from tui.glyphs import Glyphs
from tui.listing.columns import shown
from tui.screens.choose import Choice, ChooseScreen
from tui.screens.confirm import ConfirmScreen

if TYPE_CHECKING:
    from tui.app import LoradeckApp

TICK_S = 1.0
ROOM_FOR_NAMES = 32
"""Cells of a list of adapters that are not for what is known of them."""


class ChatLoading(Screen[None]):
    """Opens a run's adapter beside its base, and others of the same base on top. Each change loads anew."""

    def __init__(self, run: Run, glyphs: Glyphs, open_session: OpenSession, checkpoint: str | None = None) -> None:
        super().__init__()
        self.tried = run
        """The run whose adapter was opened first."""
        self.glyphs = glyphs
        self.columns: list[Column] = []
        """Who answers, in the order of the screen."""
        self.chosen = 0
        """The place of the column that keys are about."""
        self.opened: Opened | None = None
        self.loaded: Loaded | None = None
        """What the session says of itself once it can be asked."""
        self.trouble = ""
        """Why nothing can be asked or was answered, and what to do."""
        self.is_answering = False
        self._checkpoint = checkpoint
        self._open_session = open_session
        self._session: SessionThread | None = None
        self._in_session: dict[str, Column] = {}
        """Who can be asked without loading anew: also who was taken away."""
        self._loads_since: float | None = None

    @property
    def deck(self) -> LoradeckApp:
        return cast("LoradeckApp", self.app)

    @abstractmethod
    def say_all(self) -> None:
        """Bring everything but the conversation up to date."""

    @abstractmethod
    async def columns_changed(self) -> None:
        """Lay the conversation out anew."""

    @abstractmethod
    def flash(self, what: str) -> None:
        """Say something for a few seconds."""

    @property
    def loading_words(self) -> str:
        """What is loaded and for how long; empty where nothing is."""
        if self.opened is None:
            return "" if self.trouble else "reading the run ..."
        if self._loads_since is None:
            return ""
        return words.loading(self.opened.spec, self.columns, time.monotonic() - self._loads_since, self.glyphs)

    # ---- loading

    @work(exclusive=True, group="load")
    async def open(self) -> None:
        """Find the adapter, ask where it would take memory from its own training, and load it."""
        try:
            look = partial(open_subject, self.tried, self.deck.read_card, self._checkpoint)
            opened = await result_of(look, "chat-open")
        except (NoAdapter, InvalidSpec, OSError) as error:
            do = "A checkpoint makes one: k on the monitor saves it." if isinstance(error, NoAdapter) else ""
            self._failed(f"{error} {do}".strip())
            return
        if opened.shares_memory and not await self.app.push_screen_wait(
            ConfirmScreen(
                "This run is still training. Load its checkpoint beside it?",
                words.beside_training(opened),
                yes="load it",
                no="leave it",
            )
        ):
            self.dismiss()
            return
        self.opened, self.columns = opened, first_columns(opened.subject)
        self.chosen = len(self.columns) - 1
        await self.columns_changed()
        await self._load()

    @work(exclusive=True, group="load")
    async def load_anew(self) -> None:
        await self._load()

    async def _load(self) -> None:
        assert self.opened is not None
        self.close_session()
        self.trouble, self._loads_since = "", time.monotonic()
        session = SessionThread(self._open_session(self.opened.spec, adapters(self.columns)))
        self._session = session
        self.say_all()
        ticking = self.set_interval(TICK_S, self.say_all)
        try:
            self.loaded = await session.load()
            self._in_session = {BASE: Column(BASE), **{column.model: column for column in self.columns}}
        except JobFailed as error:
            self._failed(words.failed_to_load(error))
        except JobCancelled:
            return
        finally:
            ticking.stop()
            if self._session in (session, None):
                self._loads_since = None
        self.say_all()

    def _failed(self, why: str) -> None:
        self.close_session()
        self.trouble = why
        self.say_all()

    def close_session(self) -> None:
        """End the process of the session, if there is one."""
        self.loaded = None
        self._in_session = {}
        if self._session is not None:
            self._session.close()
            self._session = None

    def on_unmount(self) -> None:
        self.close_session()

    def action_load_again(self) -> None:
        if self.opened is None:
            self.trouble = ""
            self.say_all()
            self.open()
        else:
            self.load_anew()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that would do nothing now are in no list of keys."""
        if action == "load_again":
            return bool(self.trouble) and self._session is None
        return True

    # ---- who answers

    @property
    def names(self) -> list[str]:
        """The columns' models."""
        return [column.model for column in self.columns]

    @property
    def _cannot_change(self) -> bool:
        """Say so where columns have to stay as they are."""
        if self.is_answering:
            self.flash("It is answering: esc stops it.")
        return self.is_answering or self.opened is None

    @work(exclusive=True, group="dialog")
    async def action_add(self) -> None:
        if self._cannot_change or self.opened is None:
            return
        if len(self.columns) >= MOST:
            self.flash(f"{MOST} columns are the most: F6 takes the chosen one away.")
            return
        base = self.opened.spec
        taken = {column.subject.adapter for column in self.columns if column.subject is not None}
        found = await result_of(partial(candidates, self.tried, base, taken), "candidates")
        choices = [self._choice(place, candidate) for place, candidate in enumerate(found)]
        if BASE not in self.names:
            choices.insert(0, Choice(BASE, BASE, "the model without an adapter"))
        if not choices:
            self.flash(f"No other adapter of {words.model_name(base, self.glyphs)} is here.")
            return
        chosen = await self.app.push_screen_wait(ChooseScreen("Who answers too?", choices))
        if chosen is None or self._cannot_change:
            return
        await self._put(Column(BASE) if chosen == BASE else self._column_of(found[int(chosen)]))

    async def _put(self, column: Column) -> None:
        if column.model == BASE:
            self.columns.insert(0, column)
        else:
            self.columns.append(column)
        self.chosen = self.columns.index(column)
        await self.columns_changed()
        if column.model in self._in_session:
            self.say_all()
        else:
            self.load_anew()

    def _column_of(self, candidate: Candidate) -> Column:
        """The column that it had before, if it was taken away, or a new one."""
        for column in self._in_session.values():
            if column.subject is not None and column.subject.adapter == candidate.subject.adapter:
                return column
        return another(self.columns, list(self._in_session), candidate.subject)

    def _choice(self, place: int, candidate: Candidate) -> Choice:
        assert self.opened is not None
        subject = candidate.subject
        name = f"{shown(words.short_id(subject.run.id), self.glyphs)}  {words.point(subject)}"
        note = words.note(candidate, self.opened.spec, self.glyphs)
        return Choice(str(place), name, self.glyphs.shortened(note, max(20, self.size.width - ROOM_FOR_NAMES)))

    async def action_take_away(self) -> None:
        if self._cannot_change:
            return
        if len(self.columns) == 1:
            self.flash("Somebody has to answer: F3 adds another one first.")
            return
        del self.columns[self.chosen]
        self.chosen = min(self.chosen, len(self.columns) - 1)
        await self.columns_changed()
        self.say_all()
