"""The model card of an adapter: what it was trained on and how, what came of it, and what it came from.

No text of the data is in it, and no path of this machine: files go by their names.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.data.sources import is_path_like
from engine.evaluation.results import Evaluation, Interval, evaluations_of
from engine.export.base import Base
from engine.export.markdown import code, table
from engine.export.vllm import Finding, options, serves
from engine.jobs.subject import Subject
from engine.runs.events import Event
from engine.runs.last_events import last_events
from engine.runs.lineage import settings_of
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.units import figures

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")
ALWAYS_SHOWN = (
    "quantization.load_in",
    "lora.r",
    "lora.lora_alpha",
    "lora.lora_dropout",
    "lora.target_modules",
    "data.max_length",
    "training.learning_rate",
    "training.num_train_epochs",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.optim",
    "training.seed",
)
TOLD_ELSEWHERE = ("model.name_or_path", "data.train", "data.eval", "hardware.", "on_oom", "data.sample")
"""Sample prompts are a person's own text."""


def card_of(subject: Subject, base: Base, vllm: list[Finding]) -> str:
    """The text of README.md, YAML in front as the hub reads it (huggingface_hub, `ModelCardData`)."""
    from huggingface_hub import ModelCardData

    spec = subject.spec
    front = ModelCardData(
        base_model=base.hub_id,
        library_name="peft",
        pipeline_tag="text-generation",
        datasets=hub_datasets(spec) or None,
        tags=["lora", "sft", "loradeck"],
    )
    sections = [
        f"---\n{front.to_yaml()}\n---\n",
        f"# {code(subject.run.id)}\n",
        f"A LoRA adapter for {_linked(base)}, trained with Loradeck on {_how_loaded(spec)}"
        + (f"; the checkpoint of step {subject.step:,}.\n" if subject.step is not None else ".\n"),
        _use(base, vllm),
        _data(subject),
        _results(subject),
        _settings(spec),
        _lineage(subject),
        _versions(),
    ]
    return "\n".join(section for section in sections if section)


def hub_datasets(spec: RunSpec) -> list[str]:
    """Ids of the hub's datasets that were trained on or measured with."""
    named = [*_names(spec.data.train), *_names(spec.data.eval)]
    return [name for name in dict.fromkeys(named) if not is_path_like(name)]


def public(value: Any) -> str:
    """A setting's value as it may leave this machine: of a path the last part."""
    if isinstance(value, str):
        return Path(value).name if os.path.isabs(value) or value.startswith("~") else value
    if isinstance(value, list):
        return ", ".join(map(public, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, bool)) or value is None else str(value)


