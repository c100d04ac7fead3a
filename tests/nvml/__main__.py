"""A live run on a machine with three GPUs, to look at by hand: `python -m tests.nvml FOLDER`, until Ctrl-C.

No model is trained: the steps are made up, the hardware is sampled as the supervisor does it, through the real pynvml
and the driver in FOLDER. It prints the command that watches the run from another terminal.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import sys
import time
from pathlib import Path

from engine.hardware import process_tree, sample
from engine.runs.events import EventWriter
from engine.runs.store import RunStatus, create_run
from tests.nvml.driver import GIB, GPU_IS_LOST, LIBRARY, POWER_CAP, SOFTWARE_THERMAL, Error, FakeDriver, FakeGpu

TURN_S = 300
STEPS_A_SECOND = 2


def machine(second: int) -> list[FakeGpu]:
    """The GPUs at a second of the scene: heat from 60 to 120, a starving GPU from 140 to 220, a lost one from 240."""
    at = second % TURN_S
    held = int((1 + 6.8 * min(1.0, at / 40)) * GIB)
    hot, starving, lost = 60 <= at < 120, 140 <= at < 220, at >= 240
    own = FakeGpu(
        used=held + GIB,
        utilization=8 if starving else 95 + second % 4,
        temperature=88 if hot else 64 + second % 5,
        power=90_000 if starving else 198_000 + 700 * (second % 9),
        clocks_event_reasons=SOFTWARE_THERMAL if hot else POWER_CAP,
        compute=[(os.getpid(), held), (1, GIB // 2)],
        graphics=[(os.getppid(), GIB // 8)],
    )
    instances = {
        0: FakeGpu(name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", total=5 * GIB, used=GIB, power=None, temperature=None),
        1: FakeGpu(name="NVIDIA A100-SXM4-40GB MIG 3g.20gb", total=20 * GIB, used=9 * GIB, compute=[(1, 9 * GIB)]),
    }
    split = FakeGpu(name="NVIDIA A100-SXM4-40GB", total=40 * GIB, used=10 * GIB, utilization=None, mig=instances)
    return [own, split, FakeGpu(name="NVIDIA L4", total=24 * GIB, lost=Error(GPU_IS_LOST) if lost else None)]


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    if "FAKE_NVML_VALUES" not in os.environ:  # the loader reads its path only when a process starts
        environment = {**os.environ, **FakeDriver(folder).environment()}
        os.execve(sys.executable, [sys.executable, "-m", "tests.nvml", str(folder)], environment)
    driver = FakeDriver(folder, folder / LIBRARY)
    run = create_run("SmolLM2-135M-Instruct")
    print(f"loradeck attach {run.id}      (LORADECK_HOME={run.folder.parent.parent})", flush=True)
    events, hardware = EventWriter(run.events_path), EventWriter(run.hardware_path)
    now = time.time()
    status = RunStatus("training", model="SmolLM2-135M-Instruct", data="a scene", created=now, trainer_pid=os.getpid())
    with run.lock():
        events.write("plan", total_steps=2000, epochs=1.0, device="cuda:0", predicted_peak_bytes=8 * GIB)
        for name in ("loading", "training"):
            events.write("state", state=name)
        for second in itertools.count():
            driver.write(machine(second))
            pids = sorted(process_tree(os.getpid()))
            hardware.write("hardware", **sample(os.getpid(), run.folder), trainer_pids=pids)
            for step in range(second * STEPS_A_SECOND + 1, (second + 1) * STEPS_A_SECOND + 1):
                events.write(
                    "step",
                    step=step,
                    epoch=step / 2000,
                    loss=1.1 + 1.3 * math.exp(-step / 60) + random.gauss(0, 0.15),
                    grad_norm=0.4 + random.random() / 5,
                    learning_rate=2e-4,
                    mean_token_accuracy=0.7,
                    tokens=step * 1900,
                    tokens_per_s=1900 + random.gauss(0, 90),
                    step_time_s=1 / STEPS_A_SECOND,
                    allocated_bytes=6 * GIB,
                    reserved_bytes=7 * GIB,
                    peak_reserved_bytes=7 * GIB,
                )
            run.write_status(RunStatus(**{**vars(status), "step": second, "heartbeat": time.time()}))
            time.sleep(1)


if __name__ == "__main__":
    main()
