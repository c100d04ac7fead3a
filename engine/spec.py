"""RunSpec: what a run is. Names, meanings and defaults are those of transformers, peft, trl and bitsandbytes.

The docstring under each field is its help: `loradeck new` writes it into the starter spec and the app shows it beside
the form. `auto` stands for a choice that needs the machine; `engine.prepare` makes it before a run starts, so that
the `run.yaml` in a run folder holds none.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.machines import settings as machine_settings
from engine.machines.settings import Machine
from engine.slurm.settings import SlurmSettings, checked

SPEC_VERSION = 1
"""Raised when an old spec would mean something else; `engine.checks` refuses other versions."""

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, lt=1)]
SamplePrompt = Annotated[str, Field(min_length=1, max_length=20_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NumPy's generator takes; transformers' `set_seed` passes it on."""
DType = Literal["auto", "bfloat16", "float16", "float32"]
Optimizer = Literal[
    "auto",
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "adafactor",
    "rmsprop",
    "sgd",
]
OnOom = Literal["ask", "retry", "stop"]
Metric = Literal["eval_loss", "eval_mean_token_accuracy"]
"""What an evaluation during training tells of the held-out rows."""
Tracker = Literal["tensorboard", "wandb", "trackio"]
TOP_SETTINGS = ("on_oom",)
"""Settings of a spec that are in no section. `version` and `parent` are not a person's to choose."""
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([gm])i?b?|(\d{8,})", re.IGNORECASE)
"""`12GiB`, `900 MB` (units are powers of 2, as in the names of cards), or a number of bytes."""
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


def _size_bytes(text: str) -> int:
    """Bytes of a written size; 0 where it is none."""
    written = SIZE.fullmatch(text.strip())
    if written is None:
        return 0
    number, unit, plain = written.groups()
    return int(plain) if plain else int(float(number) * 2 ** (30 if unit in "gG" else 20))


