"""A model of PyTorch's CUDA caching allocator: what a log of allocations makes torch reserve, and when it runs out.

It follows DeviceCachingAllocator with default settings on one stream (c10/cuda/CUDACachingAllocator.cpp, torch 2.13;
its functions are named in brackets, and c10/core/AllocatorConfig.h has the constants). Sizes are in bytes.
"""

from __future__ import annotations

import pickle
from bisect import bisect_left, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

Event = tuple[int, int]
"""(storage number, +bytes when allocated or -bytes when freed), bytes as the tensor asked for them."""

MIB = 2**20
ROUND_BYTES = 512
"""Every block is a multiple of this (kMinBlockSize)."""
SMALL_BYTES = MIB
"""Requests up to this size have a pool of their own (kSmallSize)."""
SMALL_SEGMENT_BYTES = 2 * MIB
"""What the small pool takes from the device at a time (kSmallBuffer)."""
LARGE_SEGMENT_BYTES = 20 * MIB
"""What the large pool takes for a request below OWN_SEGMENT_BYTES (large_segment_size)."""
OWN_SEGMENT_BYTES = 10 * MIB
"""From this size on a request gets a segment of its own size, in steps of 2 MiB (kMinLargeAlloc, kRoundLarge)."""
SEGMENT_STEP_BYTES = 2 * MIB

# A free block is one integer, its size above its address: in sorted order, the first one large enough fits best.
_ADDRESS_BITS = 60
_ADDRESS_MASK = (1 << _ADDRESS_BITS) - 1
_ENDLESS = 1 << 50  # torch sets addresses for 9/8 of the device aside, which hardly ever run out before its memory


class OutOfMemory(Exception):
    """A request did not fit under the capacity, even after all cached memory went back to the device.

    `requested_bytes` is what the tensor asked for, where torch's message names the segment that it would have taken.
    `event_index` is the event's place in the log, None outside a replay.
    """

    def __init__(self, requested_bytes: int, allocated_bytes: int, reserved_bytes: int, event_index: int | None = None):
        super().__init__(requested_bytes, allocated_bytes, reserved_bytes)
        self.requested_bytes = requested_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.event_index = event_index

    def __str__(self) -> str:
        held = f"{self.allocated_bytes} are allocated and {self.reserved_bytes} reserved"
        return f"{self.requested_bytes} bytes do not fit where {held}"


