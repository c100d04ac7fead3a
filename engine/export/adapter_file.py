"""What an adapter's weights are, read from the header of their file: no tensor is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from engine.export import ExportRefused

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MOST_HEADER_BYTES = 100 * 2**20
"""As the safetensors library has it."""


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Full name of each tensor of the adapter in `folder` -> its shape.

    The file is 8 bytes with the header's length (little endian), the header as JSON, and the tensors one behind the
    other. Raises ExportRefused where it is missing, cut off or garbled.
    """
    path = folder / WEIGHTS
    try:
        size_bytes = path.stat().st_size
        with open(path, "rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > MOST_HEADER_BYTES:
                raise ValueError("its header is no header")
            header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        end_bytes = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if size_bytes != 8 + header_bytes + end_bytes:
            raise ValueError(f"it should be {8 + header_bytes + end_bytes:,} bytes long, and is {size_bytes:,}")
        return {name: tuple(tensor["shape"]) for name, tensor in header.items()}
    except FileNotFoundError:
        raise ExportRefused(f"There is no adapter in {folder}: {WEIGHTS} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ExportRefused(f"The adapter in {folder} cannot be read: {error}. Take another checkpoint.") from None