class Section(BaseModel):
    """A group of settings. Unknown names are errors: a misspelt setting that is ignored trains the wrong thing."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


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


class DataSection(Section):
    """What is learnt, and what it is measured on. Relative paths are relative to the spec's folder."""

    train: str | list[str]
    """Files (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow`, `.txt`, also gzipped or with zstd), a pattern
    such as `chats/*.jsonl`, a folder saved by `datasets`, or the id of a dataset on the hub."""

    eval: str | list[str] | None = None
    """Held-out rows, named like `train`. Falling training loss proves nothing; this does."""

    eval_fraction: Share = 0.0
    """Share of the training rows to hold out instead of a file. Chosen by a hash of each row and `training.seed`,
    so the same rows stay held out when the file grows."""

    name: str | None = None
    """Configuration of a dataset on the hub, such as `main`; files have none."""

    split: str = "train"
    """Split of a hub dataset, or of a saved folder that has several, to train on."""

    eval_split: str | None = None
    """Split of the same dataset to hold out instead of a file."""

    format: Literal["auto", "text", "prompt-completion", "messages", "alpaca", "sharegpt"] = "auto"
    """Shape of a row: `text`; `prompt` and `completion`; `messages` (role and content, as OpenAI writes them);
    `alpaca` (instruction, input, output); `sharegpt` (conversations of from and value). auto looks at the rows."""

    columns: dict[str, str] = {}
    """Renames columns to the names a format needs: `{prompt: question, completion: answer}`."""

    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be learnt from (no JSON, no answer, roles out of order ...): error names it and starts
    nothing, skip leaves it out and counts it."""

    chat_template_path: str | None = None
    """How conversations are written, in place of the model's own chat template: `chatml`, a family's name such as
    `llama3`, a file of Jinja, or a folder with a tokenizer. Saved with the adapter."""

    max_length: Positive | None = 1024
    """Longest row in tokens; longer ones are cut at the end, and told. Activations and logits grow with it,
    attention with its square under `eager`."""

    packing: bool = False
    """Joins short rows into blocks of max_length, so that no batch is padded. Faster on short rows; every batch is
    then as large as the largest, and steps are counted in blocks."""

    packing_strategy: Literal["bfd", "bfd_split"] = "bfd"
    """How rows are packed: `bfd` never splits a row, and cuts those longer than max_length; `bfd_split` splits these
    instead. Rows in a block never see each other."""

    completion_only_loss: bool | None = None
    """Learn the answer only (true), or the prompt as well (false). Unset: the answer only, where a row has one."""

    assistant_only_loss: bool | None = None
    """Learn every assistant turn of a conversation (true), or only the last (false). Unset: every turn, where the chat
    template can mark them. A turn with `train: false` or `weight: 0` is never learnt."""

    samples: Annotated[int, Field(ge=0, le=64)] = 0
    """After training, answer this many held-out prompts with the base and with the adapter, side by side."""

    samples_at_eval: bool = False
    """Answer these held-out prompts at each evaluation too, with the adapter as it is by then. Takes time: training
    waits meanwhile."""

    sample_prompts: Annotated[list[SamplePrompt], Field(max_length=64)] = []
    """Prompts of your own, answered at each evaluation with the adapter as it is by then, and after training with the
    base too. For conversations each is what a user says; for other rows the text that is to be continued."""

    samples_max_new_tokens: Positive = 128
    """Longest such answer in tokens."""


SAMPLE_SETTINGS = frozenset({"samples", "samples_at_eval", "sample_prompts", "samples_max_new_tokens"})
"""Settings of the data that say what is answered: nothing that is learnt or measured depends on them."""


class TrainingSection(Section):
    """How it is learnt: fields of `trl.SFTConfig`."""

    per_device_train_batch_size: Positive = 4
    """Rows in one forward and backward pass. Activation memory grows with it in proportion; 1 is the first answer
    to out-of-memory, with more accumulation so that learning stays the same."""

    gradient_accumulation_steps: Positive = 4
    """Passes added up before the optimizer moves. Batch size times this is the effective batch: what learning
    depends on. No memory, more time a step."""

    per_device_eval_batch_size: Positive = 4
    """Rows in one evaluation pass. No gradients are held, so it may be larger than the training batch."""

    num_train_epochs: float = Field(default=3.0, gt=0)
    """Times the data is gone through. One to three is usual for fine-tuning; more overfits small data."""

    max_steps: int = Field(default=-1, ge=-1)
    """Stop after this many optimizer steps, whatever the epochs; -1 leaves it to num_train_epochs."""

    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak step size. LoRA takes about ten times full fine-tuning's: 1e-4 to 2e-4 is usual, lower for large models.
    Too high shows as a loss that jumps or turns NaN, too low as one that hardly falls."""

    lr_scheduler_type: Scheduler = "cosine"
    """How the learning rate falls over the run. cosine and linear end near zero; constant suits runs without a
    planned end."""

    lr_scheduler_kwargs: dict[str, Any] = {}
    """Further values of the scheduler, such as `{min_lr_rate: 0.1}` for cosine_with_min_lr."""

    warmup_steps: float = Field(default=0.03, ge=0)
    """Steps of rising learning rate at the start; below 1 it is a share of the run. Steadies the first steps of
    Adam."""

    optim: Optimizer = "auto"
    """The optimizer. auto is paged_adamw_32bit on a GPU (its state moves to host memory when the card is full) and
    adamw_torch on a CPU. 8-bit ones take 2 bytes a trained parameter instead of 8."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Pulls trained weights towards zero each step, against overfitting. Rarely needed for adapters."""

    adam_beta1: Share = 0.9
    """Share of Adam's mean of gradients that is kept each step; higher smooths more."""

    adam_beta2: Share = 0.999
    """Share of Adam's mean of squared gradients that is kept each step; 0.95 follows changes faster."""

    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Keeps Adam from dividing by zero. Larger tames the steps of parameters that hardly get a gradient."""

    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients with a larger norm are scaled down to it; 0 switches that off. Protects against single bad
    batches."""

    bf16: bool | None = None
    """bfloat16 mixed precision. Unset: on where the device has it. Needs an Ampere GPU or newer, or a CPU."""

    fp16: bool | None = None
    """float16 mixed precision with loss scaling, for GPUs without bfloat16 (T4, V100). Adapters are then trained in
    float32, 4 bytes a parameter more."""

    tf32: bool | None = None
    """Faster float32 matrix products on Ampere GPUs and newer, a little less exact."""

    activation_checkpointing: bool = True
    """Keeps only each layer's input and computes the rest again in backward. Saves most activation memory, costs
    about a fifth of the speed."""

    activation_offloading: bool = False
    """Moves what backward needs to host memory meanwhile. Saves GPU memory at the price of PCIe traffic."""

    loss_type: Literal["nll", "dft"] = "nll"
    """`nll` is cross-entropy, computed in chunks so that full logits are never held; `dft` weighs tokens by their
    probability (Wu et al. 2025)."""

    neftune_noise_alpha: float | None = Field(default=None, gt=0)
    """Adds noise to embeddings in training (Jain et al. 2023: 5 to 15). Can make chat answers better."""

    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "group_by_length"
    """Order of rows. group_by_length batches rows of similar length: less padding, so faster; batches are less
    mixed."""

    pad_to_multiple_of: Positive | None = None
    """Pads rows to a multiple of this many tokens; 8 suits tensor cores."""

    torch_empty_cache_steps: Positive | None = None
    """Give PyTorch's unused memory back every so many steps. Against fragmentation; about a tenth slower."""

    logging_steps: Positive = 1
    """Optimizer steps between two points of the loss curve."""

    report_to: list[Tracker] = []
    """Trackers that get the numbers too; each has to be installed. Nothing leaves this machine, unless variables of the
    tracker's own, such as WANDB_MODE, say so."""

    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When held-out rows are measured."""

    eval_steps: Positive | None = None
    """Optimizer steps between evaluations, with `eval_strategy: steps`."""

    eval_on_start: bool = False
    """Measure the held-out rows before the first step: the base model's loss, to compare with."""

    load_best_model_at_end: bool = False
    """Keep the adapter of the step whose evaluation was best, not that of the last step. Its checkpoint is written at
    once and stays, whatever save_total_limit says."""

    metric_for_best_model: Metric | None = None
    """What makes an evaluation the best: the lowest `eval_loss` (which unset means too), or the highest
    `eval_mean_token_accuracy`."""

    early_stopping_patience: Positive | None = None
    """End training after this many evaluations in a row without a better one. Unset trains all steps."""

    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """By how much an evaluation has to be better to count as such for early_stopping_patience."""

    save_strategy: Literal["no", "steps", "epoch"] = "epoch"
    """When a checkpoint is written: adapter, optimizer state, and what an exact resume needs."""

    save_steps: Positive | None = None
    """Optimizer steps between checkpoints, with `save_strategy: steps`."""

    save_total_limit: Positive | None = None
    """Keep only the newest so many checkpoints. Unset keeps all; each takes about 3 times the adapter's size on
    disk."""

    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches ahead; 0 prepares them in the trainer. Each takes host memory."""

    seed: Seed = 42
    """Start of all random choices: adapter weights, dropout, held-out rows."""

    data_seed: Seed | None = None
    """Another seed for the order of rows; unset takes `seed`."""


class HardwareSection(Section):
    """Where it runs."""

    device: str = "auto"
    """`auto` (the first GPU, or the CPU where there is none), `cpu`, `cuda` or `cuda:1`."""

    memory_limit: str | None = None
    """The most memory that training may take, such as `12GiB`: to share a GPU, or to rehearse a smaller card. On the
    CPU it is the trainer's resident memory. Of several processes it is what each may take. Unset is all there is."""

    preflight: bool | None = None
    """Run the largest batches and a save once before the first step, and put everything back: memory that does not
    suffice is then known in the first minute. Unset does so on a GPU only."""

    num_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that train together, on all machines, each on a GPU of its own. They share the rows of each step: the
    effective batch is batch size x accumulation x this."""

    num_machines: Annotated[int, Field(ge=1, le=64)] = 1
    """Machines that train together, each with the same number of processes. The run is started on each of them."""

    machines: Annotated[list[dict[str, Any]], Field(max_length=64)] = []
    """The machines in the order of their numbers, by the addresses at which they reach each other, such as
    `[{address: 10.0.0.1, port: 29500}, {address: 10.0.0.2}]`. Machine 0 listens at its port for the others."""

    machine_rank: Annotated[int, Field(ge=0, le=63)] | None = None
    """Which of `machines` this one is. Unset finds it by its addresses."""

    strategy: Literal["none", "ddp", "fsdp"] | None = None
    """How several processes share the work: `ddp` gives each a whole copy of the model, and adds up their gradients;
    `fsdp` gives each a share of every weight, for models that fit no single card, and is slower. Unset is ddp where
    there are several, and none where there is one."""

    gpu_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    """Numbers of the GPUs, one for each process of a machine, such as `[0, 2]`. Unset takes `device` and those after
    it."""

    launcher: Literal["local", "slurm"] = "local"
    """Who starts it: `local` is this machine, at once; `slurm` submits it as a batch job, and the run is `queued` until
    Slurm starts it."""

    slurm: dict[str, Any] = {}
    """What the job asks of Slurm, with `launcher: slurm`: partition, account, qos, time, gpus, cpus_per_task, mem,
    requeue, and extra, a list of more options of sbatch. Write times between quotes."""

    @field_validator("slurm")
    @classmethod
    def _is_a_job(cls, slurm: dict[str, Any]) -> dict[str, Any]:
        return checked(slurm)

    @field_validator("machines")
    @classmethod
    def _are_machines(cls, machines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return machine_settings.checked(machines)

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("should be auto, cpu, cuda or cuda:1 (the number of a GPU)")
        return device

    @field_validator("memory_limit", mode="before")
    @classmethod
    def _written_in_bytes(cls, limit: Any) -> Any:
        return str(limit) if type(limit) is int else limit  # YAML reads a bare number of bytes as one

    @field_validator("memory_limit")
    @classmethod
    def _is_a_size(cls, limit: str | None) -> str | None:
        if limit is not None and not _size_bytes(limit):
            raise ValueError("should be a size such as 12GiB or 900MiB")
        return limit

    @property
    def processes_here(self) -> int:
        """Processes on each machine."""
        return self.num_processes // self.num_machines

    @property
    def machines_in_order(self) -> list[Machine]:
        """`machines`, typed, by their numbers."""
        return machine_settings.in_order(self.machines)

    @property
    def slurm_settings(self) -> SlurmSettings:
        """`slurm`, typed."""
        return SlurmSettings.model_validate(self.slurm)

    @property
    def memory_limit_bytes(self) -> int | None:
        """`memory_limit` as a number."""
        return None if self.memory_limit is None else _size_bytes(self.memory_limit)

    @property
    def wants_preflight(self) -> bool:
        """`preflight` of a resolved spec, where it is not said: on a GPU."""
        return self.device != "cpu" if self.preflight is None else self.preflight


class ParentSection(Section):
    """Of a run that continues another one: which, from where, and what was changed. Written by Loradeck."""

    run: str = Field(min_length=1)
    """Id of the run that it continues."""

    checkpoint: str | None = None
    """Name of the checkpoint that it began from; unset where it began anew."""

    changes: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    """Full name of a setting -> what it was in the parent, and what it is here."""

    remedies: list[str] = Field(default_factory=list)
    """The ways out of memory that were chosen."""

    attempt: int = 0
    """How many runs of this line the supervisor has started by itself, this one included."""


class RunSpec(Section):
    """A run, whole. `run.yaml` is this, written as YAML."""

    version: int = SPEC_VERSION
    """Version of the spec's format."""

    model: ModelSection
    quantization: QuantizationSection = Field(default_factory=QuantizationSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    data: DataSection
    training: TrainingSection = Field(default_factory=TrainingSection)
    hardware: HardwareSection = Field(default_factory=HardwareSection)
    on_oom: OnOom = "ask"
    """When memory runs out: `ask` shows the ways out with their prices, `retry` takes those by itself that leave
    training the same (at most 4 times), `stop` only reports."""

    parent: ParentSection | None = None
    """Set where the run continues another one."""

    @field_validator("version")
    @classmethod
    def _is_this_version(cls, version: int) -> int:
        if version != SPEC_VERSION:
            raise ValueError(f"this is a spec of version {version}; this Loradeck reads version {SPEC_VERSION}")
        return version

    @property
    def effective_batch_size(self) -> int:
        """Rows that one optimizer step learns from, those of all processes together."""
        return self.rows_a_pass * self.training.gradient_accumulation_steps

    @property
    def rows_a_pass(self) -> int:
        """Rows that all processes together take in one pass, each a batch of its own."""
        return self.training.per_device_train_batch_size * self.hardware.num_processes

    @property
    def has_eval(self) -> bool:
        """Whether rows are held out."""
        return self.data.eval is not None or self.data.eval_split is not None or self.data.eval_fraction > 0

    @property
    def best_metric(self) -> Metric | None:
        """What evaluations are compared by; None where nothing depends on which is the best."""
        training = self.training
        if not training.load_best_model_at_end and training.early_stopping_patience is None:
            return None
        return training.metric_for_best_model or "eval_loss"
