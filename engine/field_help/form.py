"""The form of what is said about a setting, and the sources that several settings share."""

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
