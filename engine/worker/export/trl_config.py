"""A run as a config for `trl sft --config FILE`, and what of the run such a config cannot say.

What it says is parsed by trl's own parser and compared with what the run's trainer was given: whatever differs is
listed. From trl 1.16: `trl/scripts/sft.py`, `ModelConfig`, `DatasetMixtureConfig`, `SFTTrainer._prepare_dataset`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser, get_peft_config
from trl import get_quantization_config as quantization_of

from engine.data.sources import Source
from engine.spec import RunSpec
from engine.worker.data.run_data import RunData, load_data
from engine.worker.export.facts import Facts, facts_of
from engine.worker.export.script import twin_of_trl
from engine.worker.export.settings import (
    OF_ONE_MACHINE,
    as_plain,
    in_one_process,
    of_several,
    run_config,
    training_settings,
)
from engine.worker.failures import BadSpec
from engine.worker.job import Tell
from engine.worker.model import lora_config, quantization_config

BUILDERS = {"jsonl": "json", "json": "json", "csv": "csv", "tsv": "csv", "txt": "text", "parquet": "parquet"}
"""Kinds of files -> the builder of `datasets` that reads them."""
READ_BY_TRL = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
}
"""Columns that trl looks for."""
OF_DATA = ("dataset_kwargs", "chat_template_path", "assistant_only_loss", "completion_only_loss")
"""Fields of SFTConfig that Loradeck's trainer has no use for: its rows come tokenized."""


def exported_config(spec: RunSpec, run_id: str, template_path: Path, tell: Tell) -> dict[str, Any]:
    """The result of the request `trl` (`engine.worker.export.task`). Raises BadSpec as `trl_yaml` does."""
    tell("progress", doing="data", done=0, total=None)
    data = load_data(spec)
    return trl_yaml(spec, run_id, data, facts_of(spec, data), template_path)


def trl_yaml(spec: RunSpec, run_id: str, data: RunData, facts: Facts, template_path: Path) -> dict[str, Any]:
    """`text` of the config, `template` to write to `template_path` (or None), and `differences` in words.

    Raises BadSpec where trl would not read these rows at all.
    """
    remark, spec = of_several(spec), in_one_process(spec)
    settings, template = _settings(spec, run_id, data, facts, template_path)
    differences = [
        *([remark] if remark else []),
        *_of_data(spec, data, facts),
        *_of_settings(spec, settings, template, template_path),
    ]
    head = [
        f"# {_one_line(run_id)} as a config for: trl sft --config FILE",
        "# What the run did, and this does not:" if differences else "# It says all that the run's settings say.",
        *(f"#   {_one_line(difference)}" for difference in differences),
    ]
    body = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    return {"text": "\n".join(head) + "\n" + body, "template": template, "differences": differences}


def _settings(
    spec: RunSpec, run_id: str, data: RunData, facts: Facts, template_path: Path
) -> tuple[dict[str, Any], str | None]:
    lora, quantization = spec.lora, spec.quantization
    targets = lora.target_modules
    settings: dict[str, Any] = {
        "model_name_or_path": spec.model.name_or_path,
        "model_revision": spec.model.revision,
        "dtype": spec.model.dtype,
        "attn_implementation": spec.model.attn_implementation,
        "load_in_4bit": quantization.load_in == "4bit" or None,
        "load_in_8bit": quantization.load_in == "8bit" or None,
        "use_peft": True,
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_target_modules": [targets] if isinstance(targets, str) else targets,
        "lora_target_parameters": lora.target_parameters,
        "lora_modules_to_save": lora.modules_to_save,
        "use_rslora": lora.use_rslora or None,
        "use_dora": lora.use_dora or None,
        **_rows(spec, facts),
    }
    if quantization.load_in == "4bit":
        settings["bnb_4bit_quant_type"] = quantization.bnb_4bit_quant_type
        settings["use_bnb_nested_quant"] = quantization.bnb_4bit_use_double_quant
        settings["bnb_4bit_quant_storage"] = quantization.storage_type
    template = None
    if facts.conversations:
        encoder = data.encoder
        settings["assistant_only_loss"] = encoder.learns == "turns"
        if encoder.template.text not in (encoder.tokenizer.chat_template, twin_of_trl(encoder)):
            template = encoder.template.text
            settings["chat_template_path"] = str(template_path)
    if facts.shape.format == "prompt-completion":
        settings["completion_only_loss"] = data.encoder.learns != "everything"
    settings["output_dir"] = f"{run_id}-trl"
    settings |= {name: value for name, value in training_settings(spec).items() if name not in OF_DATA}
    return {name: value for name, value in settings.items() if value is not None}, template


