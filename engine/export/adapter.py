"""An adapter folder to hand on: as plain PEFT and vLLM read it, with its tokenizer, chat template and model card."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.export import ExportRefused
from engine.export.adapter_file import CONFIG, tensor_shapes
from engine.export.base import Base, base_of
from engine.export.card import card_of
from engine.export.vllm import Finding, findings
from engine.jobs.subject import Subject
from engine.runs.store import staged_folder

OF_TRAINING = ("training_state.safetensors", "trainer_state.json", "README.md")
"""What a checkpoint's folder has besides: what a resume needs, and PEFT's empty card."""
CARD = "README.md"


@dataclass(frozen=True)
class ExportedAdapter:
    """What was written."""

    folder: Path
    files: dict[str, int]
    """Name -> size in bytes."""
    base: Base
    vllm: list[Finding]

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def export_adapter(subject: Subject, folder: Path, said_base: str | None = None) -> ExportedAdapter:
    """Write the folder, whole or not at all. Raises ExportRefused, and OSError where the disk does not take it."""
    base = base_of(subject.spec, said_base)
    config = _config(subject.adapter)
    found = findings(config, tensor_shapes(subject.adapter))
    try:
        with staged_folder(folder) as staging:
            for path in sorted(subject.adapter.iterdir()):
                if path.name in OF_TRAINING or path.name.startswith("."):
                    continue
                if path.is_dir():
                    shutil.copytree(path, staging / path.name)
                else:
                    shutil.copyfile(path, staging / path.name)
            named = {**config, "base_model_name_or_path": base.name, "revision": base.revision}
            (staging / CONFIG).write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (staging / CARD).write_text(card_of(subject, base, found), encoding="utf-8")
    except FileExistsError:
        raise ExportRefused(f"{folder} exists and is left as it is. Choose another name.") from None
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return ExportedAdapter(folder, files, base, found)


def _config(adapter: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads((adapter / CONFIG).read_bytes())
        if config["peft_type"] != "LORA":
            raise ExportRefused(f"The adapter in {adapter} is {config['peft_type']}, and only LoRA is known here.")
        int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ExportRefused):
            raise
        raise ExportRefused(f"{adapter / CONFIG} cannot be read: {error}. Take another checkpoint.") from None
    return dict(config)
