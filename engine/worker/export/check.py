"""The proof that a script does what its run did: its settings, and each row's tokens and labels, side by side."""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from trl import SFTConfig

from engine.spec import RunSpec
from engine.worker.data.run_data import RunData
from engine.worker.data.sequences import Sequences
from engine.worker.data.store import RowView
from engine.worker.export.settings import OF_ONE_MACHINE, as_plain, run_config
from engine.worker.model import lora_config, quantization_config

MOST_ROWS = 20_000
"""Of each side so many are compared; what is beyond is read by the same code."""

OnProgress = Callable[[int, int], None]


class Differs(Exception):
    """The script is not the run; the message says where."""


def check(text: str, spec: RunSpec, data: RunData, on_progress: OnProgress) -> int:
    """Rows that were compared. Raises Differs, and whatever the script raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.py"
        path.write_text(text, encoding="utf-8")
        script = runpy.run_path(str(path), run_name="script")
    _check_settings(script, spec)
    return _check_rows(script, spec, data, on_progress)


def _check_settings(script: dict[str, Any], spec: RunSpec) -> None:
    for_cpu = {"use_cpu": True, "dataloader_pin_memory": False, "tf32": None, "report_to": "none"}
    theirs = as_plain(SFTConfig(output_dir="output", **{**script["TRAINING"], **for_cpu}))
    _compare("SFTConfig", theirs, as_plain(run_config(spec)), OF_ONE_MACHINE)
    _compare("LoraConfig", script["LORA"].to_dict(), lora_config(spec.lora).to_dict())
    ours = quantization_config(spec)
    quantization = script["QUANTIZATION"]
    _compare(
        "BitsAndBytesConfig",
        {} if quantization is None else quantization.to_dict(),
        {} if ours is None else ours.to_dict(),
    )


def _compare(what: str, theirs: dict[str, Any], ours: dict[str, Any], but: Iterable[str] = ()) -> None:
    for name in ours:
        if name not in but and theirs.get(name) != ours[name]:
            raise Differs(f"{what}.{name} would be {theirs.get(name)!r}, and was {ours[name]!r}")


def _check_rows(script: dict[str, Any], spec: RunSpec, data: RunData, on_progress: OnProgress) -> int:
    tokenizer = script["load_tokenizer"]()
    sides = [(data.train, data.rows.train)]
    if data.held_out is not None:
        sides.append((data.held_out, data.rows.held_out))
    total = sum(min(len(view), MOST_ROWS) for _, view in sides)
    compared = 0
    for sequences, view in sides:
        is_train = sequences is data.train
        examples = _examples(script, spec, is_train)
        for index, example in enumerate(islice(examples, min(len(view), MOST_ROWS))):
            _compare_row(script["encode"](tokenizer, example), example, sequences, view, index)
            compared += 1
            if compared % 200 == 0:
                on_progress(compared, total)
        if len(view) <= MOST_ROWS and next(examples, None) is not None:
            raise Differs("the script reads more rows")
    if all(len(view) <= MOST_ROWS for _, view in sides):
        for theirs, ours in zip(script["load_data"](tokenizer), (data.train, data.held_out), strict=True):
            _compare_sequences(theirs, ours)
    return compared


def _examples(script: dict[str, Any], spec: RunSpec, is_train: bool) -> Any:
    if not is_train and "HELD_OUT" in script:
        return script["load_rows"](script["HELD_OUT"])
    examples = script["load_rows"](script["TRAIN"])
    if "HELD_OUT_SHARE" in script:
        return (example for example in examples if script["is_held_out"](example) is not is_train)
    return examples


def _compare_row(
    encoded: tuple[list[int], list[int]], example: dict[str, Any], sequences: Sequences, view: RowView, index: int
) -> None:
    ids, labels = sequences.store.read(index)
    if encoded[0] == ids.tolist() and encoded[1] == labels.tolist():
        return
    what = "tokens" if encoded[0] != ids.tolist() else "labels"
    if example != view[index]:
        what = "text"
    raise Differs(f"the {what} of {view.where(index)} would be another one")


def _compare_sequences(theirs: Any, ours: Sequences | None) -> None:
    if ours is None or theirs is None:
        if ours is not theirs:
            raise Differs("the held-out rows would be others")
        return
    if len(theirs) != len(ours):
        raise Differs(f"it would train on {len(theirs):,} sequences, and the run had {len(ours):,}")
    for index in range(len(ours)):
        wanted, given = ours[index], theirs[index]
        same = all(np.array_equal(given[name], wanted[name]) for name in wanted)
        if not same:
            raise Differs(f"sequence {index} of the rows would be another one")
