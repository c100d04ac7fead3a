"""Merging a run's adapter, with a worker process for the work and a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.checks import InvalidSpec, Problem
from engine.jobs.device import on_device
from engine.jobs.process import IsCancelled, JobFailed, OnEvent, run_job
from engine.jobs.subject import Subject
from engine.merging.choice import choose
from engine.merging.needs import lacks_room
from engine.merging.report import (
    BASES,
    REPORT_NAME,
    BaseChoice,
    DType,
    MergeReport,
    Needs,
    candidate_from_json,
)
from engine.merging.staging import merging_folder, put_in_place

CHECKED_ROWS = 16
"""Rows on which a merge is compared with its adapter."""
SHARD_BYTES = 10**9
"""Largest file of weights, which is gathered in memory before it is written."""


class MergeRejected(Exception):
    """No merge passes its check, and none is left on the disk; `report` says what was measured."""

    def __init__(self, report: MergeReport) -> None:
        super().__init__(report.reason)
        self.report = report


def merge(
    subject: Subject,
    output: Path,
    base: BaseChoice = "auto",
    dtype: DType | None = None,
    device: str | None = None,
    keep_anyway: bool = False,
    on_event: OnEvent | None = None,
    is_cancelled: IsCancelled | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> MergeReport:
    """Merge `subject` into the folder `output`, which appears when it is whole and has passed its check.

    `base` auto tries both ways where the run was quantized, and takes the closer. `dtype` is that of the weights
    written; None is the one that the run loaded the base in. Told are events `needs` (its fields are those of Needs)
    and `progress` (`doing`, `base`, `done`, `total`).
    Raises InvalidSpec for a base or a device that is not there, OutputExists, MergeRejected, JobFailed, JobCancelled,
    OSError. The run is only read.
    """
    spec = on_device(subject.spec, device)
    where = spec.hardware.device
    written_in = dtype or spec.model.dtype
    assert written_in != "auto", "a run's spec is resolved"
    quantized = spec.quantization.load_in != "none"
    if base == "dequantized" and not quantized:
        raise InvalidSpec(
            [Problem("--base", "the run was not quantized: there is nothing to dequantize", "write 16bit")]
        )
    bases = [base] if base != "auto" else list(BASES) if quantized else ["16bit"]
    output = output.absolute()
    with merging_folder(output) as folder:
        request: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "adapter": str(subject.adapter),
            "bases": bases,
            "dtype": written_in,
            "folder": str(folder),
            "rows": CHECKED_ROWS,
            "shard_bytes": shard_bytes,
        }

        def heard(event: dict[str, Any]) -> None:
            if on_event is not None:
                on_event(event)
            if event["type"] == "needs" and (lacking := lacks_room(needs_from(event))) is not None:
                raise JobFailed(lacking, "Free some space, or choose a folder elsewhere.", "disk-full")

        result = run_job("merge", request, "Merging", where, heard, is_cancelled)
        candidates = tuple(candidate_from_json(each) for each in result.pop("candidates"))
        taken, passed, reason = choose(candidates, keep_anyway)
        report = MergeReport(
            run_id=subject.run.id,
            step=subject.step,
            model=spec.model.name_or_path,
            revision=spec.model.revision,
            adapter=str(subject.adapter),
            quantization=_quantization(spec.quantization),
            dtype=written_in,
            candidates=candidates,
            taken=taken,
            passed=passed,
            reason=reason,
            device=where,
            needs=Needs(**result.pop("needs")),
            warnings=tuple(result.pop("warnings")),
            **result,
        )
        if taken is None:
            raise MergeRejected(report)
        merged = folder / taken
        (merged / REPORT_NAME).write_text(report.text(), encoding="utf-8")
        put_in_place(merged, output)
    return report


def needs_from(event: Mapping[str, Any]) -> Needs:
    """What an event `needs` tells."""
    return Needs(**{key: value for key, value in event.items() if key != "type"})


def _quantization(settings: Any) -> str:
    if settings.load_in != "4bit":
        return str(settings.load_in)
    double = ", double quantization" if settings.bnb_4bit_use_double_quant else ""
    return f"4bit {settings.bnb_4bit_quant_type}{double}"
