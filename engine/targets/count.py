"""How many numbers a LoraConfig trains: what PEFT's `get_nb_trainable_parameters()` says of the adapted model."""

from __future__ import annotations

from engine.architecture import Architecture
from engine.spec import LoraSection
from engine.targets.index import Names
from engine.targets.selection import selected


def trainable_parameters(lora: LoraSection, architecture: Architecture) -> int:
    """Adapters, the biases that `bias` trains, and full copies of `modules_to_save`.

    Source: peft/peft_model.py `get_nb_trainable_parameters`, tuners/tuners_utils.py `_mark_only_adapters_as_trainable`.
    """
    selection = selected(lora, architecture)
    targets, ranks = architecture.targets, selection.ranks
    adapters = sum(targets[name].lora_parameters(ranks.get(name, lora.r), lora.use_dora) for name in selection.targets)
    if lora.use_dora:  # a grouped convolution's B has fewer rows than DoRA's magnitude has entries
        convolutions = [name for name in selection.targets if targets[name].kind == "conv"]
        adapters += sum(_outputs(name, architecture) - targets[name].out_features for name in convolutions)
    saved = selection.modules_to_save
    return adapters + _biases(lora, architecture, selection.targets, saved) + _copies(saved, architecture)


def _outputs(name: str, architecture: Architecture) -> int:
    return architecture.by_name[name].parameters[0].shape[0]


def _biases(lora: LoraSection, architecture: Architecture, targets: Names, saved: Names) -> int:
    if lora.bias == "none":
        return 0
    of_parameter = (name for name in targets if architecture.targets[name].kind == "parameter")
    holders = targets | {name.rpartition(".")[0] for name in of_parameter}
    return sum(
        parameter.count
        for module in architecture.modules
        if lora.bias == "all" or module.name in holders
        for parameter in module.parameters
        if parameter.name == "bias" and parameter.tied_to is None and not _within(module.name, saved)
    )


def _copies(saved: Names, architecture: Architecture) -> int:
    """Each module is copied with all it holds: a weight tied to another module's is a tensor of its own then."""
    total = 0
    for name in saved:
        if _within(name.rpartition(".")[0], saved):
            continue  # part of a copy already
        tensors = {
            parameter.tied_to or f"{module.name}.{parameter.name}": parameter.count
            for module in architecture.below(name)
            for parameter in module.parameters
        }
        total += sum(tensors.values())
    return total


def _within(name: str, saved: Names) -> bool:
    while name:
        if name in saved:
            return True
        name = name.rpartition(".")[0]
    return False
