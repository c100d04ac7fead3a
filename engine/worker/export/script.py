"""A run as one Python file that needs no Loradeck: settings first, then rows, model, training."""

from __future__ import annotations

import re
import textwrap

from transformers import AutoConfig
from trl import get_training_chat_template

from engine.data.sources import Source
from engine.runs.lineage import allocator_of
from engine.spec import RunSpec
from engine.worker.data.encode import Encoder
from engine.worker.data.template import without_marks
from engine.worker.export import data_parts, training_parts
from engine.worker.export.facts import Facts, cannot
from engine.worker.export.literals import call, literal, long_text
from engine.worker.export.settings import lora_settings, training_settings
from engine.worker.meta import auto_class

TWO_LINES = "\n\n"
IMPORTS: tuple[tuple[str, str], ...] = (
    ("csv", r"csv\."),
    ("gzip", r"gzip\."),
    ("hashlib", r"hashlib\."),
    ("json", r"json\."),
    ("os", r"os\."),
    ("sys", r"sys\."),
    ("bisect: bisect_left", r"bisect_left\("),
    ("bisect: bisect_right", r"bisect_right\("),
    ("bisect: insort", r"insort\("),
    ("torch", r"torch\."),
    ("bitsandbytes.nn: Linear4bit", r"Linear4bit\b"),
    ("datasets: Dataset", r"\bDataset\."),
    ("datasets: load_dataset", r"load_dataset\("),
    ("datasets: load_from_disk", r"load_from_disk\("),
    ("peft: LoraConfig", r"LoraConfig\("),
    ("peft: load_peft_weights", r"load_peft_weights\("),
    ("peft: set_peft_model_state_dict", r"set_peft_model_state_dict\("),
    ("transformers: AutoModelForCausalLM", r"AutoModelForCausalLM\b"),
    ("transformers: AutoModelForImageTextToText", r"AutoModelForImageTextToText\b"),
    ("transformers: AutoTokenizer", r"AutoTokenizer\b"),
    ("transformers: BitsAndBytesConfig", r"BitsAndBytesConfig\("),
    ("transformers: EarlyStoppingCallback", r"EarlyStoppingCallback\("),
    ("transformers: PrinterCallback", r"PrinterCallback\b"),
    ("transformers: TrainerCallback", r"TrainerCallback\b"),
    ("transformers.trainer_pt_utils: LengthGroupedSampler", r"LengthGroupedSampler\b"),
    ("transformers.trainer_pt_utils: get_length_grouped_indices", r"get_length_grouped_indices\b"),
    ("transformers.utils.chat_template_utils: render_jinja_template", r"render_jinja_template\("),
    ("trl: SFTConfig", r"SFTConfig\("),
    ("trl: SFTTrainer", r"SFTTrainer\b"),
    ("trl: get_training_chat_template", r"get_training_chat_template\("),
)
"""What a script may import, and by what in its text one sees that it needs it."""


def script_of(
    spec: RunSpec, run_id: str, versions: dict[str, str], encoder: Encoder, facts: Facts, exact: bool, remark: str = ""
) -> str:
    """The text of the script. `exact` writes out how marked turns become labels (`data_parts.encode`); `remark` says in
    what the run was another one.

    Raises BadSpec where no script would be right.
    """
    parts = [
        _settings(spec, run_id, encoder, facts, is_of_several=bool(remark)),
        f"{_heading('rows')}\n",
        *_data_parts(spec, encoder, facts, exact),
        f"{_heading('model')}\n",
        *_model_parts(spec),
        f"{_heading('training')}\n",
        *_training_parts(spec, encoder),
    ]
    body = TWO_LINES.join(parts)
    return f"{_docstring(run_id, versions, remark)}\n\n{_imports(body)}\n\n{body}"


def _docstring(run_id: str, versions: dict[str, str], remark: str) -> str:
    name = re.sub(r"[^\w.-]", "_", run_id)
    libraries = ", ".join(f"{library} {version}" for library, version in versions.items())
    promise = remark or "With the same files, machine and number of threads it prints the losses of that run."
    return f'''"""QLoRA fine-tuning as in the run {name}, with transformers, peft, trl and bitsandbytes alone.

    python SCRIPT [OUTPUT_FOLDER]

{textwrap.fill(promise, 110)}
Checked with {libraries}.
"""'''


def _heading(title: str) -> str:
    return f"# {'-' * 20} {title}"