def _rows(spec: RunSpec, facts: Facts) -> dict[str, Any]:
    """Where the rows are. Raises BadSpec."""
    form, source = facts.shape.format, facts.train[0]
    if form not in READ_BY_TRL:
        raise _cannot(f"it does not know rows of the format {form}")
    needed = READ_BY_TRL[form]
    called = facts.names[: len(needed)]
    if called != needed:
        raise _cannot(f"it looks for the columns {', '.join(needed)}, and these rows have {', '.join(called)}")
    if "system" in facts.extras:
        raise _cannot("it does not use the column system")
    if len({(each.kind, each.format) for each in facts.train}) > 1:
        raise _cannot("the rows are in files of several kinds")
    if source.kind == "hub" and spec.data.eval is None:
        return {
            "dataset_name": source.name,
            "dataset_config": source.config,
            "dataset_train_split": source.split,
            "dataset_test_split": spec.data.eval_split,
        }
    entry = _entry(facts.train, facts.delimiter)
    share = spec.data.eval_fraction if not facts.held_out else 0.0
    return {"datasets": [entry], "test_split_size": share or None}


def _entry(sources: list[Source], delimiter: str) -> dict[str, Any]:
    source = sources[0]
    if source.kind == "hub":
        return {"path": source.name, "name": source.config, "split": source.split}
    if source.kind == "saved" or source.format not in BUILDERS:
        raise _cannot("it does not read folders that `datasets` saved, or Arrow files")
    if source.format == "tsv" or (source.format == "csv" and delimiter != ","):
        raise _cannot("it reads tables with commas only")
    return {"path": BUILDERS[source.format], "data_files": [each.name for each in sources], "split": "train"}


def _cannot(why: str) -> BadSpec:
    return BadSpec(f"`trl sft` would not learn from these rows: {why}.", "`loradeck export RUN --script FILE` does.")


def _of_data(spec: RunSpec, data: RunData, facts: Facts) -> Iterator[str]:
    """What is learnt of the rows, and which of them."""
    encoder = data.encoder
    if facts.conversations and encoder.learns == "last" and facts.shape.format != "prompt-completion":
        yield "data: the last answer of a conversation is learnt; trl learns all of its text"
    if facts.held_out and facts.train[0].kind != "hub":
        yield "data.eval: held-out rows in a file of their own; trl splits some off the training rows, or has none"
    elif spec.data.eval_fraction:
        yield "data.eval_fraction: rows held out by a hash; trl draws as many at random"
    if spec.has_eval and spec.training.eval_strategy == "no":
        yield "the held-out rows are measured after the last step; trl measures none with eval_strategy: no"
    if spec.training.train_sampling_strategy == "group_by_length" or spec.data.packing:
        yield "the order of rows and blocks: trl's is another one, so losses come near and are not equal"
    if spec.hardware.device == "cpu" and spec.quantization.load_in == "4bit":
        yield "on a CPU with AVX512-BF16 bitsandbytes must not repack weights in evaluations: this cannot forbid it"
    if spec.training.early_stopping_patience is not None:
        yield "training.early_stopping_patience: trl sft ends early never"
    if spec.training.fp16:
        yield "adapters are trained in float32; trl makes them bfloat16, which fails with fp16"


def _of_settings(spec: RunSpec, settings: dict[str, Any], template: str | None, template_path: Path) -> Iterator[str]:
    """What trl's parser makes of the config, against what the run's trainer was given."""
    for_cpu = {"use_cpu": True, "dataloader_pin_memory": False, "report_to": "none"}
    shown = {name: value for name, value in settings.items() if name != "tf32"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump({**shown, **for_cpu}), encoding="utf-8")
        parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
        _, training, model, _ = parser.parse_args_and_config(["--config", str(path)])
    theirs, ours = as_plain(training), as_plain(run_config(spec))
    yield from _differing("training", theirs, ours, (*OF_ONE_MACHINE, *OF_DATA))
    yield from _differing("lora", get_peft_config(model).to_dict(), lora_config(spec.lora).to_dict(), ())
    theirs_q, ours_q = quantization_of(model), quantization_config(spec)
    if theirs_q is not None and ours_q is not None:
        yield from _differing("quantization", theirs_q.to_dict(), ours_q.to_dict(), ())


def _differing(section: str, theirs: dict[str, Any], ours: dict[str, Any], but: tuple[str, ...]) -> Iterator[str]:
    for name, value in ours.items():
        if name not in but and theirs.get(name) != value:
            yield f"{section}.{name}: {value!r}; here it is {theirs.get(name)!r}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
