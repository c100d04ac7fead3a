"""From a selection of modules to LoraConfig fields, and back, as the installed PEFT reads them. No torch.

`selection` reads a LoraConfig, `shortest` writes one, `problems` says what is wrong with one before weights are
loaded; `presets` and `words` are what a person picks and types.
"""

from engine.targets.asked import asked_for
from engine.targets.count import trainable_parameters
from engine.targets.presets import PRESETS, preset
from engine.targets.problems import problems_with
from engine.targets.renamed import out_of_reach
from engine.targets.selection import Selection, selected
from engine.targets.sharing import problems_of_sharing
from engine.targets.shortest import Inexpressible, to_lora
from engine.targets.words import BadPattern, layer_count, layer_of, matching, parse_layers

__all__ = [
    "PRESETS",
    "BadPattern",
    "Inexpressible",
    "Selection",
    "asked_for",
    "layer_count",
    "layer_of",
    "matching",
    "out_of_reach",
    "parse_layers",
    "preset",
    "problems_of_sharing",
    "problems_with",
    "selected",
    "to_lora",
    "trainable_parameters",
]
