"""An Ollama Modelfile beside a merged model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.export import ExportRefused
from engine.export.families import TRIALS, Recognised, recognise
from engine.export.merged import context_tokens, merged_config
from engine.export.writing import refuse_existing, write_new
from engine.jobs.process import IsCancelled, run_job

NAME = "Modelfile"
MOST_CONTEXT_TOKENS = 8192
"""More takes memory for every conversation, short ones too; a person raises it knowing that."""
READ_BY_OLLAMA = frozenset(
    {
        "LlamaForCausalLM",
        "MixtralForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Olmo3ForCausalLM",
        "CohereForCausalLM",
        "GptOssForCausalLM",
        "Lfm2ForCausalLM",
    }
)
"""Models of text whose safetensors Ollama imports (ollama/convert/convert.go, LoadModelMetadata)."""


@dataclass(frozen=True)
class ExportedModelfile:
    """What was written."""

    path: Path
    family: str | None
    """Of the chat template; None where it is none that is known, and no TEMPLATE was written."""
    notes: list[str]


def export_modelfile(
    folder: Path, trust_remote_code: bool = False, is_cancelled: IsCancelled | None = None
) -> ExportedModelfile:
    """Write the Modelfile into the merged model's `folder`.

    Raises ExportRefused for another folder or where there is one already, JobFailed, JobCancelled and OSError.
    """
    config = merged_config(folder)
    path = folder / NAME
    refuse_existing(path)
    request = {"what": "chat", "folder": str(folder.absolute()), "trials": TRIALS, "trusted": trust_remote_code}
    facts = run_job("export", request, "Reading the chat template", "cpu", None, is_cancelled)
    found = None if facts["written"] is None else recognise(facts["written"], facts["begin"])
    source, notes = _source(folder, config)
    if found is None:
        why = (
            "has no chat template" if facts["written"] is None else "writes conversations in no way that is known here"
        )
        notes.append(f"The model {why}: no TEMPLATE is in the Modelfile, and Ollama guesses one or uses none.")
    elif not found.takes_system:
        notes.append("The model's chat template takes no system turn; Ollama will write one before the first question.")
    if found is not None and found.prefix:
        notes.append(
            "The model's chat template begins every system turn with words of its own; the Modelfile has them as they "
            "are today, a date in them included."
        )
    write_new(path, text_of(source, found, facts["stop"], context_tokens(config)))
    return ExportedModelfile(path, None if found is None else found.family.name, notes)


def text_of(source: str, found: Recognised | None, stop: list[str], context: int | None) -> str:
    """The Modelfile."""
    lines = [f"FROM {source}"]
    if found is not None:
        lines.append(f"TEMPLATE {_quoted(found.template)}")
        if found.default_system is not None:
            lines.append(f"SYSTEM {_quoted(found.default_system)}")
    if context is not None:
        lines.append(f"PARAMETER num_ctx {min(context, MOST_CONTEXT_TOKENS)}")
    ends = [*(found.family.stop if found is not None else ()), *stop]
    lines += [f'PARAMETER stop "{end}"' for end in dict.fromkeys(ends) if '"' not in end and end.isprintable()]
    return "\n".join(lines) + "\n"


def _source(folder: Path, config: dict[str, Any]) -> tuple[str, list[str]]:
    """What FROM names: a GGUF file of the folder if it has one, or else the folder itself."""
    if files := sorted(folder.glob("*.gguf")):
        return f"./{files[0].name}", [f"FROM names the file {files[0].name}."]
    architecture = next(iter(config.get("architectures") or []), "an unknown model")
    if architecture in READ_BY_OLLAMA:
        return ".", []
    return ".", [
        f"Ollama may not import the safetensors of {architecture}: make a GGUF file first (`loradeck export RUN --gguf "
        f"{folder} --llama-cpp PATH`), and the Modelfile after it."
    ]


def _quoted(text: str) -> str:
    if '"""' in text:
        raise ExportRefused("The chat template has three quotes in a row, which a Modelfile cannot hold.")
    return f'"""{text}"""'
