"""How it is learnt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from engine.spec.section import Positive, Section, Share

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NumPy's generator takes; transformers' `set_seed` passes it on."""
Metric = Literal["eval_loss", "eval_mean_token_accuracy"]
"""What an evaluation during training tells of the held-out rows."""
Tracker = Literal["tensorboard", "wandb", "trackio"]
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
