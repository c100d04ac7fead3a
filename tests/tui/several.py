"""A run of two processes, a GPU each, as the trainer and the supervisor leave its folder."""

from __future__ import annotations

import math
from typing import Any

from tests.tui.conftest import BEGAN, GIB, RunFolder

PIDS = (4250, 4251)
"""Of the ranks; the launcher, whose children they are, is the trainer."""
SPEC = """\
training: {save_strategy: steps, save_steps: 100}
data: {train: rows.jsonl}
hardware: {num_processes: 2, gpu_ids: [0, 1]}
"""


def two_gpus(second: float, held_bytes: tuple[int, int], hidden: bool = False, **second_gpu: Any) -> dict[str, Any]:
    """Fields of a `hardware` event; `hidden` as in a container, where the driver does not tell whose memory it is."""
    gpus = []
    for index, (pid, held) in enumerate(zip(PIDS, held_bytes, strict=True)):
        gpu = {
            "index": index,
            "mig": None,
            "name": "NVIDIA GeForce RTX 4090",
            "used_bytes": held + GIB // 2,
            "total_bytes": 24 * GIB,
            "utilization": 98 - 36 * index,
            "temperature_c": 66 + 15 * index,
            "power_w": 310.0 - 90 * index,
            "throttling": [],
            "processes": []
            if hidden
            else [
                {"pid": pid, "used_bytes": held, "user": "anna", "name": "python"},
                {"pid": 7 + index, "used_bytes": GIB // 4, "user": "bob", "name": "ollama"},
            ],
        }
        gpus.append(gpu | second_gpu if index else gpu)
    ranks = [
        {
            "rank": rank,
            "pid": pid,
            "pids": [pid, pid + 100],
            "rss_bytes": 3 * GIB,
            "gpu_bytes": None if hidden else held,
        }
        for rank, (pid, held) in enumerate(zip(PIDS, held_bytes, strict=True))
    ]
    host = {"used_bytes": 20 * GIB, "total_bytes": 128 * GIB, "trainer_rss_bytes": 6 * GIB, "cpu_percent": 210.0}
    return {
        "time": BEGAN + second,
        "gpus": gpus,
        "host": host | {"disk_free_bytes": 310 * GIB},
        "trainer_pids": [4242, *PIDS],
        "ranks": ranks,
    }


def steps(
    folder: RunFolder, first: int, last: int, rank_seconds: tuple[float, float], places: tuple[int, int] = (512, 512)
) -> None:
    for step in range(first, last + 1):
        folder.trainer.write(
            "step",
            time=BEGAN + 20 + 2 * step,
            step=step,
            epoch=step / 100,
            loss=1.1 + 1.3 * math.exp(-step / 40) + 0.1 * math.sin(step * 2.4),
            grad_norm=0.62,
            learning_rate=2e-4 * (1 - step / 300),
            mean_token_accuracy=0.5 + step / 1000,
            tokens=step * 3800,
            tokens_per_s=2740.0,
            step_time_s=1.41,
            padding_share=0.06,
            rank_seconds=rank_seconds,
            rank_places=places,
        )


def two_processes(folder: RunFolder, slow: float = 1.0) -> None:
    """A live run at step 60 of 300; rank 1 takes `slow` times as long as rank 0."""
    folder.run.spec_path.write_text(SPEC)
    held = (int(15.2 * GIB), int(16.9 * GIB))
    folder.status(step=60, total_steps=300, loss=1.4, processes=2, peak_bytes=held[1], rank_peak_bytes=held)
    folder.supervisor.write("state", time=BEGAN, state="starting")
    folder.plan(
        device="cuda:0",
        processes=2,
        gpu_ids=[0, 1],
        effective_batch_size=32,
        predicted_peak_bytes=18 * GIB,
        notes=["2 processes: batch 4 x 4 x 2 = 32", "optim: paged_adamw_32bit"],
    )
    folder.trainer.write("state", time=BEGAN + 21, state="training")
    steps(folder, 1, 60, (1.08, 1.08 * slow))
    for second in range(0, 140, 2):
        share = 0.1 if second < 10 else min(1.0, 0.7 + second / 300)
        folder.hardware.write("hardware", **two_gpus(second, (int(share * held[0]), int(share * held[1]))))
    folder.run.log_path.write_text("".join(f"line {number} of rank 0\n" for number in range(1, 41)))
    other = folder.run.folder / "trainer-1.log"
    other.write_text("".join(f"line {number} of rank 1\n" for number in range(1, 31)))
