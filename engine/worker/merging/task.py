"""The task `merge`: the adapter answers, then each merge is written, loaded as plain transformers load it, and answers.

Request: `{"spec", "adapter": folder, "bases": ["16bit", "dequantized"], "dtype", "folder", "rows", "shard_bytes"}`.
Each merge is left in a folder of its base's name in `folder`. Events: `needs` (fields of `Needs` in
`engine.merging.report`), `progress` with `doing` (`rows`, `adapter`, `merge`, `check`), `base`, `done`, `total`. The
result holds fields of `MergeReport` there.
"""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from engine.architecture import installed_versions
from engine.merging.report import BASE_WORDS, Base, Candidate
from engine.spec import RunSpec
from engine.worker.failures import BadSpec
from engine.worker.job import Tell, run_one
from engine.worker.loaded import answer_fast, load_base, load_tokenizer_of, put_on
from engine.worker.merging.compare import compare, logits_of
from engine.worker.merging.finish import finish
from engine.worker.merging.opened import CannotStream, NoSuchBase
from engine.worker.merging.peak import PeakMemory
from engine.worker.merging.rows import RowsToCheck, rows_to_check
from engine.worker.merging.sizes import predicted_needs
from engine.worker.merging.speed import Answers, answer, prompts_of, speeds
from engine.worker.merging.stream import Written, merge_streamed
from engine.worker.merging.whole import merge_whole
from engine.worker.model import give_freed_heap_back, model_class, torch_device


def main() -> int:
    return run_one(merge, "merging")


class Merging:
    """One request, from its first row to its last merge."""

    def __init__(self, request: dict[str, Any], tell: Tell) -> None:
        self.spec = RunSpec.model_validate(request["spec"])
        self.adapter = Path(request["adapter"])
        self.folder = Path(request["folder"])
        self.dtype: torch.dtype = getattr(torch, request["dtype"])
        self.shard_bytes: int = request["shard_bytes"]
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []
        self._tell = tell
        self._began = time.monotonic()

    def progress(self, doing: str, done: int = 0, total: int | None = None, base: Base | None = None) -> None:
        self._tell("progress", doing=doing, base=base, done=done, total=total)

    def took(self, what: str) -> float:
        """Seconds since the last part ended, noted under `what`."""
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds
        return seconds

    def as_trained(self, rows: RowsToCheck) -> tuple[list[torch.Tensor], Answers]:
        """Logits and answers of the adapter on the base that it was trained on."""
        self.progress("adapter")
        model = put_on(load_base(self.spec), self.adapter)
        logits = logits_of(model, rows)
        answer_fast(model)
        answers = answer(model, prompts_of(rows), rows.encoder.tokenizer.pad_token_id)
        self.took("adapter")
        return logits, answers

    def write(self, base: Base) -> tuple[Written, str]:
        """The merged model in a folder of its own; why it was not merged layer by layer, if it was not."""
        final = self.folder / base
        dequantized, why_whole = base == "dequantized", ""
        final.mkdir()
        try:
            written = merge_streamed(
                self.spec,
                self.adapter,
                final,
                dequantized,
                self.dtype,
                self.shard_bytes,
                lambda done, total: self.progress("merge", done, total, base),
                torch_device(self.spec),
            )
        except CannotStream as reason:
            why_whole = str(reason)
            shutil.rmtree(final)
            final.mkdir()
            written = merge_whole(self.spec, self.adapter, final, dequantized, self.dtype, self.shard_bytes)
        tokenizer = load_tokenizer_of(self.spec, self.adapter)
        finish(self.spec, final, written.config, self.dtype, tokenizer)
        embedded = written.config.get_text_config(decoder=True).vocab_size
        if len(tokenizer) > embedded:
            self.warnings.append(
                f"The tokenizer has {len(tokenizer):,} tokens and the model embeddings for {embedded:,}: a text with "
                "one of the others cannot be answered, before the merge or after it."
            )
        return written, why_whole

    def load_merged(self, base: Base) -> PreTrainedModel:
        """As anybody would load it; on the CPU where the GPU has not room for it in 16 bits."""
        folder, device = self.folder / base, torch_device(self.spec)
        if device != "cpu":
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            if size * 1.2 > torch.cuda.mem_get_info()[0]:
                device = "cpu"
                self.warnings.append("The merged model was checked on the CPU: the GPU has not room for it.")
        model = model_class(self.spec).from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(folder, trust_remote_code=self.spec.model.trust_remote_code),
            dtype=self.dtype,
            device_map={"": device},
            attn_implementation=self.spec.model.attn_implementation,
            trust_remote_code=self.spec.model.trust_remote_code,
            use_safetensors=True,
        )
        model.eval()
        checked: PreTrainedModel = model
        return checked


def merge(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Do all of it. Raises BadSpec, OSError."""
    transformers_logging.disable_progress_bar()
    job, bases = Merging(request, tell), request["bases"]
    with PeakMemory() as peak:
        job.progress("rows")
        rows = rows_to_check(job.spec, request["rows"], _vocabulary(job.spec))
        needs = predicted_needs(job.spec, job.adapter, job.folder, job.dtype, len(bases), job.shard_bytes, rows)
        tell("needs", **asdict(needs))
        # Whoever asked ends this process where the disk has not room enough.
        job.took("rows")
        logits, answers = job.as_trained(rows)
        candidates = []
        for base in bases:
            try:
                candidates.append(_candidate(job, base, rows, logits, answers))
            except NoSuchBase as error:
                if base == bases[-1] and not candidates:
                    raise
                job.warnings.append(str(error))
    return {
        "candidates": [asdict(candidate) for candidate in candidates],
        "rows_kind": rows.kind,
        "rows": len(rows.rows),
        "needs": asdict(needs),
        "measured_peak_bytes": peak.private_bytes,
        "measured_resident_bytes": peak.resident_bytes,
        "seconds": job.seconds,
        "versions": installed_versions(),
        "warnings": list(dict.fromkeys(job.warnings)),
    }


def _candidate(job: Merging, base: Base, rows: RowsToCheck, logits: list[torch.Tensor], answers: Answers) -> Candidate:
    _give_memory_back()
    try:
        written, why_whole = job.write(base)
    except ValueError as error:
        if "NaNs detected" in str(error):
            raise BadSpec(
                f"The adapter in {job.adapter} holds values that are no numbers: merged onto {BASE_WORDS[base]} they "
                "would make weights that are none.",
                "Take an earlier checkpoint.",
            ) from error
        raise
    merge_s = job.took("merge")
    _give_memory_back()
    job.progress("check", base=base)
    model = job.load_merged(base)
    difference = compare(logits, model, rows)
    merged_answers = answer(model, prompts_of(rows), rows.encoder.tokenizer.pad_token_id)
    job.took("check")
    return Candidate(
        base=base,
        difference=difference,
        speed=speeds(answers, merged_answers),
        size_bytes=written.size_bytes,
        files=written.files,
        merge_s=merge_s,
        streamed=not why_whole,
        why_whole=why_whole,
    )


def _vocabulary(spec: RunSpec) -> int:
    """Tokens that the base has logits for. Raises BadSpec where it is gone."""
    name = spec.model.name_or_path
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise BadSpec(f"The base model is gone: {name} is no folder.", "Put it back where the run found it.")
    config = AutoConfig.from_pretrained(
        name, revision=spec.model.revision or "main", trust_remote_code=spec.model.trust_remote_code
    )
    size: int = config.get_text_config(decoder=True).vocab_size
    return size


def _give_memory_back() -> None:
    gc.collect()
    give_freed_heap_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
