"""How a model's own chat template writes conversations, and what ends its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from engine.worker.failures import BadSpec


def chat_facts(folder: Path, trials: list[list[dict[str, str]]], trusted: bool) -> dict[str, Any]:
    """`written`: each of `trials` up to where an answer begins, and None for one that the template refuses; None in all
    where there is no template. `begin`: text of the beginning-of-sequence token; `stop`: those that end an answer.

    Raises BadSpec where the folder has no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise BadSpec(f"The tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from error
    written = None
    if tokenizer.chat_template is not None:
        written = [_written(tokenizer, trial) for trial in trials]
    try:
        ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except OSError:
        ends = None
    numbers = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    numbers += [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return {
        "written": written,
        "begin": tokenizer.bos_token or "",
        "stop": tokenizer.convert_ids_to_tokens(list(dict.fromkeys(numbers))),
    }


def _written(tokenizer: Any, trial: list[dict[str, str]]) -> str | None:
    try:
        text: str = tokenizer.apply_chat_template(trial, tokenize=False, add_generation_prompt=True)
    except Exception:  # whatever the template's code makes of such a conversation
        return None
    return text
