"""How far the memory formula is from the trace: allocated bytes at the peak, for models as published and small ones.

    python -m tests.benchmarks.formula_accuracy [--json] [--cases PATTERN]

Prints a row a case, then the mean and the worst error of each group. PATTERN is part of a case's name, such as
`gemma`, `cpu` or `b4`; several are separated by commas, and all must be in the name. A trace takes seconds and is kept
on disk, so the first pass takes minutes and others are quick.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from engine.architecture import Architecture
from engine.catalog import cache_folder
from engine.checks import typed_spec
from engine.inspector import Inspector
from engine.memory import predict as predicting
from engine.memory.card import Card
from engine.memory.predict import NotPredicted, Question, predict
from engine.spec import RunSpec
from engine.targets import asked_for

CARD = Card("card of compute capability 8.0", None, compute_capability=(8, 0), is_here=False)
CPU = Card("host memory", None, on_cpu=True)


def _config(model_type: str, class_name: str, sizes: tuple[int, int, int, int, int, int], **more: Any) -> Any:
    """`sizes`: hidden, MLP, layers, heads, key-value heads, vocabulary."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    numbers = dict(zip((*names, "vocab_size"), sizes, strict=True))
    return {"model_type": model_type, "architectures": [class_name], **numbers, "max_position_embeddings": 4096, **more}


def _llama(*sizes: int, **more: Any) -> Any:
    return _config("llama", "LlamaForCausalLM", sizes, **{"tie_word_embeddings": False, **more})  # type: ignore[arg-type]


TIED = {"tie_word_embeddings": True}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": _llama(2048, 8192, 16, 32, 8, 128256, head_dim=64, **TIED),
    "Llama-3.2-3B": _llama(3072, 8192, 28, 24, 8, 128256, head_dim=128, **TIED),
    "Llama-3-8B": _llama(4096, 14336, 32, 32, 8, 128256),
    "Qwen2.5-0.5B": _config("qwen2", "Qwen2ForCausalLM", (896, 4864, 24, 14, 2, 151936), **TIED),
    "Qwen2.5-1.5B": _config("qwen2", "Qwen2ForCausalLM", (1536, 8960, 28, 12, 2, 151936), **TIED),
    "Qwen2.5-7B": _config("qwen2", "Qwen2ForCausalLM", (3584, 18944, 28, 28, 4, 152064), tie_word_embeddings=False),
    "Qwen3-0.6B": _config("qwen3", "Qwen3ForCausalLM", (1024, 3072, 28, 16, 8, 151936), head_dim=128, **TIED),
    "Qwen3-4B": _config("qwen3", "Qwen3ForCausalLM", (2560, 9728, 36, 32, 8, 151936), head_dim=128, **TIED),
    "SmolLM2-135M": _llama(576, 1536, 30, 9, 3, 49152, **TIED),
    "SmolLM2-1.7B": _llama(2048, 8192, 24, 32, 32, 49152, **TIED),
    "Mistral-7B": _config("mistral", "MistralForCausalLM", (4096, 14336, 32, 32, 8, 32768), tie_word_embeddings=False),
    "Gemma-2-2B": _config("gemma2", "Gemma2ForCausalLM", (2304, 9216, 26, 8, 4, 256000), head_dim=256, **TIED),
    "Gemma-3-1B": _config(
        "gemma3_text", "Gemma3ForCausalLM", (1152, 6912, 26, 4, 1, 262144), head_dim=256, sliding_window=512, **TIED
    ),
    "Phi-3-mini": _config(
        "phi3", "Phi3ForCausalLM", (3072, 8192, 32, 32, 32, 32064), pad_token_id=0, tie_word_embeddings=False
    ),
    "deepseek-coder-1.3b": _llama(2048, 5504, 24, 16, 16, 32256),
}
"""Published dimensions of models that people train."""

