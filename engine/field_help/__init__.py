"""What the app says about a setting beyond its docstring: usual values, price in memory, effect on training, source.

`engine.spec` says what a setting is; this says how to choose it. Sizes named here follow from the shapes of Llama 2 7B
(32 layers, hidden size 4096, MLP 11008) unless they name a source.
"""

from __future__ import annotations

from engine.field_help import data, hardware, lora, model, training
from engine.field_help.form import Help

__all__ = ["HELP", "Help"]

HELP: dict[str, Help] = {**model.HELP, **lora.HELP, **data.HELP, **training.HELP, **hardware.HELP}
