"""What a module does, by the names that model families give it."""

from __future__ import annotations

import re

from engine.architecture import Architecture, Target
from engine.targets.index import index_of
from engine.targets.renamed import endings

ROLES: dict[str, tuple[str, ...]] = {
    "q": ("q_proj", "query", "q", "wq", "q_b_proj"),
    "k": ("k_proj", "key", "k", "wk"),
    "v": ("v_proj", "value", "v", "wv", "kv_b_proj"),
    "qkv": ("query_key_value", "qkv_proj", "c_attn", "Wqkv", "W_pack", "qkv"),
    "o": ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "c_fc", "fc1", "fc_in", "dense_h_to_4h"),
    "gate_up": ("gate_up_proj",),
    "down": ("down_proj", "w2", "fc2", "fc_out", "dense_4h_to_h", "c_proj"),
}
"""Role -> names that families use, the most usual first: Llama's, BERT's, GPT-2's, MPT's, GPT-NeoX's and others'."""

PARTS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Roles that some families fuse into one matrix."""

ATTENTION_PART = re.compile(r"attn|attention", re.IGNORECASE)
MLP_PART = re.compile(r"mlp|ffn|feed_?forward|moe|expert", re.IGNORECASE)
ROUTERS = ("gate", "router", "shared_expert_gate")


def is_attention(target: Target) -> bool:
    """Whether it is a projection of an attention block."""
    parent, _, leaf = target.name.rpartition(".")
    return bool(ATTENTION_PART.search(parent)) or leaf in ROLES["qkv"]


def is_mlp(target: Target) -> bool:
    """Whether it is a projection of an MLP or of the experts; what chooses the experts is not."""
    parent, _, leaf = target.name.rpartition(".")
    if is_attention(target) or leaf in ROUTERS or (target.kind == "parameter" and target.experts == 1):
        return False
    return bool(MLP_PART.search(parent)) or any(leaf in ROLES[role] for role in ("gate", "up", "gate_up", "down"))


def role_of(target: Target) -> str | None:
    """The role of a projection, by its name and where it is."""
    leaf = target.name.rpartition(".")[2]
    roles = ("q", "k", "v", "qkv", "o") if is_attention(target) else ("gate", "up", "gate_up", "down")
    return next((role for role in roles if leaf in ROLES[role]), None)


def names_by_role(architecture: Architecture) -> dict[str, list[str]]:
    """Role -> endings that mean the modules that play it in this model's layers: `o` -> `attn.c_proj`."""
    layered = index_of(architecture).layer_of
    roles_of_leaf: dict[str, set[str | None]] = {}
    roles: dict[str, str] = {}
    for target in architecture.targets.values():
        if target.name not in layered or architecture.is_vision(target.name):
            continue
        role = role_of(target)
        roles_of_leaf.setdefault(endings(target.name)[0], set()).add(role)
        if role is not None:
            roles[target.name] = role
    names: dict[str, dict[str, None]] = {}
    for name, role in roles.items():
        leaf, with_parent = endings(name)[:2]
        names.setdefault(role, {})[leaf if roles_of_leaf[leaf] == {role} else with_parent] = None
    return {role: list(its_names) for role, its_names in names.items()}


def counterparts(name: str, architecture: Architecture) -> list[str]:
    """What this model calls what `name` is in other families: itself fused, in parts, or under another name."""
    leaf = name.rpartition(".")[2]
    here = names_by_role(architecture)
    for role, names in ROLES.items():
        if leaf not in names:
            continue
        if role in here:
            return here[role]
        for fused, parts in PARTS.items():
            if role in parts and fused in here:
                return here[fused]
            if role == fused and any(part in here for part in parts):
                return [leaf for part in parts for leaf in here.get(part, [])]
    # A model without a gated MLP does in its first matrix what gate and up do elsewhere.
    if leaf in ROLES["gate"] or leaf in ROLES["gate_up"]:
        return here.get("up", [])
    return []
