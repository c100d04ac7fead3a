from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from tui.glyphs import ASCII, UNICODE
from tui.watching.machine_words import machine
from tui.watching.memory import MemoryHistory

GIB = 2**30
HOST = {
    "used_bytes": 9 * GIB,
    "total_bytes": 64 * GIB,
    "trainer_rss_bytes": 2 * GIB,
    "cpu_percent": 50.0,
    "disk_free_bytes": 310 * GIB,
}
OWN_PID = 42
OWN = (OWN_PID, int(7.8 * GIB), "alice", "python")
OTHER = (4121, GIB // 2, "bob", "ollama")


def gpu(index: int = 0, *processes: tuple[int, int | None, str | None, str | None], **more: Any) -> dict[str, Any]:
    known = {
        "index": index,
        "name": "NVIDIA GeForce RTX 4070 SUPER",
        "used_bytes": int(8.3 * GIB),
        "total_bytes": 12 * GIB,
        "utilization": 97,
        "temperature_c": 71,
        "power_w": 198.2,
        "throttling": [],
        "processes": [
            {"pid": pid, "used_bytes": used, "user": user, "name": name} for pid, used, user, name in processes
        ],
    }
    return {**known, **more}


def shown(*gpus: dict[str, Any], width: int = 120, height: int = 40, device: str | None = "cuda:0") -> str:
    memory = MemoryHistory({OWN_PID})
    memory.apply({"type": "hardware", "time": 100.0, "gpus": list(gpus), "host": HOST})
    return str(machine(memory, device, UNICODE, width, height))


LOST = {"index": 2, "name": "NVIDIA L4", "used_bytes": None, "utilization": None, "processes": []}
SPLIT = gpu(1, name="NVIDIA A100-SXM4-40GB", utilization=None, power_w=None, throttling=["thermal", "power cap"])
INSTANCE = gpu(1, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", mig=0, temperature_c=None, throttling=None)


def test_every_gpu_is_a_line_in_columns_with_its_processes_below() -> None:
    assert shown(gpu(0, OWN, OTHER), SPLIT, INSTANCE, LOST).splitlines() == [
        "  GPU             used     total    by run   util    temp   power  throttling          name",
        "▸ 0 this run   8.3 GiB  12.0 GiB   7.8 GiB   97 %   71 °C   198 W  none                RTX 4070 SUPER",
        "          42   7.8 GiB  alice  python  this run",
        "        4121   512 MiB  bob    ollama",
        "  1            8.3 GiB  12.0 GiB         -      -   71 °C       -  thermal, power cap  A100-SXM4-40GB",
        "  1 MIG 0      8.3 GiB  12.0 GiB         -   97 %       -   198 W  -                   "
        "A100-SXM4-40GB MIG 1g.5gb",
        "  2                  -         -         -      -       -       -  no answer           L4",
        "host memory 9.0 GiB of 64.0 GiB   trainer, resident 2.0 GiB   CPU 50 %   disk 310 GiB free",
    ]


def test_on_a_narrow_terminal_throttling_has_a_column_only_where_there_is_some() -> None:
    assert shown(gpu(0, OWN, OTHER), width=80).splitlines() == [
        "  GPU       used    total   by run  util   temp  power name",
        "▸ 0 own  8.3 GiB 12.0 GiB  7.8 GiB  97 %  71 °C  198 W RTX 4070 SUPER",
        "     42  7.8 GiB alice python this run",
        "   4121  512 MiB bob   ollama",
        "host memory 9.0 GiB of 64.0 GiB  trainer 2.0 GiB  CPU 50 %  disk 310 GiB free",
    ]
    throttled = shown(gpu(0, OWN, throttling=["thermal"]), width=80).splitlines()
    assert throttled[1] == "▸ 0 own  8.3 GiB 12.0 GiB  7.8 GiB  97 %  71 °C  198 W thermal    RTX 4070 SUPER"


def test_with_too_few_lines_small_processes_go_first_then_other_gpus() -> None:
    gpus = [gpu(1, (9, 1, "c", "d")), gpu(0, OWN, OTHER, (5, 2**20, "c", "d"))]
    assert [line.split()[0] for line in shown(*gpus, height=6).splitlines()] == ["GPU", "▸", "42", "513", "1", "host"]
    tight = shown(*gpus, height=6).splitlines()
    assert tight[3].split() == ["513", "MiB", "2", "more", "processes"]
    assert [line.split()[0] for line in shown(*gpus, height=4).splitlines()] == ["GPU", "▸", "1", "host"]
    many = [gpu(index) for index in range(8)] + [gpu(8, OWN)]
    short = shown(*many, height=6, device="cuda:8").splitlines()
    assert [line.split()[0] for line in short] == ["GPU", "▸", "0", "1", "6", "host"]
    assert short[4] == "  6 more GPUs"
    assert short[1].startswith("▸ 8 this run")


def test_without_a_driver_the_host_is_shown_and_said_to_be_that() -> None:
    assert shown(device="cpu", width=80).splitlines() == [
        "No GPU here: no NVIDIA driver answers (NVML). This is the host's memory.",
        "host memory 9.0 GiB of 64.0 GiB  trainer 2.0 GiB  CPU 50 %  disk 310 GiB free",
    ]
    assert str(machine(MemoryHistory(), None, UNICODE, 80, 10)) == "no sample yet"


def test_while_the_device_is_not_known_only_a_gpu_that_the_run_is_on_is_marked() -> None:
    assert "▸" not in shown(gpu(0, OTHER), device=None)
    assert "▸ 1" in shown(gpu(0, OTHER), gpu(1, OWN), device=None)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_names_of_others_stay_text_and_within_the_width(width: int, glyphs: Any) -> None:
    hostile = "[bold red]x[/]\x1b[31m\u202e" + "長い" * 50
    memory = MemoryHistory({OWN_PID})
    cards = [gpu(0, (7, None, hostile, hostile), OWN, name=hostile, throttling=[hostile]), INSTANCE]
    memory.apply({"type": "hardware", "time": 100.0, "gpus": cards, "host": HOST})
    for height in range(1, 12):
        words = machine(memory, "cuda:0", glyphs, width, height)
        lines = words.plain.split("\n")
        assert len(lines) <= height
        assert max(map(cell_len, lines)) <= width
        assert words.plain.isprintable() or "\x1b" not in words.plain
        if glyphs.ascii:
            assert words.plain.isascii()
    assert "[bold red]x" in words.plain
