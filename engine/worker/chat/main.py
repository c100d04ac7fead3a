"""Loads what the first line asks for, then answers one request after the other until its pipe ends.

A request is `{"conversations": {name: messages}, "sampling"}`; the replies to it are `started`, then `piece` after
`piece` and an `answer` for each model, and `done`; or `failed`, after which the next request is taken all the same.
"""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.chat.session import Sampling
from engine.spec import RunSpec
from engine.worker.chat.stopping import forget, hold_signal
from engine.worker.job import Tell, open_pipes, tell_failure

if TYPE_CHECKING:
    from engine.worker.chat.talker import Talker

SHORTER = "Begin a new conversation, or lower max_new_tokens."


def main() -> int:
    hold_signal()
    requests, tell = open_pipes()
    first = next(requests, None)
    if first is None:
        return 0
    began = time.monotonic()
    try:
        talker = _loaded(RunSpec.model_validate(first["spec"]), first["adapters"])
    except Exception as error:
        tell_failure(error, tell, "loading the model")
        return 0
    tell(
        "loaded",
        seconds=time.monotonic() - began,
        has_chat_template=talker.has_chat_template,
        context_tokens=talker.context_tokens,
    )
    for request in requests:
        forget()
        tell("started")
        _answer(talker, request["conversations"], Sampling(**request["sampling"]), tell)
    return 0


def _loaded(spec: RunSpec, adapters: dict[str, str]) -> Talker:
    from engine.worker.chat.talker import Talker
    from engine.worker.limit import keep_within_limit

    keep_within_limit(spec)
    return Talker(spec, {name: Path(folder) for name, folder in adapters.items()})


def _answer(talker: Talker, conversations: dict[str, list[dict[str, Any]]], sampling: Sampling, tell: Tell) -> None:
    def tell_what_helps(type: str, **fields: Any) -> None:
        tell(type, **{**fields, "hint": SHORTER if fields["cause"] == "oom" else fields["hint"]})

    try:
        talker.check(conversations, sampling)
        for name, conversation in conversations.items():
            tell("answer", **asdict(talker.answer(name, conversation, sampling, partial(_tell_piece, tell, name))))
    except Exception as error:
        tell_failure(error, tell_what_helps, "answering")
    else:
        tell("done")
        return
    _give_memory_back()  # not in the handler: until it is left, the exception holds all that the answer held


def _tell_piece(tell: Tell, model: str, text: str) -> None:
    tell("piece", model=model, text=text)


def _give_memory_back() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
