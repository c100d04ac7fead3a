"""What an architecture says against what transformers, bitsandbytes and PEFT really do, for every family."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers import BitsAndBytesConfig, PreTrainedConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.auto import AutoHfQuantizer

from engine.architecture import Architecture, Target, installed_versions
from engine.outline import walk
from engine.tree import fold
from engine.worker.inspect import describe
from engine.worker.meta import NotInspectable, build_meta_model, read_config
from tests.engine.families import FAMILIES, LAYERS

EXPERTS = ("mixtral", "qwen3-moe", "gpt-oss")


def described(family: str) -> Architecture:
    return describe(FAMILIES[family](), family)


def templates(architecture: Architecture) -> dict[str, Target]:
    """Targets by their names with the numbers of layers taken out."""
    return {re.sub(r"\.\d+\.", ".N.", name): target for name, target in architecture.targets.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_names_every_module_and_parameter_of_the_real_model(family: str) -> None:
    architecture = described(family)
    model = build_meta_model(FAMILIES[family]())
    real = {name: type(module).__name__ for name, module in model.named_modules() if name}
    assert {module.name: module.class_name for module in architecture.modules} == real
    assert list(real) == [module.name for module in architecture.modules]
    held = {f"{m.name}.{p.name}": p for m in architecture.modules for p in m.parameters}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert held[name].shape == tuple(parameter.shape)
        assert held[name].dtype == "bfloat16"
    assert len(held) == len(list(model.named_parameters(remove_duplicate=False)))
    assert architecture.total_parameters == model.num_parameters()
    assert architecture.class_name == type(model).__name__


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_are_the_modules_that_bitsandbytes_replaces(family: str, bits: int) -> None:
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = build_meta_model(FAMILIES[family]())
    kept = AutoHfQuantizer.from_config(config).get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, kept, config)
    replaced = {name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")}
    assert {module.name for module in described(family).modules if module.quantized} == replaced
    assert replaced or family == "falcon", "falcon's linear layers are of a class of its own, which is not replaced"


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_where_peft_puts_adapters_of_just_that_size(family: str) -> None:
    targets = described(family).targets
    model = build_meta_model(FAMILIES[family]())
    model.config.model_type = "none that peft renames targets of"  # `engine.targets` knows those rules
    inject_adapter_in_model(
        LoraConfig(
            r=3,
            lora_dropout=0.0,
            target_modules=[name for name, target in targets.items() if target.kind != "parameter"],
            target_parameters=[name for name, target in targets.items() if target.kind == "parameter"],
        ),
        model,
    )
    adapted = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            adapters = (module.lora_A, module.lora_B, module.lora_embedding_A, module.lora_embedding_B)
            own = getattr(module, "parameter_name", None)
            full_name = name.replace(".base_layer", "") + (f".{own}" if own else "")
            adapted[full_name] = sum(p.numel() for adapter in adapters for p in adapter.parameters())
    assert adapted == {name: target.lora_parameters(3) for name, target in targets.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_embedding_and_conv1d_is_a_target(family: str) -> None:
    targets = described(family).targets
    for name, module in build_meta_model(FAMILIES[family]()).named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D)):
            assert name in targets


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_parameters_and_cannot_be_adapted_says_why(family: str) -> None:
    for module in described(family).modules:
        assert not module.parameters or module.targets or module.obstacle, module


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_can_be_adapted_by_peft_and_not_under_trl(family: str) -> None:
    architecture = described(family)
    assert architecture.output_embedding == "lm_head"
    head = architecture.by_name["lm_head"]
    assert head.targets
    assert "TRL" in head.obstacle
    is_tied = any(parameter.tied_to for parameter in head.parameters)
    assert is_tied == ("same tensor" in head.obstacle)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_goes_through_json_unchanged(family: str) -> None:
    architecture = described(family)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_fold_and_the_folded_tree_counts_every_parameter(family: str) -> None:
    architecture = described(family)
    root = fold(architecture)
    assert root.parameter_count == architecture.total_parameters
    folded = [node for node in walk(root) if node.folded > 1]
    assert folded, "no layers were folded"
    if family not in ("qwen3-moe", "gemma3-vision"):
        assert [node.folded for node in folded] == [LAYERS]


def test_qwen3_moe_with_a_dense_first_layer_is_two_kinds_of_layers() -> None:
    labels = [node.label for node in walk(fold(described("qwen3-moe")))]
    assert "layers.0" in labels
    assert "layers.1-2" in labels


def test_phi3_has_its_projections_fused() -> None:
    found = templates(described("phi3"))
    assert {name.rpartition(".")[2] for name in found} == {
        "embed_tokens",
        "qkv_proj",
        "o_proj",
        "gate_up_proj",
        "down_proj",
        "lm_head",
    }
    qkv = found["model.layers.N.self_attn.qkv_proj"]
    assert (qkv.in_features, qkv.out_features) == (32, (4 + 2 * 2) * 8)


def test_gpt2_has_transposed_linear_layers() -> None:
    fused = templates(described("gpt2"))["transformer.h.N.attn.c_attn"]
    assert (fused.kind, fused.in_features, fused.out_features) == ("conv1d", 32, 96)


@pytest.mark.parametrize("family", EXPERTS)
def test_fused_experts_are_parameters_with_a_rank_for_each(family: str) -> None:
    found = templates(described(family))
    up = found["model.layers.N.mlp.experts.gate_up_proj"]
    width = 20 if family == "qwen3-moe" else 48
    assert (up.kind, up.experts, up.in_features, up.out_features) == ("parameter", 4, 32, 2 * width)
    down = found["model.layers.N.mlp.experts.down_proj"]
    assert (down.kind, down.experts, down.in_features, down.out_features) == ("parameter", 4, width, 32)


@pytest.mark.parametrize("family", EXPERTS)
def test_routers_are_left_alone_unless_asked_for(family: str) -> None:
    routers = [module for module in described(family).modules if "router" in module.class_name.lower()]
    assert routers
    for router in routers:
        assert [target.kind for target in router.targets] == ["parameter"]
        assert "router" in router.obstacle


def test_tied_embeddings_name_each_other() -> None:
    architecture = described("llama-tied")
    assert architecture.by_name["lm_head"].parameters[0].tied_to == "model.embed_tokens.weight"
    assert "model.embed_tokens" in architecture.by_name["lm_head"].obstacle
    assert "lm_head" in architecture.by_name["model.embed_tokens"].obstacle
    assert described("llama").by_name["model.embed_tokens"].obstacle == ""


def test_opts_learned_positions_are_marked() -> None:
    assert "positions" in described("opt").by_name["model.decoder.embed_positions"].obstacle


def test_norms_say_what_trains_them() -> None:
    assert "modules_to_save" in described("llama").by_name["model.norm"].obstacle


def test_the_vision_tower_and_its_projector_are_told_apart() -> None:
    architecture = described("gemma3-vision")
    assert architecture.class_name == "Gemma3ForConditionalGeneration"
    assert set(architecture.vision_prefixes) == {"model.vision_tower", "model.multi_modal_projector"}
    assert not architecture.is_vision("model.language_model.layers.0.self_attn.q_proj")
    assert all(described(family).vision_prefixes == () for family in FAMILIES if family != "gemma3-vision")


def test_a_nested_config_has_the_language_models_values_at_the_top() -> None:
    config = described("gemma3-vision").config
    assert config["num_hidden_layers"] == LAYERS
    assert config["vision_config"]["num_hidden_layers"] == 2
    assert config["model_type"] == "gemma3"


def test_it_says_which_libraries_it_was_made_with() -> None:
    assert described("llama").versions == installed_versions()
    assert installed_versions()["transformers"] == transformers.__version__


def test_describing_a_config_leaves_it_as_it_was() -> None:
    config = FAMILIES["llama"]()
    before = config.to_dict()
    describe(config, "llama")
    assert config.to_dict() == before


def test_parameters_that_stay_in_float32_say_so() -> None:
    config = transformers.Glm4MoeConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
    )
    dtypes = {f"{m.name}.{p.name}": p.dtype for m in describe(config, "glm").modules for p in m.parameters}
    in_float32 = {name for name, dtype in dtypes.items() if dtype == "float32"}
    assert in_float32 == {name for name in dtypes if name.endswith("e_score_correction_bias")}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.BertConfig(), "bert is an encoder"),
        (transformers.T5Config(), "t5 is an encoder-decoder"),
        (transformers.ViTConfig(), "vit does not continue text"),
    ],
)
def test_a_config_of_another_kind_of_model_is_refused_by_name(config: PreTrainedConfig, reason: str) -> None:
    with pytest.raises(NotInspectable, match=reason):
        build_meta_model(config)


def config_folder(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_unknown_model_type_is_named_with_the_version_that_does_not_know_it(tmp_path: Path) -> None:
    with pytest.raises(NotInspectable, match=rf"transformers {transformers.__version__} .* 'llamma'"):
        read_config(config_folder(tmp_path, model_type="llamma"), "org/llamma")


def test_a_config_that_names_no_type_is_refused(tmp_path: Path) -> None:
    for model_type in ({}, {"model_type": ["llama"]}, {"model_type": None}):
        with pytest.raises(NotInspectable, match=r"model_type|model type"):
            read_config(config_folder(tmp_path, hidden_size=8, **model_type), "org/none")


def test_code_of_the_models_own_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "modeling_odd.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    own = {"AutoConfig": "modeling_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}
    with pytest.raises(NotInspectable, match="trust_remote_code"):
        read_config(config_folder(tmp_path, model_type="odd", auto_map=own), "org/odd")
    known = config_folder(tmp_path, **FAMILIES["llama"]().to_dict() | {"auto_map": own})
    architecture = describe(read_config(known, "org/known"), "org/known")
    assert architecture.class_name == "LlamaForCausalLM"
    assert not (tmp_path / "was-run").exists()
