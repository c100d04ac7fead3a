"""Predicted against measured memory: `python tests/benchmarks/vram_accuracy.py FILE... [--json]`.

A file holds runs that somebody measured: `{"rows": [...]}`, each row with the model's dimensions, the recipe of the run
and `measured_mib`. Each is traced as it was run, and compared with the measured peaks of allocated and reserved memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.checks import typed_spec
from engine.inspector import Inspector
from engine.memory.card import short_name
from engine.memory.known_cards import matching
from engine.memory.predict import ASSUMED_CAPABILITY, NotPredicted, library_versions, traced
from engine.memory.request import Batch, TraceRequest

MIB = 2**20
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
LOAD_IN = {"nf4": "4bit", "fp4": "4bit", "int8": "8bit", "none": "none"}
OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
SIZES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_kv_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "head_dim": "head_dim",
    "tie_word_embeddings": "tie_word_embeddings",
    "model_type": "model_type",
}
"""A config's names, and those of a row's `model`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, and nothing else")
    options = parser.parse_args()
    rows = [row for file in options.files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    compared = []
    with Inspector() as inspector, tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            outcome = compare(row, Path(folder) / str(number), inspector)
            compared.append(outcome)
            if not options.json:
                print(line(outcome), flush=True)
    means = {
        **summary("allocated", [row["allocated_error"] for row in compared]),
        **summary("reserved", [row["reserved_error"] for row in compared]),
    }
    if options.json:
        json.dump({"versions": library_versions(), "rows": compared, **means}, sys.stdout, indent=1)
        print()
    else:
        print(", ".join(f"{name} {value:.2%}" for name, value in means.items() if value is not None))
    return 0


def compare(row: dict[str, Any], folder: Path, inspector: Inspector) -> dict[str, Any]:
    """The row's id, what was predicted and measured in MiB, and the signed errors; null where there is none."""
    outcome: dict[str, Any] = {"id": row["id"], "device": row["device"]}
    try:
        trace = traced(request_for(row, folder), inspector)
    except NotPredicted as reason:
        return {**outcome, "allocated_error": None, "reserved_error": None, "not_predicted": str(reason)}
    for name in ("allocated", "reserved"):
        predicted, measured = trace[f"{name}_bytes"] / MIB, row["measured_mib"].get(f"peak_{name}_mib")
        outcome[f"{name}_predicted_mib"], outcome[f"{name}_measured_mib"] = round(predicted, 2), measured
        outcome[f"{name}_error"] = None if measured is None else predicted / measured - 1
    return {**outcome, "seconds": round(trace["seconds"], 2)}


def request_for(row: dict[str, Any], folder: Path) -> TraceRequest:
    """The trace of a row; its config.json is written into `folder`."""
    model = row["model"]
    config = {name: model[own] for name, own in SIZES.items() if model.get(own) is not None}
    # Rows name no longest position; it holds no memory. Mistral's window is wider than any row.
    config |= {"max_position_embeddings": 32_768, "sliding_window": None}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    dtype, optimizer = DTYPES[row["dtype"]], row.get("optimizer", "adamw")
    spec = typed_spec(
        {
            "model": {
                "name_or_path": row["model_id"],
                "dtype": dtype,
                "attn_implementation": row["attn_implementation"],
            },
            "data": {"train": "rows"},
            "quantization": {
                "load_in": LOAD_IN[row["quantization"]],
                "bnb_4bit_quant_type": "fp4" if row["quantization"] == "fp4" else "nf4",
                "bnb_4bit_compute_dtype": dtype,
                "bnb_4bit_use_double_quant": bool(row.get("double_quant")),
            },
            "lora": {
                "r": row["lora_r"],
                "lora_dropout": row.get("lora_dropout", 0.0),
                "target_modules": row["target_modules"],
                "use_dora": bool(row.get("use_dora")),
                "use_rslora": bool(row.get("use_rslora")),
            },
            "training": {
                # A bare loop uses no autocast.
                "bf16": row["recipe"] == "trl" and dtype == "bfloat16",
                "fp16": row["recipe"] == "trl" and dtype == "float16",
                "optim": OPTIMIZERS.get(optimizer, optimizer),
                "activation_checkpointing": row["gradient_checkpointing"],
            },
            "hardware": {"device": "cuda:0"},
        }
    )
    return TraceRequest(
        spec=spec,
        config_folder=str(folder),
        train=Batch(row["per_device_train_batch_size"], row["seq_len"], padded=bool(row.get("padding_mask"))),
        capability=capability(row["device"]),
        recipe=row["recipe"],
        adapter_dtype=DTYPES[row["adapter_dtype"]] if row.get("adapter_dtype") else None,
    )


def capability(device: str) -> tuple[int, int]:
    """Of the card that a row calls by its full name, such as `NVIDIA A100-SXM4-40GB`; of an unknown one, Ampere's."""
    like = matching(short_name(device.replace("-", " ")))  # several where the size is not named: of one capability
    if not like:
        print(f"{device}: no such card is known (engine/memory/known_cards.py)", file=sys.stderr)
        return ASSUMED_CAPABILITY
    return like[0].compute_capability


def summary(name: str, errors: list[float | None]) -> dict[str, float | None]:
    known = [abs(error) for error in errors if error is not None]
    mean, worst = (statistics.mean(known), max(known)) if known else (None, None)
    return {f"{name}_mean_error": mean, f"{name}_worst_error": worst}


def line(row: dict[str, Any]) -> str:
    if "not_predicted" in row:
        return f"{row['id']:54} {row['not_predicted']}"
    parts = [f"{row['id']:54}"]
    for name in ("allocated", "reserved"):
        measured, error = row[f"{name}_measured_mib"], row[f"{name}_error"]
        known = f"{measured:9,.0f} {error:+7.2%}" if error is not None else f"{'-':>9} {'-':>7}"
        parts.append(f"{name} {row[f'{name}_predicted_mib']:9,.0f} of {known}")
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
