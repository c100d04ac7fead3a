"""The exported adapter folder: plain PEFT loads it, and nothing in it tells of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from engine.checks import write_spec
from engine.evaluation.results import Evaluation, Interval, Measure, Part, keep
from engine.export import ExportRefused
from engine.export.adapter import export_adapter
from engine.export.base import base_of
from engine.jobs.subject import subject_of
from engine.runs.store import Run
from engine.spec import ParentSection, RunSpec
from engine.worker.loaded import load_base, put_on
from tests.engine.worker.training import fit, new_run

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A finished run of two steps with a checkpoint, shared by the tests of this file, which do not change it."""
    from engine.checks import parse_spec

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADECK_HOME", str(tmp_path_factory.mktemp("home")))
        spec = parse_spec(
            {
                "model": {"name_or_path": str(tiny_model), "dtype": "bfloat16"},
                "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
                "data": {"train": str(rows_file), "max_length": 64, "eval_fraction": 0.2},
                "training": {
                    "bf16": True,
                    "fp16": False,
                    "optim": "adamw_torch",
                    "gradient_accumulation_steps": 1,
                    "max_steps": 2,
                    "save_strategy": "steps",
                    "save_steps": 1,
                    "learning_rate": 1e-2,
                },
                "hardware": {"device": "cpu"},
            }
        )
        run = new_run(tmp_path_factory.mktemp("runs") / "20260102-030405-tiny-llama-0a1b", spec)
        assert fit(run)
        yield run


_LOGITS_BY_PLAIN_PEFT = """
import json, sys, torch
for name in ("engine", "tui"):
    sys.modules[name] = None  # an import of it fails
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(adapter)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
ids = tokenizer.apply_chat_template([{"role": "user", "content": "double 4"}], return_tensors="pt")["input_ids"]
print(json.dumps([ids.tolist(), model(ids).logits[0, -1].tolist()]))
"""


def test_plain_peft_computes_what_the_run_s_adapter_does(trained: Run, tmp_path: Path, tiny_model: Path) -> None:
    exported = export_adapter(subject_of(trained), tmp_path / "out")
    process = subprocess.run(
        [sys.executable, "-I", "-c", _LOGITS_BY_PLAIN_PEFT, str(tiny_model), str(exported.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    ids, logits = json.loads(process.stdout)

    spec = subject_of(trained).spec
    plain = spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"dtype": "float32"}),
            "quantization": spec.quantization.model_copy(update={"load_in": "none"}),
        }
    )
    base = load_base(plain)
    with torch.inference_mode():
        without = base(torch.tensor(ids)).logits[0, -1]
        ours = put_on(base, trained.adapter_folder).float()(torch.tensor(ids)).logits[0, -1]
    torch.testing.assert_close(torch.tensor(logits), ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, ours, atol=1e-3), "the adapter changes something"


