"""Real runs on a GPU to measure: `python -m tests.gpu.runs MODEL_FOLDER SETTINGS FOLDER [LIMIT_BYTES]`.

Trains three steps with Loradeck's own trainer, evaluates, and prints the peaks as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from engine.catalog import demo_model_path
from engine.checks import typed_spec
from engine.prepare import prepare
from engine.spec import RunSpec

ONE_BILLION = "1B-shaped"
CONFIG_1B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "nf4": {},
    "nf4, no checkpointing": {"training": {"activation_checkpointing": False}},
    "nf4, batch 1": {"training": {"per_device_train_batch_size": 1}},
    "nf4, all-linear, 8-bit AdamW": {"lora": {"target_modules": "all-linear"}, "training": {"optim": "adamw_8bit"}},
    "bf16": {"quantization": {"load_in": "none"}},
}
TOKENS = 512


def model_folder(model: str, folder: Path) -> Path:
    """The demo model's, or a new one with random weights in the shape of a 1B Llama and the demo's tokenizer."""
    if model == "demo":
        return demo_model_path()
    made = folder / "model"
    if not made.exists():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        made.mkdir(parents=True)
        config = LlamaConfig(**{name: value for name, value in CONFIG_1B.items() if name != "model_type"})
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(made)
        AutoTokenizer.from_pretrained(demo_model_path()).save_pretrained(made)
    return made


def spec_for(model: Path, settings: str, folder: Path) -> RunSpec:
    """A run on rows that are all cut at TOKENS, so that the batch is the one that is predicted."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"{number} " * 700}) for number in range(48)) + "\n")
    raw: dict[str, dict[str, Any]] = {
        "model": {"name_or_path": str(model)},
        "data": {"train": str(rows), "eval": str(rows), "max_length": TOKENS},
        "training": {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        "lora": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    }
    for section, values in SETTINGS[settings].items():
        raw.setdefault(section, {}).update(values)
    return typed_spec(raw)


def main(model: str, settings: str, folder: str, limit_bytes: str = "") -> int:
    import torch

    from engine.hardware import sample
    from engine.runs.events import EventWriter
    from engine.runs.store import Run
    from engine.worker.data.run_data import load_data
    from engine.worker.train import Training

    if limit_bytes:
        torch.cuda.set_per_process_memory_fraction(int(limit_bytes) / torch.cuda.get_device_properties(0).total_memory)
    spec = prepare(spec_for(Path(model), settings, Path(folder)), Path(folder))
    run = Run(Path(folder) / "run")
    run.folder.mkdir(exist_ok=True)
    training = Training(run, EventWriter(run.events_path))
    trainer = training.set_up(spec, load_data(spec))
    trainer.train()
    trainer.evaluate()
    held = [
        process["used_bytes"]
        for process in sample(None)["gpus"][torch.cuda.current_device()]["processes"]
        if process["pid"] == os.getpid()
    ]
    print(
        json.dumps(
            {
                "allocated_bytes": torch.cuda.max_memory_allocated(),
                "reserved_bytes": torch.cuda.max_memory_reserved(),
                "device_bytes": held[0] if held else None,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
