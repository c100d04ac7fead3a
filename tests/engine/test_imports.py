"""What may import what, seen in fresh processes: the training stack stays out of the person's process."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import engine
import tui

HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "numpy"}


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["engine.cli.main", "tui.app", "tui.__main__", "engine.runs.supervisor"])
def test_it_loads_nothing_of_the_training_stack(module: str) -> None:
    assert loaded_after(f"import {module}") & HEAVY == set()


def test_no_module_outside_the_worker_loads_the_training_stack() -> None:
    modules = [
        info.name
        for package in (engine, tui)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not info.name.startswith("engine.worker")
    ]
    assert "engine.prepare" in modules
    assert loaded_after(f"import {', '.join(modules)}") & HEAVY == set()


def test_the_engine_does_not_load_textual() -> None:
    assert "textual" not in loaded_after("import engine.cli.main, engine.prepare, engine.demo, engine.runs.supervisor")