def test_a_checkpoint_is_exported_without_what_only_a_resume_needs(trained: Run, tmp_path: Path) -> None:
    exported = export_adapter(subject_of(trained, "1"), tmp_path / "out")
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= exported.files.keys()
    assert "chat_template.jinja" in exported.files
    assert not {name for name in exported.files if "state" in name or name.endswith((".bin", ".pt", ".pickle"))}
    assert "the checkpoint of step 1" in (exported.folder / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(exported.folder).chat_template


def test_no_path_of_this_machine_is_in_the_folder(trained: Run, tmp_path: Path, tiny_model: Path) -> None:
    exported = export_adapter(subject_of(trained), tmp_path / "out")
    private = {str(tiny_model.parent), str(trained.folder.parent), str(Path.home()) + "/"}
    for path in exported.folder.rglob("*"):
        content = path.read_bytes()
        assert not [text for text in private if text.encode() in content], path
    config = json.loads((exported.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert "--base owner/name" in exported.base.note


def test_the_card_is_one_that_the_hub_reads(trained: Run, tmp_path: Path, rows_file: Path) -> None:
    interval = Interval(1.5, 1.25, 1.75)
    measure = Measure("loss", interval, Interval(0.5, 0.25, 0.75), Interval(-1, -2, -0.5), 0.01, True, "better")
    part = Part("held_out", "held-out rows", 12, 90, (measure,), "")
    keep(trained, Evaluation("", trained.id, None, "m", "a", 0.0, (part,), {}, {}, {}, False, False), [])
    exported = export_adapter(subject_of(trained), tmp_path / "out", "owner/base-model")
    card = ModelCard.load(exported.folder / "README.md")
    assert card.data.base_model == "owner/base-model"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert "datasets" not in card.data.to_dict()
    text = card.text
    for told in (
        "| learnt from | `rows.jsonl` |",
        "| format | `messages` |",
        "| held out | 0.2 of the rows",
        "`training.learning_rate` | `0.01`",
        "| `held-out rows` | 12 | `loss` | 1.500 (1.250 to 1.750) | 0.500 (0.250 to 0.750) | better |",
        "Training loss at step 2: ",
        "Held-out loss at the end",
        "peft 0.21",
        f"Run `{trained.id}`",
    ):
        assert told in text, text
    for row in map(json.loads, rows_file.read_text().splitlines()):
        assert row["messages"][0]["content"] not in text


def test_names_are_no_markup_in_the_card(trained: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "evil `|run\n# heading")
    run.folder.mkdir()
    (run.folder / "adapter").symlink_to(trained.adapter_folder)
    spec = subject_of(trained).spec
    parent = ParentSection(run="a|b`c\n\n<script>", changes={"data.train": ["/home/me/secret/x.jsonl", "/y|z.jsonl"]})
    data = spec.data.model_copy(update={"train": ["/home/me/secret/[a](b)|`c`.jsonl", "owner/rows"]})
    run.spec_path.write_text(write_spec(spec.model_copy(update={"parent": parent, "data": data})))
    exported = export_adapter(subject_of(run), tmp_path / "out")
    card = ModelCard.load(exported.folder / "README.md")
    assert card.data.datasets == ["owner/rows"]
    assert "secret" not in card.content
    assert "\n# heading" not in card.content
    lines = card.text.splitlines()
    assert "| learnt from | `[a](b)\\|'c'.jsonl`, `owner/rows` |" in lines
    assert any(line.startswith("It goes on from `a\\|b'c <script>`") for line in lines)
    assert "| `data.train` | `x.jsonl` | `y\\|z.jsonl` |" in lines


def test_nothing_is_written_over_and_nothing_half_made_is_left(trained: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ExportRefused, match="exists and is left as it is"):
        export_adapter(subject_of(trained), out)
    assert list(out.iterdir()) == []

    broken = Run(tmp_path / "broken")
    broken.adapter_folder.mkdir(parents=True)
    broken.spec_path.write_bytes(trained.spec_path.read_bytes())
    for path in trained.adapter_folder.iterdir():
        (broken.adapter_folder / path.name).write_bytes(path.read_bytes())
    weights = broken.adapter_folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportRefused, match=r"cannot be read: it should be [\d,]+ bytes long"):
        export_adapter(subject_of(broken), tmp_path / "new")
    weights.write_bytes(b"nonsense")
    with pytest.raises(ExportRefused, match="cannot be read"):
        export_adapter(subject_of(broken), tmp_path / "new")
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["broken", "home", "out"] or not (tmp_path / "new").exists()
    )


@pytest.mark.parametrize(
    ("path", "name", "hub_id"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/c/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289a04d12", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/me/models/mine", "mine", None),
    ],
)
def test_the_base_goes_by_a_name_that_others_know(
    path: str, name: str, hub_id: str | None, tiny_spec: Callable[..., Any]
) -> None:
    base = base_of(tiny_spec(model={"name_or_path": path}))
    assert (base.name, base.hub_id) == (name, hub_id)
    assert bool(base.note) == (hub_id is None)
    with pytest.raises(ExportRefused, match="write a hub id"):
        base_of(tiny_spec(model={"name_or_path": path}), "no hub id")
