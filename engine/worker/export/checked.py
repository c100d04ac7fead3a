"""A script that is handed out only after it was compared with its run."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from engine.spec import RunSpec
from engine.worker.data.run_data import RunData, load_data
from engine.worker.export.check import MOST_ROWS, Differs, check
from engine.worker.export.facts import cannot, facts_of
from engine.worker.export.script import script_of
from engine.worker.export.settings import in_one_process, of_several
from engine.worker.failures import BadSpec
from engine.worker.job import Tell

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


def exported_script(spec: RunSpec, run_id: str, tell: Tell) -> dict[str, Any]:
    """The result of the request `script` (`engine.worker.export.task`). Raises BadSpec where none would be right."""
    if spec.parent is not None and spec.parent.checkpoint is not None:
        raise BadSpec(
            f"This run went on from a checkpoint of {spec.parent.run}: no script alone can do what it did.",
            "Export the script of that run, or start a run with these settings anew.",
        )
    tell("progress", doing="data", done=0, total=None)
    data = load_data(spec)
    text, compared = checked_script(spec, run_id, data, tell)
    rows = len(data.rows.train) + len(data.rows.held_out)
    return {"text": text, "rows_checked": compared, "rows": rows, "notes": notes_of(spec, compared, rows)}


def checked_script(spec: RunSpec, run_id: str, data: RunData, tell: Tell) -> tuple[str, int]:
    """The script, and how many rows of it were compared with the run's. Raises BadSpec where they differ."""
    remark, spec = of_several(spec), in_one_process(spec)
    facts = facts_of(spec, data)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    difference = ""
    # What TRL makes of marked turns is shorter to write, and mostly the same.
    for exact in (False, True):
        text = script_of(spec, run_id, versions, data.encoder, facts, exact, remark)
        try:
            return text, check(
                text, spec, data, lambda done, total: tell("progress", doing="check", done=done, total=total)
            )
        except Differs as differs:
            difference = str(differs)
        except Exception as error:  # whatever the script runs into that the run did not
            difference = f"it ends with {type(error).__name__}: {str(error)[:200]}"
        if data.encoder.learns != "turns" or not facts.conversations:
            break
    raise cannot(difference)


def notes_of(spec: RunSpec, compared: int, rows: int) -> list[str]:
    """What a person has to know of the script."""
    notes = [remark] if (remark := of_several(spec)) else []
    if compared < rows:
        notes.append(f"Of {rows:,} rows {compared:,} were compared ({MOST_ROWS:,} of each side at most).")
    if spec.data.samples or spec.data.sample_prompts:
        notes.append("The answers to prompts (data.samples, data.sample_prompts) are not in it.")
    if spec.hardware.memory_limit is not None:
        notes.append("hardware.memory_limit is not in it.")
    return notes
