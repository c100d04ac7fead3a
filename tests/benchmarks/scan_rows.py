"""What it takes to check every row: seconds, rows a second, and memory, through the client as a launch does it.

    python tests/benchmarks/scan_rows.py [--rows 1000000] [--gib 2]

Writes conversations of about 1 KB each into a temporary folder (as many as rows, or as fill so many GiB), scans them
into a cache of its own there, and says whether it stayed under the bars: 90 s for 1,000,000 rows on 2 cores, and
memory that does not grow with the data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import threading
import time
from pathlib import Path

import psutil

from engine.data import client
from engine.spec import DataSection

BAR_S_PER_ROW = 90 / 1_000_000
BAR_RESIDENT_BYTES = 600 * 2**20
"""Of all processes together, with the libraries that each counts anew."""
ROW_BYTES = 1024
WORDS = ["the", "of", "and", "because", "12", "größer", "café", "naïve", "東京", "数学", "سلام", "кот", "👋🏽"]


def write_rows(path: Path, rows: int | None, size_bytes: int | None) -> int:
    """Fill `path` until it has either; returns the rows. One in 100,000 is malformed, one in 1,000 is there twice."""
    chosen = random.Random(7)
    count = written_bytes = 0
    last = ""
    with open(path, "w", encoding="utf-8") as file:
        while (rows is not None and count < rows) or (size_bytes is not None and written_bytes < size_bytes):
            count += 1
            if count % 100_000 == 0:
                line = '{"messages": [\n'
            elif count % 1000 == 0:
                line = last
            else:
                line = _row(count, chosen)
            file.write(line)
            written_bytes += len(line.encode())
            last = line
    return count


def _row(number: int, chosen: random.Random) -> str:
    words = chosen.choices(WORDS, k=100)
    turns = [
        {"role": "user", "content": f"{number}. {' '.join(words[:40])}?"},
        {"role": "assistant", "content": " ".join(words[40:70])},
        {"role": "user", "content": " ".join(words[70:75])},
        {"role": "assistant", "content": " ".join(words[75:])},
    ]
    line = json.dumps({"id": number, "messages": turns}, ensure_ascii=False)
    return line[:-1] + " " * max(0, ROW_BYTES - 1 - len(line.encode())) + "}\n"


class Watch(threading.Thread):
    """The most memory that this process's children held together, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_resident_bytes = 0
        self.peak_unshared_bytes = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.1):
            resident_bytes = unshared_bytes = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    memory = child.memory_full_info()
                except psutil.Error:
                    continue
                resident_bytes += memory.rss
                unshared_bytes += memory.uss
            self.peak_resident_bytes = max(self.peak_resident_bytes, resident_bytes)
            self.peak_unshared_bytes = max(self.peak_unshared_bytes, unshared_bytes)

    def stop(self) -> None:
        self._done.set()
        self.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gib", type=float, help="so large a file instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["LORADECK_CACHE"] = f"{name}/cache"
        path = Path(name) / "rows.jsonl"
        size_bytes = None if options.gib is None else int(options.gib * 2**30)
        rows = write_rows(path, options.rows if size_bytes is None else None, size_bytes)
        size_mib = path.stat().st_size / 2**20
        print(f"{rows:,} rows, {size_mib:,.0f} MiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        watch = Watch()
        watch.start()
        told = 0

        def count(_: client.Progress) -> None:
            nonlocal told
            told += 1

        started_s = time.perf_counter()
        report = client.scan(DataSection(train=str(path)), 0, count)
        seconds = time.perf_counter() - started_s
        watch.stop()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{used.ru_utime + used.ru_stime:.1f} s of processor time")
        bar_s = BAR_S_PER_ROW * rows
        print(f"{seconds:.1f} s, {rows / seconds:,.0f} rows/s, progress told {told} times; the bar is {bar_s:.1f} s")
        resident_mib, unshared_mib = (
            peak_bytes / 2**20 for peak_bytes in (watch.peak_resident_bytes, watch.peak_unshared_bytes)
        )
        print(f"peak resident {resident_mib:,.0f} MiB, not shared {unshared_mib:,.0f} MiB")
        print(f"{report.train.rows:,} good, {report.train.bad_count} bad, {report.train.duplicates.count:,} duplicates")
        started_s = time.perf_counter()
        assert client.kept_report(DataSection(train=str(path)), 0) == report
        print(f"again, from what is kept: {1000 * (time.perf_counter() - started_s):.1f} ms")
        fits = seconds <= bar_s and watch.peak_resident_bytes <= BAR_RESIDENT_BYTES
        print("under the bars" if fits else "OVER A BAR")


if __name__ == "__main__":
    main()
