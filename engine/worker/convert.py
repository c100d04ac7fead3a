"""From a GGUF file to the folder of bf16 safetensors that `from_pretrained` and bitsandbytes work on."""

from __future__ import annotations

import functools
import json
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

USAGE = "usage: python -m engine.worker convert GGUF FOLDER"


def main(argv: list[str]) -> int:
    """Convert `argv[0]`, a GGUF file, into the folder `argv[1]`; its progress is JSON lines on stdout.

    Each line is `{"done": tensors, "total": tensors}`. Returns 0, or 1 with one line about the failure on stderr,
    or 2 if the arguments are wrong.
    """
    if len(argv) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    _end_with_parent()
    try:
        convert(Path(argv[0]), Path(argv[1]))
    except Exception as error:  # a library's failure, whatever it is, becomes the caller's one-line message
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def convert(gguf: Path, folder: Path) -> None:
    """Fill `folder` with the model in `gguf`: dense bf16 weights, config, generation config, tokenizer, chat template.

    The weights are held in memory once. Raises what the libraries raise; `folder` may then be half full.
    """
    import gguf as gguf_package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

    # Config, weights and tokenizer each parse the file's 150,000 vocabulary fields anew, 5 s a time: once will do.
    gguf_package.GGUFReader = functools.lru_cache(maxsize=1)(gguf_package.GGUFReader)
    modeling_gguf_pytorch_utils.tqdm = _reported
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # The weights are dense now: the first would send every later load looking for GGUF blocks; the second is noise.
    for leftover in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(leftover, None)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf.name} has no chat template")
    # GGUF metadata does not say it, and the tokenizer's own default (1e30) would never warn of a text too long.
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _reported(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
    """In the place of tqdm: the same tensors, each reported when it has been dealt with."""
    for done, tensor in enumerate(tensors, 1):
        yield tensor
        print(json.dumps({"done": done, "total": len(tensors)}), flush=True)


def _end_with_parent() -> None:
    """End this process when its stdin, a pipe that the parent holds, is closed: a killed parent leaves no orphan."""

    def wait_for_end() -> None:
        # Not sys.stdin.read: a thread that sleeps in it holds a lock that the interpreter needs to shut down.
        while os.read(0, 1):
            pass
        os._exit(1)

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=wait_for_end, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
