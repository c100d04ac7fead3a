"""Which runs can answer beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.chat.one_base import why_not_together
from engine.jobs.subject import Subject
from engine.runs.store import Run
from engine.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def subject(name: str, spec: RunSpec) -> Subject:
    return Subject(Run(Path(name)), spec, Path(name) / "adapter", None)


def test_runs_of_one_base_can_whatever_else_they_differ_in(tiny_spec: MakeSpec) -> None:
    other = tiny_spec(lora={"r": 4, "use_dora": True}, data={"max_length": 32}, model={"attn_implementation": "eager"})
    assert why_not_together(subject("one", tiny_spec()), subject("two", other)) == ""


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"name_or_path": "/models/other"}}, "model.name_or_path is /models/other there, and /"),
        ({"model": {"dtype": "float32"}}, "model.dtype is float32 there, and bfloat16 here"),
        ({"quantization": {"load_in": "none"}}, "quantization.load_in is none there, and 4bit here"),
    ],
)
def test_others_are_refused_with_what_differs(sections: dict[str, Any], words: str, tiny_spec: MakeSpec) -> None:
    reason = why_not_together(subject("one", tiny_spec()), subject("two", tiny_spec(**sections)))
    assert reason.startswith("two has another base than one: ")
    assert words in reason
