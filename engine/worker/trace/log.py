"""Every allocation and free of a run on fake tensors, in order."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.memory.footprint import Category
from engine.worker.trace.kernels import Scratch

TracePhase = Literal["load", "forward", "backward", "optimizer", "evaluation"]

DEVICE_OF = torch.ops.prim.device.default
CPU = torch.device("cpu")
LABELLED_ROWS = "aten::index"
"""TRL picks the rows of the hidden states whose token is learnt by a boolean mask, whose count no fake tensor has."""


@dataclass(slots=True)
class Storage:
    """One block of memory."""

    size_bytes: int
    phase: TracePhase
    last_dimension: int
    category: Category | None = None
    """Set for what is known by what it is; the rest is activations, or logits by shape."""


@dataclass(frozen=True)
class Peak:
    """The most that was allocated in one phase."""

    bytes: int
    events_before: int
    """Events of the log up to and with the one that reached it."""


class StorageLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation on fake tensors: notes new storages, and through weak references when each is freed.

    `round_to` is the allocator's granularity in bytes: 512 on CUDA (kMinBlockSize), 1 on the CPU. `scratch` says what
    kernels allocate inside, `padded` and `labelled_share` answer what depends on the batch's values.
    """

    def __init__(self, round_to: int, scratch: Scratch, *, padded: bool, labelled_share: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.round_to, self.scratch = round_to, scratch
        self.padded, self.labelled_share = padded, labelled_share
        self.storages: list[Storage] = []
        self.events: list[tuple[int, int]] = []
        """(number of the storage, +bytes or -bytes), ready for `engine.memory.allocator.replay`."""
        self.current_bytes = 0
        self.phase: TracePhase = "load"
        self.peaks: dict[TracePhase, Peak] = {}
        self.loaded_bytes = 0
        """Most that was allocated before the first step."""
        self.peaks_from = 0
        """Events before the peaks were last forgotten."""
        self.flushes: list[int] = []
        """Events before each `torch.cuda.empty_cache()`."""
        self.paged_bytes = 0
        """Of optimizer state in managed memory, which is on the card while there is room."""
        self._numbers: dict[int, int] = {}
        self._references: dict[int, weakref.ref[Any]] = {}
        self._made_by: dict[int, str] = {}

    # ---- phases

    def enter(self, phase: TracePhase) -> None:
        self.phase = phase
        self._note_peak()

    def forget_peaks(self) -> None:
        """As after `torch.cuda.reset_peak_memory_stats()`."""
        if "load" in self.peaks:
            self.loaded_bytes = self.peaks["load"].bytes
        self.peaks_from = len(self.events)
        self.peaks.clear()
        self._note_peak()

    def _note_peak(self) -> None:
        peak = self.peaks.get(self.phase)
        if peak is None or self.current_bytes > peak.bytes:
            self.peaks[self.phase] = Peak(self.current_bytes, len(self.events))

    # ---- storages

    def see(self, tensor: Any, category: Category | None = None) -> None:
        """Note the storage of `tensor` if it is new, and what it holds if that is told."""
        if not isinstance(tensor, FakeTensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        number = self._numbers.get(key)
        if number is None:
            size_bytes = storage.nbytes()
            if not size_bytes:
                return
            number = self._allocate(size_bytes, tensor.shape[-1] if tensor.dim() else 1)
            self._numbers[key] = number
            self._references[number] = weakref.ref(storage, partial(self._freed, number, key))
        if category is not None:
            self.storages[number].category = category

    def page_out(self, tensor: Tensor) -> None:
        """Count `tensor`, which was just made, as managed memory: PyTorch's allocator knows nothing of it."""
        storage = tensor.untyped_storage()
        number = self._numbers[storage._cdata]
        size_bytes = self.storages[number].size_bytes
        assert self.events[-1] == (number, size_bytes)
        self.events.pop()
        self.current_bytes -= size_bytes
        self.storages[number].size_bytes = 0
        self.paged_bytes += size_bytes

    def flush(self) -> None:
        """Note a `torch.cuda.empty_cache()`."""
        self.flushes.append(len(self.events))

    def hold(self, size_bytes: int, category: Category) -> None:
        """Note memory that stays to the end and that no tensor shows, such as cuBLAS' workspace."""
        self.storages[self._allocate(size_bytes, 0)].category = category

    def use_for_a_moment(self, *sizes_bytes: int) -> None:
        """Note buffers that a kernel allocates and frees inside."""
        numbers = [self._allocate(size_bytes, 0) for size_bytes in sizes_bytes if size_bytes > 0]
        for number in numbers:
            self.storages[number].category = "workspaces"
        for number in numbers:
            self._free(number)

    def _allocate(self, size_bytes: int, last_dimension: int) -> int:
        size_bytes = -(-size_bytes // self.round_to) * self.round_to
        number = len(self.storages)
        self.storages.append(Storage(size_bytes, self.phase, last_dimension))
        self.events.append((number, size_bytes))
        self.current_bytes += size_bytes
        self._note_peak()
        return number

    def _free(self, number: int) -> None:
        size_bytes = self.storages[number].size_bytes
        self.events.append((number, -size_bytes))
        self.current_bytes -= size_bytes

    def _freed(self, number: int, key: int, _storage: object) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        self._references.pop(number, None)
        self._free(number)

    # ---- operations

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is DEVICE_OF:  # asked for by autograd at every step, half of all calls
            return CPU
        name: str = func._schema.name
        kwargs = kwargs or {}
        if name == "aten::_local_scalar_dense":
            return self._value(args[0])
        if name == LABELLED_ROWS and (mask := _boolean_mask(args)) is not None:
            rows = max(1, round(mask.numel() * self.labelled_share))
            with self:
                return args[0].new_empty((rows, *args[0].shape[mask.dim() :]))
        replacement = self.scratch.replacement(name)
        if replacement is not None:
            with self:
                return replacement(*args, **kwargs)
        answer = func(*args, **kwargs)
        if isinstance(answer, Tensor):
            self.see(answer)
            if answer.dtype == torch.bool and answer.dim() == 0:
                self._made_by[id(answer)] = name
        elif isinstance(answer, (tuple, list)):
            for tensor in answer:
                self.see(tensor)
        buffers = self.scratch.buffers(name, args)
        if buffers:
            self.use_for_a_moment(*buffers)
        return answer

    def _value(self, tensor: Tensor) -> bool | float | int:
        """What a value that the code asks for is taken to be.

        Booleans are `mask.all()` and the like: true where no row is padded. Numbers are 1.
        """
        if tensor.dtype == torch.bool:
            made_by = self._made_by.get(id(tensor), "")
            return made_by in ("aten::all", "aten::eq") and not self.padded
        return 1.0 if tensor.dtype.is_floating_point else 1

    # ---- what was alive

    def categories_at(self, peak: Peak, vocabulary_widths: frozenset[int]) -> dict[Category, int]:
        """Bytes by category of what was allocated at `peak`."""
        alive: dict[int, int] = {}
        for number, size_bytes in self.events[: peak.events_before]:
            if size_bytes > 0:
                alive[number] = size_bytes
            else:
                del alive[number]
        sums: Counter[Category] = Counter()
        for number, size_bytes in alive.items():
            storage = self.storages[number]
            is_head = storage.last_dimension in vocabulary_widths
            sums[storage.category or ("logits" if is_head else "activations")] += size_bytes
        return dict(sums)


def _boolean_mask(args: tuple[Any, ...]) -> Tensor | None:
    indices = args[1]
    mask = indices[0] if indices else None
    return mask if isinstance(mask, Tensor) and mask.dtype == torch.bool else None
