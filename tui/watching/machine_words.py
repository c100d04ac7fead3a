"""Every GPU of the box in words: what it holds, who holds it, what it does. Plain functions of the memory history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from engine.units import amount
from tui.glyphs import Glyphs
from tui.watching.memory import GpuHistory, GpuProcess, MemoryHistory

WIDE = 100
GAP = "   "
UNKNOWN = "-"
NO_ANSWER = "no answer"
QUIET = "$secondary"
LONGEST_REASON = 24
LONGEST_USER = 16
LEAST_NAME = 10
"""Where a card's name would have fewer cells it is left out."""

HEADS = ("used", "total", "by run", "util", "temp", "power")
WIDTHS = (8, 8, 8, 5, 6, 6)
"""Of the columns of numbers: `1007 MiB`, `100 %`, `100 °C`, `1000 W`."""


@dataclass(frozen=True)
class _Row:
    """A GPU as it is shown."""

    gpu: GpuHistory
    is_own: bool
    label: str
    numbers: tuple[str, ...]
    reason: str
    """Why it is slow, `none`, or that it does not answer."""
    reason_style: str


def machine(
    memory: MemoryHistory,
    device: str | None,
    glyphs: Glyphs,
    width: int,
    height: int,
    gpu_ids: Sequence[int] = (),
) -> Content:
    """All GPUs with their processes and the host, in `width` cells and at most `height` lines.

    `device` is the run's (`cpu`, `cuda:1`, None while it is not known), `gpu_ids` are those of several processes. Where
    there is too little room, processes that hold little go first, then GPUs that are not the run's.
    """
    if memory.host_total_bytes is None and not memory.gpus:
        return Content.styled("no sample yet", QUIET)
    if not memory.gpus:
        words = "No GPU here: no NVIDIA driver answers (NVML). This is the host's memory."
        lines = [Content.styled(glyphs.shortened(words, width), QUIET), *_host(memory, glyphs, width)]
        return Content("\n").join(lines[:height])
    own = {(gpu.index, gpu.mig) for gpu in memory.gpus_of(device, gpu_ids) if gpu.seen_run or device is not None}
    rows = []
    for gpu in memory.in_order:
        is_own = (gpu.index, gpu.mig) in own
        whose = ("this run" if width >= WIDE else "own") if is_own else ""
        if is_own and (ranks := memory.ranks_of(gpu, gpu_ids)):
            whose = rank_words(ranks)
        rows.append(_row(gpu, whose, glyphs))
    host = _host(memory, glyphs, width)
    room = height - 1 - len(host)
    if len(rows) > room:  # the run's own first, in their order
        left_out = len(rows) - max(1, room - 1)
        rows = sorted(rows, key=lambda row: not row.is_own)[: max(1, room - 1)]
        host = [Content.styled(f"  {left_out} more GPU{'s' if left_out > 1 else ''}", QUIET), *host]
        room = len(rows)
    columns = _Columns(rows, glyphs, width)
    lines = [columns.head()]
    for row, most in zip(rows, _process_lines(rows, room - len(rows)), strict=True):
        lines += [columns.row(row), *columns.processes(row.gpu.processes, most)]
    return Content("\n").join([*lines, *host][: max(1, height)])


class _Columns:
    """How wide each column is, and lines in them."""

    def __init__(self, rows: list[_Row], glyphs: Glyphs, width: int) -> None:
        self.glyphs = glyphs
        self.width = width
        self.gap = "  " if width >= WIDE else " "
        pids = [len(str(process.pid)) for row in rows for process in row.gpu.processes]
        self.label = max([3, *(len(row.label) for row in rows), *pids])
        users = [cell_len(glyphs.plain(process.user or "")) for row in rows for process in row.gpu.processes]
        self.user = min(LONGEST_USER, max([1, *users]))
        told = max(len(row.reason) for row in rows)
        is_worth_a_column = width >= WIDE or any(row.reason_style for row in rows)
        left = width - 2 - self.label - sum(WIDTHS) - len(self.gap) * (len(WIDTHS) + 1)
        longest = min(LONGEST_REASON, max(told, len("throttling")), max(0, left))
        self.reason = longest if is_worth_a_column else 0
        self.name = left - (self.reason + len(self.gap) if self.reason else 0)

    def head(self) -> Content:
        heads = [f"{head:>{room}}" for head, room in zip(HEADS, WIDTHS, strict=True)]
        words = ["  " + "GPU".ljust(self.label), *heads]
        if self.reason:
            words.append(fitted("throttling", self.reason, self.glyphs))
        if self.name >= LEAST_NAME:
            words.append("name")
        return Content.styled(self.gap.join(words).rstrip(), QUIET)

    def row(self, row: _Row) -> Content:
        mark = f"{self.glyphs.closed} " if row.is_own else "  "
        parts: list[tuple[str, str]] = [(mark + row.label.ljust(self.label), "bold $primary" if row.is_own else "")]
        for number, room in zip(row.numbers, WIDTHS, strict=True):
            parts.append((self.gap + number.rjust(room), QUIET if number == UNKNOWN else ""))
        if self.reason:
            reason = fitted(row.reason, self.reason, self.glyphs)
            parts.append((self.gap + reason, row.reason_style or QUIET))
        if self.name >= LEAST_NAME:
            name = self.glyphs.plain(row.gpu.name).removeprefix("NVIDIA ").removeprefix("GeForce ")
            parts.append((self.gap + fitted(name, self.name, self.glyphs), ""))
        return Content.assemble(*parts).rstrip()

    def processes(self, processes: list[GpuProcess], most: int) -> list[Content]:
        """The largest ones, a line each, and how many more there are."""
        shown = processes if len(processes) <= most else processes[: max(0, most - 1)]
        lines = [self._process(process) for process in shown]
        if (more := len(processes) - len(shown)) and most > 0:
            rest_bytes = sum(process.used_bytes or 0 for process in processes[len(shown) :])
            word = f"{more} more process" if shown else f"{more} process"
            words = f"{amount(rest_bytes).rjust(WIDTHS[0])}{self.gap}{word}{'es' if more > 1 else ''}"
            lines.append(Content.styled(" " * (2 + self.label) + self.gap + words, QUIET))
        return lines

    def _process(self, process: GpuProcess) -> Content:
        plain = self.glyphs.plain
        used = UNKNOWN if process.used_bytes is None else amount(process.used_bytes)
        own = "this run" if process.is_own else ""
        if process.rank is not None:
            own = rank_words([process.rank])
        user = fitted(plain(process.user or UNKNOWN), self.user, self.glyphs)
        begin = f"  {process.pid:>{self.label}}{self.gap}{used.rjust(WIDTHS[0])}{self.gap}"
        room = self.width - len(begin) - self.user - (len(own) + len(self.gap) if own else 0) - len(self.gap)
        name = fitted(plain(process.name or UNKNOWN), max(1, room), self.glyphs).rstrip()
        return Content.assemble(
            (begin, QUIET), f"{user}{self.gap}{name}", (f"{self.gap}{own}", "$primary") if own else ""
        )


