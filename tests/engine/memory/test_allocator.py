"""The allocator's model against PyTorch's own expectations, numbers worked by hand, and a slow reading of its rules."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.memory.allocator import Allocator, Event, OutOfMemory, least_capacity, replay

MIB = 2**20


def after(*events: Event, expandable: bool = False) -> Allocator:
    """An allocator that has seen these events."""
    allocator = Allocator(expandable_segments=expandable)
    for number, size in events:
        if size > 0:
            allocator.malloc(number, size)
        else:
            allocator.free(number)
    return allocator


@pytest.mark.parametrize(
    ("asked", "allocated", "reserved", "expandable_reserved"),
    [
        (1, 512, 2 * MIB, 2 * MIB),
        (513, 1024, 2 * MIB, 2 * MIB),
        (MIB, MIB, 2 * MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB, 20 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB, 20 * MIB),
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB, 20 * MIB),
        (21 * MIB, 22 * MIB, 22 * MIB, 40 * MIB),
    ],
)
def test_a_first_tensor_reserves_a_segment_by_its_size(
    asked: int, allocated: int, reserved: int, expandable_reserved: int
) -> None:
    plain, expandable = after((1, asked)), after((1, asked), expandable=True)
    assert (plain.allocated_bytes, plain.reserved_bytes) == (allocated, reserved)
    # An expandable segment splits off whatever a tensor does not need.
    assert (expandable.allocated_bytes, expandable.reserved_bytes) == (-(-asked // 512) * 512, expandable_reserved)


@pytest.mark.parametrize(
    ("size", "expandable", "reserved", "reserved_after_empty_cache"),
    [
        (512, False, 2 * MIB, 2 * MIB),
        (MIB, False, 4 * MIB, 2 * MIB),
        (MIB + 512, False, 20 * MIB, 20 * MIB),
        (10 * MIB - 512, False, 40 * MIB, 20 * MIB),
        (10 * MIB + 512, False, 36 * MIB, 12 * MIB),
        (512, True, 2 * MIB, 2 * MIB),
        (MIB, True, 4 * MIB, 2 * MIB),
        (MIB + 512, True, 20 * MIB, 20 * MIB),
        (10 * MIB - 512, True, 40 * MIB, 40 * MIB),
        (10 * MIB + 512, True, 40 * MIB, 20 * MIB),
    ],
)
def test_reserves_what_pytorch_expects_of_itself(
    size: int, expandable: bool, reserved: int, reserved_after_empty_cache: int
) -> None:
    """test/test_cuda.py, test_graph_memory_stats_and_use_result_after_destroy_graph: b = a.clone(), then five times
    b = b.clone() + 1, each of which allocates a clone and a sum, then frees the clone and the old b."""
    log: list[Event] = [(0, size)]
    for turn in range(5):
        old, clone, total = 2 * turn, 2 * turn + 1, 2 * turn + 2
        log += [(clone, size), (total, size), (clone, -size), (old, -size)]
    allocator = after(*log, expandable=expandable)
    assert allocator.reserved_bytes == reserved
    allocator.empty_cache()
    assert allocator.reserved_bytes == reserved_after_empty_cache
    assert allocator.allocated_bytes == size


def test_small_tensors_share_a_segment_until_it_is_full() -> None:
    full = [(number, MIB // 2) for number in range(4)]
    assert after(*full).reserved_bytes == 2 * MIB
    assert after(*full, (4, 512)).reserved_bytes == 4 * MIB


def test_small_and_large_tensors_never_share_a_segment() -> None:
    assert after((1, 2 * MIB), (2, MIB)).reserved_bytes == 22 * MIB


def test_the_rest_of_a_large_block_is_split_off_only_above_a_mebibyte() -> None:
    hole = (1, 12 * MIB), (1, -12 * MIB)
    assert after(*hole, (2, 11 * MIB)).allocated_bytes == 12 * MIB
    assert after(*hole, (2, 11 * MIB - 512)).allocated_bytes == 11 * MIB - 512


def test_free_neighbours_become_one_block() -> None:
    thirds = [(number, 6 * MIB) for number in range(3)]  # in one segment of 20 MiB
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]):
        frees = [(number, -6 * MIB) for number in order]
        assert after(*thirds, *frees, (9, 20 * MIB)).reserved_bytes == 20 * MIB


def test_blocks_of_different_segments_do_not_merge() -> None:
    two = [(1, 20 * MIB), (2, 20 * MIB), (1, -20 * MIB), (2, -20 * MIB)]
    assert after(*two, (3, 40 * MIB)).reserved_bytes == 80 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    holes = [(1, 40 * MIB), (2, 24 * MIB), (3, 30 * MIB), (1, -40 * MIB), (2, -24 * MIB), (3, -30 * MIB)]
    # 23 MiB goes where 24 was, whole; so 30 and 40 still fit, and a second 24 does not.
    assert after(*holes, (4, 23 * MIB), (5, 30 * MIB), (6, 40 * MIB)).reserved_bytes == 94 * MIB
    assert after(*holes, (4, 23 * MIB), (5, 30 * MIB), (6, 24 * MIB), (7, 24 * MIB)).reserved_bytes == 118 * MIB


def test_holes_too_small_for_the_next_tensor_stay_reserved() -> None:
    # 2 of the first segment's 30 MiB stay in use, so that 30 more need another.
    fragmented = replay([(1, 30 * MIB), (1, -30 * MIB), (2, 2 * MIB), (3, 30 * MIB)])
    assert fragmented.peak_allocated_bytes == 32 * MIB
    assert fragmented.peak_reserved_bytes == 60 * MIB
    assert fragmented.at_peak_unused_bytes == 28 * MIB


def test_expandable_segments_reserve_less_for_a_log_that_fragments() -> None:
    log: list[Event] = []
    for turn in range(8):  # each turn's tensor is larger than the hole that the last turn's left
        passing, kept, size = 2 * turn, 2 * turn + 1, (30 + 3 * turn) * MIB
        log += [(passing, size), (passing, -size), (kept, 2 * MIB)]
    plain, expandable = replay(log), replay(log, expandable_segments=True)
    assert plain.peak_reserved_bytes == (30 + 34 + 36 + 40 + 42 + 46 + 48 + 52) * MIB
    # At the last: 7 x 2 MiB that stay and 51 above them, in pages of 20.
    assert (expandable.peak_allocated_bytes, expandable.peak_reserved_bytes) == (65 * MIB, 80 * MIB)


def test_emptying_the_cache_gives_back_whole_segments_only() -> None:
    allocator = after((1, 20 * MIB), (2, 5 * MIB), (3, 5 * MIB), (1, -20 * MIB), (2, -5 * MIB))
    allocator.empty_cache()
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (5 * MIB, 20 * MIB)
    allocator.malloc(4, 15 * MIB)  # only 10 MiB in one piece are left behind the third tensor
    assert allocator.reserved_bytes == 36 * MIB


def test_an_expandable_segment_gives_back_whole_pages_and_fills_that_gap_first() -> None:
    allocator = after((1, 50 * MIB), (2, 50 * MIB), (1, -50 * MIB), expandable=True)
    assert allocator.reserved_bytes == 100 * MIB
    allocator.empty_cache()
    assert allocator.reserved_bytes == 60 * MIB  # two pages of 20 went; the third is half the second tensor's
    allocator.malloc(3, 15 * MIB)
    assert allocator.reserved_bytes == 80 * MIB  # one page at the start, not one next to the 10 free from 40 on
    allocator.malloc(4, 35 * MIB)
    assert allocator.reserved_bytes == 100 * MIB  # 5 left of that page, the page after it, and those 10


def test_a_free_tail_is_extended_by_what_it_lacks() -> None:
    allocator = after((1, 5 * MIB), (2, 30 * MIB), expandable=True)
    assert allocator.reserved_bytes == 40 * MIB


def test_under_a_capacity_cached_segments_go_back_before_memory_runs_out() -> None:
    log = [(1, 30 * MIB), (1, -30 * MIB), (2, 40 * MIB)]
    assert replay(log).peak_reserved_bytes == 70 * MIB
    tight = replay(log, capacity_bytes=40 * MIB)
    assert (tight.peak_reserved_bytes, tight.alloc_retries) == (40 * MIB, 1)


def test_out_of_memory_tells_what_was_asked_and_held_and_where() -> None:
    log = [(1, 30 * MIB), (2, 700), (3, 12 * MIB), (3, -12 * MIB), (4, 40 * MIB - 100)]
    with pytest.raises(OutOfMemory) as caught:
        replay(log, capacity_bytes=64 * MIB, empty_cache_at=[1, 3])
    error = caught.value
    assert (error.requested_bytes, error.event_index) == (40 * MIB - 100, 4)
    assert (error.allocated_bytes, error.reserved_bytes) == (30 * MIB + 1024, 32 * MIB)


def test_peaks_count_from_an_event_on_with_what_is_held_there() -> None:
    log = [(1, 100 * MIB), (1, -100 * MIB), (2, 30 * MIB), (3, 20 * MIB), (3, -20 * MIB)]
    whole, late, flushed = replay(log), replay(log, peaks_from=3), replay(log, peaks_from=2, empty_cache_at=[2])
    assert (whole.peak_allocated_bytes, whole.peak_reserved_bytes) == (100 * MIB, 100 * MIB)
    assert (late.peak_allocated_bytes, late.peak_reserved_bytes) == (50 * MIB, 100 * MIB)
    assert late.at_peak_unused_bytes == 70 * MIB
    assert (flushed.peak_allocated_bytes, flushed.peak_reserved_bytes) == (50 * MIB, 50 * MIB)


def test_a_storage_is_allocated_once_and_freed_once() -> None:
    allocator = after((1, 100))
    with pytest.raises(ValueError, match="twice"):
        allocator.malloc(1, 100)
    allocator.free(1)
    with pytest.raises(KeyError):
        allocator.free(1)


def test_least_capacity_lies_where_less_runs_out() -> None:
    # 36 + 2 MiB have to be there at once; 36, 20 and the hole of 10 around a 2 MiB tensor is what it takes.
    log = [(1, 10 * MIB), (1, -10 * MIB), (2, 2 * MIB), (3, 30 * MIB), (3, -30 * MIB), (4, 36 * MIB)]
    assert replay(log).peak_reserved_bytes == 76 * MIB
    capacity = least_capacity(log, tolerance_bytes=1)
    assert capacity == 46 * MIB
    replay(log, capacity)
    with pytest.raises(OutOfMemory):
        replay(log, capacity - 1)
    assert 46 * MIB <= least_capacity(log) <= 54 * MIB
    assert least_capacity([]) == 0


def random_log(seed: int, events: int = 9_000) -> list[Event]:
    """Sizes from 64 bytes to 32 MiB, up to 600 tensors at once."""
    chance = random.Random(seed)
    log: list[Event] = []
    live: list[Event] = []
    while len(log) < events:
        if not live or (len(live) < 600 and chance.random() < 0.55):
            live.append((len(log), int(2 ** chance.uniform(6, 25))))
            log.append(live[-1])
        else:
            number, size = live.pop(chance.randrange(len(live)))
            log.append((number, -size))
    return log


@pytest.mark.parametrize("expandable", [False, True])
def test_least_capacity_of_a_long_log_suffices_and_saves(expandable: bool) -> None:
    log = random_log(7)
    free_run = replay(log, expandable_segments=expandable)
    capacity = least_capacity(log, expandable)
    assert free_run.peak_allocated_bytes * 0.99 < capacity < free_run.peak_reserved_bytes
    assert replay(log, capacity, expandable).peak_reserved_bytes == capacity
    with pytest.raises(OutOfMemory):
        replay(log, capacity - 16 * MIB, expandable)


@dataclass(eq=False)
class Block:
    size: int
    state: Literal["free", "used", "unmapped"] = "free"


Segment = list[Block]


class SlowAllocator:
    """The same rules read slowly: every segment is a list of blocks, searched from end to end."""

    def __init__(self, capacity: int, expandable: bool) -> None:
        self.capacity, self.expandable = capacity, expandable
        self.pools: dict[bool, list[Segment]] = {
            small: [[Block(2**50, "unmapped")]] if expandable else [] for small in (True, False)
        }
        self.live: dict[int, tuple[Segment, Block]] = {}

    def total(self, *states: str) -> int:
        segments = [segment for pool in self.pools.values() for segment in pool]
        return sum(block.size for segment in segments for block in segment if block.state in states)

    def malloc(self, number: int, asked: int) -> bool:
        size = -(-asked // 512) * 512
        small = size <= MIB
        grow = self.extend if self.expandable else self.new_segment
        spot = self.best_fit(small, size) or grow(small, size)
        if spot is None:
            self.empty_cache()
            spot = grow(small, size)
        if spot is None:
            return False
        segment, block = self.live[number] = spot
        rest = block.size - size
        if rest > MIB or (rest > 0 and (small or self.expandable)):
            segment.insert(segment.index(block) + 1, Block(rest))
            block.size = size
        block.state = "used"
        return True

    def best_fit(self, small: bool, size: int) -> tuple[Segment, Block] | None:
        fits = []
        for segment in self.pools[small]:
            for block, after in zip_longest(segment, segment[1:]):
                if block.state == "free" and block.size >= size:
                    growth = after.size if after and after.state == "unmapped" else 0
                    fits.append((block.size, block.size + growth, segment, block))
        fits.sort(key=lambda fit: fit[0])
        while len(fits) > 1 and fits[1][1] < fits[0][1]:
            del fits[0]
        return fits[0][2:] if fits else None

    def new_segment(self, small: bool, size: int) -> tuple[Segment, Block] | None:
        fresh = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self.total("free", "used") + fresh > self.capacity:
            return None
        self.pools[small].append([Block(fresh)])
        return self.pools[small][-1], self.pools[small][-1][0]

    def extend(self, small: bool, size: int) -> tuple[Segment, Block] | None:
        page, segment = (2 if small else 20) * MIB, self.pools[small][0]
        for start in range(len(segment)):
            run = list(takewhile(lambda block: block.state != "used", segment[start:]))
            if any(block.state == "unmapped" for block in run[:2]) and sum(block.size for block in run) >= size:
                break
        while True:
            free = segment[start].size if segment[start].state == "free" else 0
            if free >= size:
                return segment, segment[start]
            at = start + (free > 0)
            pages = min(-(-(size - free) // page) * page, segment[at].size)
            if self.total("free", "used") + pages > self.capacity:
                return None
            segment[at : at + 1] = [Block(pages), Block(segment[at].size - pages, "unmapped")]
            self.merge(segment)

    def free(self, number: int) -> None:
        segment, block = self.live.pop(number)
        block.state = "free"
        self.merge(segment)

    def merge(self, segment: Segment) -> None:
        segment[:] = [block for block in segment if block.size]
        for before, after in zip(segment[-2::-1], segment[:0:-1], strict=True):
            if before.state == after.state != "used":
                before.size += after.size
                segment.remove(after)

    def empty_cache(self) -> None:
        for small, pool in self.pools.items():
            if not self.expandable:
                pool[:] = [segment for segment in pool if len(segment) > 1 or segment[0].state == "used"]
                continue
            page, address, pieces = (2 if small else 20) * MIB, 0, []
            for block in pool[0]:
                end = address + block.size
                first, last = -(-address // page) * page, end // page * page
                if block.state == "free" and first < last:
                    pieces += [Block(first - address), Block(last - first, "unmapped"), Block(end - last)]
                else:
                    pieces.append(block)
                address = end
            pool[0][:] = pieces
            self.merge(pool[0])


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Allocations of sizes around the rules' borders, and frees in any order."""
    sizes = st.one_of(st.integers(1, 3 * MIB), st.integers(MIB, 40 * MIB), st.integers(1, 24).map(lambda n: n * MIB))
    log: list[Event] = []
    live: list[Event] = []
    for number in range(draw(st.integers(0, 40))):
        frees = draw(st.booleans())
        if live and frees:
            freed, size = live.pop(draw(st.integers(0, len(live) - 1)))
            log.append((freed, -size))
        else:
            live.append((number, draw(sizes)))
            log.append(live[-1])
    return log


