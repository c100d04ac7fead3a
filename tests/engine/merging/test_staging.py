"""Nothing half-made has the final name, and nothing is left beside it for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.merging.staging import OutputExists, merging_folder, put_in_place

HOLD = """
import sys, os, signal
from pathlib import Path
from engine.merging.staging import merging_folder
with merging_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("")
    print(folder, flush=True)
    sys.stdin.read() if sys.argv[2] == "wait" else os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_appears_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    final = tmp_path / "new" / "model"
    with merging_folder(final) as folder:
        assert folder.name.startswith(".model.merging-")
        (folder / "16bit").mkdir()
        (folder / "16bit" / "config.json").write_text("{}")
        assert not final.exists()
        put_in_place(folder / "16bit", final)
    assert [path.name for path in final.parent.iterdir()] == ["model"]
    assert (final / "config.json").read_text() == "{}"


def test_after_a_failure_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with merging_folder(tmp_path / "model") as folder:
            (folder / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "empty folder", "dangling link"])
def test_whatever_has_the_name_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "model"
    if kind == "file":
        final.write_text("mine")
    elif kind == "empty folder":
        final.mkdir()
    else:
        final.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists, match="left as it is"), merging_folder(final):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_name_that_was_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with merging_folder(final) as folder:
        (folder / "16bit").mkdir()
        final.mkdir()
        with pytest.raises(OutputExists):
            put_in_place(folder / "16bit", final)
    assert list(final.iterdir()) == []


def test_the_next_try_removes_what_a_killed_one_left_and_no_other(tmp_path: Path) -> None:
    final = tmp_path / "model [1]"
    command = [sys.executable, "-c", HOLD, str(final)]
    killed = subprocess.run([*command, "die"], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    other = tmp_path / ".model 1.merging-mine"
    other.mkdir()
    with subprocess.Popen([*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        at_work = Path(process.stdout.readline().strip())
        with merging_folder(final) as folder:
            assert set(tmp_path.iterdir()) == {other, at_work, folder}
        process.communicate()
    assert set(tmp_path.iterdir()) == {other}
