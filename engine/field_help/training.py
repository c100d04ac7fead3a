"""Settings of training."""

from __future__ import annotations

from engine.field_help.form import CHECKPOINTING, DFT, LESS, NEFTUNE, OPTIM8, QLORA, REGRET, TRAINER, TRL, Help

HELP: dict[str, Help] = {
    "training.per_device_train_batch_size": Help(
        typical="1 to 8: the largest that fits; then accumulation makes up the rest",
        unit="rows",
        memory="activations in proportion; weights, adapters and optimizer not at all",
        training="Larger is faster until the GPU is busy. LoRA loses more than full fine-tuning does from very large "
        "effective batches; a few dozen rows are safe.",
        source=f"{REGRET}; {TRAINER}",
    ),
    "training.gradient_accumulation_steps": Help(
        typical="so that batch size times this is 16 to 32",
        memory="none: gradients are added up in place",
        training="One step of 4 x 4 learns the same as one of 16 x 1, and takes a little longer.",
        source=f"{TRAINER}; {QLORA}, appendix B: 16 for most models",
    ),
    "training.per_device_eval_batch_size": Help(
        typical="as large as the training batch, or twice that",
        unit="rows",
        memory="one layer's activations and the loss; an evaluation should never be what runs out of memory",
        training="none",
        source=TRAINER,
    ),
    "training.num_train_epochs": Help(
        typical="1 for 50,000 rows and more, 2 to 3 for a few thousand, up to 5 for a few hundred",
        unit="epochs",
        memory="none",
        training="Watch the evaluation loss: where it turns up while the training loss falls, more epochs memorize.",
        source=f"{LESS}; {TRAINER}",
    ),
    "training.max_steps": Help(
        typical="-1; 20 to 50 to try out whether everything works",
        unit="steps",
        memory="none",
        training="Overrides epochs. The scheduler runs down to zero over exactly these steps.",
        source=TRAINER,
    ),
    "training.learning_rate": Help(
        typical="2e-4 up to 13B, 1e-4 above; 5e-5 if loss jumps, up to 5e-4 for small models",
        memory="none",
        training="The setting to get right first. LoRA's best value is about ten times that of full fine-tuning, and "
        "nearly the same for every r.",
        source=f"{QLORA}, appendix B; {REGRET}; {LESS}",
    ),
    "training.lr_scheduler_type": Help(
        typical="cosine or linear; constant as in the QLoRA paper",
        memory="none",
        training="A falling rate ends on a lower loss. With constant, stopping early costs nothing.",
        source=f"{QLORA}, appendix B; {TRAINER}",
    ),
    "training.warmup_steps": Help(
        typical="0.03 to 0.1 of the run",
        memory="none",
        training="Adam's first steps rest on few gradients; a small rate there keeps them from doing harm.",
        source=TRAINER,
    ),
    "training.optim": Help(
        typical="auto; paged_adamw_8bit where modules are trained in full and memory is short",
        memory="state a trained parameter: 8 bytes for 32-bit AdamW, 2 for 8-bit, 4 for lion_32bit, 1 for lion_8bit. "
        "For adapters alone that is little: 0.1 to 0.3 GB",
        training="8-bit AdamW learns like 32-bit. Lion wants a rate 3 to 10 times lower. Paged state moves to host "
        "memory in a spike instead of failing.",
        source=f"{OPTIM8}; {QLORA}, section 3; Chen et al. 2023, Lion, arXiv:2302.06675",
    ),
    "training.weight_decay": Help(
        typical="0; 0.01 for small data",
        memory="none",
        training="Pulls the update, not the model, towards zero: it acts on A and B alone.",
        source=TRAINER,
    ),
    "training.adam_beta2": Help(
        typical="0.999; 0.95 to 0.99 for large batches or a spiky loss",
        memory="none",
        training="Lower forgets old gradients sooner.",
        source=f"{QLORA}, appendix B: 0.999",
    ),
    "training.max_grad_norm": Help(
        typical="1; 0.3 in the QLoRA paper",
        memory="none",
        training="A norm far above it at every step means that the learning rate, not the data, is set by this.",
        source=f"{QLORA}, appendix B; {TRAINER}",
    ),
    "training.bf16": Help(
        typical="unset",
        memory="activations in 2 bytes instead of 4",
        training="Twice the speed of float32 or more on Ampere and newer, at the same loss.",
        source=TRAINER,
    ),
    "training.fp16": Help(
        typical="unset; yes on T4, V100 and RTX 20 cards",
        memory="adapters in float32: 2 bytes a parameter more for weight and for gradient",
        training="Steps whose gradients overflow are skipped while the loss scale adapts.",
        source=f"{TRAINER}; trl issue 4901",
    ),
    "training.tf32": Help(
        typical="unset, or yes on Ampere and newer",
        memory="none",
        training="Speeds up what is left in float32; with bf16 that is little.",
        source=TRAINER,
    ),
    "training.activation_checkpointing": Help(
        typical="yes; no when memory is left over",
        memory="2 bytes a feature and token for each layer: 0.3 GB instead of about 5 GB for a row of 1,024 tokens on"
        " 7B",
        training="The same result; a step takes about a quarter longer, as each layer runs forward twice.",
        source=f"{CHECKPOINTING}; {TRAINER}",
    ),
    "training.activation_offloading": Help(
        typical="no; yes for rows so long that checkpointing alone does not fit",
        memory="what is kept for backward lies in host memory, up to what PCIe can carry in time",
        training="The same result, slower by how busy PCIe is.",
        source=TRL,
    ),
    "training.loss_type": Help(
        typical="nll",
        memory="nll is computed in pieces; what needs full logits holds length x vocabulary numbers, 0.5 GB in 32 "
        "bits for 1,024 tokens of a vocabulary of 128,000",
        training="dft weighs each token by its own probability, which generalized better on reasoning data in its "
        "paper.",
        source=f"{TRL}; {DFT}",
    ),
    "training.neftune_noise_alpha": Help(
        typical="unset, or 5; 5 to 15 in the paper",
        memory="none",
        training="Longer, better-liked chat answers; scores on knowledge tests stayed the same.",
        source=NEFTUNE,
    ),
    "training.train_sampling_strategy": Help(
        typical="group_by_length; random where rows are all about as long",
        memory="the same peak; with group_by_length the longest batch comes first, so what does not fit fails at once",
        training="Less padding: 1.26 times the tokens a second on GSM8K at batch 4. The loss curve swings more.",
        source=f"{QLORA}, appendix B; {TRAINER}",
    ),
    "training.pad_to_multiple_of": Help(
        typical="unset; 8 or 64",
        unit="tokens",
        memory="at most that many more tokens a row",
        training="Matrix products with such sizes run faster on tensor cores.",
        source=TRL,
    ),
    "training.torch_empty_cache_steps": Help(
        typical="unset; 10 to 50 where memory runs out late in a run",
        unit="steps",
        memory="gives back what fragmentation holds",
        training="About a tenth slower.",
        source=TRAINER,
    ),
    "training.logging_steps": Help(
        typical="1",
        unit="steps",
        memory="none",
        training="none",
        source=TRAINER,
    ),
    "training.report_to": Help(
        typical="unset; tensorboard, wandb or trackio where you compare runs with it",
        memory="none to speak of",
        training="None. tensorboard and wandb write into the run's folder tracking, trackio into its own database. "
        "wandb stays offline unless WANDB_MODE says otherwise (`wandb sync` sends it later). A tracker that fails is "
        "left out, with a warning.",
        source="transformers docs, Callbacks",
    ),
    "training.eval_strategy": Help(
        typical="epoch; steps for long runs",
        memory="less than a training step of the same batch",
        training="None, but time: each evaluation reads all held-out rows.",
        source=TRAINER,
    ),
    "training.eval_steps": Help(
        typical="a tenth of the run",
        unit="steps",
        memory="none",
        training="none, but time",
        source=TRAINER,
    ),
    "training.load_best_model_at_end": Help(
        typical="yes for small data and several epochs, with save_strategy as eval_strategy",
        memory="disk only: one checkpoint more",
        training="None; it chooses which step's adapter is left. The held-out loss of the chosen step looks a little "
        "better than new rows would: it was chosen for that.",
        source=TRAINER,
    ),
    "training.metric_for_best_model": Help(
        typical="unset: eval_loss; eval_mean_token_accuracy where single tokens decide, as in classifying",
        memory="none",
        training="The loss turns up before the accuracy does: it also punishes being sure of what is wrong.",
        source=TRAINER,
    ),
    "training.early_stopping_patience": Help(
        typical="2 to 5, with evaluations some tenth of an epoch apart",
        unit="evaluations",
        memory="none",
        training="Saves the time in which a run only memorizes. The learning rate has then not run down to its end, so "
        "a shorter run with a full schedule may do better still.",
        source="transformers docs, EarlyStoppingCallback",
    ),
    "training.early_stopping_threshold": Help(
        typical="0; 0.001 to 0.01 where the loss creeps",
        memory="none",
        training="Higher ends sooner. What is better by less is still kept as the best.",
        source="transformers docs, EarlyStoppingCallback",
    ),
    "training.save_strategy": Help(
        typical="epoch; steps where an epoch takes hours",
        memory="none on the GPU; on disk about 3 times the adapter",
        training="Some seconds a checkpoint. What a resume can lose is the time since the last one.",
        source=TRAINER,
    ),
    "training.save_steps": Help(
        typical="what takes 10 to 30 minutes",
        unit="steps",
        memory="none on the GPU",
        training="none",
        source=TRAINER,
    ),
    "training.save_total_limit": Help(
        typical="2 to 5",
        unit="checkpoints",
        memory="disk only",
        training="An older checkpoint may be the better one where the evaluation loss has turned up.",
        source=TRAINER,
    ),
    "training.seed": Help(
        typical="any; two or three seeds tell a real difference from chance",
        memory="none",
        training="Another seed is another run of the same experiment.",
        source=TRAINER,
    ),
}
