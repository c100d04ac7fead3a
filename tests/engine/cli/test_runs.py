"""Commands about runs that are there: what is told of them, and how they go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from engine.checks import read_spec, write_spec
from engine.cli.main import app
from engine.memory.ways_out.remedies import Remedy
from engine.runs import control
from engine.runs.events import EventWriter
from engine.runs.store import Run, RunStatus, create_run, find_run
from engine.spec import RunSpec
from tests.conftest import loradeck

MakeSpec = Callable[..., RunSpec]
GIB = 2**30
ROWS = {"training.per_device_train_batch_size": (4, 2), "training.gradient_accumulation_steps": (1, 2)}


def here(*arguments: str) -> Result:
    """The command in this process, without a terminal: a second sooner than in one of its own."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})


def remedy(id: str, changes: dict[str, tuple[Any, Any]], **values: Any) -> dict[str, Any]:
    made = {
        "predicted_peak_bytes": 9 * GIB,
        "saves_bytes": 2 * GIB,
        "fits": True,
        "verdict": "fits",
        "effective_batch_size": 4,
        "changes_training": False,
        "slowdown": 1.24,
        "slowdown_source": "measured",
        "note": "A note.",
        "tier": "formula",
        **values,
    }
    return Remedy(id=id, changes=changes, **made).to_json()


