"""A conversation with several models at once: each is asked the same, and goes on from its own answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.chat.session import BASE, Answer, Message, Piece, Sampling


@dataclass
class Reply:
    """What one model has said to a question so far."""

    text: str = ""
    answer: Answer | None = None
    """Set once it has ended."""
    has_failed: bool = False
    """Whether it was asked and gave no whole answer, by a failure."""

    @property
    def is_open(self) -> bool:
        return self.answer is None and not self.has_failed


@dataclass
class Exchange:
    """One question and the replies to it, by model: `base` or an adapter's name."""

    question: str
    sampling: Sampling
    """What it was asked with."""
    replies: dict[str, Reply] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return any(reply.is_open for reply in self.replies.values())

    @property
    def answering(self) -> str | None:
        """The model whose turn it is: they answer one after the other, in the order in which they were asked."""
        return next((model for model, reply in self.replies.items() if reply.is_open), None)

    def is_as_of_base(self, model: str) -> bool:
        """Whether `model` has said to the letter what the base has said."""
        base, reply = self.replies.get(BASE), self.replies.get(model)
        return (
            model != BASE
            and base is not None
            and reply is not None
            and base.answer is not None
            and reply.answer is not None
            and base.text == reply.text
        )


class Talk:
    """The exchanges so far, and what each model is told of them."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def begin(self, question: str, sampling: Sampling, models: Sequence[str]) -> Exchange:
        """A new exchange, with a reply of each of `models` to come."""
        exchange = Exchange(question, sampling, {model: Reply() for model in models})
        self.exchanges.append(exchange)
        return exchange

    def again(self, sampling: Sampling, models: Sequence[str]) -> Exchange:
        """The last question once more, in the place of what was answered to it. Raises IndexError without one."""
        return self.begin(self.exchanges.pop().question, sampling, models)

    def conversations(self, system: str) -> Mapping[str, list[Message]]:
        """What each model of the last exchange is asked: the system prompt if there is one, the questions that it has
        answered with its own answers, and the last question. Raises IndexError without an exchange."""
        *before, last = self.exchanges
        conversations: dict[str, list[Message]] = {}
        for model in last.replies:
            told = [_message("system", system)] if system else []
            for exchange in before:
                reply = exchange.replies.get(model)
                if reply is not None and reply.answer is not None and reply.text:
                    told += [_message("user", exchange.question), _message("assistant", reply.text)]
            conversations[model] = [*told, _message("user", last.question)]
        return conversations

    def take(self, pieces: Iterable[Piece]) -> None:
        """Add what came of the answers to the last question."""
        replies = self.exchanges[-1].replies
        for piece in pieces:
            replies[piece.model].text += piece.text

    def finish(self, answers: Mapping[str, Answer]) -> None:
        """The last question is answered; a model that has no answer was not asked."""
        replies = self.exchanges[-1].replies
        for model in [model for model in replies if model not in answers]:
            del replies[model]
        for model, answer in answers.items():
            replies[model].text, replies[model].answer = answer.text, answer

    def fail(self) -> None:
        """The last question was not answered by those whose replies are open."""
        for reply in self.exchanges[-1].replies.values():
            reply.has_failed = reply.is_open


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
