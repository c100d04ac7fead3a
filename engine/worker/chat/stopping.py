"""Ending an answer at once, also while a long conversation is still being read.

SIGUSR1 asks for it. The signal is blocked in this process and looked for at points where nothing is half done: before
each part of the model that has no parts itself, and after each token. A handler would raise, or be late, anywhere.

A stop stays asked for until `forget`, which stands at the begin of a request: one that comes between two requests is
for the one that has ended.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ASKS = signal.SIGUSR1


class Stopped(Exception):
    """The answer under way is not wanted any more."""


def hold_signal() -> None:
    """Keep the signal waiting until it is looked for. To be called before libraries are imported: their threads take
    the setting over, and one that has not would be ended by it, with the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {ASKS})


def forget() -> None:
    """Take back what was asked for."""
    if ASKS in signal.sigpending():
        signal.sigwait({ASKS})


def look(*_: Any) -> None:
    """Raise Stopped where a stop was asked for. As a hook it does so before its module runs."""
    if ASKS in signal.sigpending():
        raise Stopped


def look_in(model: torch.nn.Module) -> None:
    """Let a forward pass of `model` look for a stop as it goes."""
    for module in model.modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(look)