def failed_run(spec: RunSpec, *listed: dict[str, Any], **status: Any) -> Run:
    """A run that ran out of memory, with these ways out on record."""
    run = create_run("some-model")
    run.spec_path.write_text(write_spec(spec))
    run.write_status(
        RunStatus(**{"state": "failed", "cause": "oom", "step": 7, "message": "Memory ran out.", **status})
    )
    EventWriter(run.events_path).write(
        "oom",
        phase="backward",
        step=8,
        batch_shape=[4, 512],
        longest_row_tokens=498,
        held_bytes=11 * GIB,
        requested_bytes=GIB,
        capacity_bytes=12 * GIB,
        other_processes_bytes=GIB // 2,
        others=[{"pid": 41, "user": "[b]anna", "name": "o\x1b[31mllama", "used_bytes": GIB // 2}],
        held_by={"weights": 5 * GIB, "activations": 6 * GIB},
        raised_by="torch",
    )
    log = EventWriter(run.supervisor_events_path)
    log.write(
        "remedies", remedies=list(listed), room_bytes=11 * GIB, tier="formula", checkpoint=None, steps_to_repeat=7
    )
    return run


def test_show_tells_what_happened_in_sentences_and_the_ways_out_below(tiny_spec: MakeSpec) -> None:
    stop = remedy("stop-process-41", {}, note="[b]anna\x1b[2J decides.", slowdown=None, saves_bytes=0)
    run = failed_run(tiny_spec(), remedy("batch-2", ROWS), stop, {"id": "of another shape"})
    shown = here("show", run.id).stdout
    for words in (
        "Out of memory in the backward pass at step 8, on a batch of 4 rows x 512 tokens (longest row 498).",
        "wanted 1.0 GiB more; this run held 11.0 of 12.0 GiB, ",
        "Held by: activations 6.0 GiB, weights 5.0 GiB.",
        " 1  per_device_train_batch_size 4 -> 2, gradient_accumulation_steps 1 -> 2\n",
        "A note.",
        "predicted   9.0 GiB",
        "x 1.24",
        "[b]anna",
        f"loradeck resume {run.id} --remedy 1",
    ):
        assert words in shown, words
    assert "\x1b" not in shown
    facts = json.loads(here("show", run.id, "--json").stdout)
    assert facts["oom"]["batch_shape"] == [4, 512]
    assert [one["id"] for one in facts["remedies"]] == ["batch-2", "stop-process-41", "of another shape"]
    assert facts["remedies_event"]["room_bytes"] == 11 * GIB
    assert facts["parent"] is facts["continued_by"] is None


def test_resume_with_a_way_out_starts_a_run_of_its_own_that_names_its_parent(
    tiny_spec: MakeSpec,
) -> None:
    spec = tiny_spec(training={"max_steps": 1})
    optimizer = remedy("optimizer-sgd", {"training.optim": ("adamw_torch", "sgd")}, continues=False)
    run = failed_run(spec, remedy("batch-2", ROWS), remedy("stop-process-41", {}), optimizer)
    for number, words in (("2", "nothing that can be set"), ("4", "ways out 1 to 3, not 4")):
        wrong = here("resume", run.id, "--remedy", number)
        assert wrong.exit_code == 2
        assert words in wrong.stderr
    done = loradeck("resume", run.id, "--remedy", "1", "--remedy", "3", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["state"], facts["parent"]["run"]) == ("finished", run.id)
    assert facts["parent"]["remedies"] == ["batch-2", "optimizer-sgd"]
    assert facts["parent"]["changes"]["training.optim"] == ["adamw_torch", "sgd"]
    assert facts["parent"]["checkpoint"] is None
    child = find_run(facts["id"])
    assert read_spec(child.spec_path).effective_batch_size == 4
    assert run.read_status().continued_by == child.id
    again = here("resume", run.id, "--json")
    assert again.exit_code == 1
    assert child.id in json.loads(again.stdout)["error"]


def test_resume_with_a_way_out_needs_one_on_record_and_a_run_that_has_ended(tiny_spec: MakeSpec) -> None:
    run = failed_run(tiny_spec())
    done = here("resume", run.id, "--remedy", "1")
    assert done.exit_code == 2
    assert f"loradeck remedies {run.id}" in done.stderr
    run = failed_run(tiny_spec(), remedy("batch-2", ROWS), state="training", cause=None)
    with run.lock():
        done = here("resume", run.id, "--remedy", "1")
    assert done.exit_code == 1
    assert "running already" in done.stderr


def test_remedies_of_a_run_that_has_none_says_why(tiny_spec: MakeSpec) -> None:
    run = failed_run(tiny_spec(), cause="nan-loss")
    done = here("remedies", run.id)
    assert done.exit_code == 1
    assert "did not run out of memory" in done.stderr


def test_notes_and_tags_are_kept_and_shown_as_text(tiny_spec: MakeSpec) -> None:
    run = failed_run(tiny_spec())
    assert here("note", run.id, "[red]lower\x1b[31m rate").exit_code == 0
    assert json.loads(here("tag", run.id, "night", "night", " best ", "--json").stdout)["tags"] == ["night", "best"]
    shown = here("show", run.id).stdout
    assert "night, best" in shown
    assert "[red]lower" in shown
    assert "\x1b" not in shown
    assert here("note", run.id, "  ").exit_code == 2
    assert "no tags" in here("tag", run.id).stdout


def test_evaluate_asks_a_run_that_goes_on(tiny_spec: MakeSpec) -> None:
    run = failed_run(tiny_spec(), state="training", cause=None)
    with run.lock():
        assert json.loads(here("evaluate", run.id, "--json").stdout) == {"id": run.id, "request": "evaluate"}
    assert control.pending(run.control_folder) == ["evaluate"]
    assert here("evaluate", run.id).exit_code == 1


def test_compare_puts_settings_that_differ_and_losses_beside_each_other(tiny_spec: MakeSpec) -> None:
    first, second = failed_run(tiny_spec()), failed_run(tiny_spec(lora={"r": 4}, training={"learning_rate": 1e-3}))
    for run, losses in ((first, [3.0, 1.5, 2.0]), (second, [2.5, None, 2.25])):
        events = EventWriter(run.events_path)
        for step, loss in enumerate(losses, start=1):
            events.write("step", step=step, loss=loss, tokens=100 * step)
    done = here("compare", first.id, second.id)
    assert done.exit_code == 0, done.stderr
    for words in ("lora.r", "training.learning_rate", "1.5000 at 2", "2.2500 at 3", "failed: oom"):
        assert words in done.stdout
    document = json.loads(here("compare", first.id, second.id, "--json").stdout)
    assert document["differing_settings"] == {"lora.r": [16, 4], "training.learning_rate": [2e-4, 1e-3]}
    assert [run["tokens"] for run in document["runs"]] == [300, 300]
    assert here("compare", first.id).exit_code == 2
    second.spec_path.write_text("version: 99")
    assert here("compare", first.id, second.id).exit_code == 2
