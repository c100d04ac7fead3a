"""What the app says about a setting beyond its docstring: usual values, price in memory, effect on training, source.

`engine.spec` says what a setting is; this says how to choose it. Sizes named here follow from the shapes of Llama 2 7B
(32 layers, hidden size 4096, MLP 11008) unless they name a source.
"""

from __future__ import annotations

from dataclasses import dataclass

QLORA = "Dettmers et al. 2023, QLoRA, arXiv:2305.14314"
LORA = "Hu et al. 2021, LoRA, arXiv:2106.09685"
LESS = "Biderman et al. 2024, LoRA Learns Less and Forgets Less, arXiv:2405.09673"
REGRET = "Schulman et al. 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora"
RSLORA = "Kalajdzievski 2023, rsLoRA, arXiv:2312.03732"
DORA = "Liu et al. 2024, DoRA, arXiv:2402.09353"
NEFTUNE = "Jain et al. 2023, NEFTune, arXiv:2310.05914"
INT8 = "Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339"
OPTIM8 = "Dettmers et al. 2021, 8-bit Optimizers, arXiv:2110.02861"
CHECKPOINTING = "Chen et al. 2016, arXiv:1604.06174"
DFT = "Wu et al. 2025, DFT, arXiv:2508.05629"
PACKING = "Ding et al. 2024, Fewer Truncations, arXiv:2404.10830"
PEFT = "peft docs, LoraConfig"
TRL = "trl docs, SFTConfig"
TRAINER = "transformers docs, TrainingArguments"
BNB = "transformers docs, BitsAndBytesConfig"


