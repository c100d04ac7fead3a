"""What processes on several machines have to have in common before they train: checkpoint, rows, base weights."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import torch

from engine.runs.store import Run, checkpoint_step, staged_folder
from engine.spec import RunSpec
from engine.worker.data.run_data import RunData
from engine.worker.failures import BadSpec
from engine.worker.ranks import Ranks

SHOWN_LATE_S = 90.0
"""NFS may keep a listing for a minute (nfs(5), acdirmax)."""
PIECE_BYTES = 64 * 2**20
LOOKED_AT = 1024
"""Rows of the embeddings."""


def agreed_checkpoint(run: Run, ranks: Ranks) -> Path | None:
    """The newest checkpoint that any machine has, in this machine's run folder too when this returns; None where none
    has any. To be called by all.

    When a link is cut one machine may have taken a step that another has not: both go on from the later one.
    """
    own = run.newest_checkpoint()
    if not ranks.are_several:
        return own
    steps = ranks.gathered(checkpoint_step(own) if own is not None and ranks.keeps else 0)
    newest = max(steps)
    if newest == 0:
        return None
    final = run.checkpoints_folder / f"checkpoint-{newest}"
    is_lacking = any(ranks.gathered(ranks.keeps and not final.exists()))
    if is_lacking:
        _send(final, ranks, source=steps.index(newest))
    _wait_for(final)
    return final


def _send(final: Path, ranks: Ranks, source: int) -> None:
    """Bring the checkpoint of the process `source` to all machines that lack it. Raises OSError."""
    has_it = ranks.place.rank == source
    writes = ranks.keeps and not final.exists()
    files = sorted(path for path in final.rglob("*") if path.is_file()) if has_it else []
    listed = [(str(path.relative_to(final)), path.stat().st_size) for path in files]
    listed = json.loads(ranks.sent(json.dumps(listed).encode() if has_it else None, source))
    with staged_folder(final) if writes else nullcontext(final) as folder:
        for name, size in listed:
            with _opened(folder, name, "wb" if writes else "rb") if writes or has_it else nullcontext() as file:
                for _ in range(0, size, PIECE_BYTES):
                    piece = ranks.sent(file.read(PIECE_BYTES) if has_it and file is not None else None, source)
                    if writes and file is not None:
                        file.write(piece)


def _opened(folder: Path, name: str, mode: str) -> IO[bytes]:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"{name} is no file of a checkpoint")
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, mode)


def check_same_rows(data: RunData, spec: RunSpec, ranks: Ranks) -> None:
    """Raises BadSpec where the machines do not learn from the same rows. To be called by all."""
    if spec.hardware.num_machines == 1:
        return
    store, held_out = data.train.store, data.held_out
    seen = [
        data.report.train.content,
        None if data.report.eval is None else data.report.eval.content,
        0 if held_out is None else len(held_out),
        len(data.train),
        int(store.lengths.sum()),
        int(store.learnt.sum()),
    ]
    _check_same("rows", seen, "Copy the same rows, and the same tokenizer, to all machines.", spec, ranks)


def check_same_weights(model: Any, spec: RunSpec, ranks: Ranks) -> None:
    """Raises BadSpec where the machines have loaded other base models, as far as their embeddings show. To be called by
    all."""
    if spec.hardware.num_machines == 1:
        return
    first = model.get_input_embeddings().weight[:LOOKED_AT].detach().cpu().contiguous()
    seen = [str(first.dtype), list(first.shape), hashlib.sha256(first.view(torch.uint8).numpy().tobytes()).hexdigest()]
    _check_same("base weights", seen, "Give all machines the same model.", spec, ranks)


def _check_same(what: str, own: list[Any], hint: str, spec: RunSpec, ranks: Ranks) -> None:
    hardware, of_all = spec.hardware, ranks.gathered(own)
    other = next((rank for rank, seen in enumerate(of_all) if seen != of_all[0]), None)
    if other is not None:
        machines = hardware.machines_in_order
        which = machines[other // hardware.processes_here].as_subject
        raise BadSpec(f"{which} has other {what} than {machines[0].name}.", hint)


def _wait_for(checkpoint: Path) -> None:
    deadline = time.monotonic() + SHOWN_LATE_S
    while not checkpoint.is_dir():
        if time.monotonic() > deadline:
            raise BadSpec(f"{checkpoint} is not here, and machine 0 has it: the machines do not share this folder.")
        time.sleep(0.2)
