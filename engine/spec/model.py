"""The model: which one, how its weights are stored, and what is trained in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.spec.section import DType, Positive, Section, Share


class ModelSection(Section):
    """Which model is adapted, and how transformers loads it."""

    name_or_path: str = Field(min_length=1)
    """A hub id (`org/name`), a folder with a `config.json`, or `demo`. Its weights stay frozen; the size of the
    model is most of the memory of a small-batch run."""

    revision: str | None = None
    """Branch, tag or commit of a hub model. A commit hash makes a run repeatable when the model is updated."""

    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    """The attention kernel; unset takes the library's choice, mostly `sdpa`. `eager` keeps the whole attention
    matrix (batch x heads x length x length) for backward; the others do not."""

    dtype: DType = "auto"
    """Type of the weights that are not quantized: embeddings, norms, head, or all of them with `load_in: none`.
    `auto` is the compute type. float32 doubles their memory."""

    trust_remote_code: bool = False
    """Runs Python code that comes with the model. Leave it off unless you have read that code."""


class QuantizationSection(Section):
    """How bitsandbytes stores the frozen weights."""

    load_in: Literal["4bit", "8bit", "none"] = "4bit"
    """Bits of a frozen weight. 4 bits take about 0.5 byte a weight instead of 2, and are what makes QLoRA fit on a
    consumer card; 8 bits take 1 byte and are closer to the original; none is plain LoRA."""

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit code. NF4 puts its 16 levels where normally distributed weights are, and beats FP4 at equal size
    (Dettmers et al. 2023, section 3). Same memory."""

    bnb_4bit_use_double_quant: bool = True
    """Quantizes the quantization constants too. Saves about 0.37 bit a weight, 0.3 GB on a 7B model, at no measured
    loss of quality (Dettmers et al. 2023, section 3)."""

    bnb_4bit_compute_dtype: DType = "auto"
    """The type that 4-bit weights are expanded to for each matrix product. `auto` is bfloat16 where the device has
    it, else float16. float32 is slow and doubles the activations."""

    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] | None = None
    """The type whose bytes hold packed 4-bit weights. Unset is uint8, and with `strategy: fsdp`, which shares only what
    looks like other weights, the compute type. Same memory."""

    llm_int8_threshold: float = Field(default=6.0, ge=0)
    """8-bit only: activation columns with an entry above this stay in 16 bits, which keeps outliers exact."""

    llm_int8_skip_modules: list[str] | None = None
    """Modules to keep unquantized, besides the head. Each costs 2 bytes a weight instead of 0.5 or 1."""

    @property
    def storage_type(self) -> str:
        """`bnb_4bit_quant_storage`, also of a spec in which it is not resolved."""
        return self.bnb_4bit_quant_storage or "uint8"


class LoraSection(Section):
    """Which low-rank updates are trained: a `peft.LoraConfig`."""

    r: Positive = 16
    """Rank of each update: how many directions a layer can learn. 8 to 32 is usual; more helps little on small data
    (Hu et al. 2021, section 7.2). Adapters, gradients and optimizer state grow with it."""

    lora_alpha: Positive = 32
    """Scales the update by lora_alpha / r. Twice r is the usual start; keeping that ratio keeps the update's size
    when r changes."""

    lora_dropout: Share = 0.05
    """Share of an adapter's input set to zero in training, against overfitting on small data. Above 0 it keeps a
    copy of each adapted layer's input for backward."""

    bias: Literal["none", "all", "lora_only"] = "none"
    """Which bias vectors are trained as well. Other than none changes the base model's outputs even when the
    adapter is switched off."""

    target_modules: list[str] | str | None = ["q_proj", "k_proj", "v_proj", "o_proj"]
    """Modules that get an adapter: last parts of their names, one regular expression over full names, or
    `all-linear`. Attention only is the lean start; adding the MLP layers learns more and about triples adapters and
    their activations."""

    layers_to_transform: list[int] | int | None = None
    """Indices of the layers to adapt; unset means all. Later layers alone need less backward, so less memory and
    time."""

    exclude_modules: list[str] | str | None = None
    """Modules left out although `target_modules` names them; same forms."""

    target_parameters: list[str] | None = None
    """Parameters, not modules, that get an adapter: fused mixture-of-experts weights such as
    `mlp.experts.gate_up_proj`."""

    rank_pattern: dict[str, Positive] = {}
    """Another r for modules whose name matches, e.g. `{down_proj: 32}`."""

    alpha_pattern: dict[str, Positive] = {}
    """Another lora_alpha for modules whose name matches; change it with rank_pattern to keep the update's size."""

    modules_to_save: list[str] | None = None
    """Modules trained in full and saved with the adapter, such as a resized `embed_tokens`. Costs weight, gradient
    and optimizer state for every parameter: about 16 bytes each."""

    use_rslora: bool = False
    """Scales by lora_alpha / sqrt(r) instead of lora_alpha / r, which keeps high ranks (64 and more) learning
    (Kalajdzievski 2023). Lower lora_alpha with it: at equal alpha the update is sqrt(r) times larger."""

    use_dora: bool = False
    """Learns magnitude and direction of a weight apart; often better at low rank (Liu et al. 2024). Slower, and
    needs memory for each adapted weight in forward."""

    init_lora_weights: bool | Literal["gaussian", "olora", "pissa", "orthogonal"] = True
    """How adapters start. true leaves the model unchanged at step 0 (B is zero); the others are for unquantized
    bases."""
