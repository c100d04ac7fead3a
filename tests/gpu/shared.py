"""A 4-bit model put on a GPU by FSDP, against the same one loaded there: `python -m tests.gpu.shared MODEL FOLDER`.

One process is enough to see that weights which were quantized in host memory arrive unit by unit, and their scales with
them. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from engine.prepare import prepare
from tests.gpu.runs import spec_for


def main(model: str, folder: str) -> int:
    import torch
    import torch.distributed as dist
    from peft import get_peft_model
    from peft.utils.other import fsdp_auto_wrap_policy
    from torch.distributed.fsdp import FullyShardedDataParallel

    from engine.worker.model import load_model, lora_config
    from engine.worker.wrapping import check_units

    alone = prepare(spec_for(Path(model), "nf4", Path(folder)), Path(folder))
    hardware = alone.hardware.model_copy(update={"strategy": "fsdp", "num_processes": 2})
    storage = alone.quantization.model_copy(
        update={"bnb_4bit_quant_storage": alone.quantization.bnb_4bit_compute_dtype}
    )
    shared = alone.model_copy(update={"hardware": hardware, "quantization": storage})
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    torch.cuda.set_device(0)
    dist.init_process_group("nccl")

    tokens = torch.arange(64, device="cuda").reshape(2, 32)
    answers, held = [], []
    for spec in (alone, shared):
        torch.manual_seed(0)
        adapted = get_peft_model(
            load_model(spec, to_share=spec is shared), lora_config(spec.lora), autocast_adapter_dtype=False
        )
        if spec is shared:
            assert {parameter.device.type for parameter in adapted.parameters()} == {"cpu"}
            check_units(adapted)
            adapted = FullyShardedDataParallel(
                adapted, auto_wrap_policy=fsdp_auto_wrap_policy(adapted), device_id=torch.device("cuda", 0)
            )
        with torch.no_grad():
            answers.append(adapted(input_ids=tokens).logits.float())
        held.append(torch.cuda.memory_allocated())
        del adapted
        torch.cuda.empty_cache()
    difference = (answers[0] - answers[1]).abs().max() / answers[0].abs().max()
    print(json.dumps({"difference": float(difference), "held_bytes": held}))
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
