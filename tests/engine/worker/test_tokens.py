"""The token store: what it holds, when it is made, and that a run trains on it as it was shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from engine.data import client
from engine.data.lengths import NEVER
from engine.data.shapes import is_conversation
from engine.spec import RunSpec
from engine.worker.data.encode import Encoder, load_encoder
from engine.worker.data.run_data import load_data, warnings_of
from engine.worker.data.sequences import cut
from engine.worker.data.store import Rows, open_rows
from engine.worker.data.token_store import BATCH_ROWS, TokenStore
from engine.worker.data.tokens import build, finished
from engine.worker.failures import BadSpec
from engine.worker.requests import StopRequested
from tests.engine.worker.training import events_of, fit, new_run, steps_of

MakeSpec = Callable[..., RunSpec]
REFUSING = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
)
"""A template that does not take every row, as Gemma's does not."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LORADECK_CACHE", str(folder))
    return folder


def rows_file(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"say {number}" * (1 + number % 5)},
                {"role": "assistant", "content": "é漢👍" * (number % 7) or "nothing"},
            ]
        }
        for number in range(count)
    ]


def opened(spec: RunSpec) -> tuple[Rows, Encoder]:
    report = client.scan(spec.data, spec.training.seed)
    rows = open_rows(report, spec.data, spec.training.seed)
    return rows, load_encoder(spec, is_conversation(rows.train[0]))


