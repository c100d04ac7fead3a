"""How the supervisors of one run's machines keep in touch: machine 0 listens, the others call it, and each tells its
state every second. Who is silent for too long cannot be reached: a cut link says nothing by itself.

One line of JSON a message. The first of a caller is its hello, which machine 0 judges; of machine 0 each holds the
states of all. Nothing that is received is acted on but as plain data.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.machines.own import interface_of, resolved
from engine.machines.settings import Machine

PERIOD_S = 1.0
LOST_S = 20.0
"""Silent for so long, a machine cannot be reached."""
GOODBYE_S = 3.0
"""For the last words to arrive."""
LONGEST_LINE_BYTES = 256 * 1024
BROKEN = (OSError, ValueError, TypeError, LookupError, TimeoutError)
"""What a connection ends with that is cut, silent, or speaks another language."""

Message = dict[str, Any]
Judge = Callable[[Message], str | None]
"""Says of a caller's hello why it cannot take part; None if it can."""


@dataclass(frozen=True)
class Heard:
    """What another machine has told."""

    state: Message
    ago_s: float
    """How long ago it did."""


class Contact:
    """This machine's part of it, in a thread of its own: a supervisor that waits for a disk stays in contact.

    `hello` is what the others are to know of this machine before anything begins, plain data. Raises OSError on
    machine 0 where it cannot listen.
    """

    def __init__(self, machines: list[Machine], rank: int, hello: Message, judge: Judge) -> None:
        self.machines, self.rank = machines, rank
        self.refused: str | None = None
        """Why machine 0 does not want this one."""
        self.trouble = ""
        """What went wrong last while nobody came."""
        self.welcome: Message | None = None
        """What machine 0 tells all once they are there."""
        self._hello = {**hello, "start": secrets.token_hex(8)}
        self._judge = judge
        self._own: Message = {}
        self._heard: dict[int, tuple[Message, float]] = {}
        self._hellos: dict[int, Message] = {}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._is_leaving = False
        self._left = threading.Event()
        self._listener = self._listening() if rank == 0 else None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._talk()), name="contact", daemon=True)
        self._thread.start()

    def say(self, state: Message) -> None:
        """What the others are to know of this machine from now on."""
        self._own = state

    def others(self) -> dict[int, Heard]:
        """Number -> what is known of each of the other machines that was heard of."""
        now = time.monotonic()
        return {rank: Heard(state, now - at) for rank, (state, at) in sorted(self._heard.copy().items())}

    def missing(self) -> list[Machine]:
        """Machines that are not in contact. Only machine 0 knows of the others' before all are there."""
        known = self.others()
        return [
            machine
            for machine in self.machines
            if machine.rank != self.rank and (machine.rank not in known or known[machine.rank].ago_s > LOST_S)
        ]

    def begin(self, welcome: Message) -> None:
        """By machine 0, once all are there: what they have to know. Nobody else is let in from here on."""
        self.welcome = welcome

    def hellos(self) -> dict[int, Message]:
        """By machine 0: what each of the others said of itself."""
        return dict(self._hellos)

    def leave(self) -> None:
        """Let the others know what was said last, and end. Takes a few seconds at most."""
        self._is_leaving = True
        self._left.wait(GOODBYE_S + 2 * PERIOD_S)

    async def _talk(self) -> None:
        try:
            await (self._be_called() if self._listener is not None else self._call())
        finally:
            self._left.set()

    # Machine 0.

    def _listening(self) -> socket.socket:
        address, port = self.machines[0].address, self.machines[0].port
        at = resolved(address) or [address]
        family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        return socket.create_server((at[0], port or 0), family=family)

    async def _be_called(self) -> None:
        assert self._listener is not None
        server = await asyncio.start_server(self._host, sock=self._listener, limit=LONGEST_LINE_BYTES)
        while not self._is_leaving:
            self._tell_all()
            await asyncio.sleep(PERIOD_S)
        server.close()
        self._tell_all()
        callers = list(self._writers.values())
        for writer in callers:
            with suppress(OSError):
                writer.write_eof()
        deadline = time.monotonic() + GOODBYE_S
        while self._writers and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def _host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank: int | None = None
        try:
            hello = await _read(reader)
            if hello is None:
                return
            answer = self._answer(hello, str(writer.get_extra_info("peername")[0]))
            if answer is not None:
                writer.write(_line(answer))
                await writer.drain()
                return
            rank = int(hello["machine_rank"])
            self._hellos[rank] = hello
            self._writers[rank] = writer
            while (message := await _read(reader)) is not None:
                self._heard[rank] = message, time.monotonic()
        except BROKEN:
            pass
        finally:
            if rank is not None and self._writers.get(rank) is writer:
                del self._writers[rank]
            writer.close()

    def _answer(self, hello: Message, address: str) -> Message | None:
        """Why a caller cannot take part, or not yet; None if it can."""
        machine = next((m for m in self.machines[1:] if m.rank == hello.get("machine_rank")), None)
        if machine is None or address.removeprefix("::ffff:") not in resolved(machine.address):
            who = "nobody of this run" if machine is None else machine.name
            self.trouble = f"A call from {address} was refused: it says that it is {who}."
            return {
                "refused": f"{self.machines[0].as_subject} knows no such machine at {address}: see hardware.machines."
            }
        if hello.get("met") not in (None, self._hello["start"]):
            return {"refused": f"{self.machines[0].as_subject} has begun anew."}
        if self.welcome is not None:
            known = self._hellos.get(machine.rank, {})
            if hello.get("start") != known.get("start"):
                return {"later": f"{self.machines[0].as_subject} is still in an earlier start of this run."}
            return None
        if (reason := self._judge(hello)) is not None:
            self.trouble = f"{machine.as_subject} was sent away: {reason}"
            return {"refused": reason}
        return None

    def _tell_all(self) -> None:
        now = time.monotonic()
        states = {rank: [state, now - at] for rank, (state, at) in self._heard.items()}
        line = _line({"start": self._hello["start"], "welcome": self.welcome, "states": {**states, 0: [self._own, 0]}})
        for writer in list(self._writers.values()):
            if not writer.is_closing():
                writer.write(line)

    # The others.

    async def _call(self) -> None:
        while not self._is_leaving and self.refused is None:
            try:
                await self._connect_and_talk()
            except BROKEN as error:
                self.trouble = str(error) if self.welcome is None else ""
            await asyncio.sleep(PERIOD_S / 2)

    async def _connect_and_talk(self) -> None:
        main, own = self.machines[0], self.machines[self.rank]
        # From the address by which machine 0 knows this one, where it is this machine's.
        source = (resolved(own.address)[0], 0) if interface_of(own) is not None else None
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(main.address, main.port, local_addr=source, limit=LONGEST_LINE_BYTES), LOST_S / 4
        )
        try:
            writer.write(_line({**self._hello, "machine_rank": self.rank}))
            listening = asyncio.create_task(self._listen(reader))
            while not listening.done() and not self._is_leaving:
                writer.write(_line(self._own))
                await asyncio.wait([listening], timeout=PERIOD_S)
            if self._is_leaving:
                writer.write(_line(self._own))
                writer.write_eof()
                await asyncio.wait([listening], timeout=GOODBYE_S)
            if listening.done():
                listening.result()
            else:
                listening.cancel()
        finally:
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (message := await _read(reader)) is not None:
            if "refused" in message:
                self.refused = str(message["refused"])
                return
            if "later" in message:
                self.trouble = str(message["later"])
                return
            now = time.monotonic()
            if message["welcome"] is not None and self.welcome is None:
                self.welcome = message["welcome"]
                self._hello["met"] = message["start"]
            for rank, (state, ago_s) in message["states"].items():
                if int(rank) != self.rank:
                    self._heard[int(rank)] = state, now - ago_s


async def _read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end. Raises ValueError, OSError, TimeoutError after a silence."""
    line = await asyncio.wait_for(reader.readline(), LOST_S)
    message = json.loads(line) if line else None
    if message is not None and not isinstance(message, dict):
        raise ValueError("no message")
    return message


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"
