"""Chat templates in Ollama's language: recognised by what they write, and never guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer

from engine.export import ExportRefused
from engine.export.families import TRIALS, Recognised, recognise
from engine.export.merged import merged_config
from engine.export.modelfile import export_modelfile, text_of
from engine.worker.export.chat import chat_facts

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""The form of Mistral 7B Instruct v0.1 and v0.2."""


@pytest.fixture
def merged(tiny_model: Path, tmp_path: Path) -> Path:
    """A model's folder that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "merged"))


def found_in(folder: Path, template: str, begin: str = "<s>") -> Recognised | None:
    """The family of `template`, put on this folder's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"bos_token": begin, "eos_token": "</s>"})
    tokenizer.save_pretrained(folder)
    facts = chat_facts(folder, [list(trial) for trial in TRIALS], False)
    return recognise(facts["written"], facts["begin"])


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("llama3", "Llama 3"),
        ("llama3_1", "Llama 3"),
        ("llama3_2", "Llama 3"),
        ("gemma", "Gemma"),
        ("gemma3", "Gemma"),
        ("qwen2_5", "ChatML"),
        ("qwen3_instruct_2507", "ChatML"),
        ("phi3", None),
        ("cohere", None),
        ("glm4moe", None),
    ],
)
def test_real_templates_are_recognised_by_what_they_write(name: str, family: str | None, merged: Path) -> None:
    found = found_in(merged, (TEMPLATES / f"{name}.jinja").read_text())
    assert (found and found.family.name) == family


def test_mistral_s_spaces_and_places_are_told_apart(merged: Path) -> None:
    found = found_in(merged, MISTRAL)
    assert found is not None
    assert (found.family.name, found.takes_system) == ("Mistral", False)
    assert "[INST] {{ if" in found.template
    assert "{{ .Content }} [/INST]" in found.template
    tight = found_in(merged, MISTRAL.replace("'[INST] '", "'[INST]'").replace("' [/INST]'", "'[/INST]'"))
    assert tight is not None
    assert "{{ .Content }}[/INST]" in tight.template


def test_a_first_token_that_is_part_of_every_turn_stays(merged: Path) -> None:
    template = (merged / "chat_template.jinja").read_text()
    for begin in ("<|im_start|>", "<s>"):
        found = found_in(merged, template, begin)
        assert found is not None
        assert found.family.name == "ChatML"


def test_a_system_turn_that_is_written_unasked_becomes_system(merged: Path) -> None:
    found = found_in(merged, (TEMPLATES / "qwen2_5.jinja").read_text())
    assert found is not None
    assert found.default_system == "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    text = text_of(".", found, ["</s>"], 32768)
    assert f'SYSTEM """{found.default_system}"""' in text
    assert "PARAMETER num_ctx 8192" in text
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "</s>"' in text


def test_words_before_every_system_turn_stay_there(merged: Path) -> None:
    found = found_in(merged, (TEMPLATES / "llama3_1.jinja").read_text())
    assert found is not None
    assert found.default_system is None
    assert found.prefix.startswith("Cutting Knowledge Date: December 2023\n")
    assert found.template.startswith('{{ if not .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ "Cutting')


def test_the_modelfile_stands_beside_the_model_and_is_not_written_over(merged: Path) -> None:
    exported = export_modelfile(merged)
    text = exported.path.read_text()
    assert text.startswith('FROM .\nTEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n')
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER num_ctx 2048" in text
    assert (exported.family, exported.notes) == ("ChatML", [])
    with pytest.raises(ExportRefused, match="exists and is left as it is"):
        export_modelfile(merged)
    assert exported.path.read_text() == text


def test_a_folder_that_is_no_merged_model_is_refused(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="There is no folder"):
        merged_config(tmp_path / "none")
    (merged / "adapter_config.json").write_text("{}")
    with pytest.raises(ExportRefused, match="holds an adapter"):
        merged_config(merged)
    (merged / "adapter_config.json").unlink()
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ExportRefused, match="quantized already"):
        merged_config(merged)
    (merged / "config.json").write_text(json.dumps(config))
    (merged / "model.safetensors").unlink()
    with pytest.raises(ExportRefused, match="no weights"):
        merged_config(merged)
