"""Cards: the one that is here, those that people name, and what the CUDA context takes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.hardware import Gpu
from engine.memory import card
from engine.memory.card import (
    DRIVER_BYTES,
    Card,
    card_named,
    card_of,
    chosen_card,
    context_bytes,
    smallest_card_with,
    store_context,
    stored_context,
)
from engine.memory.known_cards import FIRST_STEP_BYTES, GIB, KNOWN_CARDS, MIB, known

NO_SUCH_PID = 2**22 + 1
"""Above the largest pid that Linux gives."""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "visible_gpus", list)


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU with 3 of 12 GiB in use; the reading that it gives can be changed."""
    reading: dict[str, Any] = {"index": 1, "used_bytes": 3 * GIB, "total_bytes": 12 * GIB, "processes": []}
    monkeypatch.setattr(card, "visible_gpus", lambda: [Gpu(1, "NVIDIA GeForce RTX 3060", None, 12 * GIB, (8, 6))])
    monkeypatch.setattr(card, "sample", lambda _: {"gpus": [reading]})
    return reading


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a driver and a torch, and an empty cache folder."""
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(card, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(card.importlib.metadata, "version", lambda _: "2.13.0")
    return tmp_path / "cache" / "cuda_context.json"


# ---- the card that is here


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_without_a_gpu_a_run_has_the_memory_of_the_host(device: str) -> None:
    host = chosen_card(device)

    assert (host.name, host.on_cpu, host.is_here) == ("host memory", True, True)
    assert host.total_bytes == psutil.virtual_memory().total
    assert host.free_bytes is not None
    assert 0 < host.free_bytes < host.total_bytes


def test_the_cpu_is_chosen_although_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "visible_gpus", lambda: [Gpu(0, "NVIDIA L4", None, 23034 * MIB, (8, 9))])

    assert chosen_card("cpu").on_cpu


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_has_no_memory_to_speak_of() -> None:
    assert chosen_card("cuda:1") == Card("no cuda:1 here", None, is_here=False)


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_has_a_short_name_its_capability_and_what_is_free_now() -> None:
    assert chosen_card("auto") == Card("RTX 3060", 9 * GIB, total_bytes=12 * GIB, compute_capability=(8, 6))
    assert chosen_card("cuda:1").name == "no cuda:1 here"  # the first that is visible, whatever NVML calls it


def test_a_resolved_device_is_the_machines_own_number(a_gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "list_gpus", lambda: [Gpu(0, "NVIDIA L4", None, None, None), *card.visible_gpus()])

    assert (card_of("cuda:1").name, card_of("cuda:1").free_bytes) == ("RTX 3060", 9 * GIB)
    assert card_of("cuda:2") == Card("no cuda:2 here", None, is_here=False)


def test_a_gpu_that_cannot_be_read_has_an_unknown_amount_free(a_gpu: dict[str, Any]) -> None:
    a_gpu.update(used_bytes=None, total_bytes=None)

    assert chosen_card("cuda").free_bytes is None


def test_other_processes_on_the_card_have_their_names_and_users(a_gpu: dict[str, Any]) -> None:
    parent = os.getppid()
    a_gpu["processes"] = [{"pid": os.getpid(), "used_bytes": 1}, {"pid": parent, "used_bytes": 3 * GIB}]

    (other,) = chosen_card("cuda").others
    assert (other.pid, other.used_bytes) == (parent, 3 * GIB)
    assert other.name == psutil.Process(parent).name()
    assert other.user == psutil.Process(parent).username()


def test_what_cannot_be_read_of_another_process_is_left_open(a_gpu: dict[str, Any]) -> None:
    a_gpu["processes"] = [{"pid": NO_SUCH_PID, "used_bytes": None}]

    (other,) = chosen_card("cuda").others
    assert (other.user, other.name, other.used_bytes) == (None, None, None)


def test_the_three_first_fields_can_be_given_without_their_names() -> None:
    assert Card("host memory", GIB, True) == Card(name="host memory", free_bytes=GIB, on_cpu=True)


def test_bfloat16_and_flash_attention_begin_with_ampere() -> None:
    old, new = Card("T4", GIB, compute_capability=(7, 5)), Card("A100", GIB, compute_capability=(8, 0))

    assert not old.has_bf16
    assert not old.has_flash_attention
    assert new.has_bf16
    assert new.has_flash_attention
    assert Card("host memory", GIB, on_cpu=True).has_bf16
    assert Card("12 GiB card", GIB).has_bf16


# ---- cards by name


@pytest.mark.parametrize("text", ["12GiB", "12GB", "12 gib", "12g", "12288MiB", "12884901888", " 12.0 GB "])
def test_a_size_is_a_card_of_which_nothing_else_is_known(text: str) -> None:
    assert card_named(text) == Card("12 GiB card", 12 * GIB, total_bytes=12 * GIB, is_here=False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("t4", "T4"),
        ("Tesla T4", "T4"),
        ("t4 16gb", "T4"),
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("1080ti", "GTX 1080 Ti"),
        ("rtx 4070 ti super", "RTX 4070 Ti SUPER"),
        ("4070super", "RTX 4070 SUPER"),
        ("RTX 4060 Ti 16GB", "RTX 4060 Ti 16GB"),
        ("3060", "RTX 3060 12GB"),
        ("a100-80gb", "A100 80GB"),
        ("A100-SXM4-40GB", "A100 40GB"),
        ("h100", "H100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("l40s", "L40S"),
        ("l40", "L40"),
        ("a10g", "A10G"),
        ("a6000", "RTX A6000"),
        ("rtx 6000 ada", "RTX 6000 Ada"),
        ("v100 32g", "V100 32GB"),
        ("b200 192gb", "B200"),
    ],
)
def test_a_known_card_is_found_however_its_name_is_typed(text: str, name: str) -> None:
    meant = next(known for known in KNOWN_CARDS if known.name == name)

    assert card_named(text) == Card(
        name,
        meant.total_bytes - DRIVER_BYTES,
        total_bytes=meant.total_bytes,
        compute_capability=meant.compute_capability,
        is_here=False,
    )


@pytest.mark.parametrize("entry", KNOWN_CARDS, ids=lambda entry: entry.name)
def test_every_known_card_answers_to_its_own_name(entry: Any) -> None:
    assert card_named(entry.name).name == entry.name
    assert known(entry.name, entry.total_bytes) == entry


def test_a_name_that_fits_two_cards_is_asked_about() -> None:
    with pytest.raises(ValueError, match="a100 can be A100 40GB or A100 80GB: say which"):
        card_named("a100")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"No card called rtx 4091 is known\. Did you mean RTX 4090"):
        card_named("rtx 4091")


@pytest.mark.parametrize("text", ["RTX 4090 Laptop", "4090 48gb", "host memory", "24", "-12GiB", ""])
def test_no_other_card_is_taken_for_it(text: str) -> None:
    with pytest.raises(ValueError, match="size, such as 24GiB, works for every card"):
        card_named(text)


def test_a_card_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="0GiB is no size"):
        card_named("0GiB")


# ---- the smallest that would do


def test_the_smallest_cards_with_enough_memory_come_first() -> None:
    offered = smallest_card_with(13 * GIB)

    assert offered[0].name == "T4"
    assert [found.size_gb for found in offered] == [16] * 5
    assert [found.size_gb for found in smallest_card_with(30 * GIB, at_most=3)] == [32, 32, 40]


def test_what_the_driver_keeps_is_not_offered() -> None:
    t4 = card_named("t4").total_bytes
    assert t4 is not None

    assert "T4" in [found.name for found in smallest_card_with(t4 - DRIVER_BYTES, at_most=99)]
    assert "T4" not in [found.name for found in smallest_card_with(t4 - DRIVER_BYTES + 1, at_most=99)]


def test_nothing_is_offered_where_no_card_is_large_enough() -> None:
    assert smallest_card_with(200 * GIB) == []


# ---- the CUDA context


def test_the_cpu_has_no_context() -> None:
    estimate = context_bytes(Card("host memory", GIB, on_cpu=True))

    assert (estimate.low_bytes, estimate.likely_bytes, estimate.high_bytes) == (0, 0, 0)


@pytest.mark.usefixtures("measures")
def test_a_measurement_during_training_is_taken_as_it_is() -> None:
    estimate = context_bytes(card_named("t4"))

    assert estimate.low_bytes == estimate.likely_bytes == estimate.high_bytes == 141 * MIB
    assert "fitcheck" in estimate.source


@pytest.mark.usefixtures("measures")
def test_a_measurement_of_the_bare_context_grows_by_its_first_step() -> None:
    estimate = context_bytes(Card("L4", 22 * GIB, total_bytes=23034 * MIB))

    assert estimate.low_bytes == 226 * MIB
    assert estimate.likely_bytes == estimate.high_bytes == 226 * MIB + FIRST_STEP_BYTES


@pytest.mark.usefixtures("measures")
@pytest.mark.parametrize("text", ["h100", "12GiB"])
def test_a_card_that_nobody_measured_gets_the_range_of_the_others(text: str) -> None:
    estimate = context_bytes(card_named(text))

    assert estimate.low_bytes == 141 * MIB
    assert estimate.low_bytes < estimate.likely_bytes < estimate.high_bytes
    assert estimate.source.startswith("not measured on this card; 141 MiB (T4) to ")


def test_a_measurement_on_this_machine_goes_before_all_others(measures: Path) -> None:
    store_context("NVIDIA GeForce RTX 3090", 300 * MIB)
    store_context("Tesla T4", 105 * MIB)

    assert stored_context("RTX 3090") == 300 * MIB
    estimate = context_bytes(Card("T4", GIB))
    assert (estimate.low_bytes, estimate.source) == (105 * MIB, "measured on this machine")
    assert estimate.likely_bytes == 141 * MIB
    assert measures.exists()


@pytest.mark.usefixtures("measures")
def test_a_measurement_counts_only_for_its_driver_and_its_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    store_context("L4", 200 * MIB)

    monkeypatch.setattr(card, "driver_version", lambda: "610.43.03")
    assert stored_context("L4") is None


@pytest.mark.usefixtures("measures")
def test_nothing_is_kept_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "driver_version", lambda: None)
    store_context("L4", 200 * MIB)

    assert stored_context("L4") is None


@pytest.mark.parametrize("content", ["", "[]", '{"L4, driver 580.95.05, torch 2.13.0": "many"}'])
def test_a_damaged_file_is_as_good_as_none(measures: Path, content: str) -> None:
    measures.parent.mkdir()
    measures.write_text(content)
    assert stored_context("L4") is None

    store_context("L4", 200 * MIB)
    assert stored_context("L4") == 200 * MIB


def test_a_folder_that_takes_nothing_is_no_error(measures: Path) -> None:
    measures.parent.write_text("a file where the folder would be")
    store_context("L4", 200 * MIB)

    assert stored_context("L4") is None


def test_the_known_card_is_told_by_its_memory_where_its_name_leaves_it_open() -> None:
    found = known("NVIDIA GeForce RTX 4060 Ti", 16380 * MIB)

    assert found is not None
    assert found.name == "RTX 4060 Ti 16GB"
    assert known("NVIDIA GeForce RTX 4060 Ti", None) is None


def test_a_run_with_a_limit_has_no_more_than_that_of_a_card() -> None:
    here = Card("a card", 8 * GIB, total_bytes=12 * GIB)
    assert here.within(None) is here
    assert not here.is_limited
    limited = here.within(6 * GIB)
    assert (limited.free_bytes, limited.total_bytes, limited.is_limited) == (6 * GIB, 12 * GIB, True)
    fuller = here.within(10 * GIB)
    assert (fuller.free_bytes, fuller.is_limited) == (8 * GIB, False), "it is the card that has no more"
    assert Card("unknown", None).within(6 * GIB).free_bytes == 6 * GIB
