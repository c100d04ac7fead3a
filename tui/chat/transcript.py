"""A conversation as a text file, to read or to paste elsewhere. It is the models' own text, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from tui.chat.columns import Column
from tui.chat.settings import Settings
from tui.chat.talk import Exchange
from tui.chat.words import how_it_ended, point


def last_answer(exchanges: Sequence[Exchange], model: str) -> str | None:
    """The newest text of `model`; None where it has said nothing."""
    replies = (exchange.replies.get(model) for exchange in reversed(exchanges))
    return next((reply.text for reply in replies if reply is not None and reply.text), None)


def transcript(exchanges: Sequence[Exchange], columns: Sequence[Column], settings: Settings, base: str) -> str:
    """All questions and answers as Markdown, with what they were asked with."""
    parts = [f"# {base}"]
    if settings.system:
        parts.append(f"system: {settings.system}")
    for number, exchange in enumerate(exchanges, start=1):
        sampling = exchange.sampling
        drawn = "greedy"
        if sampling.temperature:
            drawn = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, seed {sampling.seed}"
        parts.append(f"## Question {number} ({drawn}, max_new_tokens {sampling.max_new_tokens})\n\n{exchange.question}")
        for column in columns:
            reply = exchange.replies.get(column.model)
            if reply is not None:
                how = how_it_ended(reply.answer) if reply.answer is not None else "no whole answer"
                parts.append(f"### {_who(column)} ({how})\n\n{reply.text}")
    return "\n\n".join(parts) + "\n"


def _who(column: Column) -> str:
    if column.subject is None:
        return "base"
    return f"{column.subject.run.id}, {point(column.subject)}"
