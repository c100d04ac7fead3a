"""What a run's supervisor does where its machine is one of several: it meets the others before anything starts, hears
how they are, and ends its own processes when theirs have failed or cannot be reached.
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from engine.machines.contact import LOST_S, Contact, Message
from engine.machines.own import resolved
from engine.machines.settings import Machine
from engine.runs.lineage import settings_of
from engine.runs.rank_watch import RankWatch
from engine.runs.ranks import Beat
from engine.runs.store import CAUSES, Cause, Run, RunStatus, State
from engine.spec import RunSpec

WAIT_S = 900.0
"""For all machines to come: as long as torchrun's static rendezvous waits by default in accelerate 1.15."""
PERIOD_S = 1.0
UNREACHABLE_GRACE_S = 15.0
"""For processes to notice that they have lost contact too, and to save."""
OF_ONE_MACHINE = frozenset(
    {
        "model.name_or_path",
        "data.train",
        "data.eval",
        "data.chat_template_path",
        "training.report_to",
        "hardware.device",
        "hardware.memory_limit",
        "hardware.gpu_ids",
        "hardware.machines",
        "hardware.machine_rank",
        "on_oom",
    }
)
"""Settings in which machines may differ. Paths do; that the rows behind them are the same, the trainers see."""
SAME_VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")


@dataclass(frozen=True)
class Ending:
    """How a run ended on one machine."""

    state: State
    cause: Cause | None
    message: str
    oom: dict[str, Any] | None = None
    """Of another machine, its `oom` event, where memory ran out there."""


class NotMet(Exception):
    """The machines did not come together: how the run ends here, and why."""

    def __init__(self, state: State, cause: Cause | None, message: str) -> None:
        super().__init__(message)
        self.ending = Ending(state, cause, message)


