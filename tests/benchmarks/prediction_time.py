"""How long predictions take, and what a trace takes of memory: `python tests/benchmarks/prediction_time.py [--json]`.

An 8B and a 70B Llama, NF4, batch 4 x 1,024, with an evaluation, for a GPU. Traces are not taken from the disk. The
formula is asked as for a keystroke: once before, when the model is new to it, which takes some 15 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from engine.architecture import Architecture
from engine.checks import typed_spec
from engine.inspector import Inspector
from engine.memory.card import card_named
from engine.memory.predict import Question, predict

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
}
BARS_S = {
    ("8B", "formula"): 0.005,
    ("8B", "shallow"): 3,
    ("8B", "full"): 10,
    ("70B", "formula"): 0.005,
    ("70B", "shallow"): 3,
    ("70B", "full"): 25,
}
MEMORY_BAR_BYTES = 10**9


class PeakMemory(threading.Thread):
    """Watches the memory that a process and its forks hold: shared pages are counted once (PSS)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak_bytes, self.ended = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            total = 0
            for process in [self.process, *self.process.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, and nothing else")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, Inspector() as inspector:
        os.environ["LORADECK_CACHE"] = name
        inspector.request("warm", 120)
        assert inspector.pid is not None
        watcher = PeakMemory(inspector.pid)
        watcher.start()
        for size, config in (("8B", LLAMA_8B), ("70B", LLAMA_70B)):
            folder = Path(name) / size
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            architecture = inspector.architecture(str(folder))
            predict(question(folder, architecture, options.rounds))
            for tier in ("formula", "shallow", "full"):
                times = [
                    measure(question(folder, architecture, number), tier, inspector) for number in range(options.rounds)
                ]
                row = {"model": size, "tier": tier, "seconds": statistics.median(times), "worst": max(times)}
                rows.append({**row, "bar": BARS_S[size, tier]})
                if not options.json:
                    print(
                        "{model:4} {tier:8} median {seconds:8.4f} s, worst {worst:8.4f} s, bar {bar} s".format(
                            **rows[-1]
                        )
                    )
        watcher.ended.set()
    memory = {"peak_bytes": watcher.peak_bytes, "bar_bytes": MEMORY_BAR_BYTES}
    if options.json:
        json.dump({"rows": rows, "memory": memory}, sys.stdout, indent=1)
        print()
    else:
        print(f"inspector and trace: {watcher.peak_bytes / 10**6:,.0f} MB at most, bar {MEMORY_BAR_BYTES / 10**6:,.0f}")
    return 0


def question(folder: Path, architecture: Architecture, number: int) -> Question:
    """The same run in every round, but for a rank that no round before had: so nothing is found on the disk."""
    spec = typed_spec(
        {
            "model": {"name_or_path": str(folder)},
            "data": {"train": "rows", "eval": "held-out", "max_length": 1024},
            "lora": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "r": 16 + number},
            "training": {"optim": "adamw_torch", "gradient_accumulation_steps": 1},
        }
    )
    return Question(spec, architecture, card_named("80GiB"), config_folder=folder)


def measure(asked: Question, tier: Any, inspector: Inspector) -> float:
    began = time.perf_counter()
    predict(asked, tier, inspector)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
