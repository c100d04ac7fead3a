"""What a job may ask of Slurm, and what is said about what it may not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine.checks import InvalidSpec, parse_spec, read_spec, write_spec
from engine.slurm.settings import SlurmSettings, seconds_of
from engine.spec import RunSpec

ALL = {
    "partition": "gpu,gpu-long", "account": "lab_7", "qos": "high", "time": "1-12:00:00", "gpus": "a100:2",
    "cpus_per_task": 8, "mem": "64G", "requeue": False, "extra": ["--constraint=h100", "--exclude=n[1-3]"],
}  # fmt: skip


def spec(slurm: Any, device: str = "auto") -> RunSpec:
    return parse_spec(
        {
            "model": {"name_or_path": "demo"},
            "data": {"train": "rows.jsonl"},
            "hardware": {"launcher": "slurm", "slurm": slurm, "device": device},
        }
    )


def problem(slurm: Any, device: str = "auto") -> str:
    with pytest.raises(InvalidSpec) as caught:
        spec(slurm, device)
    [only] = caught.value.problems
    assert only.field == "hardware.slurm"
    return str(only)


def test_all_settings_survive_being_written_and_read(tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(write_spec(spec(ALL)))
    again = read_spec(path)
    assert again == spec(ALL)
    assert again.hardware.slurm == ALL
    assert again.hardware.slurm_settings == SlurmSettings.model_validate(ALL)


def test_numbers_that_yaml_makes_are_taken_where_they_are_meant() -> None:
    slurm = spec(yaml.safe_load("{gpus: 2, mem: 64000}")).hardware.slurm_settings
    assert (slurm.gpus, slurm.mem) == ("2", "64000")


def test_a_time_without_quotes_is_refused_for_yaml_reads_another_number() -> None:
    assert "between quotes" in problem(yaml.safe_load("{time: 2:00:00}"))


@pytest.mark.parametrize(
    ("slurm", "words"),
    [
        ({"partitoin": "gpu"}, "did you mean partition?"),
        ({"nodes": 3}, "there are partition, account"),
        ({"time": "soon"}, "this is no value for time: 'soon'"),
        ({"mem": "lots"}, "such as 64G"),
        ({"gpus": "0"}, "number of GPUs"),
        ({"cpus_per_task": 0}, "no value for cpus_per_task"),
        ({"partition": "gpu\n#SBATCH --wrap=x"}, "without blanks"),
        ({"extra": ["--comment=a\nrm -rf x"]}, "options of sbatch"),
        ({"extra": ["rm"]}, "options of sbatch"),
    ],
)
def test_what_is_wrong_is_said(slurm: dict[str, Any], words: str) -> None:
    assert words in problem(slurm)


def test_a_gpu_has_to_be_asked_for() -> None:
    assert "asks for no GPU" in problem({}, device="cuda")
    for asking in ({"gpus": 1}, {"extra": ["--gres=gpu:1"]}, {"extra": ["--gpus-per-node=1"]}):
        assert spec(asking, device="cuda").hardware.slurm_settings.asks_for_gpus
    assert not spec({"extra": ["--constraint=gpu"]}).hardware.slurm_settings.asks_for_gpus


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("10:30", 630), ("2:00:00", 7200), ("1-12", 129_600), ("1-00:30", 88_200), ("2-01:02:03", 176_523)],
)
def test_times_are_read_as_sbatch_reads_them(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_a_short_job_is_warned_later() -> None:
    assert SlurmSettings().warning_s == 120
    assert SlurmSettings(time="10:00").warning_s == 60
    assert SlurmSettings(time="1-0").warning_s == 120
