"""A merged model as one GGUF file, by the converter of a person's own llama.cpp checkout."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.export import ExportRefused
from engine.export.merged import merged_config
from engine.export.writing import refuse_existing
from engine.units import amount

GgufType = Literal["bf16", "f16", "f32", "q8_0", "auto"]
TYPES: tuple[GgufType, ...] = get_args(GgufType)
CONVERTER = "convert_hf_to_gguf.py"
OLD_CONVERTERS = ("convert-hf-to-gguf.py", "convert.py")
BYTES_PER_WEIGHT = {"bf16": 2.0, "f16": 2.0, "f32": 4.0, "q8_0": 34 / 32, "auto": 2.0}
"""Of q8_0: 32 weights of a byte each and their scale in 16 bits."""
SHOWN_LINES = 8
MAGIC = b"GGUF"

OnLine = Callable[[str], None]


class ConversionFailed(Exception):
    """The converter ran and made no file. The message is for the person."""


@dataclass(frozen=True)
class ExportedGguf:
    """What was written."""

    path: Path
    size_bytes: int


def converter_of(checkout: Path) -> Path:
    """The script of a llama.cpp checkout. Raises ExportRefused where there is none."""
    script = checkout / CONVERTER
    if script.is_file():
        return script
    if not checkout.exists():
        raise ExportRefused(
            f"There is no {checkout}. --llama-cpp is the folder of a checkout of ggml-org/llama.cpp (git clone)."
        )
    for old in OLD_CONVERTERS:
        if (checkout / old).is_file():
            raise ExportRefused(f"{checkout} is an old llama.cpp: it has {old} and no {CONVERTER}. Update it.")
    raise ExportRefused(f"{checkout} has no {CONVERTER}: it is no llama.cpp checkout, or a build without its scripts.")


def export_gguf(
    folder: Path, checkout: Path, out_type: GgufType = "bf16", output: Path | None = None, on_line: OnLine | None = None
) -> ExportedGguf:
    """Convert the merged model in `folder` into one file, by default in the folder itself; it appears when it is whole.

    `on_line` is told what the converter says. Raises ExportRefused, ConversionFailed and OSError; the converter does
    not outlive this call.
    """
    script = converter_of(checkout.expanduser().absolute())
    folder = folder.expanduser().absolute()
    merged_config(folder)
    if output is None:
        output = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.name)}-{out_type}.gguf"
    refuse_existing(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _check_space(folder, output.parent, out_type)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as staging:
        staged = Path(staging) / output.name
        _convert([sys.executable, str(script), str(folder), "--outfile", str(staged), "--outtype", out_type], on_line)
        if not staged.is_file():
            raise ConversionFailed(f"{CONVERTER} ended well and wrote no file.")
        with staged.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ConversionFailed(f"{CONVERTER} wrote something that is no GGUF file.")
            os.fsync(file.fileno())
        refuse_existing(output)
        os.chmod(staged, 0o644)
        staged.rename(output)
    return ExportedGguf(output, output.stat().st_size)


def _check_space(folder: Path, target: Path, out_type: GgufType) -> None:
    """Raises ExportRefused where the file would not fit. A merged model's weights are of 16 bits."""
    weights_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed_bytes = int(weights_bytes / 2 * BYTES_PER_WEIGHT[out_type])
    free_bytes = shutil.disk_usage(target).free
    if free_bytes < needed_bytes:
        raise ExportRefused(
            f"The file takes about {amount(needed_bytes)}, and the disk of {target} has {amount(free_bytes)} free."
        )


def _convert(command: list[str], on_line: OnLine | None) -> None:
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for this program, which then ends the converter
        env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        missing = next((line for line in last if "ModuleNotFoundError" in line), None)
        hint = (
            f"\nInstall what it needs: pip install -r {Path(command[1]).parent / 'requirements.txt'}" if missing else ""
        )
        said = "\n".join(f"  {line}" for line in last)
        raise ConversionFailed(f"{CONVERTER} {how}. Its last words:\n{said}{hint}")
