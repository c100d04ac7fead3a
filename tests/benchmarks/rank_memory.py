"""Bytes of a rank, predicted against measured: one process, and two that share the work by DDP or FSDP, on this CPU.

    python tests/benchmarks/rank_memory.py [--models llama mistral] [--demo] [--processes 2]

Each process is a real one of a real run, started as Loradeck starts it (accelerate's launcher, gloo), and counts all
that PyTorch's allocator gave it, from loading on; the peak is that of the second and third step. Predicted is what
`estimate` says, from a trace of a single process. Not in either: the interpreter, libraries, and gloo's own buffers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checks import read_spec, write_spec
from engine.inspector import Inspector
from engine.memory.card import chosen_card
from engine.memory.lengths import measured
from engine.memory.predict import Question, predict
from engine.prepare import for_device
from engine.runs.launch import trainer_command
from engine.runs.store import Run
from engine.spec import RunSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRAINING = ("forward", "backward", "optimizer")
SENT = frozenset({"aten::flatten_dense_tensors"})
"""Operations that make a tensor to be sent to the other processes."""


def count(folder: str) -> None:
    """In a process of a run: train three steps, and write down the peak of what tensors took."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from torch.profiler import ProfilerActivity, profile, record_function
    from transformers import TrainerCallback

    import engine.worker.train as worker
    from engine.runs.events import NoEvents
    from engine.worker.ranks import Place, Ranks
    from tests.benchmarks.real_steps import STEP_END, MarkedTrainer, Timeline

    class StepEnds(TrainerCallback):  # type: ignore[misc]
        """Marks ends of steps in the profile."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            with record_function(STEP_END):
                pass

    torch.set_num_threads(1)
    run = Run(Path(folder))
    ranks = Ranks(run, Place.of(os.environ))
    training = worker.Training(run, NoEvents(), ranks)
    spec = training.spec = read_spec(run.spec_path)
    ranks.join(spec)
    data = training.load_data(spec)
    load = worker.load_model

    def loaded(*args: Any, **options: Any) -> PreTrainedModel:
        """The model in memory that the profile has seen given: it is loaded by several threads, and some weights are
        views of the mapped file."""
        model = load(*args, **options)
        profiler.start()
        copies: dict[int, torch.Tensor] = {}

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            return copies.setdefault(tensor.data_ptr(), tensor.detach().clone())

        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = copied(tensor.data)
        for module in model.modules():
            state = module.quant_state if isinstance(module, Linear4bit) else None
            while state is not None:
                state.absmax, state.code = copied(state.absmax), copied(state.code)
                state.offset = copied(state.offset) if state.offset is not None else None
                state = state.state2
        return model

    worker.load_model = loaded
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    trainer = training.set_up(spec, data)
    trainer.__class__ = MarkedTrainer
    trainer.add_callback(StepEnds())
    trainer.train()
    profiler.stop()
    timeline = Timeline.of(profiler)
    # DDP begins by sending all weights in one copy. Where gloo's thread is the last to let go of it, the profiler never
    # hears of the release: it sees only threads of its own.
    timeline.blocks = [one for one in timeline.blocks if one.freed is not None or not SENT & set(one.path)]
    ends = [when for when, name in timeline.marks if name == STEP_END]
    peaks = [timeline.peak(*window) for window in pairwise(ends)]
    highest, when = max(peaks)
    told = {"bytes": highest, "phase": timeline.phase_at(when), "between_steps": timeline.at(ends[-1])}
    (run.folder / f"counted-{ranks.place.rank}.json").write_text(json.dumps(told))


def counted(spec: RunSpec, folder: Path) -> list[dict[str, Any]]:
    """What each process of a run of `spec` counted."""
    run = Run(folder)
    run.control_folder.mkdir(parents=True)
    run.spec_path.write_text(write_spec(spec))
    command = trainer_command(run, spec)
    start = command.arguments[: -len(["engine.worker", "train", "RUN_DIR"])]
    own = ["tests.benchmarks.rank_memory", "--count", str(folder)]
    environment = {**os.environ, **command.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*start, *own], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return [json.loads((folder / f"counted-{rank}.json").read_text()) for rank in range(spec.hardware.num_processes)]


def shared(spec: RunSpec, processes: int, strategy: str) -> RunSpec:
    raw = spec.model_dump()
    raw["hardware"] |= {"num_processes": processes, "strategy": strategy}
    raw["quantization"]["bnb_4bit_quant_storage"] = None
    return for_device(RunSpec.model_validate(raw), "cpu", has_bf16=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["llama", "mistral"], help="families of trace_cases.py")
    parser.add_argument("--demo", action="store_true", help="the demo model too")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--count", metavar="RUN", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.count:
        count(given.count)
        return
    from tests.benchmarks.trace_cases import DEMO, Case, spec_of

    print(f"{'model':<10}{'weights':<9}{'processes':<11}{'predicted':>11}{'measured, a rank':>24}{'error':>9}  at")
    families = [*([DEMO] if given.demo else []), *given.models]
    with tempfile.TemporaryDirectory() as name, Inspector() as inspector:
        for family in families:
            for load_in in ("4bit", "none"):
                base = spec_of(Case(family, load_in, True, 4))
                model = Path(base.model.name_or_path)
                for processes, strategy in ((1, "none"), (given.processes, "ddp"), (given.processes, "fsdp")):
                    spec = shared(base, processes, strategy)
                    lengths = measured(spec, inspector)
                    question = Question(
                        spec, inspector.architecture(str(model)), chosen_card("cpu"), lengths, config_folder=model
                    )
                    phases = predict(question, "full", inspector).phases
                    predicted = max(phases[phase] for phase in TRAINING)
                    ranks = counted(spec, Path(name) / f"{family}-{load_in}-{strategy}")
                    most = max(rank["bytes"] for rank in ranks)
                    each = ", ".join(f"{rank['bytes'] / 2**20:,.1f}" for rank in ranks)
                    how = "1" if processes == 1 else f"{processes} {strategy}"
                    print(
                        f"{family:<10}{load_in:<9}{how:<11}{predicted / 2**20:>7,.1f} MiB{each:>20} MiB"
                        f"{predicted / most - 1:>+9.1%}  {ranks[0]['phase']}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