@dataclass(frozen=True)
class Help:
    """How to choose a value."""

    typical: str
    """Values that people use, and when."""
    memory: str
    training: str
    """What it does to learning and to speed."""
    source: str
    """Paper or library page."""
    unit: str = """Of the value, such as `tokens`."""


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
        typical="uint8; FSDP needs the compute type, so that it can shard quantized weights like the others",
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
    "data.train": Help(
        typical="a few hundred rows for a style, a few thousand for a task, more for knowledge",
        memory="rows stay on disk; of the GPU, only the longest row matters",
        training="Quality beats amount: 9,000 good rows beat 450,000 of another set in the paper's chat tests.",
        source=f"{QLORA}, section 5",
    ),
    "data.eval": Help(
        typical="100 to 1,000 rows that training never sees, not even reworded",
        memory="an evaluation pass holds no gradients",
        training="None, but time. It shows the epoch from which training only memorizes.",
        source=TRAINER,
    ),
    "data.eval_fraction": Help(
        typical="0.02 to 0.1; enough for 100 rows at least",
        memory="none",
        training="The rows held out are not learnt from. Set eval_strategy, or they are never measured.",
        source="Loradeck: held out by a hash of each row",
    ),
    "data.name": Help(
        typical="unset, unless the hub's page of the dataset names several",
        memory="none",
        training="None beyond the choice of rows.",
        source="datasets docs, load_dataset",
    ),
    "data.split": Help(
        typical="train",
        memory="none",
        training="None beyond the choice of rows.",
        source="datasets docs, load_dataset",
    ),
    "data.eval_split": Help(
        typical="validation, or test where there is no other; unset for files",
        memory="an evaluation pass holds no gradients",
        training="None, but time.",
        source="datasets docs, load_dataset",
    ),
    "data.on_bad_row": Help(
        typical="error: look at what is wrong first; skip once you know it",
        memory="none",
        training="Skipped rows are not learnt from. The report counts them by kind.",
        source="Loradeck",
    ),
    "data.chat_template_path": Help(
        typical="unset: the model's own; chatml for a base model that has none",
        memory="none; markers that are no tokens of the model take some more tokens a row",
        training="The model answers best in the form it was trained in: another template for a chat model makes it "
        "unlearn the old one first.",
        source="trl docs, SFTConfig.chat_template_path",
    ),
    "data.format": Help(
        typical="auto",
        memory="none",
        training="Decides where an answer begins, and so what is learnt.",
        source="trl docs, Dataset formats",
    ),
    "data.max_length": Help(
        typical="512 to 4096: what 95 to 99 % of your rows are shorter than",
        unit="tokens",
        memory="activations grow with it in proportion, but only as far as rows are really that long",
        training="Rows that are cut lose their end: the answer may never stop, as its end-of-turn token is gone.",
        source=TRL,
    ),
    "data.packing": Help(
        typical="yes for many rows much shorter than max_length; no for small data",
        memory="every batch is as large as the largest without packing",
        training="Up to several times more trained tokens a second. Fewer, larger steps: raise epochs or lower "
        "accumulation.",
        source=f"{TRL}; {PACKING}",
    ),
    "data.completion_only_loss": Help(
        typical="unset: answers only",
        memory="none",
        training="Learning the prompt too can help where answers are a few tokens long; else it teaches to write "
        "questions.",
        source=f"{TRL}; Shi et al. 2024, arXiv:2405.14394",
    ),
    "data.assistant_only_loss": Help(
        typical="unset: every turn; no to learn the last answer only",
        memory="none",
        training="More is learnt from each row than from its last turn alone.",
        source=TRL,
    ),
    "data.samples": Help(
        typical="3 to 5",
        unit="prompts",
        memory="less than training: no gradients, per_device_eval_batch_size prompts at a time; in no prediction",
        training="None; some seconds at the end. A loss cannot tell you whether answers are good: reading them can.",
        source="Loradeck",
    ),
    "data.samples_at_eval": Help(
        typical="no; yes to watch the answers to held-out prompts change",
        memory="less than a training step, but no prediction and no preflight counts it; where it does not suffice the "
        "answers are given up and training goes on",
        training="The same numbers bit for bit; training waits for samples x samples_max_new_tokens tokens at each "
        "evaluation: seconds on a GPU, a minute or more on a CPU.",
        source="Loradeck",
    ),
    "data.sample_prompts": Help(
        typical="2 to 5 that you know good answers to, one of them off your data's subject, to see what is forgotten",
        memory="less than a training step, but no prediction and no preflight counts it; where it does not suffice the "
        "answers are given up and training goes on",
        training="The same numbers bit for bit; training waits for prompts x samples_max_new_tokens tokens at each "
        "evaluation. Without eval_strategy they are answered at the end only.",
        source="Loradeck",
    ),
    "data.samples_max_new_tokens": Help(
        typical="32 to 256: as long as good answers are",
        unit="tokens",
        memory="keys and values of that many tokens for each prompt at hand",
        training="None. An answer that does not end by itself takes the time of all of them.",
        source="transformers docs, GenerationConfig.max_new_tokens",
    ),
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
    "hardware.device": Help(
        typical="auto",
        memory="on the CPU the limit is host memory",
        training="A CPU trains models up to about 1B, slowly: good for trying out a spec before renting a GPU.",
        source="Loradeck",
    ),
    "hardware.memory_limit": Help(
        typical="unset; 12GiB to rehearse a 12 GB card on a larger one; less than the card to leave others their share",
        memory="on a GPU PyTorch may reserve this less the CUDA context (paged optimizer state is not counted); on the "
        "CPU it is resident memory, libraries (0.5 GiB) included",
        training="None while it suffices. What does not fit fails as out of memory, as on a card of that size.",
        source="torch docs, set_per_process_memory_fraction; getrlimit(2), RLIMIT_DATA",
    ),
    "hardware.launcher": Help(
        typical="local; slurm on a cluster's login node, with hardware.slurm",
        memory="none",
        training="None. Run folder, screens and commands are the same; before it starts, the run is queued.",
        source="man sbatch",
    ),
    "hardware.slurm": Help(
        typical="partition: gpu, gpus: 1, cpus_per_task: 8, mem: 64G, time: '12:00:00'",
        memory="mem is host memory: the libraries take 3 GB and more, loading a model up to the size of its weights",
        training="None. Shortly before the time is over, and when it is preempted, the run saves a checkpoint; the job "
        "then goes back to the queue and training goes on from there.",
        source="man sbatch",
    ),
    "hardware.preflight": Help(
        typical="unset",
        memory="none beyond what the run itself will need: finding that out is what it is for",
        training="None: weights, optimizer and random numbers are put back, and losses are the same bit for bit. It "
        "costs the time of two batches, one evaluation batch and a checkpoint.",
        source="Loradeck",
    ),
    "on_oom": Help(
        typical="ask; retry for a run that goes through the night; stop for scripts that decide themselves",
        memory="none",
        training="retry takes only ways that leave training the same, such as a smaller batch with more accumulation; "
        "each is recorded as a run of its own that continues from the newest checkpoint.",
        source="Loradeck",
    ),
}
"""By full name."""