def _names(names: str | list[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else names


def _linked(base: Base) -> str:
    return f"[{base.hub_id}](https://huggingface.co/{base.hub_id})" if base.hub_id else code(base.name)


def _how_loaded(spec: RunSpec) -> str:
    how = spec.quantization
    if how.load_in == "none":
        return f"the base in {spec.model.dtype}"
    if how.load_in == "8bit":
        return "the base in 8 bits (LLM.int8)"
    double = ", double quantization" if how.bnb_4bit_use_double_quant else ""
    return f"the base in 4 bits ({how.bnb_4bit_quant_type}{double})"


def _use(base: Base, vllm: list[Finding]) -> str:
    revision = f', revision="{base.revision}"' if base.revision else ""
    name = json.dumps(base.name, ensure_ascii=False)
    text = f"""## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
base = AutoModelForCausalLM.from_pretrained({name}{revision}, device_map="auto")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
```
"""
    if serves(vllm):
        arguments = " ".join([*options(vllm), "--lora-modules adapter=THIS_FOLDER"])
        served = f"\nWith vLLM: `vllm serve {_shell_word(base.name)} {arguments}`.\n"
    else:
        served = "\nvLLM does not serve it as it is:\n"
    rows = [(code(finding.setting), finding.verdict, _plain(finding.reason)) for finding in vllm]
    return f"{text}{served}\n{table(('setting', 'in vLLM', 'why'), rows)}"


def _plain(reason: str) -> str:
    return reason.replace("|", "\\|")


def _shell_word(name: str) -> str:
    import shlex

    return shlex.quote(name).replace("`", "")


def _data(subject: Subject) -> str:
    spec, data = subject.spec, last_events(subject.run.events_path, ["data"]).get("data", {})
    rows = [("learnt from", _files(spec.data.train)), ("format", code(data.get("format") or spec.data.format))]
    if isinstance(data.get("rows"), int):
        rows.append(("rows", f"{data['rows']:,}"))
    if isinstance(data.get("tokens"), int) and isinstance(data.get("learnt_tokens"), int):
        rows.append(("tokens", f"{data['tokens']:,}, of which {data['learnt_tokens']:,} are learnt"))
    if spec.has_eval:
        rows.append(("held out", _held_out(spec)))
        if isinstance(data.get("held_out_rows"), int):
            rows.append(("held-out rows", f"{data['held_out_rows']:,}"))
    if data.get("template"):
        rows.append(("chat template", code(data["template"])))
    return "## Data\n\n" + table(("", ""), rows)


def _held_out(spec: RunSpec) -> str:
    if spec.data.eval is not None:
        return _files(spec.data.eval)
    if spec.data.eval_split is not None:
        return f"the split {code(spec.data.eval_split)}"
    return f"{spec.data.eval_fraction:.3g} of the rows, chosen by a hash of each"


def _files(names: str | list[str] | None) -> str:
    return ", ".join(code(public(name)) for name in _names(names))


def _results(subject: Subject) -> str:
    lines: list[str] = []
    events = last_events(subject.run.events_path, ["step", "eval", "kept"])
    if subject.step is None:
        if (kept := events.get("kept")) is not None:
            best = f"{code(kept['metric'])} {figures(kept['value'])}"
            lines.append(f"The adapter is that of step {kept['step']:,}, whose evaluation was the best: {best}.")
        if isinstance(loss := events.get("step", {}).get("loss"), float):
            lines.append(f"Training loss at step {events['step']['step']:,}: {figures(loss)}.")
        if isinstance(eval_loss := events.get("eval", {}).get("eval_loss"), float):
            lines.append(f"Held-out loss at the end: {figures(eval_loss)} nats a token.{_accuracy(events['eval'])}")
    newest = next((each for each in evaluations_of(subject.run) if each.step == subject.step), None)
    if newest is not None:
        lines.append(_evaluation(newest))
    return "## Results\n\n" + "\n\n".join(lines) + "\n" if lines else ""


def _accuracy(event: Event) -> str:
    accuracy = event.get("eval_token_accuracy")
    return f" Tokens right: {accuracy:.1%}." if isinstance(accuracy, float) else ""


def _evaluation(evaluation: Evaluation) -> str:
    rows = [
        (
            code(part.title),
            f"{part.rows:,}",
            code(measure.name),
            _interval(measure.base),
            _interval(measure.adapter),
            measure.verdict,
        )
        for part in evaluation.parts
        for measure in part.measures
    ]
    return (
        "Base against adapter, with intervals of 95 % (bootstrap over rows); a verdict is given where a paired test "
        f"shows it.\n\n{table(('on', 'rows', 'measure', 'base', 'adapter', ''), rows)}"
    )


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{figures(interval.value)} ({figures(interval.low)} to {figures(interval.high)})"


def _settings(spec: RunSpec) -> str:
    usual = settings_of(RunSpec.model_validate({"model": {"name_or_path": "-"}, "data": {"train": "-"}}))
    rows = [
        (code(field), code(public(value)))
        for field, value in settings_of(spec).items()
        if not field.startswith(TOLD_ELSEWHERE) and (field in ALWAYS_SHOWN or value != usual[field])
    ]
    return "## Settings\n\nWhat differs from Loradeck's defaults, and the main ones.\n\n" + table(("", ""), rows)


def _lineage(subject: Subject) -> str:
    lines = [f"Run {code(subject.run.id)}."]
    parent = subject.spec.parent
    if parent is not None:
        began = f"its checkpoint {code(parent.checkpoint)}" if parent.checkpoint else "its settings, from the start"
        lines.append(f"It goes on from {code(parent.run)}, by {began}. Changed:")
        changed: Mapping[str, tuple[Any, Any]] = parent.changes
        rows = [
            (code(field), code(public(old)), code(public(new)))
            for field, (old, new) in changed.items()
            if not field.startswith("data.sample")
        ]
        lines.append(table(("", "there", "here"), rows) if rows else "nothing.")
        lines += [f"Which goes on from {code(run.id)}." for run in _ancestors(subject.run, parent.run)]
    return "## Lineage\n\n" + "\n\n".join(lines) + "\n"


def _ancestors(run: Run, parent: str) -> list[Run]:
    """Runs before the parent, as far as they are still there."""
    found: list[Run] = []
    seen = {run.id, parent}
    current: str | None = Run(run.folder.with_name(parent)).read_status().parent
    while current is not None and current not in seen:
        seen.add(current)
        found.append(Run(run.folder.with_name(current)))
        current = found[-1].read_status().parent
    return found


def _versions() -> str:
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return f"## Versions\n\nInstalled where it was exported: {shown}.\n"
