"""Task `lm_eval`: tasks of the library of that name, by the base and by the adapter.

It is optional. A task file of the person's own may name Python functions beside it (`!function`), which lm-eval then
runs: it is their file. No code comes from the hub.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.evaluation.plan import LmEvalRequest, ModelName, TaskResult
from engine.worker.evaluation.ending import run_at_once_ended
from engine.worker.job import Tell

if TYPE_CHECKING:
    from engine.worker.evaluation.models import Models

LIBRARIES = ("lm_eval", "torch", "transformers", "peft", "bitsandbytes")
ROWS = 8
"""In a pass, where none are asked for: lm-eval holds all logits of a pass, in 32 bits."""


def main() -> int:
    return run_at_once_ended(evaluate_tasks)


def evaluate_tasks(raw: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Do what `raw` (`engine.evaluation.plan.LmEvalRequest`) asks; the result holds the libraries' versions.

    Raises BadSpec where lm-eval is missing or has no such task, and what the model's loading raises.
    """
    from engine.worker.evaluation.models import Models
    from engine.worker.evaluation.progress import Progress
    from engine.worker.failures import BadSpec
    from engine.worker.limit import keep_within_limit, large_blocks_apart
    from engine.worker.loaded import load_tokenizer_of

    request = LmEvalRequest.from_json(raw)
    progress = Progress(tell)
    progress.say("load", None, "", 0, None)
    if find_spec("lm_eval") is None:
        raise BadSpec("lm-eval is not installed here.", "Write: pip install 'loradeck[lm-eval]'")
    began = time.monotonic()
    adapter = Path(request.adapter)
    tokenizer = load_tokenizer_of(request.spec, adapter)
    found = _tasks(request)
    keep_within_limit(request.spec)
    with large_blocks_apart(request.spec):
        models = Models(request.spec, adapter, tokenizer)
    # lm-eval ties the weights of what it is given once more, which would undo a head that was trained apart.
    models.base.tie_weights = lambda *_, **__: None
    progress.say("load", None, "", 1, 1)
    seconds = {"load": round(time.monotonic() - began, 2)}
    began = time.monotonic()
    total = len(request.tasks) * len(request.models)
    done = 0
    rows = request.batch_size or ROWS
    for task in request.tasks:
        for model in request.models:
            progress.say("task", model, task, done, total)
            results, rows = _evaluate(models, model, found[task], request.limit, rows)
            for result in _results(results, model):
                tell("task_result", **asdict(result))
            done += 1
            progress.say("task", model, task, done, total)
    seconds["task"] = round(time.monotonic() - began, 2)
    versions = {library.replace("_", "-"): version(library.replace("_", "-")) for library in LIBRARIES}
    return {"versions": versions, "seconds": seconds, "batch_size": rows, "device": request.spec.hardware.device}


def _tasks(request: LmEvalRequest) -> dict[str, Any]:
    """What lm-eval evaluates for each name. Raises BadSpec for one that it does not have or cannot load."""
    from lm_eval.tasks import TaskManager

    from engine.worker.failures import BadSpec

    # Reading the thousands of files of its own takes seconds: only where a task is not among the person's.
    manager = TaskManager(include_path=request.include_path, include_defaults=False)
    if not set(request.tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=request.include_path)
    known = set(manager.all_tasks)
    if missing := [task for task in request.tasks if task not in known]:
        raise BadSpec(
            f"lm-eval {version('lm-eval')} has no task {', '.join(missing)}.",
            "`lm-eval ls tasks` lists its own; files of yours are found in the folder named by --include-path.",
        )
    found: dict[str, Any] = {}
    for task in request.tasks:
        try:
            found[task] = manager.load([task])
        except Exception as error:  # the task's data is fetched, and its file is run
            words = " ".join(str(error).split())[:500] or type(error).__name__
            raise BadSpec(
                f"lm-eval cannot load the task {task}: {words.rstrip('.')}.",
                "Many tasks fetch their rows from the hub; a local one names its files in dataset_kwargs.",
            ) from error
    return found


def _evaluate(
    models: Models, model: ModelName, loaded: Any, limit: int | None, rows: int
) -> tuple[dict[str, Any], int]:
    """lm-eval's results for one task, and the rows in a pass that memory took."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from engine.worker.evaluation.batches import give_memory_back
    from engine.worker.oom import shortfall

    while True:
        try:
            with models.answering(model):
                lm = HFLM(
                    pretrained=models.base,
                    tokenizer=models.tokenizer,
                    batch_size=rows,
                    trust_remote_code=False,
                    softmax_dtype="float32",
                )
                results: dict[str, Any] = evaluate(lm, loaded, limit=limit, log_samples=False)
            return results, rows
        except Exception as error:
            if rows == 1 or shortfall(error) is None:
                raise
        rows //= 2
        give_memory_back()


def _results(results: dict[str, Any], model: ModelName) -> Iterator[TaskResult]:
    higher = results.get("higher_is_better", {})
    for task, measured in results["results"].items():
        for key, value in measured.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or isinstance(value, bool | str):
                continue
            error = measured.get(f"{metric}_stderr,{filtered}")
            yield TaskResult(
                model,
                task,
                metric if filtered == "none" else key,
                float(value),
                float(error) if isinstance(error, int | float) else None,
                higher.get(task, {}).get(metric) is not False,
                str(results.get("versions", {}).get(task, "")),
            )