HIDDEN, MLP, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 256, 688, 4, 8, 4, 4096
USUAL = (HIDDEN, MLP, LAYERS, HEADS, KEY_HEADS, VOCABULARY)
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _tiny(model_type: str, class_name: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = _config(model_type, class_name, USUAL, **{"tie_word_embeddings": False, **ENDS})
    return {name: value for name, value in {**made, **more}.items() if value is not None}


TINY: dict[str, dict[str, Any]] = {
    "llama": _tiny("llama", "LlamaForCausalLM"),
    "llama-tied": _tiny("llama", "LlamaForCausalLM", **TIED),
    "mistral": _tiny("mistral", "MistralForCausalLM", head_dim=32),
    "qwen2": _tiny("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _tiny("qwen3", "Qwen3ForCausalLM", head_dim=48),
    "gemma2": _tiny("gemma2", "Gemma2ForCausalLM", head_dim=32, **TIED),
    "gemma3": _tiny("gemma3_text", "Gemma3ForCausalLM", head_dim=32, sliding_window=256, **TIED),
    "phi3": _tiny("phi3", "Phi3ForCausalLM"),
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024},
        **ENDS,
    },
    "gpt-neox": _tiny("gpt_neox", "GPTNeoXForCausalLM", num_key_value_heads=None),
    "granite": _tiny("granite", "GraniteForCausalLM"),
    "smollm3": _tiny("smollm3", "SmolLM3ForCausalLM"),
    "falcon": {
        "model_type": "falcon",
        "architectures": ["FalconForCausalLM"],
        **{"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"num_kv_heads": KEY_HEADS, "ffn_hidden_size": MLP, "new_decoder_architecture": True},
        **ENDS,
    },
    "opt": {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        **{"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"ffn_dim": MLP, "word_embed_proj_dim": 192, "max_position_embeddings": 1024},
        **ENDS,
    },
    "bloom": {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        **{"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
        **ENDS,
    },
    "mixtral": _tiny("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe": _tiny(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        **{"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 176},
        mlp_only_layers=[0],
    ),
}
"""Small models of each family."""


@dataclass(frozen=True)
class Case:
    """One run on one device."""

    model: str
    """Of PUBLISHED or TINY."""
    card: Card
    load_in: str = "4bit"
    checkpointing: bool = True
    rows: int = 1
    lora: dict[str, Any] = field(default_factory=dict)
    """More than the attention preset, and `select` in its place."""
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    attention: str | None = None

    @property
    def name(self) -> str:
        kept = "checkpointed" if self.checkpointing else "kept"
        parts = [self.model, "cpu" if self.card.on_cpu else "cuda", self.load_in, kept, f"b{self.rows}"]
        extras = {
            **self.lora,
            **self.training,
            **self.data,
            **({"attention": self.attention} if self.attention else {}),
        }
        return " ".join([*parts, *(f"{name}={value}" for name, value in extras.items())])

    @property
    def is_tiny(self) -> bool:
        return self.model in TINY


@dataclass(frozen=True)
class Row:
    """What came out of one case."""

    case: str
    group: str
    traced_bytes: int
    formula_bytes: int
    seconds: float
    traced_phases: dict[str, int]
    formula_phases: dict[str, int]

    @property
    def error(self) -> float:
        return self.formula_bytes / self.traced_bytes - 1


def all_cases() -> Iterator[Case]:
    """Every model in every combination of what matters most, then a few of what else there is."""
    combinations = list(product((CARD, CPU), ("4bit", "none"), (True, False), (1, 4)))
    for model in (*TINY, *PUBLISHED):
        yield from (Case(model, *combination) for combination in combinations)
    for model, card in product(("llama", "qwen3", "gpt2", "Llama-3.2-1B", "Qwen2.5-1.5B", "SmolLM2-135M"), (CARD, CPU)):
        for checkpointing in (True, False):
            yield Case(model, card, checkpointing=checkpointing, rows=4, attention="eager")
            yield Case(model, card, checkpointing=checkpointing, rows=4, lora={"select": "attention+mlp"})
            yield Case(model, card, checkpointing=checkpointing, rows=4, lora={"use_dora": True})
        yield Case(model, card, rows=4, training={"gradient_accumulation_steps": 2})
        yield Case(model, card, rows=4, lora={"r": 128}, training={"optim": "adamw_8bit"})
        yield Case(model, card, rows=1, training={"per_device_eval_batch_size": 8})
        yield Case(model, card, rows=2, data={"packing": True})
        if model in PUBLISHED:
            yield Case(model, card, rows=2, data={"max_length": 4096})
        yield Case(model, card, rows=4, checkpointing=False, lora={"lora_dropout": 0.0})
        yield Case(model, card, rows=4, checkpointing=False, lora={"lora_dropout": 0.0, "select": "all-linear"})
        yield Case(model, card, rows=1, lora={"modules_to_save": ["wte" if model == "gpt2" else "embed_tokens"]})


def question_for(case: Case, architecture: Architecture, folder: Path) -> Question:
    """As the app would ask it."""
    options = {"select": "attention", "r": 16, **case.lora}
    lora = asked_for(options.pop("select"), None, None, options.pop("r"), architecture).model_copy(update=options)
    raw = {
        "model": {"name_or_path": str(folder), "attn_implementation": case.attention},
        "quantization": {"load_in": case.load_in},
        "lora": lora.model_dump(),
        "data": {"train": "rows.jsonl", "eval_fraction": 0.1, "max_length": 512 if case.is_tiny else 1024, **case.data},
        "training": {
            "per_device_train_batch_size": case.rows,
            "per_device_eval_batch_size": case.rows,
            "gradient_accumulation_steps": 1,
            "activation_checkpointing": case.checkpointing,
            **case.training,
        },
    }
    spec: RunSpec = typed_spec(raw)
    return Question(spec, architecture, case.card, config_folder=folder)


def compared(cases: list[Case]) -> Iterator[Row | str]:
    """A row a case, or in words why it could not be traced."""
    with Inspector() as inspector, tempfile.TemporaryDirectory() as scratch:
        architectures: dict[str, tuple[Architecture, Path]] = {}
        for case in cases:
            if case.model not in architectures:
                folder = Path(scratch, case.model)
                folder.mkdir()
                (folder / "config.json").write_text(json.dumps({**PUBLISHED, **TINY}[case.model]))
                architectures[case.model] = inspector.architecture(str(folder)), folder
            question = question_for(case, *architectures[case.model])
            try:
                # A small model is traced as it is; of a large one, few layers tell the rest to the byte.
                traced = predict(question, "full" if case.is_tiny else "shallow", inspector)
            except NotPredicted as reason:
                yield f"{case.name}: {reason}"
                continue
            formula = predict(question)
            yield Row(
                case.name,
                f"{'tiny' if case.is_tiny else 'published'}, {'cpu' if case.card.on_cpu else 'cuda'}",
                traced.allocated_bytes,
                formula.allocated_bytes,
                traced.seconds,
                dict(traced.phases),
                dict(formula.phases),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="one object a line, with the peak of each phase")
    parser.add_argument("--cases", default="", help="parts of names, separated by commas")
    options = parser.parse_args()
    # A folder of its own, for more traces than the app keeps: they would push out its own, and in the end each other.
    os.environ["LORADECK_CACHE"] = str(cache_folder() / "formula_accuracy")
    predicting.KEPT_TRACES = 10 * len(list(all_cases()))
    wanted = options.cases.split(",")
    rows = []
    for row in compared([case for case in all_cases() if all(part in case.name for part in wanted)]):
        if isinstance(row, str):
            print(json.dumps({"not_traced": row}) if options.json else f"not traced: {row}", flush=True)
            continue
        rows.append(row)
        if options.json:
            print(json.dumps({**asdict(row), "error": row.error}), flush=True)
        else:
            sizes = f"{row.traced_bytes / 2**20:>10.1f} {row.formula_bytes / 2**20:>10.1f}"
            print(f"{row.case:<72} {sizes} MiB {row.error:>+8.1%}", flush=True)
    if not options.json:
        print_summary(rows)


def print_summary(rows: list[Row]) -> None:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
        groups["all"].append(row)
    print(f"\n{'':<24} {'cases':>6} {'mean':>7} {'worst':>8}")
    for name, members in groups.items():
        worst = max(members, key=lambda row: abs(row.error))
        mean = statistics.mean(abs(row.error) for row in members)
        print(f"{name:<24} {len(members):>6} {mean:>7.1%} {worst.error:>+8.1%}  {worst.case}")


if __name__ == "__main__":
    main()