@dataclass(slots=True)
class _Pool:
    """Free blocks of the small or the large pool. Neighbours that are both free are always one block."""

    segment_bytes: int
    least_rest_bytes: int
    """What a request leaves of a block is split off from this size on."""
    unmapped: dict[int, int]
    """Start and size of an expandable segment's ranges without memory, with the endless one behind it."""
    blocks: list[int] = field(default_factory=list)
    """Sorted, each `size << _ADDRESS_BITS | address` (BlockComparatorSize)."""
    size_at: dict[int, int] = field(default_factory=dict)
    """The size of the free block that starts at an address."""
    start_of: dict[int, int] = field(default_factory=dict)
    """The start of the free block that ends at an address."""
    segments: dict[int, int] = field(default_factory=dict)
    """Start and size of each segment that is not expandable."""
    next_segment: int = 0

    def put(self, address: int, size: int) -> None:
        """Add a free block, merged with its free neighbours (free_block, try_merge_blocks)."""
        size_at, start_of, blocks = self.size_at, self.start_of, self.blocks
        end = address + size
        before = start_of.pop(address, None)
        if before is not None:
            del blocks[bisect_left(blocks, size_at[before] << _ADDRESS_BITS | before)]
            address = before
        size_after = size_at.pop(end, None)
        if size_after is not None:
            del blocks[bisect_left(blocks, size_after << _ADDRESS_BITS | end)]
            end += size_after
        size = end - address
        size_at[address] = size
        start_of[end] = address
        insort(blocks, size << _ADDRESS_BITS | address)

    def least_expandable(self, place: int) -> int:
        """The place of the best fit when a block before unmapped memory counts with that memory (get_free_block)."""
        blocks, unmapped = self.blocks, self.unmapped

        def could_be(block: int) -> int:
            size = block >> _ADDRESS_BITS
            return size + unmapped.get((block & _ADDRESS_MASK) + size, 0)

        while place + 1 < len(blocks) and could_be(blocks[place + 1]) < could_be(blocks[place]):
            place += 1
        return place

    def lowest_start(self, size: int) -> int:
        """The lowest address next to unmapped memory with `size` bytes not in use (find_expandable_block)."""
        for gap in sorted(self.unmapped):
            start = end = self.start_of.get(gap, gap)
            while end - start < size and (room := self.size_at.get(end) or self.unmapped.get(end)):
                end += room
            if end - start >= size:
                break
        return start

    def release(self) -> int:
        """Give wholly free segments back, or whole free pages of an expandable one; their bytes (release_blocks)."""
        released = 0
        page = self.segment_bytes
        for block in self.blocks.copy():
            address, size = block & _ADDRESS_MASK, block >> _ADDRESS_BITS
            first, last = address, address + size
            if self.unmapped:
                first, last = -(-first // page) * page, last // page * page
                if first >= last:
                    continue
                self.unmapped[first] = last - first
            elif self.segments.get(address) == size:
                del self.segments[address]
            else:
                continue
            released += last - first
            del self.blocks[bisect_left(self.blocks, block)], self.size_at[address], self.start_of[address + size]
            if first > address:
                self.put(address, first - address)
            if last < address + size:
                self.put(last, address + size - last)
        gaps, self.unmapped = sorted(self.unmapped.items()), {}
        start = end = -1
        for gap, size in gaps:
            start = start if gap == end else gap
            end = gap + size
            self.unmapped[start] = end - start
        return released


class Allocator:
    """The allocator's state. Without a capacity it never runs out.

    `capacity_bytes` limits what is reserved, as the device's memory does. `set_per_process_memory_fraction` is stricter
    with expandable segments: it refuses where a whole segment would not fit (alloc_block).
    """

    def __init__(self, capacity_bytes: int | None = None, expandable_segments: bool = False) -> None:
        self.capacity_bytes = capacity_bytes
        # A segment of fixed size rather wastes up to 1 MiB than leave a sliver (should_split).
        least_rest_bytes = ROUND_BYTES if expandable_segments else SMALL_BYTES + ROUND_BYTES
        unmapped = {0: _ENDLESS} if expandable_segments else {}
        self._small = _Pool(SMALL_SEGMENT_BYTES, ROUND_BYTES, unmapped.copy())
        self._large = _Pool(LARGE_SEGMENT_BYTES, least_rest_bytes, unmapped)
        self._expandable = expandable_segments
        self._live: dict[int, tuple[int, int]] = {}  # storage number: address and size of its block
        self.allocated_bytes = 0
        """Bytes of the blocks that tensors hold, rounding included: `torch.cuda.memory_allocated()`."""
        self.reserved_bytes = 0
        """Bytes taken from the device: `torch.cuda.memory_reserved()`."""
        self.alloc_retries = 0
        """Requests for which all cached memory had to go back first: `num_alloc_retries` of torch's statistics."""
        self.reset_peaks()

    def reset_peaks(self) -> None:
        """Count peaks from here on: `torch.cuda.reset_peak_memory_stats()`."""
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes
        self.at_peak_unused_bytes = self.reserved_bytes - self.allocated_bytes

    def malloc(self, number: int, size_bytes: int) -> None:
        """Allocate storage `number`, of one byte or more: torch asks for nothing for an empty tensor.

        Raises OutOfMemory when it does not fit, ValueError when the number is in use.
        """
        if number in self._live:
            raise ValueError(f"storage {number} is allocated twice")
        size = (size_bytes + ROUND_BYTES - 1) & -ROUND_BYTES  # round_size
        pool = self._small if size <= SMALL_BYTES else self._large
        blocks = pool.blocks
        place = bisect_left(blocks, size << _ADDRESS_BITS)
        if place == len(blocks):
            place = self._grow(pool, size, size_bytes)
        elif self._expandable:
            place = pool.least_expandable(place)
        block = blocks.pop(place)
        address, held = block & _ADDRESS_MASK, block >> _ADDRESS_BITS
        del pool.size_at[address]
        rest = held - size
        if rest >= pool.least_rest_bytes:
            start = address + size
            pool.size_at[start] = rest
            pool.start_of[address + held] = start
            insort(blocks, rest << _ADDRESS_BITS | start, 0, place)
            held = size
        else:
            del pool.start_of[address + held]
        self._live[number] = address, held
        self.allocated_bytes += held
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes
            self.at_peak_unused_bytes = self.reserved_bytes - self.allocated_bytes

    def free(self, number: int) -> None:
        """Free storage `number`; its memory stays reserved. Raises KeyError when it is not allocated."""
        address, held = self._live.pop(number)
        self.allocated_bytes -= held
        # The small pool wastes nothing, so its blocks are no larger than the requests that it takes.
        (self._small if held <= SMALL_BYTES else self._large).put(address, held)

    def empty_cache(self) -> None:
        """Give back what is wholly free: `torch.cuda.empty_cache()` (release_cached_blocks)."""
        self.reserved_bytes -= self._large.release() + self._small.release()

    def _grow(self, pool: _Pool, size: int, size_bytes: int) -> int:
        """The place in `pool.blocks` of a block that new memory has made (malloc, from alloc_block on)."""
        reserve = self._extend if self._expandable else self._new_segment
        address = reserve(pool, size)
        if address is None:
            self.alloc_retries += 1
            self.empty_cache()
            address = reserve(pool, size)
        if address is None:
            raise OutOfMemory(size_bytes, self.allocated_bytes, self.reserved_bytes)
        return bisect_left(pool.blocks, pool.size_at[address] << _ADDRESS_BITS | address)

    def _fits(self, size: int) -> bool:
        return self.capacity_bytes is None or self.reserved_bytes + size <= self.capacity_bytes

    def _new_segment(self, pool: _Pool, size: int) -> int | None:
        """The start of a new segment, None where it does not fit (get_allocation_size, alloc_block)."""
        own = -(-size // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES
        segment = own if size >= OWN_SEGMENT_BYTES else pool.segment_bytes
        if not self._fits(segment):
            return None
        self.reserved_bytes += segment
        address = pool.next_segment
        pool.next_segment += segment + ROUND_BYTES  # a gap: segments are never neighbours
        pool.segments[address] = segment
        pool.put(address, segment)
        return address

    def _extend(self, pool: _Pool, size: int) -> int | None:
        """The start of a free block that new pages have made large enough (try_allocate_expandable_block)."""
        start = pool.lowest_start(size)
        while (held := pool.size_at.get(start, 0)) < size:
            gap = start + held
            pages = min(-(-(size - held) // pool.segment_bytes) * pool.segment_bytes, pool.unmapped[gap])
            if not self._fits(pages):
                return None
            self.reserved_bytes += pages
            left = pool.unmapped.pop(gap) - pages
            if left:
                pool.unmapped[gap + pages] = left
            pool.put(gap, pages)
        return start


@dataclass(frozen=True)
class Replay:
    """What a log came to, from the event on that peaks are counted from."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    at_peak_unused_bytes: int
    """Reserved but not allocated when the reserved peak was first reached."""
    alloc_retries: int
    """Requests in the whole log for which all cached memory had to go back first: each stalls the device."""


def replay(
    events: Sequence[Event],
    capacity_bytes: int | None = None,
    expandable_segments: bool = False,
    peaks_from: int = 0,
    empty_cache_at: Collection[int] = (),
) -> Replay:
    """Run a log. The cache is emptied before each event in `empty_cache_at`, and peaks are reset before `peaks_from`.

    Raises OutOfMemory where the capacity does not suffice.
    """
    allocator = Allocator(capacity_bytes, expandable_segments)
    _run(allocator, events, 0, peaks_from, empty_cache_at)
    allocator.reset_peaks()
    _run(allocator, events, peaks_from, len(events), empty_cache_at)
    peaks = allocator.peak_allocated_bytes, allocator.peak_reserved_bytes, allocator.at_peak_unused_bytes
    return Replay(*peaks, allocator.alloc_retries)


def least_capacity(
    events: Sequence[Event],
    expandable_segments: bool = False,
    tolerance_bytes: int = 8 * MIB,
    empty_cache_at: Collection[int] = (),
) -> int:
    """A capacity under which the log does not run out, while it does with `tolerance_bytes` less.

    Found by bisection, so a yet smaller one may suffice by luck: best fit does not promise that more memory is never
    worse. What is reserved is a multiple of 2 MiB, and so is the result.
    """
    step = SEGMENT_STEP_BYTES
    # Under any capacity, what tensors ask for has to fit.
    sizes = (size if size > 0 else size - ROUND_BYTES + 1 for _, size in events)
    asked = accumulate(-(-size // ROUND_BYTES) * ROUND_BYTES for size in sizes)
    too_little = (max(asked, default=0) - 1) // step * step

    # Until a log reserves more than that, it runs alike under every capacity in question: they all start from there.
    allocator = Allocator(expandable_segments=expandable_segments)
    start, state = 0, pickle.dumps(allocator)
    chunk = max(4096, len(events) // 32)
    for first in range(0, len(events), chunk):
        if allocator.peak_reserved_bytes <= too_little:
            start, state = first, pickle.dumps(allocator)  # a copy, many times faster than deepcopy
        _run(allocator, events, first, min(first + chunk, len(events)), empty_cache_at)
    enough = allocator.peak_reserved_bytes

    while enough - too_little > max(tolerance_bytes, step):
        allocator = pickle.loads(state)
        allocator.capacity_bytes = (too_little + enough) // 2 // step * step
        try:
            _run(allocator, events, start, len(events), empty_cache_at)
        except OutOfMemory:
            too_little = allocator.capacity_bytes
        else:
            enough = allocator.peak_reserved_bytes  # as a capacity, it would have granted and refused the same
    return enough


def _run(allocator: Allocator, events: Sequence[Event], first: int, stop: int, empty_cache_at: Collection[int]) -> None:
    """Events from `first` to before `stop`. The cache is emptied where it is due after `first`, at `stop` included."""
    malloc, free = allocator.malloc, allocator.free
    for end in sorted({index for index in empty_cache_at if first < index < stop} | {stop}):
        try:
            for number, size in events[first:end]:
                if size > 0:
                    malloc(number, size)
                elif size < 0:
                    free(number)
                first += 1
        except OutOfMemory as error:
            error.event_index = first
            raise
        if end in empty_cache_at:
            allocator.empty_cache()
