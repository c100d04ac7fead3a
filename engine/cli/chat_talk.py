"""A conversation on the terminal: questions with line editing, answers as they come, commands that begin with `/`."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import typer

from engine.cli.output import console, printable

if TYPE_CHECKING:
    from engine.chat.session import Answer, ChatSession, Loaded, Message, Piece, Sampling

JOINER = "\N{ZERO WIDTH JOINER}"
PROMPT = "> "
HELP = """\
/reset          begin a new conversation
/system TEXT    what stands before it; /system alone takes it away
/set            the sampling; /set temperature 0.8 changes it, as top_p, seed and max_new_tokens
/help           this list
/quit           leave, as Ctrl-D and Ctrl-C do
Ctrl-C stops an answer."""


def shown(text: str) -> str:
    """A model's text for the terminal: no control characters, and what is no harm kept, as spaces of other widths
    and the joiner in emoji."""
    text = re.sub(r"[^\S\n]", " ", text.replace("\t", "    ").replace("\N{IDEOGRAPHIC SPACE}", "  "))
    return JOINER.join(map(printable, text.split(JOINER)))


def conversation_of(system: str | None, history: list[Message], question: str) -> list[Message]:
    """The turns that are answered."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *history, {"role": "user", "content": question}]


@contextmanager
def stops_on_ctrl_c(session: ChatSession) -> Iterator[None]:
    """Ctrl-C ends the answer under way; a second one raises KeyboardInterrupt, as it does outside."""
    usual = signal.getsignal(signal.SIGINT)

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        session.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


class Printer:
    """Writes answers to stdout as they come, with the name of who answers above where there are several."""

    def __init__(self, labelled: bool) -> None:
        self._labelled = labelled
        self._model: str | None = None
        self._screen = console()
        self._line_is_open = False

    def piece(self, piece: Piece) -> None:
        if piece.model != self._model:
            self.begin(piece.model)
        self._write(shown(piece.text))

    def begin(self, model: str) -> None:
        """What follows is the answer of `model`."""
        from rich.text import Text

        self.end()
        if self._labelled:
            if self._model is not None:
                typer.echo("")
            self._screen.print(Text(printable(model), "bold"))
        self._model = model

    def end(self) -> None:
        """End the line."""
        if self._line_is_open:
            self._write("\n")

    def note(self, text: str) -> None:
        """Say something about the answer above."""
        from rich.text import Text

        self.end()
        self._screen.print(Text(printable(text), "dim"))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._line_is_open = not text.endswith("\n") if text else self._line_is_open


def ask_once(
    session: ChatSession, turns: dict[str, list[Message]], sampling: Sampling, quiet: bool
) -> dict[str, Answer]:
    """The answers, written as they come unless `quiet`. Raises what `ChatSession.ask` does."""
    printer = Printer(labelled=len(turns) > 1)
    try:
        with stops_on_ctrl_c(session):
            return session.ask(turns, sampling, (lambda _: None) if quiet else printer.piece)
    finally:
        printer.end()


class Talk:
    """Asks the models `answering` one question after the other; each has a history of its own."""

    def __init__(
        self, session: ChatSession, loaded: Loaded, answering: list[str], sampling: Sampling, system: str | None
    ) -> None:
        self._session = session
        self._remembers = loaded.has_chat_template
        self._answering = answering
        self._sampling = sampling
        self._system = system
        self._history: dict[str, list[Message]] = {name: [] for name in answering}

    def run(self, heading: str) -> None:
        """Until the person leaves. Raises JobFailed where the model's process has ended."""
        import readline  # noqa: F401  (editing and recalling lines in `input`)

        typer.echo(printable(f"{heading}. /help lists the commands; Ctrl-D leaves."))
        if not self._remembers:
            typer.echo("This run learnt plain text: your text is gone on from, and nothing before it is remembered.")
        while True:
            try:
                line = input(PROMPT)
                if line.startswith("/"):
                    if self._obey(line):
                        return
                elif line.strip():
                    self._ask(line)
            except (EOFError, KeyboardInterrupt):
                typer.echo("")
                return
            except UnicodeDecodeError:
                typer.echo("That is no text in this terminal's encoding.")

    def _ask(self, question: str) -> None:
        """Raises JobFailed as `run` does, and KeyboardInterrupt for a second Ctrl-C."""
        from engine.chat.session import ChatEnded
        from engine.jobs.process import JobFailed

        turns = {name: conversation_of(self._system, self._history[name], question) for name in self._answering}
        printer = Printer(labelled=True)
        try:
            with stops_on_ctrl_c(self._session):
                answers = self._session.ask(turns, self._sampling, printer.piece)
        except ChatEnded:
            printer.end()
            raise
        except JobFailed as error:  # of this question only, which is forgotten
            printer.end()
            typer.echo(printable(str(error)))
            return
        for answer in answers.values():
            printer.note(_how_it_went(answer))
        if self._remembers:
            for name, answer in answers.items():
                if answer.text:  # without an answer templates would meet two questions in a row
                    said = {"role": "assistant", "content": answer.text}
                    self._history[name] += [{"role": "user", "content": question}, said]

    def _obey(self, line: str) -> bool:
        """Do what a line that begins with `/` says. True to leave."""
        command, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if command == "quit":
            return True
        if command == "reset":
            self._history = {name: [] for name in self._answering}
            typer.echo("A new conversation.")
        elif command == "system":
            if rest and not self._remembers:
                typer.echo("That needs a chat template, and this run learnt plain text.")
            else:
                self._system = rest or None
                typer.echo("The system prompt is set." if rest else "There is no system prompt.")
        elif command == "set":
            self._set(rest)
        elif command == "help":
            typer.echo(HELP)
        else:
            typer.echo(printable(f"/{command} is no command here; /help lists them. A space before it sends it."))
        return False

    def _set(self, rest: str) -> None:
        names = [field.name for field in fields(self._sampling)]
        name, _, value = rest.replace("=", " ").partition(" ")
        if rest and name.replace("-", "_") in names:
            name = name.replace("-", "_")
            try:
                number: Any = float(value) if name in ("temperature", "top_p") else int(value)
                self._sampling = checked(replace(self._sampling, **{name: number}))
            except ValueError:
                typer.echo(printable(f"{name} cannot be {value.strip()!r}."))
        elif rest:
            typer.echo(printable(f"{name} is none of {', '.join(names)}."))
        typer.echo("  ".join(f"{name} {getattr(self._sampling, name)}" for name in names))


def checked(sampling: Sampling) -> Sampling:
    """`sampling`, if it makes sense. Raises ValueError."""
    if not (0 <= sampling.temperature < float("inf") and 0 < sampling.top_p <= 1):
        raise ValueError("out of range")
    if not (0 <= sampling.seed < 2**63 and sampling.max_new_tokens >= 1):
        raise ValueError("out of range")
    return sampling


def _how_it_went(answer: Answer) -> str:
    if not answer.tokens:
        return f"{answer.model}: {'stopped' if answer.ended == 'stopped' else 'no text'}"
    end = {"end": "", "length": ", cut off", "stopped": ", stopped"}[answer.ended]
    return f"{answer.model}: {answer.tokens:,} tokens, {answer.tokens / answer.seconds:.1f}/s{end}"
