"""Tasks of lm-eval, where it is installed, and what is said where it is not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation.plan import BOTH, LmEvalRequest, TaskResult, reported
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.evaluation.harness import evaluate_tasks
from engine.worker.failures import BadSpec
from tests.engine.worker.evaluation.trained import write_jsonl

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed: an optional extra")

TASK = """
task: doubles
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
output_type: multiple_choice
test_split: test
doc_to_text: "<|im_start|>user\\n{{{{question}}}}<|im_end|>\\n<|im_start|>assistant\\n"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 1
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 3.0
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of which the adapter is right: how its answers begin."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"double {n}", "choices": [f"oh no {2 * n}", f"it is {2 * n}"]} for n in range(12)]
    (folder / "doubles.yaml").write_text(TASK.format(rows=write_jsonl(tmp_path / "doubles.jsonl", rows)))
    return folder


def evaluated(request: LmEvalRequest) -> tuple[list[TaskResult], list[dict[str, Any]], dict[str, Any]]:
    events: list[dict[str, Any]] = []
    result = evaluate_tasks(
        request.to_json(), lambda type, **fields: events.append(json.loads(json.dumps({"type": type, **fields})))
    )
    results = [reported(TaskResult, event) for event in events if event["type"] == "task_result"]
    return results, [event for event in events if event["type"] == "progress"], result


@needs_lm_eval
def test_a_local_task_is_done_by_the_base_and_by_the_adapter(chat_run: Run, chat_spec: RunSpec, tasks: Path) -> None:
    request = LmEvalRequest(chat_spec, str(chat_run.adapter_folder), BOTH, ("doubles",), str(tasks))
    results, progress, result = evaluated(request)
    of_model = {each.model: each for each in results if each.metric == "acc"}
    assert of_model["adapter"].value == 1.0
    assert 0 <= of_model["base"].value < 1.0
    assert of_model["base"].stderr is not None
    assert {each.task for each in results} == {"doubles"}
    assert of_model["base"].higher_is_better
    assert of_model["base"].version == "3.0"
    assert (progress[-1]["doing"], progress[-1]["done"], progress[-1]["total"]) == ("task", 2, 2)
    assert result["versions"]["lm-eval"]


@needs_lm_eval
def test_a_limit_and_one_model_are_kept_to(chat_run: Run, chat_spec: RunSpec, tasks: Path) -> None:
    request = LmEvalRequest(chat_spec, str(chat_run.adapter_folder), ("adapter",), ("doubles",), str(tasks), 3, 2)
    results, _, result = evaluated(request)
    assert {each.model for each in results} == {"adapter"}
    assert result["batch_size"] == 2


@needs_lm_eval
def test_a_task_that_is_not_there_or_cannot_be_loaded_is_wrong_input(
    chat_run: Run, chat_spec: RunSpec, tasks: Path, tmp_path: Path
) -> None:
    adapter = str(chat_run.adapter_folder)
    with pytest.raises(BadSpec, match="has no task nonsense"):
        evaluated(LmEvalRequest(chat_spec, adapter, BOTH, ("doubles", "nonsense"), str(tasks)))
    (tmp_path / "doubles.jsonl").unlink()
    with pytest.raises(BadSpec, match=r"cannot load the task doubles: .*doubles\.jsonl"):
        evaluated(LmEvalRequest(chat_spec, adapter, BOTH, ("doubles",), str(tasks)))


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_library_it_says_how_to_get_it(chat_run: Run, chat_spec: RunSpec) -> None:
    with pytest.raises(BadSpec, match="lm-eval is not installed") as missing:
        evaluated(LmEvalRequest(chat_spec, str(chat_run.adapter_folder), BOTH, ("doubles",)))
    assert "pip install 'loradeck[lm-eval]'" in missing.value.hint
