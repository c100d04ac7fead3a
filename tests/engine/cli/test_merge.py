"""`loradeck merge`: what is kept, what is refused, and what is left when it is ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from engine.checks import parse_spec, write_spec
from engine.cli.main import app
from engine.merging.choice import LEAST_EQUAL_TOKENS
from engine.merging.report import REPORT_NAME, MergeReport
from engine.runs.store import Run
from tests.conftest import wait_until
from tests.engine.worker.merging.adapters import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Run:
    """A run folder with an adapter, as a finished NF4 run leaves it."""
    return run_with_adapter(tmp_path_factory.mktemp("runs") / "20260101-120000-tiny-llama-abcd", tiny_model, rows_file)


def run_with_adapter(folder: Path, base: Path, rows: Path, size: float = 0.05) -> Run:
    run = Run(folder)
    lora = {"target_modules": ["q_proj", "v_proj"]}
    trained = train(base, run.adapter_folder, "4bit", size, **lora)
    data = {"train": str(rows), "max_length": 64}
    raw = trained.spec.model_dump(mode="json", exclude={"parent"})
    run.spec_path.write_text(write_spec(parse_spec({**raw, "data": data})))
    AutoTokenizer.from_pretrained(base).save_pretrained(run.adapter_folder)
    return run


def here(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "100"})


def test_what_is_wrong_is_said_before_anything_is_loaded(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    name = str(run.folder)
    for arguments, words in (
        (["nothing", "-o", "new"], "There are no runs yet"),
        ([name, "-o", str(there)], f"{there} exists and is left as it is"),
        ([name, "-o", "new", "--base", "4bit"], "--base is '4bit'; it can be auto, 16bit, dequantized"),
        ([name, "-o", "new", "--dtype", "int8"], "--dtype is 'int8'"),
        ([name, "-o", "new", "--device", "tpu"], "--device is 'tpu'"),
        ([name, "-o", "new", "--checkpoint", "7"], "has no checkpoint"),
        ([name, "-o", "new", "--device", "cuda:7"], "this machine has no cuda:7"),
    ):
        result = here("merge", *arguments)
        assert result.exit_code == 2, result.output
        assert words in " ".join(result.output.split())


def test_a_run_that_was_not_quantized_has_nothing_to_dequantize(run: Run, tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain")
    plain.adapter_folder.mkdir(parents=True)
    (plain.adapter_folder / "adapter_config.json").write_text("{}")
    plain.spec_path.write_text(run.spec_path.read_text().replace("load_in: 4bit", "load_in: none"))
    result = here("merge", str(plain.folder), "-o", str(tmp_path / "new"), "--base", "dequantized")
    assert result.exit_code == 2
    assert "nothing to dequantize" in result.output


def test_killed_then_done(run: Run, tmp_path: Path) -> None:
    """Two tries that are ended in the midst of it leave nothing under the final name; the third leaves nothing else."""
    final = tmp_path / "model"
    ended_while_merging(run, final, signal.SIGKILL, "*/*")
    left = list(tmp_path.iterdir())
    assert [path.name.startswith(".model.merging-") for path in left] == [True]

    assert ended_while_merging(run, final, signal.SIGINT, "lock").returncode == 130
    assert list(tmp_path.iterdir()) == [], "the second try removes what the first left, and its own"

    done = here("merge", str(run.folder), "-o", str(final), "--json")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.pop("path") == str(final)
    report = MergeReport.from_json(json.loads((final / REPORT_NAME).read_text()))
    assert report == MergeReport.from_json(told)
    assert report.taken == "dequantized"
    assert report.passed
    assert report.rows_kind == "training"
    assert report.candidate("dequantized").difference.as_good_top_tokens >= LEAST_EQUAL_TOKENS
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in final.iterdir()
    }


def test_a_merge_that_does_not_answer_as_its_adapter_is_not_kept(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    run = run_with_adapter(tmp_path / "runs" / "wild", tiny_model, rows_file, size=2.0)
    (tmp_path / "out").mkdir()
    done = here("merge", str(run.folder), "-o", str(tmp_path / "out" / "model"), "--base", "16bit")
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "needs: predicted peak" in said
    assert "Onto the base's own weights: it finds another token most likely at" in said
    assert "Nothing was kept. --keep-anyway keeps the closest." in said
    assert list((tmp_path / "out").iterdir()) == []


def ended_while_merging(run: Run, final: Path, by: signal.Signals, at: str) -> subprocess.Popen[str]:
    """A merge that gets `by` when its folder holds `at`: `lock` from the first, or a model's files. Its worker is gone
    as well."""
    command = [sys.executable, "-m", "tui", "merge", str(run.folder), "-o", str(final)]
    before = set(final.parent.iterdir())
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:

        def written() -> list[Path]:
            folders = set(final.parent.glob(".model.merging-*")) - before
            return [folder for folder in folders if any(folder.glob(at))]

        wait_until(written, "a merge is being written")
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(by)
        process.communicate(timeout=60)
    assert not final.exists()
    wait_until(lambda: not any(worker.is_running() for worker in workers), "the worker is gone", 30)
    return process
