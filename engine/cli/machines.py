"""What commands say and ask of runs on several machines."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import fail, printable
from engine.runs.store import Run, runs_folder

if TYPE_CHECKING:
    from engine.spec import RunSpec

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
WAIT_S = 900.0
POLL_S = 0.5

MachineRank = Annotated[
    int | None,
    typer.Option(
        "--machine-rank", min=0, help="Which of hardware.machines this one is, where its addresses do not tell."
    ),
]


def on_machine(spec: RunSpec, machine_rank: int | None) -> RunSpec:
    """`spec` on the machine of this number, where one is given."""
    if machine_rank is None:
        return spec
    return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"machine_rank": machine_rank})})


def wait_for_shared(name: str, spec: RunSpec, as_json: bool) -> None:
    """Return when machine 0 has made the run folder that all share; ends the command where that cannot be."""
    hardware = spec.hardware
    if hardware.num_machines == 1:
        fail("--shared is for runs on several machines: hardware.num_machines is 1.", 2, as_json)
    if not NAME.fullmatch(name):
        fail(f"{name!r} is no name for a folder: write letters, digits, dots and dashes.", 2, as_json)
    whole = Run(runs_folder() / name)
    if hardware.machine_rank == 0 or whole.spec_path.exists():
        return
    if not as_json:
        typer.echo(f"Waits for machine 0 ({hardware.machines_in_order[0].address}) to make {whole.folder}.")
    deadline = time.monotonic() + WAIT_S
    while not whole.spec_path.exists():
        if time.monotonic() > deadline:
            fail(
                f"{whole.folder} is not there after {WAIT_S / 60:.0f} minutes. Start the run on machine 0 too; where "
                "LORADECK_HOME is not on storage that the machines share, leave --shared out.",
                1,
                as_json,
            )
        time.sleep(POLL_S)


def words_of_machines(machines: list[dict[str, Any]], has_ended: bool) -> list[str]:
    """A line for each of the other machines: `machine 1 (10.0.0.2): training, step 12, seen 2 s ago`."""
    now, lines = time.time(), []
    for each in machines:
        words = [str(each.get("state") or "unknown")]
        if each.get("step"):
            words.append(f"step {each['step']:,}")
        if not has_ended and isinstance(seen := each.get("seen"), (int, float)):
            words.append(f"seen {max(0, now - seen):.0f} s ago")
        words += [f"{name} {each[name]}" for name in ("host", "run") if each.get(name)]
        lines.append(printable(f"machine {each.get('machine_rank')} ({each.get('address')}): {', '.join(words)}"))
    return lines