class Together:
    """This machine and the others, for one start of a run. Raises NotMet where it cannot begin."""

    def __init__(self, run: Run, spec: RunSpec, status: RunStatus) -> None:
        hardware = spec.hardware
        self.run = run
        self.machines = hardware.machines_in_order
        self.own = self.machines[hardware.machine_rank or 0]
        self.first_rank = self.own.rank * hardware.processes_here
        """Number of this machine's first process among all."""
        self.main_port = 0
        """accelerate's main_process_port, once the machines have met."""
        self.meeting = status.meeting
        self._step = run.newest_step()
        self._hello: Message = {
            "settings": {
                **{name: value for name, value in settings_of(spec).items() if name not in OF_ONE_MACHINE},
                "hardware.device": "cpu" if hardware.device == "cpu" else "cuda",
                **{f"the version of {library}": _version(library) for library in SAME_VERSIONS},
            },
            "meeting": self.meeting,
            "step": self._step,
            "run": run.id,
            "host": os.uname().nodename,
        }
        try:
            self.contact = Contact(self.machines, self.own.rank, self._hello, self.why_not)
        except OSError as error:
            raise NotMet(
                "failed",
                "error",
                f"Port {self.own.port} of {self.own.address} cannot be listened at: {error.strerror or error}. Another "
                "run may use it: choose another in hardware.machines.",
            ) from error

    @classmethod
    def of(cls, run: Run, spec: RunSpec, status: RunStatus) -> Together | None:
        """None where a run has one machine only."""
        return cls(run, spec, status) if spec.hardware.num_machines > 1 else None

    def why_not(self, hello: Message) -> str | None:
        """Asked by machine 0 of a caller's hello: why it cannot take part, told to the person there."""
        here, there, main = self._hello["settings"], dict(hello["settings"]), self.own.name
        differing = [name for name in here if here[name] != there.get(name)]
        if differing:
            each = [f"{name} is {there.get(name)!r}, and {here[name]!r} on {main}" for name in differing[:5]]
            return f"Settings differ here: {'; '.join(each)}. Start the same spec on all machines."
        steps = {"here": int(hello["step"]), f"on {main}": self._step}
        if not all(steps.values()) and any(steps.values()):
            step, has = next((step, where) for where, step in steps.items() if step)
            lacks = next(where for where, step in steps.items() if not step)
            return (
                f"The run goes on from checkpoint-{step} {has}, and there is no checkpoint {lacks}. Resume it on all "
                "machines, or begin it anew on all; a machine that lost its run folder needs a copy of another's."
            )
        if self._step and hello["meeting"] != self.meeting:
            return f"The run {hello['run']} has not trained with {self.run.id} on {main} before: resume its own part."
        return None

    def meet(self, waits: Callable[[str], bool], limit_s: float = WAIT_S) -> None:
        """Return when all machines are there. `waits` is called each second with what is waited for, and says whether
        to go on. Raises NotMet."""
        deadline = time.monotonic() + limit_s
        while True:
            if self.contact.refused is not None:
                raise NotMet("failed", "bad-spec", self.contact.refused)
            if (there := self._ended_elsewhere()) is not None:
                raise NotMet(there.state, there.cause, there.message)
            missing = self.contact.missing()
            if self.own.rank == 0 and not missing:
                fresh = secrets.token_hex(8)
                self.contact.begin({"port": self._free_port(), "meeting": self.meeting if self._step else fresh})
            if self.contact.welcome is not None:
                self.main_port, self.meeting = int(self.contact.welcome["port"]), str(self.contact.welcome["meeting"])
                return
            words = self._waits_for(missing)
            if not waits(words):
                raise NotMet("stopped", None, "Stopped while it waited for other machines.")
            if time.monotonic() > deadline:
                late = f"{words} Nobody came within {limit_s / 60:.0f} minutes."
                raise NotMet("failed", "error", f"{late} Resume it on all machines to try again.")
            time.sleep(PERIOD_S)

    def _waits_for(self, missing: list[Machine]) -> str:
        if not missing:
            return "Waits for a word of machine 0."
        names = ", ".join(machine.name for machine in missing)
        what = f"Waits for {names}: start the run there too."
        if missing[0].rank == 0:
            what = f"Waits for {missing[0].name}, which does not answer at port {missing[0].port}."
        return f"{what} {self.contact.trouble}".strip()

    def _free_port(self) -> int:
        (address, *_) = resolved(self.own.address)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            port: int = probe.getsockname()[1]
            return port

    def look(self, status: RunStatus, ranks: RankWatch) -> RunStatus:
        """Once a second: tell the others how it goes here, and `ranks` and the `status` that is returned how it goes
        there."""
        self.contact.say(self._state(status.state, status.step, ranks.beats_here()))
        ranks.beats_elsewhere = {}
        for heard in self.contact.others().values():
            with suppress(KeyError, TypeError, ValueError):
                for rank, (beat, is_stopped) in heard.state["beats"].items():
                    ranks.beats_elsewhere[int(rank)] = Beat(*map(int, beat)), bool(is_stopped)
        ended = self._ended_elsewhere()
        lost = self._lost()
        ranks.is_over_elsewhere = (ended is not None and ended.state == "failed") or (
            lost is not None and time.time() - lost[1] > LOST_S + UNREACHABLE_GRACE_S
        )
        return self.with_others(status)

    def with_others(self, status: RunStatus) -> RunStatus:
        """`status` with what is known of the other machines."""
        now = time.time()
        others = []
        for rank, heard in self.contact.others().items():
            known = {name: heard.state.get(name) for name in ("state", "step", "host", "run")}
            address = self.machines[rank].address
            others.append({"machine_rank": rank, "address": address, **known, "seen": round(now - heard.ago_s, 1)})
        return replace(status, machines=others, meeting=self.meeting)

    def ending(self, own: Ending, is_consequence: bool) -> Ending:
        """How the run ended, given how it ended here; `is_consequence` where that says only that others are gone.

        Waits for the word of the others where they have to know.
        """
        if own.state != "failed" or not is_consequence:
            return own
        deadline = time.monotonic() + LOST_S + 5
        while (there := self._ended_elsewhere()) is None and (lost := self._lost()) is None:
            if time.monotonic() > deadline:
                return own
            time.sleep(PERIOD_S / 4)
        if there is not None:
            return there
        assert lost is not None
        machine, since = lost
        clock = time.strftime("%H:%M:%S", time.localtime(since))
        newest = self.run.newest_checkpoint()
        begins = "begins anew, as there is no checkpoint" if newest is None else f"goes on from {newest.name}"
        silence = f"{machine.as_subject} cannot be reached since {clock}."
        return Ending(
            "failed",
            "error",
            f"{silence} Once it can, `loradeck resume` on each machine {begins}.",
        )

    def leave(self, ending: Ending, is_consequence: bool, step: int, oom: dict[str, Any] | None) -> None:
        """Tell the others how it ended here, and hang up."""
        end = {
            "state": ending.state,
            "cause": ending.cause,
            "message": ending.message,
            "oom": oom,
            "is_consequence": is_consequence,
        }
        self.contact.say({**self._state(ending.state, step, {}), "end": end})
        self.contact.leave()

    def _state(self, state: State, step: int, beats: dict[int, tuple[Beat, bool]]) -> Message:
        return {"state": state, "step": step, "host": self._hello["host"], "run": self.run.id, "beats": beats}

    def _ended_elsewhere(self) -> Ending | None:
        """How the run ended on the machine that was the first to end it; None while none did, but by finishing."""
        for rank, heard in self.contact.others().items():
            end = heard.state.get("end")
            if isinstance(end, dict) and end.get("state") in ("failed", "stopped") and not end.get("is_consequence"):
                name = self.machines[rank].as_subject
                cause = end.get("cause") if end.get("cause") in CAUSES else None
                oom = end.get("oom") if isinstance(end.get("oom"), dict) else None
                message = f"{name}: {end.get('message')}" if end["state"] == "failed" else str(end.get("message") or "")
                return Ending(end["state"], cause, message, oom)
        return None

    def _lost(self) -> tuple[Machine, float] | None:
        """A machine that cannot be reached, and since when, in Unix seconds."""
        now = time.time()
        if self.contact.welcome is not None and self.contact.refused is not None:
            return self.machines[0], now
        for rank, heard in self.contact.others().items():
            if "end" not in heard.state and heard.ago_s > LOST_S:
                return self.machines[rank], now - heard.ago_s
        return None


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
