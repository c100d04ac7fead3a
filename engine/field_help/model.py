"""Settings of model and quantization."""

from __future__ import annotations

from engine.field_help.form import BNB, INT8, QLORA, Help

HELP: dict[str, Help] = {
    "model.name_or_path": Help(
        typical="the instruct variant for chat data, since it brings a chat template; the base variant for plain text",
        memory="0.5 byte a weight in 4 bits: 0.7 GB for 1B, 4 GB for 7B, 35 GB for 65B, before activations",
        training="A larger model learns more from the same rows and takes time in proportion to its size.",
        source=f"{QLORA}, section 1: a 65B model on one 48 GB card",
    ),
    "model.revision": Help(
        typical="unset to try things; a commit hash for a run that others should be able to repeat",
        memory="none",
        training="None, unless the model's owner changes its weights or template between two of your runs.",
        source="huggingface_hub docs, Download files",
    ),
    "model.attn_implementation": Help(
        typical="unset; flash_attention_2 where it is installed and rows are long or packed",
        memory="eager keeps heads x length x length scores a row: 0.2 GB a layer at 1,024 tokens, 16 times that at "
        "4,096",
        training="The same result up to rounding. Flash attention gains most beyond 2,000 tokens.",
        source="transformers docs, Attention backends",
    ),
    "model.dtype": Help(
        typical="auto",
        memory="float32 takes 4 bytes for each embedding, norm and head weight instead of 2",
        training="Close to none: matrix products run in the compute type either way.",
        source="transformers docs, from_pretrained",
    ),
    "model.trust_remote_code": Help(
        typical="no; every family that transformers knows by itself works without",
        memory="none",
        training="None. It lets the model's owner run any code as you, on this machine.",
        source="transformers docs, Custom models",
    ),
    "quantization.load_in": Help(
        typical="4bit on 8 to 24 GB cards; none where 2 bytes a weight fit with room to spare",
        memory="weights of a 7B model: 4 GB in 4 bits, 7 GB in 8, 14 GB in 16",
        training="With all linear layers adapted, 4-bit NF4 matched 16-bit fine-tuning in the paper's tests. "
        "Unquantized steps are faster, since no weight has to be expanded first.",
        source=f"{QLORA}, section 4; {INT8} for 8 bits",
    ),
    "quantization.bnb_4bit_quant_type": Help(
        typical="nf4",
        memory="the same for both",
        training="NF4 gave lower perplexity and better accuracy than FP4 at the same size.",
        source=f"{QLORA}, sections 3 and 4",
    ),
    "quantization.bnb_4bit_use_double_quant": Help(
        typical="yes",
        memory="saves 0.37 bit a weight: 0.3 GB on 7B, 3 GB on 65B",
        training="No loss was measured. Expanding a weight takes one more small step.",
        source=f"{QLORA}, section 3",
    ),
    "quantization.bnb_4bit_compute_dtype": Help(
        typical="auto: bfloat16 on Ampere and newer, float16 on T4 and V100",
        memory="float32 doubles the activations and the weight that is being expanded",
        training="bfloat16 has float32's range, so nothing overflows; float16 needs loss scaling.",
        source=f"{QLORA}, section 3; {BNB}",
    ),
    "quantization.bnb_4bit_quant_storage": Help(
        typical="unset: uint8, and under FSDP the compute type, so that it can shard quantized weights like the others",
        memory="the same bytes under another name",
        training="none",
        source="peft docs, FSDP with QLoRA",
    ),
    "quantization.llm_int8_threshold": Help(
        typical="6; lower for models that lose accuracy in 8 bits",
        memory="little: outlier columns are kept in 16 bits during the product",
        training="Lower is more exact and slower.",
        source=f"{INT8}; {BNB}",
    ),
    "quantization.llm_int8_skip_modules": Help(
        typical="unset; the head always stays in 16 bits",
        memory="2 bytes a weight for what is named here, instead of 0.5 or 1",
        training="Takes the rounding error out of layers that suffer from it.",
        source=BNB,
    ),
}
