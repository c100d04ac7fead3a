"""What evaluating takes of the memory that others are using."""

from __future__ import annotations

from engine.units import amount
from tui.chat.subjects import Opened

MOST_NAMED = 3


def memory_words(opened: Opened) -> str:
    """Where it is evaluated, what that takes and what is free there."""
    card, device = opened.card, opened.spec.hardware.device
    said = []
    if opened.is_moved:
        said.append(f"{opened.subject.spec.hardware.device} is not here: it is evaluated on the CPU.")
    if opened.shares_memory:
        said.append("The run still goes on in the same memory, and is slower meanwhile.")
    if opened.predicted_bytes is not None and not opened.is_moved:
        said.append(
            f"It takes {amount(opened.predicted_bytes)} (predicted: weights and adapter), and more for the rows."
        )
    where = "this machine's memory" if device == "cpu" else device
    free = "How much is free cannot be read."
    if card.free_bytes is not None:
        free = f"{amount(card.free_bytes)} of {where} are free now."
    said.append(free)
    if opened.shares_memory and not card.on_cpu:
        said.append("Where that does not suffice, the training may run out of memory.")
    if card.others and not card.on_cpu:
        named = [f"{each.name or 'a process'} (pid {each.pid})" for each in card.others[:MOST_NAMED]]
        said.append(f"Others compute there too: {', '.join(named)}.")
    return " ".join(said)
