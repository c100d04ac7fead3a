"""Small tokenizers with the special tokens, the template and the kind of vocabulary of well-known chat models.

Each word below is one token, with and without a space before it; everything else is made of bytes.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from engine.checks import parse_spec
from engine.spec import RunSpec
from engine.worker.data.template import families

WORDS = [
    *["You", "are", "kind", "Hi", "Hello", "there", "Bye", "see", "you", "sum", "one", "two", "three", "think"],
    *["user", "assistant", "system", "model", "tool"],
]
CORPUS = [*WORDS, *(f" {word}" for word in WORDS)] * 2

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }}[/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_MARKED = MISTRAL.replace(
    " {{ message.content }}{{ eos_token }}",
    "{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}",
)


@cache
def chatml() -> PreTrainedTokenizerFast:
    """A template of its own that marks turns; no beginning-of-sequence token; padding is a token of its own."""
    return _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, eos="<|im_end|>", pad="<|endoftext|>")


@cache
def llama3() -> PreTrainedTokenizerFast:
    """Adds a beginning-of-sequence token to plain text, as Llama 3's does."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(special, families()["llama3"], eos="<|eot_id|>", pad="<|end_of_text|>", bos=special[0])
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], 0)]),
        ]
    )
    return tokenizer


@cache
def qwen3() -> PreTrainedTokenizerFast:
    """`<think>` and its end are added tokens that are not special."""
    tokenizer = _byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], families()["qwen3"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    plain = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    tokenizer.add_tokens([AddedToken(each, normalized=False, special=False) for each in plain])
    return tokenizer


@cache
def mistral() -> PreTrainedTokenizerFast:
    """SentencePiece's kind, which puts a space before a text, and no marks in its template."""
    return _sentencepiece(
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], MISTRAL, bos="<s>", eos="</s>", adds_space=True
    )


@cache
def gemma() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    return _sentencepiece(special, families()["gemma"], bos="<bos>", eos="<eos>", adds_space=False)


def base() -> PreTrainedTokenizerFast:
    """Of a base model: nothing that could write a conversation."""
    return _byte_level(["<|endoftext|>"], None, eos="<|endoftext|>", pad=None)


def words_only() -> PreTrainedTokenizerFast:
    """Knows its words, and nothing else."""
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<pad>", "</s>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def _byte_level(
    special: list[str], template: str | None, eos: str, pad: str | None, bos: str | None = None
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, chat_template=template
    )


def _sentencepiece(special: list[str], template: str, bos: str, eos: str, adds_space: bool) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    words.train_from_iterator([*CORPUS, "\n"], trainers.BpeTrainer(show_progress=False))
    model = json.loads(words.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if adds_space else space
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if adds_space else [])])
    number = vocabulary[bos]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token="<unk>", chat_template=template
    )


def spec_for(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: list[Any], **data: Any) -> RunSpec:
    """A spec whose model is `tokenizer` alone, saved in `folder`, and whose data are `rows` in a file there.

    A row that is text is a line of the file as it is.
    """
    tokenizer.save_pretrained(folder / "model")
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return parse_spec(
        {
            "model": {"name_or_path": str(folder / "model"), "dtype": "bfloat16"},
            "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
            "data": {"train": str(folder / "rows.jsonl"), **data},
            "training": {"bf16": True, "fp16": False, "optim": "adamw_torch"},
            "hardware": {"device": "cpu"},
        }
    )