def _imports(body: str) -> str:
    plain: list[str] = []
    named: dict[str, list[str]] = {}
    for what, seen in IMPORTS:
        if re.search(seen, body):
            module, _, name = what.partition(": ")
            if name:
                named.setdefault(module, []).append(name)
            else:
                plain.append(module)
    standard = [f"import {name}" for name in plain if name != "torch"]
    lines = {module: _import_line(module, names) for module, names in named.items()}
    standard += [line for module, line in lines.items() if module == "bisect"]
    others = ["import torch", *(line for module, line in lines.items() if module != "bisect")]
    return "\n".join(standard) + "\n\n" + "\n".join(others) + "\n"


def _import_line(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 110:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _settings(spec: RunSpec, run_id: str, encoder: Encoder, facts: Facts, is_of_several: bool) -> str:
    lines = [_heading("settings"), ""]
    if spec.hardware.device != "cpu":
        number = spec.hardware.device.removeprefix("cuda:")
        as_the_run = "" if is_of_several else "  # one GPU, as the run had it"
        lines += [
            'os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"',
            f'os.environ["CUDA_VISIBLE_DEVICES"] = {literal(number)}{as_the_run}',
        ]
        if (allocator := allocator_of(spec)) is not None:
            lines.append(f'os.environ["PYTORCH_ALLOC_CONF"] = {literal(allocator)}')
    if "wandb" in spec.training.report_to:
        lines.append('os.environ.setdefault("WANDB_MODE", "offline")')
    if spec.hardware.memory_limit is not None:
        lines.append(f"# The run was held to {literal(spec.hardware.memory_limit)} of memory; this script is not.")
    again = re.sub(r"[^\w.-]", "_", run_id) + "-again"
    lines += [
        f"OUTPUT = sys.argv[1] if len(sys.argv) > 1 else {literal(again)}",
        f"MODEL = {literal(spec.model.name_or_path)}",
        f"REVISION = {literal(spec.model.revision or 'main')}",
        f"DEVICE = {literal('cpu' if spec.hardware.device == 'cpu' else 'cuda:0')}",
        f"TRAIN = {_sources(facts.train)}",
    ]
    if facts.held_out:
        lines.append(f"HELD_OUT = {_sources(facts.held_out)}")
    elif spec.data.eval_fraction:
        lines.append(f"HELD_OUT_SHARE = {spec.data.eval_fraction!r}")
    lines += [
        f"MAX_LENGTH = {spec.data.max_length!r}",
        f"QUANTIZATION = {_quantization(spec)}",
        f"LORA = {call('LoraConfig', {name: literal(value, 4) for name, value in lora_settings(spec).items()})}",
        "TRAINING = dict(",
        *(f"    {name}={literal(value, 4)}," for name, value in training_settings(spec).items()),
        ")",
    ]
    if facts.conversations:
        lines.append(_template(encoder))
    return "\n".join(lines) + "\n"


def _sources(sources: list[Source]) -> str:
    flat = [data_parts.source_literal(source) for source in sources]
    inside = ", ".join(flat)
    return f"[{inside}]" if len(inside) < 90 else "[\n" + "".join(f"    {each},\n" for each in flat) + "]"


def _quantization(spec: RunSpec) -> str:
    """As `engine.worker.model.quantization_config` makes it; the check compares both."""
    from engine.worker.model import HEADS

    settings = spec.quantization
    if settings.load_in == "none":
        return "None"
    arguments: dict[str, str] = {}
    if settings.load_in == "4bit":
        arguments = {
            "load_in_4bit": "True",
            "bnb_4bit_quant_type": literal(settings.bnb_4bit_quant_type),
            "bnb_4bit_use_double_quant": repr(settings.bnb_4bit_use_double_quant),
            "bnb_4bit_compute_dtype": f"torch.{settings.bnb_4bit_compute_dtype}",
            "bnb_4bit_quant_storage": f"torch.{settings.storage_type}",
        }
    else:
        arguments = {"load_in_8bit": "True", "llm_int8_threshold": repr(settings.llm_int8_threshold)}
    if settings.llm_int8_skip_modules is not None:
        arguments["llm_int8_skip_modules"] = literal([*settings.llm_int8_skip_modules, *HEADS], 4)
    return call("BitsAndBytesConfig", arguments)


def _template(encoder: Encoder) -> str:
    """The setting TEMPLATE: None is the tokenizer's own."""
    text = encoder.template.text
    assert text is not None, "of conversations"
    if text == encoder.tokenizer.chat_template:
        return "TEMPLATE = None  # the tokenizer's own"
    if encoder.template.saved is None and text == twin_of_trl(encoder):
        return "TEMPLATE = get_training_chat_template(AutoTokenizer.from_pretrained(MODEL, revision=REVISION))"
    return f"TEMPLATE = {long_text(text)}"


def twin_of_trl(encoder: Encoder) -> str | None:
    """TRL's template that marks the turns of the tokenizer's own; None where it has none."""
    try:
        twin: str | None = get_training_chat_template(encoder.tokenizer)
    except ValueError:
        return None
    return twin


def _data_parts(spec: RunSpec, encoder: Encoder, facts: Facts, exact: bool) -> list[str]:
    data = spec.data
    try:
        parts = [data_parts.rows_of([*facts.train, *facts.held_out], facts.delimiter)]
    except data_parts.CannotRead as error:
        raise cannot(str(error)) from None
    if "tools" in facts.extras and encoder.template.with_tools is not None:
        raise cannot("rows with tools are written by another chat template than those without")
    is_prompts = facts.shape.format == "prompt-completion"
    parts.append(
        data_parts.example_of(facts.shape.format, facts.names, facts.conversations, facts.special, set(facts.extras))
    )
    if data.eval_fraction and not facts.held_out:
        parts.append(data_parts.HELD_OUT)
    parts.append(data_parts.encode(facts.conversations, is_prompts, encoder.learns, exact, set(facts.extras)))
    if data.packing:
        splits = data.packing_strategy == "bfd_split"
        parts += [data_parts.PACK.rstrip("\n") + "\n", data_parts.PARTS_SPLIT if splits else data_parts.PARTS_CUT]
    else:
        parts.append(data_parts.CUT)
    if facts.held_out:
        body = data_parts.LOAD_BOTH
    else:
        body = data_parts.LOAD_SHARE if data.eval_fraction else data_parts.LOAD_TRAIN
    parts.append(data_parts.LOAD.format(body=body, source="source" if facts.train[0].kind == "file" else "*source"))
    return parts


def _model_parts(spec: RunSpec) -> list[str]:
    trusted = spec.model.trust_remote_code
    if trusted:
        name = "AutoModelForCausalLM"
    else:
        config = AutoConfig.from_pretrained(spec.model.name_or_path, revision=spec.model.revision or "main")
        name = auto_class(config).__name__
    repacks = spec.hardware.device == "cpu" and spec.quantization.load_in == "4bit"
    return [
        training_parts.TOKENIZER.format(trusted=", trust_remote_code=True" if trusted else ""),
        training_parts.MODEL.format(
            auto_class=name,
            dtype=f"torch.{spec.model.dtype}",
            attention=literal(spec.model.attn_implementation),
            trusted="\n        trust_remote_code=True,  # runs the model's own Python code" if trusted else "",
            repacking=training_parts.NO_REPACKING if repacks else "",
        ),
    ]


def _training_parts(spec: RunSpec, encoder: Encoder) -> list[str]:
    training = spec.training
    methods: list[str] = []
    parts: list[str] = []
    if training.fp16:
        methods.append(training_parts.IN_FP32)
    if training.train_sampling_strategy == "group_by_length":
        seed = 'TRAINING["seed"]' if training.data_seed is None else 'TRAINING["data_seed"]'
        parts.append(training_parts.SAMPLER.format(seed=seed))
        methods.append(training_parts.GROUPED)
    if spec.has_eval:
        methods.append(training_parts.EVALUATE)
    if training.load_best_model_at_end:
        methods.append(training_parts.BEST)
    callbacks = ["PrintLogs()"]
    if training.early_stopping_patience is not None:
        patience = f"early_stopping_patience={training.early_stopping_patience}"
        threshold = f"early_stopping_threshold={training.early_stopping_threshold!r}"
        callbacks.append(f"EarlyStoppingCallback({patience}, {threshold})")
    if methods:
        parts.append(training_parts.TRAINER_HEAD + "\n".join(methods))
    parts.append(training_parts.PRINTER)
    ends_with_evaluation = spec.has_eval and training.eval_strategy == "no"
    parts.append(
        training_parts.MAIN.format(
            trainer="RunTrainer" if methods else "SFTTrainer",
            callbacks=", ".join(callbacks),
            saved_template=_saved_template(encoder),
            evaluate=training_parts.EVALUATE_AT_END if ends_with_evaluation else "",
        )
    )
    return parts


def _saved_template(encoder: Encoder) -> str:
    """The line that gives the tokenizer that is saved the template that was learnt."""
    saved, text = encoder.template.saved, encoder.template.text
    if saved is None or saved == encoder.tokenizer.chat_template:
        return ""
    if saved == text:
        return "    tokenizer.chat_template = TEMPLATE\n"
    if text is not None and saved == without_marks(text):
        return (
            "    tokenizer.chat_template = "
            'TEMPLATE.replace("{%- generation %}\\n", "").replace("{%- endgeneration %}\\n", "")\n'
        )
    return f"    tokenizer.chat_template = {long_text(saved)}\n"
