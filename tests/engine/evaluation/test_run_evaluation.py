"""An evaluation from end to end: a trained run, the worker, the cache, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.checks import InvalidSpec, parse_spec
from engine.evaluation.results import Evaluation, Measure, evaluations_of, rows_of
from engine.evaluation.run_evaluation import Options, Progress, evaluate
from engine.jobs.device import on_device
from engine.jobs.process import JobCancelled
from engine.jobs.subject import subject_of
from engine.runs.events import read_events
from engine.runs.launch import launch
from engine.runs.store import Run
from tests.conftest import loradeck, wait_for_end


@pytest.fixture(scope="module")
def trained_run(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the tiny model with held-out rows, a checkpoint at step 20 and an adapter of step 40."""
    spec = parse_spec(
        {
            "model": {"name_or_path": str(tiny_model), "dtype": "bfloat16"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "lora": {"target_modules": "all-linear", "lora_dropout": 0.0},
            "data": {"train": str(rows_file), "eval_fraction": 0.3, "max_length": 64},
            "training": {
                "bf16": True,
                "fp16": False,
                "optim": "adamw_torch",
                "gradient_accumulation_steps": 1,
                "max_steps": 40,
                "learning_rate": 1e-2,
                "eval_strategy": "steps",
                "eval_steps": 20,
                "eval_on_start": True,
                "save_strategy": "steps",
                "save_steps": 20,
            },
            "hardware": {"device": "cpu"},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_HOME", str(tmp_path_factory.mktemp("trained")))
        patch.setenv("OMP_NUM_THREADS", "1")
        run = launch(spec)
        status = wait_for_end(run)
    assert status.state == "finished", status
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(cache))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "doubles.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"double {number}"}], "expected": 2 * number} for number in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def evaluated(
    trained_run: Run, benchmark: Path, cache: Path
) -> Iterator[tuple[Evaluation, list[Progress], dict[str, bytes]]]:
    """The first evaluation of the run's checkpoint at step 20, its progress, and the run's files before it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        before = files_of(trained_run)
        told: list[Progress] = []
        options = Options(benchmark=benchmark, max_new_tokens=6, batch_size=4)
        yield evaluate(subject_of(trained_run, "20"), options, told.append), told, before


def files_of(run: Run) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and not _is_kept(path)}


def _is_kept(path: Path) -> bool:
    return "evaluations" in path.parts


def measure(evaluation: Evaluation, part: str, name: str) -> Measure:
    found = evaluation.part(part)
    assert found is not None
    return next(each for each in found.measures if each.name == name)


def test_held_out_losses_are_those_of_the_training(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]], trained_run: Run
) -> None:
    evaluation = evaluated[0]
    assert [part.name for part in evaluation.parts] == ["held_out", "benchmark", "general_text"]
    told = {event["step"]: event["eval_loss"] for event in read_events(trained_run.events_path)
            if event["type"] == "eval"}  # fmt: skip
    loss = measure(evaluation, "held_out", "loss")
    assert loss.base is not None
    assert loss.adapter is not None
    # The trainer means over batches of rows, and this over tokens.
    assert loss.base.value == pytest.approx(told[0], rel=0.03)
    assert loss.adapter.value == pytest.approx(told[20], rel=0.03)
    assert loss.verdict == "better"
    assert loss.p_value is not None
    assert loss.p_value < 0.05


def test_every_row_is_kept_with_both_models(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]], trained_run: Run
) -> None:
    evaluation = evaluated[0]
    rows = rows_of(trained_run, evaluation.id)
    for part in evaluation.parts:
        own = [row for row in rows if row.part == part.name]
        assert len(own) == part.rows > 0
        assert all(row.base is not None and row.adapter is not None for row in own)
        assert all(row.where for row in own)
    answered = next(row for row in rows if row.part == "benchmark" and row.row == 3)
    assert (answered.prompt, answered.expected) == ("double 3", "6")
    assert answered.adapter is not None
    assert isinstance(answered.adapter.answer, str)
    held_out = next(row for row in rows if row.part == "held_out")
    assert held_out.prompt.startswith("double")
    assert held_out.expected.startswith("it is")
    assert evaluations_of(trained_run)[-1] == evaluation
    assert {"torch", "transformers", "peft"} <= evaluation.versions.keys()
    assert evaluation.step == 20
    assert not evaluation.base_from_cache


def test_progress_of_each_part_reaches_its_end(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]],
) -> None:
    evaluation, told, _ = evaluated
    last = {event.part: event for event in told if event.doing != "load"}
    assert {part: event.done for part, event in last.items()} == {part.name: part.rows for part in evaluation.parts}
    assert all(event.done == event.total for event in last.values())
    assert told[0].doing == "load"


def test_nothing_else_of_the_run_is_touched(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]], trained_run: Run
) -> None:
    assert files_of(trained_run) == evaluated[2]


def test_the_command_finds_the_base_done_for_another_adapter(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]], trained_run: Run, benchmark: Path
) -> None:
    first = evaluated[0]
    options = ("--benchmark", str(benchmark), "--max-new-tokens", "6", "--batch-size", "4", "--json")
    done = loradeck("eval", str(trained_run.folder), *options)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    folder = Path(document.pop("folder"))
    second = Evaluation.from_json(document)
    assert folder == trained_run.folder / "evaluations" / second.id
    assert evaluations_of(trained_run)[0] == second
    assert second.base_from_cache
    assert second.step is None
    for part, name in (("held_out", "loss"), ("general_text", "loss"), ("benchmark", "score")):
        before, after = measure(first, part, name), measure(second, part, name)
        assert before.base is not None
        assert after.base is not None
        assert before.base.value == after.base.value
    assert measure(first, "held_out", "loss").adapter != measure(second, "held_out", "loss").adapter
    rows = rows_of(trained_run, second.id)
    assert all(row.base is not None and row.adapter is not None and row.expected for row in rows)


def test_at_the_time_limit_what_both_did_is_compared_and_a_damaged_cache_counts_for_nothing(
    evaluated: tuple[Evaluation, list[Progress], dict[str, bytes]], trained_run: Run, cache: Path
) -> None:
    for path in (cache / "evaluations").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    told: list[Progress] = []
    evaluation = evaluate(subject_of(trained_run, "20"), Options(batch_size=4, time_limit_s=1e-3), told.append)
    assert not evaluation.base_from_cache
    assert evaluation.timed_out
    assert {event.model for event in told} == {None}  # both models, not the adapter alone
    for part in evaluation.parts:
        assert "Only a part" in part.note
    assert evaluations_of(trained_run)[0] == evaluation


def test_once_cancelled_nothing_is_left(trained_run: Run) -> None:
    before = evaluations_of(trained_run)
    with pytest.raises(JobCancelled):
        evaluate(subject_of(trained_run), Options(limit=5), is_cancelled=lambda: True)
    assert evaluations_of(trained_run) == before
    assert {path.name for path in (trained_run.folder / "evaluations").iterdir()} == {each.id for each in before}


def test_without_anything_held_out_it_says_what_to_do(trained_run: Run) -> None:
    subject = subject_of(trained_run)
    data = subject.spec.data.model_copy(update={"eval_fraction": 0.0})
    nothing = replace(subject, spec=subject.spec.model_copy(update={"data": data}))
    with pytest.raises(InvalidSpec, match=r"held out no rows.*--benchmark"):
        evaluate(nothing, Options())
    with pytest.raises(InvalidSpec, match="nothing is left"):
        evaluate(subject, Options(held_out=False, general_text=False))
    with pytest.raises(InvalidSpec, match="no benchmark to score"):
        evaluate(subject, Options(scorer="exact"))


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed here")
def test_without_lm_eval_its_tasks_are_refused_before_anything_runs(trained_run: Run) -> None:
    with pytest.raises(InvalidSpec, match=r"not installed.*loradeck\[lm-eval\]"):
        evaluate(subject_of(trained_run), Options(tasks=("arc_easy",)))


def test_task_files_without_tasks_and_from_nowhere_are_said(trained_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="no task is named"):
        evaluate(subject_of(trained_run), Options(include_path=tmp_path))
    with pytest.raises(InvalidSpec, match="is no folder"):
        evaluate(subject_of(trained_run), Options(tasks=("own",), include_path=tmp_path / "gone"))


def test_a_device_that_is_not_here_is_refused_or_replaced(trained_run: Run) -> None:
    spec = subject_of(trained_run).spec
    elsewhere = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"device": "cuda:63"})})
    assert on_device(elsewhere, None).hardware.device == "cpu"
    assert on_device(spec, "cpu") is spec
    with pytest.raises(InvalidSpec, match="no cuda:63"):
        on_device(spec, "cuda:63")
