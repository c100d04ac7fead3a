"""Packing: rows in blocks as TRL forms them, learnt as if each were alone, and refused where they would not be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, FalconConfig, JambaConfig, MambaConfig, OPTConfig
from trl import pack_dataset

from engine.data.batching import packed
from engine.runs.events import EventWriter
from engine.spec import RunSpec
from engine.worker.data.packing import best_fit, check_rows_stay_apart, pack
from engine.worker.data.run_data import load_data
from engine.worker.failures import BadSpec
from engine.worker.train import Training
from engine.worker.trainer import DeckTrainer
from tests.engine.families import FAMILIES
from tests.engine.worker.training import events_of, fit, new_run, write_rows

MakeSpec = Callable[..., RunSpec]
IN_FULL_PRECISION: dict[str, Any] = {
    "model": {"dtype": "float32"},
    "quantization": {"load_in": "none"},
    "lora": {"lora_dropout": 0.0},
    "training": {"bf16": False},
}


@pytest.fixture
def uneven_rows(tmp_path: Path) -> str:
    return write_rows(tmp_path / "uneven.jsonl", ["ab" * (1 + 7 * number % 23) for number in range(40)])


@given(st.lists(st.integers(1, 50), max_size=80))
def test_every_row_is_in_one_block_that_holds_it(lengths: list[int]) -> None:
    blocks = best_fit(lengths, 50)
    assert sorted(row for block in blocks for row in block) == list(range(len(lengths)))
    totals = [sum(lengths[row] for row in block) for block in blocks]
    assert max(totals, default=0) <= 50
    assert sorted(totals) == sorted(packed([(length, 0) for length in lengths], 50, splits=False)), (
        "what the figures count on"
    )


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_blocks_are_those_that_trl_packs(tiny_spec: MakeSpec, uneven_rows: str, strategy: str) -> None:
    spec = tiny_spec(data={"train": uneven_rows, "max_length": 64})
    store = load_data(spec).train.store
    # A part of a split row that comes before its answer is left out: all of a row is learnt here.
    whole = load_data(
        tiny_spec(data={"train": uneven_rows, "max_length": 64, "completion_only_loss": False})
    ).train.store
    rows = [whole.read(row) for row in range(len(whole))]
    dataset = Dataset.from_list([{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in rows])
    theirs = pack_dataset(dataset, 64, strategy)
    ours = pack(whole, 64, strategy == "bfd_split")
    blocks = [ours[index] for index in range(len(ours))]
    assert sorted(len(block["input_ids"]) for block in blocks) == sorted(map(len, theirs["input_ids"]))
    assert ours.lengths.tolist() == [len(block["input_ids"]) for block in blocks]

    def parts(block: dict[str, Any]) -> Iterator[tuple[int, ...]]:
        begin = 0
        for length in block["seq_lengths"]:
            yield tuple(int(token) for token in block["input_ids"][begin : begin + length])
            begin += length

    assert sorted(part for block in blocks for part in parts(block)) == sorted(
        part for block in theirs for part in parts(block)
    )
    assert len(pack(store, 64, False)) <= len(pack(whole, 64, False))


def trainer_for(spec: RunSpec, folder: Path) -> DeckTrainer:
    run = new_run(folder, spec)
    torch.set_num_threads(1)
    return Training(run, EventWriter(run.events_path)).set_up(spec, load_data(spec))


def test_the_loss_and_gradients_of_packed_rows_are_those_of_the_rows_alone(
    tiny_spec: MakeSpec, uneven_rows: str, tmp_path: Path
) -> None:
    spec = tiny_spec(
        **{**IN_FULL_PRECISION, "data": {"train": uneven_rows, "max_length": 128, "packing": True}},
    )
    trainer = trainer_for(spec, tmp_path / "run")
    blocks = [trainer.train_dataset[index] for index in range(2)]
    assert sum(len(block["seq_lengths"]) for block in blocks) > 3
    rows: list[dict[str, Any]] = []
    for block in blocks:
        begin = 0
        for length in block["seq_lengths"]:
            end = begin + length
            rows.append({"input_ids": block["input_ids"][begin:end], "labels": block["labels"][begin:end]})
            begin = end
    learnt_tokens = torch.tensor(sum(int((row["labels"][1:] != -100).sum()) for row in rows))
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    for number, parameter in enumerate(trained):  # B matrices start as zeros, which hides A's gradients
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(number))

    def learn(batches: list[list[dict[str, Any]]]) -> tuple[float, list[torch.Tensor]]:
        trainer.model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch), num_items_in_batch=learnt_tokens)
            loss.backward()
            total += loss.item()
        return total, [parameter.grad.clone() for parameter in trained if parameter.grad is not None]

    trainer.model.train()
    joined, joined_gradients = learn([blocks])
    alone, alone_gradients = learn([[row] for row in rows])
    assert joined == pytest.approx(alone, rel=1e-5)
    assert len(joined_gradients) == len(alone_gradients) == len(trained)
    for mine, theirs in zip(joined_gradients, alone_gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "gpt-neox", "mixtral", "gpt2"])
def test_families_whose_attention_keeps_rows_apart_are_taken(
    family: str, attention: str, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation=attention)
    model.train()
    state = torch.random.get_rng_state()
    check_rows_stay_apart(model.to(precision), contextlib.nullcontext())
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state()), "training would draw other numbers"


SMALL: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
LEAKING: dict[str, Callable[[], Any]] = {
    # transformers 5.23 forgets the positions when it makes their masks.
    "falcon": FAMILIES["falcon"],
    "gpt-oss": FAMILIES["gpt-oss"],
    # Learnt positions that are counted from the attention mask.
    "opt": lambda: OPTConfig(**SMALL, ffn_dim=48, num_attention_heads=4, word_embed_proj_dim=32),
    # A state that goes on from row to row.
    "mamba": lambda: MambaConfig(**SMALL, state_size=8),
    "jamba": lambda: JambaConfig(
        **SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_mamba_kernels=False,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
    ),
    "bloom": FAMILIES["bloom"],
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", LEAKING)
def test_families_that_let_rows_see_each_other_are_refused(family: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LEAKING[family](), attn_implementation="eager").to(precision)
    with pytest.raises(BadSpec, match="does not keep the rows of a packed block apart") as refused:
        check_rows_stay_apart(model, contextlib.nullcontext())
    assert "packing: false" in refused.value.hint


def test_a_run_that_would_pack_rows_into_one_is_refused_before_it_trains(
    tiny_spec: MakeSpec, tiny_model: Path, uneven_rows: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    folder = tmp_path / "leaking"
    config = FalconConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    spec = tiny_spec(
        model={"name_or_path": str(folder)},
        quantization={"load_in": "none"},
        lora={"target_modules": ["query_key_value"]},
        data={"train": uneven_rows, "packing": True},
        training={"max_steps": 1},
    )
    run = new_run(tmp_path / "run", spec)
    with pytest.raises(BadSpec, match="falcon"):
        fit(run)
    assert not events_of(run, "step")
    assert fit(
        new_run(tmp_path / "apart", spec.model_copy(update={"data": spec.data.model_copy(update={"packing": False})}))
    )
