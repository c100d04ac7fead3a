"""What torch sees of this machine, as one line of JSON: `python -m engine.worker probe`."""

from __future__ import annotations

import json

import torch


def main(_arguments: list[str]) -> int:
    has_cuda = torch.cuda.is_available()
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "built_for_cuda": torch.version.cuda,
                "cuda_is_available": has_cuda,
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
                "bf16": torch.cuda.is_bf16_supported(including_emulation=False) if has_cuda else True,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
        )
    )
    return 0