def test_a_store_holds_each_row_as_the_encoder_makes_it(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", chats(2 * BATCH_ROWS + 3))})
    rows, encoder = opened(spec)
    told: list[tuple[int, int]] = []
    store = TokenStore(build(spec, rows, encoder, lambda done, total: told.append((done, total))))
    assert told == [(done, len(store)) for done in (BATCH_ROWS, 2 * BATCH_ROWS, len(store))]
    assert len(store) == len(rows.train) == 2 * BATCH_ROWS + 3
    for index in (0, 1, BATCH_ROWS - 1, BATCH_ROWS, len(store) - 1):
        row = encoder.encode(rows.train[index])
        ids, labels = store.read(index)
        assert ids.tolist() == row.input_ids
        assert labels.tolist() == row.labels
        assert store.lengths[index] == len(row.input_ids)
        learnt = [place for place, label in enumerate(row.labels) if label != -100]
        assert store.learnt[index] == len(learnt)
        assert store.first_learnt[index] == learnt[0]
        part, _ = store.read(index, 3, 9)
        assert part.tolist() == row.input_ids[3:9]


def test_another_max_length_takes_the_same_store_and_other_settings_another(
    tiny_spec: MakeSpec, tmp_path: Path
) -> None:
    train = rows_file(tmp_path / "a.jsonl", chats(5))

    def folder(**data: Any) -> Path:
        spec = tiny_spec(data={"train": train, **data})
        return build(spec, *opened(spec))

    first = folder()
    made_at = first.stat().st_ino
    assert folder(max_length=9, packing=True) == first
    assert first.stat().st_ino == made_at
    assert folder(completion_only_loss=False) != first
    assert folder(chat_template_path="chatml") != first
    rows_file(tmp_path / "a.jsonl", chats(6))
    assert folder() != first


def test_what_is_not_finished_is_not_there(tiny_spec: MakeSpec, tmp_path: Path, own_cache: Path) -> None:
    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", chats(BATCH_ROWS + 1))})
    rows, encoder = opened(spec)

    def interrupt(done: int, total: int) -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        build(spec, rows, encoder, interrupt)
    assert finished(rows.train, encoder) is None
    assert list((own_cache / "tokens").iterdir()) == []
    build(spec, rows, encoder)
    store = finished(rows.train, encoder)
    assert store is not None
    assert len(store) == BATCH_ROWS + 1


def test_lengths_of_all_rows_are_found_again_without_a_tokenizer(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", chats(20)), "eval_fraction": 0.3})
    assert client.kept_lengths(spec) is None
    data = load_data(spec)
    lengths = client.kept_lengths(spec)
    assert lengths is not None
    assert not lengths.is_sample
    assert lengths.tokens.tolist() == data.train.store.lengths.tolist()
    assert lengths.first_learnt.tolist() == data.train.store.first_learnt.tolist()


def test_rows_that_the_template_refuses_are_named_or_left_out(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    rows = chats(6)
    rows[3]["messages"].insert(0, {"role": "system", "content": "be kind"})
    template = tmp_path / "template.jinja"
    template.write_text(REFUSING)
    data = {"train": rows_file(tmp_path / "a.jsonl", rows), "chat_template_path": str(template), "max_length": None}

    with pytest.raises(BadSpec, match=r"a\.jsonl, line 4: .*no system turns"):
        load_data(tiny_spec(data=data))
    skipping = tiny_spec(data={**data, "on_bad_row": "skip"})
    skipped = load_data(skipping)
    assert skipped.train.store.lengths[3] == 0, "the others keep their places"
    assert skipped.train.store.first_learnt[3] == NEVER
    assert len(skipped.train) == 5
    (warned,) = [each for each in warnings_of(skipped, skipping.data) if each.code == "rows-refused"]
    assert "line 4" in warned.message
    with pytest.raises(BadSpec, match="line 4"):
        load_data(tiny_spec(data=data))


def test_rows_are_cut_and_dropped_as_trl_does_it(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", chats(40)), "max_length": 48})
    data = load_data(spec)
    store = data.train.store
    whole = [store.read(row) for row in range(len(store))]
    dataset = Dataset.from_list([{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in whole])
    arguments = SFTConfig(output_dir=str(tmp_path), max_length=48, bf16=False, use_cpu=True, report_to="none")
    tokenizer = AutoTokenizer.from_pretrained(spec.model.name_or_path)
    prepared = SFTTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, arguments, False, None, "train"
    )
    assert 0 < len(prepared) < 40, "the test needs rows whose prompt alone is longer"
    ours = [data.train[index] for index in range(len(data.train))]
    assert [row["input_ids"].tolist() for row in ours] == list(prepared["input_ids"])
    assert [row["labels"].tolist() for row in ours] == list(prepared["labels"])
    assert data.train.lengths.tolist() == [len(row["input_ids"]) for row in ours]
    codes = {warned.code: warned.message for warned in warnings_of(data, spec.data)}
    assert f"{40 - len(prepared)} of 40" in codes["rows-dropped"]
    reaching = sum(len(ids) > 48 for ids, labels in whole if (labels[:48] != -100).any())
    assert f"{reaching} of 40" in codes["rows-cut"]


def test_padding_has_no_labels_even_where_the_end_token_pads(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", chats(8)), "max_length": None})
    data = load_data(spec)
    end = data.encoder.tokenizer.eos_token_id
    batch = DataCollatorForLanguageModeling(pad_token_id=end)([data.train[index] for index in range(8)])
    for index, (ids, labels, mask) in enumerate(
        zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    ):
        whole, learnt = data.train.store.read(index)
        assert ids[: len(whole)].tolist() == whole.tolist()
        assert labels.tolist() == [*learnt.tolist(), *[-100] * (len(ids) - len(whole))]
        assert mask.tolist() == [1] * len(whole) + [0] * (len(ids) - len(whole))
        assert end in learnt, "the answer's own end is learnt"


def test_a_second_run_begins_without_tokenizing_and_trains_the_same(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    spec = tiny_spec(
        data={
            "train": rows_file(tmp_path / "a.jsonl", chats(30)),
            "eval_fraction": 0.2,
            "chat_template_path": "chatml",
        },
        training={"max_steps": 2, "save_strategy": "steps", "save_steps": 2},
    )
    first, second = new_run(tmp_path / "first", spec), new_run(tmp_path / "second", spec)
    assert fit(first)
    assert fit(second)
    (told,), (told_again,) = events_of(first, "data"), events_of(second, "data")
    assert told["tokenized_rows"] == 30
    assert told["rows"] + told["held_out_rows"] == 30
    assert told_again["tokenized_rows"] == 0
    assert steps_of(first) == steps_of(second)

    tokenizer = AutoTokenizer.from_pretrained(spec.model.name_or_path)
    for folder in (second.adapter_folder, second.checkpoints_folder / "checkpoint-2"):
        saved = AutoTokenizer.from_pretrained(folder)
        turns = [{"role": "user", "content": "hi"}]
        written = saved.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert written == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert saved.chat_template != tokenizer.chat_template


def test_rows_with_nothing_to_learn_are_left_out_without_a_max_length_too(tiny_spec: MakeSpec, tmp_path: Path) -> None:
    rows = [{"prompt": f"say {number}", "completion": "yes"} for number in range(4)]
    spec = tiny_spec(data={"train": rows_file(tmp_path / "a.jsonl", rows), "max_length": None})
    data = load_data(spec)
    assert not list(warnings_of(data, spec.data))
    store = data.train.store
    store.first_learnt[2] = NEVER
    assert len(cut(store, None)) == 3
    (warned,) = warnings_of(data, spec.data)
    assert warned.message == "1 of 4 rows are left out: nothing of them is learnt."
