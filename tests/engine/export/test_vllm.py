"""What vLLM does with an adapter, told from its config and the names and shapes of its tensors."""

from __future__ import annotations

from typing import Any

import pytest

from engine.export.vllm import findings, options, serves

PREFIX = "base_model.model.model.layers.0.self_attn"


def shapes(**ranks: int) -> dict[str, tuple[int, ...]]:
    """Of an adapter with these modules and ranks."""
    return {
        f"{PREFIX}.{module}.lora_{side}.weight": ((rank, 64) if side == "A" else (64, rank))
        for module, rank in ranks.items()
        for side in "AB"
    }


def config(**changes: Any) -> dict[str, Any]:
    return {"r": 16, "lora_alpha": 32, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}, **changes}


def verdicts(changes: dict[str, Any], names: dict[str, tuple[int, ...]]) -> dict[str, str]:
    return {found.setting: found.verdict for found in findings(config(**changes), names)}


def test_a_plain_adapter_is_served_as_it_is() -> None:
    found = findings(config(), shapes(q_proj=16, v_proj=16))
    assert serves(found)
    assert options(found) == ["--enable-lora"]


@pytest.mark.parametrize(("rank", "option"), [(17, 32), (24, 32), (64, 64), (200, 256), (300, 320), (512, 512)])
def test_a_higher_rank_needs_the_next_value_that_the_option_takes(rank: int, option: int) -> None:
    found = findings(config(r=rank, lora_alpha=2 * rank), shapes(q_proj=rank))
    assert options(found) == ["--enable-lora", f"--max-lora-rank {option}"]
    assert serves(found)


@pytest.mark.parametrize(
    ("changes", "setting", "verdict"),
    [
        ({"use_dora": True}, "use_dora", "refused"),
        ({"bias": "all"}, "bias", "refused"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save", "refused"),
        ({"r": 600, "lora_alpha": 1200}, "r", "refused"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights", "wrong"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters", "depends"),
        ({"use_rslora": True}, "use_rslora", "ok"),
    ],
)
def test_what_it_does_with_each_setting(changes: dict[str, Any], setting: str, verdict: str) -> None:
    found = verdicts(changes, shapes(q_proj=changes.get("r", 16)))
    assert found[setting] == verdict
    assert serves(findings(config(**changes), shapes(q_proj=changes.get("r", 16)))) == (verdict in ("depends", "ok"))


def test_ranks_by_module_are_served_only_where_one_scale_is_right_for_all() -> None:
    names = shapes(q_proj=16, down_proj=32)
    pattern = "rank_pattern, alpha_pattern"
    assert verdicts({"rank_pattern": {"down_proj": 32}}, names)[pattern] == "wrong"
    same_scale = {"rank_pattern": {"down_proj": 32}, "alpha_pattern": {"down_proj": 64}}
    assert verdicts(same_scale, names)[pattern] == "ok"
    assert verdicts({"alpha_pattern": {"self_attn.q_proj": 8}}, names | shapes(down_proj=16))[pattern] == "wrong"
    assert verdicts({**same_scale, "use_rslora": True}, names)[pattern] == "wrong"


def test_tensors_that_it_does_not_know_are_named() -> None:
    magnitude = {f"{PREFIX}.q_proj.lora_magnitude_vector": (64,)}
    (refused,) = [found for found in findings(config(), shapes(q_proj=16) | magnitude) if found.verdict == "refused"]
    assert "lora_magnitude_vector" in refused.reason
    embedding = {"base_model.model.model.embed_tokens.lora_embedding_A": (16, 100)}
    assert verdicts({}, shapes(q_proj=16) | embedding)["target_modules"] == "depends"