@given(logs(), st.booleans(), st.integers(10, 400), st.sets(st.integers(1, 40), max_size=3))
def test_every_event_leaves_what_a_slow_reading_of_the_rules_leaves(
    log: list[Event], expandable: bool, capacity_mib: int, empty_cache_at: set[int]
) -> None:
    capacity = capacity_mib * MIB
    quick, slow = Allocator(capacity, expandable), SlowAllocator(capacity, expandable)
    for index, (number, size) in enumerate(log):
        if index in empty_cache_at:
            quick.empty_cache()
            slow.empty_cache()
        if size < 0:
            quick.free(number)
            slow.free(number)
        elif slow.malloc(number, size):
            quick.malloc(number, size)
        else:
            with pytest.raises(OutOfMemory):
                quick.malloc(number, size)
            return
        assert quick.allocated_bytes == slow.total("used")
        assert quick.reserved_bytes == slow.total("used", "free")


@given(logs(), st.booleans())
def test_a_log_replays_alike_without_a_limit_and_at_its_own_peak(log: list[Event], expandable: bool) -> None:
    unlimited = replay(log, expandable_segments=expandable)
    assert unlimited.peak_allocated_bytes <= unlimited.peak_reserved_bytes
    assert replay(log, unlimited.peak_reserved_bytes, expandable) == unlimited
    capacity = least_capacity(log, expandable, tolerance_bytes=1)
    assert capacity <= unlimited.peak_reserved_bytes
    assert replay(log, capacity, expandable).peak_reserved_bytes == capacity


@given(logs(), st.booleans())
def test_nothing_stays_reserved_once_all_is_freed_and_the_cache_emptied(log: list[Event], expandable: bool) -> None:
    allocator = after(*log, expandable=expandable)
    freed = {number for number, size in log if size < 0}
    for number in {number for number, _ in log} - freed:
        allocator.free(number)
    allocator.empty_cache()
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (0, 0)
