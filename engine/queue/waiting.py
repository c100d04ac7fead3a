"""How a run's supervisor waits, before it starts the trainer: without torch, at a look a second."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from engine.checks import InvalidSpec, read_spec, write_spec
from engine.hardware import visible_gpus
from engine.memory.card import card_of
from engine.memory.outcomes.at_launch import at_launch
from engine.prepare import is_open, on_gpus
from engine.queue.cards import Cards
from engine.queue.line import QueueError, has_place, join, leave, locked, prune, waiting
from engine.queue.turn import Ahead, Turn, in_line, open_cards, turn_of
from engine.queue.wish import needed_bytes_of, wish_of
from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.prediction import Prediction, read_prediction, write_prediction
from engine.runs.store import DISK_IS_FULL, RESERVE_BYTES, Cause, Run, State, write_atomically

PERIOD_S = 1.0
BEAT_S = 5.0
"""How old the status may become while nothing changes."""
TAKE_PATIENCE_S = 0.5
GIVEN_UP_AFTER_S = 600.0
"""So long a queue may be unreadable."""
TAKEN_OUT = "It was taken out of the queue before it began."


def wait_for_turn(run: Run) -> bool:
    """Wait until `run`, whose lock is held, has its card, and say in its status what it waits for meanwhile.

    True once it may start: run.yaml then names the card, and the status says `starting`, which keeps others off it.
    False where it was taken out, with that on record. What makes waiting impossible is on record too, and raised:
    InvalidSpec, and OSError or QueueError where the queue stays unreadable.
    """
    try:
        return _Waiter(run).wait()
    except Exception as error:
        cause: Cause = "bad-spec" if isinstance(error, InvalidSpec) else "error"
        _end(run, "failed", cause, f"It could not wait in the queue any longer: {error}")
        raise


class _Waiter:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.cards = Cards(run)
        self.spec = read_spec(run.spec_path)
        self.wish = wish_of(self.spec, needed_bytes_of(run))
        self.status = replace(run.written_status(), supervisor_pid=os.getpid())
        self.reserve = run.reserve_path
        self.unreadable_since: float | None = None

    def wait(self) -> bool:
        """See `wait_for_turn`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with suppress(OSError):
            self.reserve.write_bytes(b"\0" * RESERVE_BYTES)
            _log(self.run, "queued")
        while "stop" not in control.pending(self.run.control_folder):
            try:
                if self._look():
                    return True
                self.unreadable_since = None
            except (OSError, QueueError) as error:
                self._say_why_not(error)
            time.sleep(PERIOD_S)
        _end(self.run, "stopped", None, TAKEN_OUT)
        return False

    def _look(self) -> bool:
        if not has_place(self.run):  # somebody has removed its file
            with locked(TAKE_PATIENCE_S):
                join(self.run, self.wish)
        place, turn = self._turn()
        if turn.cards:
            try:
                with locked(TAKE_PATIENCE_S):
                    prune()
                    place, turn = self._turn()
                    if turn.cards:
                        self._take(turn.cards)
            except QueueError as error:
                turn = Turn(why=f"its turn has come. {error}".rstrip("."))
        if turn.cards:
            self._predict_for_the_card()
            return True
        self._say(in_line(place, turn.why), place)
        return False

    def _turn(self) -> tuple[int, Turn]:
        """The run's place now, and whether it may start. Raises OSError."""
        if not self.wish.cards:
            self.wish = wish_of(self.spec, self.wish.needed_bytes)  # the driver showed no GPU when this began
        line = waiting()
        place = next((n for n, entry in enumerate(line, start=1) if entry.run_id == self.run.id), len(line) + 1)
        ahead = [Ahead(entry.run_id, entry.wish) for entry in line[: place - 1]]
        reachable = open_cards(self.wish, ahead)
        # Who is not to start whatever is free need not look at the cards.
        cards = self.cards.look(reachable) if reachable and len(reachable) >= self.wish.count else {}
        return place, turn_of(self.wish, ahead, cards)

    def _take(self, cards: tuple[int, ...]) -> None:
        """Put on record that the run has these cards. The queue is locked. Raises OSError, and then it waits on."""
        if is_open(self.spec):
            gpus = [gpu for gpu in visible_gpus() if gpu.index in cards]
            if len(gpus) < len(cards):  # without one, `auto` would be the CPU
                raise QueueError("A GPU that was free has just been lost.")
            spec = on_gpus(self.spec, gpus)
            write_atomically(self.run.spec_path, write_spec(spec).encode())
            self.spec = spec
        now = time.time()
        status = replace(self.status, state="starting", place=None, message="", started=now, heartbeat=now)
        self.run.write_status(status)
        self.status = status
        leave(self.run)

    def _predict_for_the_card(self) -> None:
        """A prediction that was made for another card than the run has got is made again."""
        known, card = read_prediction(self.run), card_of(self.spec.hardware.device)
        if known is None or known.card == card.name:
            return
        with suppress(OSError):
            if (prediction := at_launch(self.spec)) is not None:
                write_prediction(self.run, Prediction(prediction, card.name, card.on_cpu))
                self.run.write_status(replace(self.status, predicted_bytes=prediction.device_bytes))

    def _say(self, message: str, place: int | None = None) -> None:
        """Keep the status true. Where the disk is full, what was set aside makes room for it."""
        now = time.time()
        status = replace(self.status, message=message, place=place or self.status.place)
        if status == self.status and now - status.heartbeat < BEAT_S:
            return
        status = replace(status, heartbeat=now)
        for _ in range(2):
            try:
                self.run.write_status(status)
                self.status = status
                return
            except OSError:
                self.reserve.unlink(missing_ok=True)

    def _say_why_not(self, error: OSError | QueueError) -> None:
        """It cannot be told whose turn it is, or not be put on record. Raises `error` when that lasts too long."""
        if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
            why = "the disk is full, and it starts when there is room"
        else:
            now = time.monotonic()
            self.unreadable_since = self.unreadable_since or now
            if now - self.unreadable_since > GIVEN_UP_AFTER_S:
                raise error
            why = f"the queue cannot be used, and it tries again. {error}".rstrip(".")
        self._say(in_line(self.status.place or 1, why))

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            control.send(self.run.control_folder, "stop")


def _log(run: Run, state: State, **fields: object) -> None:
    log = EventWriter(run.supervisor_events_path)
    log.write("state", state=state, **fields)
    log.close()


def _end(run: Run, state: State, cause: Cause | None, message: str) -> None:
    """Put the end of a run that never began on record."""
    leave(run)
    now = time.time()
    run.reserve_path.unlink(missing_ok=True)
    with suppress(OSError):
        control.clear(run.control_folder)
        _log(run, state, cause=cause, message=message, exit_code=None)
    written = run.written_status()
    run.write_status(replace(written, state=state, cause=cause, message=message, place=None, ended=now, heartbeat=now))
