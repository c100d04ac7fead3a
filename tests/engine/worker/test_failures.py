"""Failures told apart, from exceptions that the real libraries raise."""

from __future__ import annotations

import errno

import pytest
import torch

from engine.checks import InvalidSpec, Problem
from engine.runs.supervisor import OUTCOMES
from engine.worker.failures import EXIT_CODES, BadSpec, NanLoss, explain
from engine.worker.moment import Moment, Phase

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")
BATCH = [4, 1024]


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (Moment(), "Out of memory while loading the model: 512 MiB more were asked for."),
        (
            Moment("forward", 37, batch_shape=BATCH),
            "Out of memory in the forward pass at step 37, on a batch of 4 rows x 1,024 tokens.",
        ),
        (
            Moment("backward", 37, batch_shape=[1, 1024]),
            "Out of memory in the backward pass at step 37, on a batch of 1 row x 1,024 tokens.",
        ),
        (Moment("optimizer", 37, batch_shape=BATCH), "Out of memory in the optimizer's step at step 37."),
        (
            Moment("eval", 40, batch_shape=[64, 900]),
            "Out of memory in the evaluation at step 40, on a batch of 64 rows x 900 tokens.",
        ),
        (Moment("save", 40, batch_shape=BATCH), "Out of memory while saving at step 40."),
        (
            Moment("backward", 1, True, BATCH),
            "Out of memory in the preflight, in the backward pass of the largest batch, 4 rows x 1,024 tokens: "
            "nothing was trained yet.",
        ),
        (
            Moment("save", 31, True, BATCH),
            "Out of memory in the preflight, while saving: nothing was trained since step 30.",
        ),
    ],
    ids=lambda value: value.phase if isinstance(value, Moment) else "",
)
def test_out_of_memory_is_told_in_a_sentence_of_its_own_for_each_phase(moment: Moment, words: str) -> None:
    failure = explain(OUT_OF_MEMORY, moment)
    assert (failure.cause, failure.message) == ("oom", words)
    assert failure.hint


def test_the_hint_names_the_setting_that_helps_where_it_was() -> None:
    def hint(phase: Phase, rows: int = 4) -> str:
        return explain(OUT_OF_MEMORY, Moment(phase, 3, batch_shape=[rows, 100])).hint

    assert "gradient_accumulation_steps" in hint("backward")
    assert "per_device_train_batch_size: 1" not in hint("backward", rows=1), "it is 1 already"
    assert "per_device_eval_batch_size" in hint("eval")
    assert "load_in: 4bit" in hint("load")


def test_memory_of_the_host_is_told_apart_from_a_gpus() -> None:
    moment = Moment("forward", 3, batch_shape=BATCH)
    assert explain(MemoryError(), moment, on_gpu=True).message.startswith("Out of host memory in the forward pass")
    assert explain(MemoryError(), moment).message.startswith("Out of memory in the forward pass")
    assert explain(OUT_OF_MEMORY, moment, on_gpu=True).message.startswith("Out of memory in the forward pass")


def test_full_shared_memory_is_told_with_what_helps() -> None:
    text = "DataLoader worker (pid 8) is killed by signal: Bus error. It is possible that dataloader's workers are ..."
    failure = explain(RuntimeError(text), Moment("forward", 3, batch_shape=BATCH))
    assert failure.cause == "oom"
    assert "/dev/shm" in failure.message
    assert "dataloader_num_workers: 0" in failure.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(number: int) -> None:
    assert explain(OSError(number, "x")).cause == "disk-full"


def test_a_full_disk_as_safetensors_tells_it() -> None:
    # Its error is no OSError; the live tests make a disk really full and meet this one.
    assert explain(Exception("I/O error: No space left on device (os error 28)")).cause == "disk-full"
    assert explain(Exception("error 280: a hub's")).cause == "error"


def test_an_unknown_error_keeps_its_name_and_one_line() -> None:
    failure = explain(KeyError("something\nlong"))
    assert failure.cause == "error"
    assert failure.message.startswith("KeyError: ")
    assert "\n" not in failure.message
    assert "trainer.log" in failure.hint


def test_a_save_that_fails_for_another_reason_says_that_it_was_a_save() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/runs/checkpoints/.checkpoint-4.x")
    failure = explain(error, Moment("save", 4))
    assert failure.message.startswith("Saving failed at step 4: [Errno 13] Permission denied")
    assert "intact" in failure.hint


def test_a_spec_or_data_that_turned_wrong_is_told_whole() -> None:
    error = InvalidSpec([Problem("data.train", "rows.jsonl is gone"), Problem("lora.r", "is missing", "write 16")])
    failure = explain(error)
    assert failure.cause == "bad-spec"
    assert failure.message == "data.train: rows.jsonl is gone; lora.r: is missing; write 16."


def test_hints_of_our_own_errors_are_kept() -> None:
    assert explain(BadSpec("no", "do this")).hint == "do this"
    assert explain(NanLoss("nan")).cause == "nan-loss"


def test_the_supervisor_reads_back_every_exit_code() -> None:
    for cause, code in EXIT_CODES.items():
        assert OUTCOMES[code] == ("failed", cause)
