"""What is said when memory ran out, from the event alone."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs.oom_words import part_of, what_happened, what_is_safe, where, who_held_it
from tests.tui.conftest import GIB
from tests.tui.oom_runs import MIB, OOM
from tui.glyphs import ASCII, UNICODE
from tui.out_of_memory.bar import who_held


def oom(**changes: Any) -> dict[str, Any]:
    return {**OOM, **changes}


def test_two_sentences_say_where_it_was_and_who_held_the_memory() -> None:
    assert what_happened(oom()) == [
        "Out of memory in the backward pass at step 37, on a batch of 4 rows x 1,024 tokens (its longest row).",
        "PyTorch wanted 512 MiB more; this run held 10.9 of 11.6 GiB, "
        "another process (ollama, pid 4121, anna) 614 MiB.",
    ]
    assert what_is_safe(oom(), "checkpoint-30", 7) == "Nothing is lost: checkpoint-30 is safe, 7 steps to repeat."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "load"}, "Out of memory while the model was loaded."),
        ({"phase": "optimizer", "batch_shape": None}, "Out of memory in the optimizer's update at step 37."),
        (
            {"phase": "forward", "longest_row_tokens": 900},
            "Out of memory in the forward pass at step 37, on a batch of 4 rows x 1,024 tokens (longest row 900).",
        ),
        (
            {"phase": "eval", "batch_shape": [1, 64], "longest_row_tokens": 64},
            "Out of memory in the evaluation after step 37, on a batch of 1 row x 64 tokens.",
        ),
        ({"phase": "eval", "step": 0, "batch_shape": None}, "Out of memory in the evaluation before the first step."),
        ({"phase": "save", "step": 30}, "Out of memory while a checkpoint was saved at step 30."),
        (
            {"preflight": True, "step": 0, "longest_row_tokens": None},
            "Out of memory in the preflight, before the first step: in the backward pass, on the largest batch that "
            "this data forms, 4 rows x 1,024 tokens.",
        ),
        (
            {"raised_by": "kernel", "batch_shape": None},
            "Linux ended the run, as the machine had no memory left, at step 37.",
        ),
        ({"phase": "somewhere", "step": None, "batch_shape": "4x8"}, "Out of memory."),
    ],
)
def test_each_phase_has_its_own_words(changes: dict[str, Any], said: str) -> None:
    assert where(oom(**changes)) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda:3"}, "Out of memory on rank 1 (GPU 3) in the backward pass at step 37, on a batch of"),
        ({"device": "cpu"}, "Out of memory on rank 1 in the backward pass at step 37, on a batch of"),
        ({}, "Out of memory on rank 1 in the backward pass at step 37, on a batch of"),
        ({"raised_by": "kernel", "device": "cpu"}, "Linux ended rank 1, as the machine had no memory left, at step"),
    ],
)
def test_of_several_processes_the_rank_and_its_gpu_are_named(changes: dict[str, Any], said: str) -> None:
    assert where(oom(rank=1, **changes)).startswith(said)


def test_a_ranks_memory_is_called_its_own_and_on_the_host_other_ranks_are_among_the_others() -> None:
    assert "this rank held 10.9 of 11.6 GiB, another process" in who_held_it(oom(rank=0, device="cuda:0"))
    on_host = oom(rank=1, device="cpu", raised_by="cpu-allocator", others=[])
    assert "this rank held 10.9 of 11.6 GiB, other processes and ranks 614 MiB." in who_held_it(on_host)
    assert "This run held" in who_held_it(oom(rank=1, raised_by="kernel", requested_bytes=None)), "all of it together"


NOBODY = {"others": [], "other_processes_bytes": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (NOBODY, "PyTorch wanted 512 MiB more; this run held 10.9 of 11.6 GiB."),
        ({**NOBODY, "capacity_bytes": None}, "PyTorch wanted 512 MiB more; this run held 10.9 GiB."),
        (
            {**NOBODY, "requested_bytes": None, "raised_by": "cublas"},
            "cuBLAS got no more memory; this run held 10.9 of 11.6 GiB.",
        ),
        ({**NOBODY, "requested_bytes": None, "raised_by": "kernel"}, "This run held 10.9 of 11.6 GiB."),
        ({**NOBODY, "raised_by": "driver", "held_bytes": 0}, "The GPU's driver wanted 512 MiB more."),
        ({**NOBODY, "raised_by": None, "held_bytes": None, "requested_bytes": 0}, ""),
        (
            {"others": [], "requested_bytes": None, "raised_by": None},
            "This run held 10.9 of 11.6 GiB, other processes 614 MiB.",
        ),
        (
            {
                "requested_bytes": None,
                "raised_by": None,
                "other_processes_bytes": 2 * GIB,
                "others": [
                    {"pid": 7, "name": None, "user": None, "used_bytes": None},
                    {"pid": 9, "name": "python", "user": "bo", "used_bytes": GIB},
                ],
            },
            "This run held 10.9 of 11.6 GiB, other processes 2.0 GiB (python, pid 9, bo, 1.0 GiB; pid 7).",
        ),
    ],
)
def test_what_is_not_known_is_left_out(changes: dict[str, Any], said: str) -> None:
    assert who_held_it(oom(**changes)) == said


def test_the_runs_own_limit_is_called_that() -> None:
    event = oom(held_bytes=int(2.9 * GIB), capacity_bytes=3 * GIB, raised_by="cpu-allocator")
    assert who_held_it(event, 3 * GIB) == (
        "PyTorch's allocator on the CPU wanted 512 MiB more; this run held 2.9 GiB, and its memory_limit is 3.0 GiB."
    ), "others do not count where it is the limit that was met"
    assert "others" not in str(who_held(event, UNICODE, 118, on_cpu=True, limit_bytes=3 * GIB))
    assert "ollama" in who_held_it(oom(held_bytes=GIB, capacity_bytes=3 * GIB), 3 * GIB)


def test_what_only_counted_towards_the_limit_is_not_called_free() -> None:
    parts = {"weights": GIB, "activations": GIB}
    event = oom(held_bytes=2 * GIB, held_by=parts, capacity_bytes=3 * GIB, raised_by="cpu-allocator")
    assert who_held_it(event, 3 * GIB) == (
        "PyTorch's allocator on the CPU wanted 512 MiB more; this run held 2.0 GiB and had 512 MiB more reserved, and "
        "its memory_limit is 3.0 GiB."
    )
    bar = str(who_held(event, UNICODE, 118, on_cpu=True, limit_bytes=3 * GIB))
    assert "~ reserved, not touched 512 MiB" in bar
    assert "free" not in bar
    unknown = {**event, "requested_bytes": None}
    assert "reserved" not in who_held_it(unknown, 3 * GIB)
    assert "1.0 GiB free" in str(who_held(unknown, UNICODE, 118, on_cpu=True, limit_bytes=3 * GIB))


@pytest.mark.parametrize(
    ("changes", "checkpoint", "steps", "said"),
    [
        ({}, "checkpoint-36", 1, "Nothing is lost: checkpoint-36 is safe, 1 step to repeat."),
        ({}, "checkpoint-37", 0, "Nothing is lost: checkpoint-37 is safe, no step to repeat."),
        ({}, None, 1036, "No checkpoint was saved yet: 1,036 steps to repeat from the beginning."),
        ({}, None, None, "Nothing was trained yet, so nothing is lost."),
        ({"phase": "load"}, None, 0, "Nothing was trained, so nothing is lost."),
        ({"preflight": True}, "checkpoint-30", 0, "Nothing was trained, so nothing is lost; checkpoint-30 is safe."),
        ({"phase": "eval"}, "checkpoint-30", 7, "Step 37 itself is whole; checkpoint-30 is safe, 7 steps to repeat."),
        (
            {"phase": "save"},
            "checkpoint-20",
            17,
            "What was being saved is not there; checkpoint-20 is safe, 17 steps to repeat.",
        ),
        (
            {"phase": "save"},
            None,
            37,
            "What was being saved is not there, and no checkpoint was saved before it: it begins anew.",
        ),
    ],
)
def test_what_is_safe_and_what_is_to_repeat(
    changes: dict[str, Any], checkpoint: str | None, steps: int | None, said: str
) -> None:
    assert what_is_safe(oom(**changes), checkpoint, steps) == said


def test_a_part_of_a_whole_says_its_unit_once_where_it_is_the_same() -> None:
    assert part_of(10.9 * GIB, 11.6 * GIB) == "10.9 of 11.6 GiB"
    assert part_of(512 * MIB, 11.6 * GIB) == "512 MiB of 11.6 GiB"


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("width", [78, 118])
def test_the_bar_tells_its_parts_apart_without_colour(glyphs: Any, width: int) -> None:
    bar = who_held(oom(), glyphs, width)
    assert bar is not None
    first, second = str(bar).splitlines()
    assert len(first) == width
    assert len(second) <= width
    drawn = first[1 : first.index(glyphs.bar_ends[1])]
    order = [glyphs.fills[place] for place in (0, 1, 2, 5, 6)] + ["/", "+"]
    assert list(dict.fromkeys(drawn.replace(glyphs.limit, ""))) == order
    assert drawn.count(glyphs.fills[2]) == pytest.approx(7.73 / 11.98 * len(drawn), abs=2)
    assert "+" in drawn[drawn.index(glyphs.limit) :], "what was wanted goes beyond the capacity"
    assert first.endswith("103 MiB free  wanted +512 MiB")
    assert "activations 7.7 GiB" in second
    assert "others 614 MiB" in second


def test_a_bar_of_what_little_is_known() -> None:
    bar = str(who_held(oom(held_by=None, requested_bytes=None), UNICODE, 78))
    assert "this run 10.9 GiB" in bar
    assert "wanted" not in bar
    assert who_held({"type": "oom"}, UNICODE, 78) is None
    on_cpu = who_held(oom(held_by={"weights": GIB, "context": GIB}), UNICODE, 118, on_cpu=True)
    assert "libraries 1.0 GiB" in str(on_cpu)
