"""A folder with a whole model, as `loradeck merge` leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.export import ExportRefused


def merged_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder that holds a whole model in safetensors. Raises ExportRefused for any other."""
    if not folder.is_dir():
        raise ExportRefused(f"There is no folder {folder}. `loradeck merge RUN -o {folder}` makes one.")
    if (folder / "adapter_config.json").exists():
        raise ExportRefused(f"{folder} holds an adapter, not a whole model. `loradeck merge RUN -o DIR` makes one.")
    try:
        config: Any = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ExportRefused(f"{folder} has no config.json: it is no model's folder.") from None
    except (OSError, ValueError) as error:
        raise ExportRefused(f"{folder / 'config.json'} cannot be read: {error}.") from None
    if not isinstance(config, dict):
        raise ExportRefused(f"{folder / 'config.json'} is no model's config.")
    if config.get("quantization_config"):
        raise ExportRefused(f"The model in {folder} is quantized already; merge into 16 bits first.")
    if not any(folder.glob("*.safetensors")):
        raise ExportRefused(f"{folder} has no weights (*.safetensors).")
    return config


def context_tokens(config: dict[str, Any]) -> int | None:
    """How many tokens the model was made for; None where its config does not say."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        tokens = place.get("max_position_embeddings")
        if isinstance(tokens, int) and tokens > 0:
            return tokens
    return None
