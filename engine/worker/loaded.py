"""A run's model as it answers: the base of its spec, quantized as it was trained on, and adapters of it on top."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.model import load_model

WEIGHTS = "adapter_model.safetensors"
PACKED_ROWS = 32
"""bitsandbytes packs this many outputs of a layer together (functional.py, `_convert_weight_packed_for_cpu`)."""
CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Begins of `init_lora_weights` that take from the base's weights what the adapter begins with (peft,
tuners/lora/layer.py). PEFT does so again when such an adapter is loaded, so that both together are as in training."""

Kept = list[tuple[torch.nn.Parameter, torch.Tensor]]
_of_the_base: WeakKeyDictionary[torch.nn.Module, Kept] = WeakKeyDictionary()
"""Adapted model -> the base's own values of parameters that its adapter has changed in place, on the CPU."""


def load_base(spec: RunSpec) -> PreTrainedModel:
    """The base model of `spec` for inference, on the spec's device. Raises what `load_model` does, and BadSpec where
    it is gone."""
    name = spec.model.name_or_path
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise BadSpec(f"The base model is gone: {name} is no folder.", "Put it back where the run found it.")
    model = load_model(spec)
    model.eval()
    model.config.use_cache = True
    return model


def load_tokenizer_of(spec: RunSpec, adapter: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with `adapter`, with the chat template that it was trained by.

    Raises BadSpec where there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            adapter, trust_remote_code=spec.model.trust_remote_code, local_files_only=True
        )
    except Exception as error:  # that of `tokenizers` for a broken file has no class of its own
        words = " ".join(str(error).split())[:300].rstrip(".")
        raise BadSpec(f"There is no tokenizer to be read in {adapter}: {words}.", "Take another checkpoint.") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def put_on(model: PreTrainedModel | PeftModel, adapter: Path, name: str = "default") -> PeftModel:
    """`model` with the adapter of the folder `adapter`, frozen, in the types in which it was trained.

    A second adapter is added beside the first; `PeftModel.set_adapter` chooses. `switched_off` gives the base back.
    Raises BadSpec where the folder holds no adapter, a broken one, or one of another base.
    """
    config = _config_of(adapter)
    weights = _weights_of(adapter)
    changes = config.bias != "none" or str(config.init_lora_weights).startswith(CHANGE_BASE)
    if isinstance(model, PeftModel) and (changes or _of_the_base.get(model)):
        raise BadSpec(
            f"The adapter in {adapter} cannot stand beside another one: lora.bias or lora.init_lora_weights of one of "
            "them changed the base itself.",
            "Load it alone.",
        )
    kept = _parameters_it_changes(model, config) if changes else []
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter), adapter_name=name, is_trainable=False)
            adapted = model
        else:
            adapted = PeftModel.from_pretrained(model, str(adapter), adapter_name=name, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        # Of a module that is to be replaced and not in the file, PEFT says only the key that it looked for.
        text = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        foreign = ("size mismatch", "Target modules", "not found in the base model", "No modules were targeted")
        if isinstance(error, KeyError) or any(words in text for words in foreign):
            raise _does_not_fit(adapter, text) from error
        raise
    parameters = dict(adapted.named_parameters(remove_duplicate=False))
    own = get_peft_model_state_dict(adapted, parameters, name, save_embedding_layers=False)
    if strange := sorted(set(weights) - set(own)):
        raise _does_not_fit(adapter, f"the base has nothing for {_listed(strange)}.")
    if lacking := sorted(set(own) - set(weights)):
        raise _does_not_fit(adapter, f"it lacks {_listed(lacking)}.")
    # PEFT makes fp32 of what was trained in 16 bits; both are exact, but one is what training and evaluation saw.
    for key, parameter in own.items():
        if not key.endswith(".bias"):  # the base's own, which keep its type
            parameter.data = parameter.data.to(weights[key].dtype)
    _of_the_base[adapted] = [(parameter, value) for parameter, value in kept if not _equal(parameter, value)]
    adapted.eval()
    return adapted


@contextmanager
def switched_off(adapted: PeftModel) -> Iterator[None]:
    """The base alone while the block runs, bit for bit.

    `PeftModel.disable_adapter` leaves the biases of `lora.bias`, and what `init_lora_weights` has taken from the
    weights, as the adapter has them.
    """
    adapters: list[torch.Tensor] = []
    kept = _of_the_base.get(adapted, [])
    with adapted.disable_adapter():
        try:
            for parameter, value in kept:
                adapters.append(parameter.data.to("cpu", copy=True))
                parameter.data.copy_(value)
            yield
        finally:
            for (parameter, _), value in zip(kept, adapters, strict=False):
                parameter.data.copy_(value)


def _config_of(adapter: Path) -> LoraConfig:
    try:
        kind = json.loads((adapter / "adapter_config.json").read_bytes())["peft_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadSpec(f"There is no adapter in {adapter}: {error}.") from error
    if kind != "LORA":
        raise BadSpec(f"The adapter in {adapter} is {kind}, and only LoRA is known here.")
    try:
        return LoraConfig.from_pretrained(str(adapter))
    except (TypeError, ValueError) as error:
        raise BadSpec(f"{adapter / 'adapter_config.json'} cannot be read: {error}.") from error


def _weights_of(adapter: Path) -> dict[str, torch.Tensor]:
    # Without such a file PEFT would unpickle another one, or ask the hub for one.
    if not (adapter / WEIGHTS).is_file():
        raise BadSpec(f"There is no {WEIGHTS} in {adapter}.", "Take another checkpoint.")
    try:
        weights: dict[str, torch.Tensor] = load_file(adapter / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise BadSpec(f"The adapter in {adapter} cannot be read: {error}.", "Take another checkpoint.") from error
    return weights


def _parameters_it_changes(model: PreTrainedModel | PeftModel, config: LoraConfig) -> Kept:
    """Those of the base that an adapter with `config` may change in place, with their values."""
    names = {name for name, _ in model.named_parameters() if config.bias != "none" and re.search(r"(^|\.)bias$", name)}
    if str(config.init_lora_weights).startswith(CHANGE_BASE):
        modules = (name for name, _ in model.named_modules() if check_target_module_exists(config, name))
        names |= {f"{name}.weight" for name in modules}
    return [(value, value.data.to("cpu", copy=True)) for name, value in model.named_parameters() if name in names]


def _equal(parameter: torch.nn.Parameter, value: torch.Tensor) -> bool:
    return torch.equal(parameter.data.cpu(), value)


def _does_not_fit(adapter: Path, why: str) -> BadSpec:
    return BadSpec(
        f"The adapter in {adapter} does not fit the base model: {why[:300]}", "It was trained on another model."
    )


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def answer_fast(model: torch.nn.Module) -> None:
    """Let bitsandbytes repack its 4-bit weights for inference on the CPU. The model must not be trained afterwards, and
    as the scales become 16-bit its losses move in the third digit: measure them before.

    See `engine.worker.model.keep_trainable_on_cpu`.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            fits = (
                state is not None
                and module.out_features % PACKED_ROWS == 0
                and module.in_features % state.blocksize == 0
            )
            module.support_avx512bf16_for_cpu = fits and has_avx512bf16()


def generation_ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the model's own, the tokenizer's, and what the chat template writes behind an answer.

    A base model's own is often none that its template ends a turn with: `<|endoftext|>` beside `<|im_end|>`.
    """
    return ending_tokens(model.generation_config.eos_token_id, tokenizer)


def ending_tokens(own: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The same, where the model's own are known as its generation config has them."""
    ends = [] if own is None else [own] if isinstance(own, int) else list(own)
    others = [token for token in (tokenizer.eos_token_id, _end_of_turn(tokenizer)) if token is not None]
    return sorted({*ends, *others})


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The added token that the chat template writes behind an answer, if it does."""
    if tokenizer.chat_template is None:
        return None
    answer = "Zebra"
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": answer}]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template that takes no such turns says nothing of how they end
        return None
    behind = text.rpartition(answer)[2].strip()
    ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    return ids[0] if ids and ids[0] in tokenizer.get_added_vocab().values() else None
