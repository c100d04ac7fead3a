"""Settings of lora."""

from __future__ import annotations

from engine.field_help.form import DORA, LESS, LORA, PEFT, QLORA, REGRET, RSLORA, Help

HELP: dict[str, Help] = {
    "lora.r": Help(
        typical="8 to 32; 64 to 256 for much data or new knowledge, then with use_rslora",
        memory="at r 16: 17 M parameters on attention, 40 M on all linear layers; about 12 bytes each with 32-bit "
        "AdamW",
        training="With all layers adapted, results hardly depended on r for instruction data; too small an r shows as"
        " a training loss that stops falling early.",
        source=f"{LORA}, section 7.2; {QLORA}, section 4; {LESS}",
    ),
    "lora.lora_alpha": Help(
        typical="twice r; or 16 or 32 whatever r is, as in the QLoRA paper and LoRA Without Regret",
        memory="none",
        training="Scales the adapter's output, so it acts much like the learning rate: change one of the two, not "
        "both.",
        source=f"{LORA}, section 4.1; {LESS}",
    ),
    "lora.lora_dropout": Help(
        typical="0.05 to 0.1 for a few thousand rows; 0 for large data or one epoch",
        memory="above 0, each adapted layer keeps a dropped copy of its input and its mask: 3 bytes a feature and "
        "token",
        training="Less overfitting on small data; slower, as each adapted layer draws its own mask.",
        source=f"{QLORA}, appendix B: 0.1 up to 13B, 0.05 above",
    ),
    "lora.bias": Help(
        typical="none; most decoder models have few biases or no bias at all",
        memory="next to nothing",
        training="The base model's answers then change even with the adapter switched off.",
        source=PEFT,
    ),
    "lora.target_modules": Help(
        typical="attention to start; all-linear for best quality, then with a lower r if memory is short",
        memory="all-linear takes 2.4 times the adapter of attention alone, 3.1 times on Llama 3 8B, and keeps the "
        "inputs of the MLP layers too",
        training="What is adapted matters more than r: adapting all linear layers is what matched full fine-tuning, "
        "and attention alone fell behind even with as many parameters.",
        source=f"{QLORA}, section 4; {LESS}; {REGRET}",
    ),
    "lora.layers_to_transform": Help(
        typical="unset; the last quarter or half of the layers where memory is short",
        memory="backward stops at the first adapted layer: layers before it keep no activations",
        training="Fewer layers learn less and train faster.",
        source=PEFT,
    ),
    "lora.exclude_modules": Help(
        typical="unset; a vision tower's modules, or a router",
        memory="what those adapters would have taken",
        training="Those modules stay as they are.",
        source=PEFT,
    ),
    "lora.target_parameters": Help(
        typical="unset; mlp.experts.gate_up_proj and mlp.experts.down_proj for fused experts",
        memory="one A and B for each expert: it grows with the number of experts, used or not",
        training="The only way to reach fused experts. lora_dropout does not work there.",
        source=PEFT,
    ),
    "lora.rank_pattern": Help(
        typical="more for MLP layers, such as {down_proj: 32}; less for layers that matter less",
        memory="in proportion to r, for the layers that match",
        training="Spends parameters where they help. Set alpha_pattern with it, or the scale changes too.",
        source=PEFT,
    ),
    "lora.alpha_pattern": Help(
        typical="the same ratio to rank_pattern as lora_alpha has to r",
        memory="none",
        training="Keeps the size of an update when its rank is another one.",
        source=PEFT,
    ),
    "lora.modules_to_save": Help(
        typical="unset; embed_tokens and lm_head after adding tokens to the tokenizer",
        memory="12 to 16 bytes a parameter: 6 to 8 GB for the 525 M of Llama 3 8B's embedding",
        training="Learns freely, and forgets as full fine-tuning does.",
        source=PEFT,
    ),
    "lora.use_rslora": Help(
        typical="no up to r 32; yes from r 64",
        memory="none",
        training="alpha / r shrinks updates as r grows until more rank learns no better; alpha / sqrt(r) does not. "
        "With the same alpha the scale is sqrt(r) times larger, 4 times at r 16: start with alpha near "
        "sqrt(r) times less.",
        source=RSLORA,
    ),
    "lora.use_dora": Help(
        typical="no; yes at r 4 to 16 where quality counts more than speed",
        memory="one more number an output, and the merged weight's norm in each forward: a whole weight in the "
        "compute type",
        training="Came closer to full fine-tuning than LoRA of the same rank; clearly slower a step. Merge before "
        "serving.",
        source=f"{DORA}; {PEFT}",
    ),
    "lora.init_lora_weights": Help(
        typical="true",
        memory="pissa and olora decompose every adapted weight once, at the start",
        training="true starts exactly at the base model. false starts with a random change: for debugging only. pissa"
        " can converge faster, and changes the base weights, so it needs an unquantized base here.",
        source=f"{PEFT}; Meng et al. 2024, PiSSA, arXiv:2404.02948",
    ),
}
