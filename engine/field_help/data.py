"""Settings of data."""

from __future__ import annotations

from engine.field_help.form import PACKING, QLORA, TRAINER, TRL, Help

HELP: dict[str, Help] = {
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
}
