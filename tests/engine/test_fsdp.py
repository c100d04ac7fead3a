"""FSDP on the CPU: two processes with gloo share a real model; torch's own sharding, accelerate's launcher."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.runs.launch import launch
from engine.spec import RunSpec
from tests.conftest import losses, wait_for_end
from tests.engine.test_ddp import spec_of, uneven_rows  # noqa: F401
from tests.engine.worker.training import events_of, fit, new_run

MakeSpec = Callable[..., RunSpec]


def shared(spec: RunSpec) -> RunSpec:
    raw = spec.model_dump()
    raw["hardware"] |= {"strategy": "fsdp"}
    raw["quantization"] |= {"bnb_4bit_quant_storage": "bfloat16"}
    return RunSpec.model_validate(raw)


@pytest.mark.parametrize("load_in", ["4bit", "none"])
def test_losses(tiny_spec: MakeSpec, uneven_rows: str, tmp_path, load_in: str) -> None:
    several = launch(shared(spec_of(tiny_spec, uneven_rows, 2, 2, load_in)))
    status = wait_for_end(several)
    print(several.log_path.read_text()[-6000:])
    assert status.state == "finished", several.log_path.read_text()
    alone = new_run(tmp_path / "alone", spec_of(tiny_spec, uneven_rows, 1, 4, load_in))
    assert fit(alone)
    print(losses(several), losses(alone))
    assert losses(several) == pytest.approx(losses(alone), abs=1e-3)
    measured = [[event["eval_loss"] for event in events_of(run, "eval")] for run in (several, alone)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)
