"""What each of several processes of a run holds, from the `ranks` of `hardware` events."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.runs.fields import number, objects, whole
from tui.widgets.pyramid import Pyramid

MOST_RANKS = 1024
MOST_BYTES = 2**60


@dataclass
class RankMemory:
    """Now, or when any was last seen, and of the fullest one over the run's time in seconds. Empty for a run of one
    process."""

    of_pids: dict[int, int] = field(default_factory=dict)
    """Process ids -> rank; workers of a rank's own are of that rank."""
    on_gpu: dict[int, int] = field(default_factory=dict)
    """Rank -> bytes that it holds on its GPU; where the driver hides whose memory it is, nobody knows."""
    resident: dict[int, int] = field(default_factory=dict)
    """Rank -> bytes that it holds of the host's memory."""
    fullest_on_gpu: Pyramid = field(default_factory=Pyramid)
    fullest_resident: Pyramid = field(default_factory=Pyramid)

    @property
    def are_several(self) -> bool:
        return bool(self.fullest_resident.last or self.fullest_on_gpu.last)

    @property
    def lines(self) -> tuple[Pyramid, ...]:
        return self.fullest_on_gpu, self.fullest_resident

    def apply(self, listed: object, elapsed_s: float) -> None:
        """Take in the `ranks` of one event: those that live."""
        ranks = list(objects(listed))[:MOST_RANKS]
        if not ranks:
            for line in self.lines:
                line.append(elapsed_s, None)
            return
        self.of_pids, self.on_gpu, self.resident = {}, {}, {}
        for each in ranks:
            rank = whole(each.get("rank"))
            if rank is None or not 0 <= rank < MOST_RANKS:
                continue
            pids = each.get("pids")
            pids = pids if isinstance(pids, list) else [each.get("pid")]
            self.of_pids |= {pid: rank for pid in pids if isinstance(pid, int)}
            for sizes, name in ((self.on_gpu, "gpu_bytes"), (self.resident, "rss_bytes")):
                size_bytes = number(each.get(name))
                if size_bytes is not None and 0 <= size_bytes <= MOST_BYTES:
                    sizes[rank] = int(size_bytes)
        for line, sizes in ((self.fullest_on_gpu, self.on_gpu), (self.fullest_resident, self.resident)):
            line.append(elapsed_s, max(sizes.values(), default=None))
