from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "numpy")
ENGINE_OF_THE_FORM = ("pydantic", "typer", "psutil", "pynvml")


@pytest.mark.parametrize(
    "module", ["tui.app", "tui.screens.opening", "tui.screens.runs", "tui.screens.monitor", "tui.watching.state"]
)
def test_the_app_starts_without_the_training_stack(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {HEAVY + ENGINE_OF_THE_FORM!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_plan_needs_no_training_stack_either() -> None:
    program = f"import sys, tui.screens.plan, tui.commands; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
