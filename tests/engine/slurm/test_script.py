"""The batch script: what a shell and sbatch read in it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from engine.runs.store import Run
from engine.slurm.script import job_script
from engine.slurm.settings import SlurmSettings
from tests.engine.slurm.test_settings import ALL


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_settings_are_options_of_sbatch_under_their_own_names(tmp_path: Path) -> None:
    found = directives(job_script(Run(tmp_path / "run-1"), SlurmSettings.model_validate(ALL), {}))
    assert found[0] == "--job-name=loradeck-run-1"
    for option in (
        "--partition=gpu,gpu-long", "--account=lab_7", "--qos=high", "--time=1-12:00:00", "--gres=gpu:a100:2",
        "--cpus-per-task=8", "--mem=64G", "--no-requeue", "--signal=B:USR1@120", "--constraint=h100",
        "--exclude=n[1-3]", "--nodes=1", "--ntasks=1",
    ):  # fmt: skip
        assert found.count(option) == 1, option


def test_what_is_unset_is_left_to_the_cluster(tmp_path: Path) -> None:
    names = {option.partition("=")[0] for option in directives(job_script(Run(tmp_path), SlurmSettings(), {}))}
    assert names.isdisjoint({"--partition", "--account", "--qos", "--time", "--gres", "--cpus-per-task", "--mem"})
    assert "--requeue" in names


def test_a_folder_with_blanks_and_quotes_is_read_back_by_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "my" $HOME'
    folder.mkdir()
    script = job_script(Run(folder), SlurmSettings(), {"LORADECK_HOME": str(folder)})
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    told = script.replace("exec ", 'printf "%s\\n" "$PWD" "$LORADECK_HOME" ')
    out = subprocess.run(["bash"], input=told, text=True, capture_output=True, check=True).stdout.splitlines()
    assert out == [str(folder), str(folder), sys.executable, "-m", "engine.runs.supervisor", str(folder)]
    quoted = next(line for line in directives(script) if line.startswith("--chdir="))
    assert shlex.split(quoted) == [f"--chdir={folder}"]