def fitted(text: str, width: int, glyphs: Glyphs) -> str:
    """`text` in exactly `width` cells, wide characters counted as two; cut with an ellipsis where it is longer."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(0, width - cell_len(glyphs.ellipsis))) + glyphs.ellipsis[:width]


def rank_words(ranks: Sequence[int]) -> str:
    """`rank 1`, or `ranks 0, 1`."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _row(gpu: GpuHistory, whose: str, glyphs: Glyphs) -> _Row:
    """`whose` it is, in a word, where it is the run's."""
    label = str(gpu.index) if gpu.mig is None else f"{gpu.index} MIG {gpu.mig}"
    sizes = (gpu.used_bytes, gpu.total_bytes, gpu.run_bytes if gpu.seen_run else None)
    numbers = (
        *(UNKNOWN if size is None else amount(size) for size in sizes),
        UNKNOWN if gpu.utilization is None else f"{gpu.utilization} %",
        UNKNOWN if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} {glyphs.degree}",
        UNKNOWN if gpu.power_w is None else f"{gpu.power_w:.0f} W",
    )
    if not gpu.answers:
        reason, style = NO_ANSWER, "$error"
    elif gpu.throttling:
        # At full load a card is at its power cap most of the time.
        reason = glyphs.plain(", ".join(gpu.throttling))
        style = "" if gpu.throttling == ("power cap",) else "$warning"
    else:
        reason, style = (UNKNOWN if gpu.throttling is None else "none"), ""
    return _Row(gpu, bool(whose), f"{label} {whose}".rstrip(), numbers, reason, style)


def _process_lines(rows: list[_Row], room: int) -> list[int]:
    """How many lines each GPU may have for its processes, so that all together take at most `room`: the run's first."""
    lines = [0] * len(rows)
    for place, row in sorted(enumerate(rows), key=lambda numbered: not numbered[1].is_own):
        lines[place] = min(len(row.gpu.processes), max(0, room))
        room -= lines[place]
    return lines


def _host(memory: MemoryHistory, glyphs: Glyphs, width: int) -> list[Content]:
    """`host memory 12.0 of 64.0 GiB   trainer 2.0 GiB   CPU 45 %   disk 310 GiB free`, as much of it as fits."""
    used, total = memory.host_used_bytes, memory.host_total_bytes
    pairs = [
        ("host memory", f"{UNKNOWN if used is None else amount(used)} of {UNKNOWN if total is None else amount(total)}")
    ]
    resident = memory.trainer_resident_bytes
    who = "all ranks" if memory.ranks.are_several else "trainer"
    trainer = f"{who}, resident" if width >= WIDE else who
    pairs.append((trainer, UNKNOWN if resident is None else amount(resident)))
    pairs.append(("CPU", UNKNOWN if memory.cpu_percent is None else f"{memory.cpu_percent:.0f} %"))
    if memory.disk_free_bytes is not None:
        pairs.append(("disk", f"{amount(memory.disk_free_bytes)} free"))
    words = Content("")
    for name, value in pairs:
        added = Content.assemble((GAP if width >= WIDE else "  ") if words else "", (f"{name} ", QUIET), value)
        if words.cell_length + added.cell_length > width:
            break
        words += added
    return [words]
