"""What a merge takes is added up stage by stage."""

from __future__ import annotations

from dataclasses import replace

from engine.merging.needs import REPORT_ROOM_BYTES, Sizes, lacks_room, needs_in_words, needs_of

GIB = 2**30
MIB = 2**20
SEVEN_B = Sizes(
    libraries_bytes=500 * MIB,
    loaded_base_bytes=4 * GIB,
    mapped_base_bytes=0,
    adapter_bytes=100 * MIB,
    largest_group_bytes=400 * MIB,
    merged_bytes=14 * GIB,
    largest_weight_bytes=500 * MIB,
    shard_bytes=2 * GIB,
    logits_bytes=256 * MIB,
    one_pass_bytes=300 * MIB,
    tokenizer_bytes=10 * MIB,
    candidates=2,
    whole=False,
)


def test_layer_by_layer_takes_a_file_and_a_layer_not_the_model() -> None:
    needs = needs_of(SEVEN_B, 100 * GIB, 16 * GIB)
    assert needs.stages["merge"] < 5 * GIB
    assert needs.peak_bytes == max(needs.stages.values()) == needs.stages["adapter"]
    assert needs.file_pages_bytes == 14 * GIB
    assert needs_of(replace(SEVEN_B, whole=True), 0, 0).stages["merge"] > 14 * GIB


def test_two_merges_are_on_the_disk_until_one_is_taken() -> None:
    needs = needs_of(SEVEN_B, 28 * GIB, 16 * GIB)
    assert needs.disk_bytes == 2 * (14 * GIB + 10 * MIB + REPORT_ROOM_BYTES)
    assert lacks_room(needs) == "The merge needs 28.0 GiB in the output's folder, and 28.0 GiB are free there."
    assert lacks_room(needs_of(replace(SEVEN_B, candidates=1), 28 * GIB, 16 * GIB)) is None


def test_it_is_said_where_memory_will_not_do() -> None:
    assert "More than is free now" in needs_in_words(needs_of(SEVEN_B, 100 * GIB, 2 * GIB))
    assert "More than is free now" not in needs_in_words(needs_of(SEVEN_B, 100 * GIB, 16 * GIB))
