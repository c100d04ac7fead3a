"""The losses of rows: those of the run's own evaluation, and of each row by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.evaluation.plan import LossPart
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.data.run_data import load_data
from engine.worker.failures import BadSpec
from engine.worker.loaded import load_base, put_on, switched_off
from tests.engine.worker.evaluation.trained import HELD_OUT, eval_of, evaluated, spec_of, trained_run, write_jsonl

MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_mean_over_tokens_is_the_runs_own_held_out_loss(chat_run: Run, chat_spec: RunSpec) -> None:
    found = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,))
    of_run = eval_of(chat_run)
    assert found.mean_loss("held_out", "adapter") == pytest.approx(of_run["eval_loss"], abs=1e-3)
    rows = found.losses["held_out", "adapter"].values()
    accuracy = sum(row.correct for row in rows) / sum(row.tokens for row in rows)
    assert accuracy == pytest.approx(of_run["eval_token_accuracy"], abs=5e-3)
    assert found.mean_loss("held_out", "base") > of_run["eval_loss"] + 1
    assert found.losses["held_out", "base"].keys() == found.losses["held_out", "adapter"].keys()


@pytest.mark.parametrize(
    ("kind", "data", "quantization"),
    [
        ("turns", {"assistant_only_loss": True}, {}),
        ("everything", {"completion_only_loss": False}, {"load_in": "none"}),
        ("prompts", {}, {}),
        ("texts", {"max_length": 16}, {"load_in": "8bit"}),
        ("packed", {"packing": True, "max_length": 128}, {}),
    ],
)
def test_labels_and_cut_are_the_runs_own(
    kind: str, data: dict[str, Any], quantization: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    turns = [
        {
            "messages": [
                {"role": "user", "content": f"double {n}"},
                {"role": "assistant", "content": f"{2 * n}"},
                {"role": "user", "content": "and again"},
                {"role": "assistant", "content": f"it is {4 * n}"},
            ]
        }
        for n in range(40)
    ]
    prompts = [{"prompt": f"double {n} is ", "completion": f"{2 * n}"} for n in range(40)]
    texts = [{"text": f"twice {n} comes to {2 * n}"} for n in range(40)]
    rows = {"prompts": prompts, "texts": texts}.get(kind, turns)
    if kind == "turns":
        (tmp_path / "marked.jinja").write_text(MARKED)
        data = {**data, "chat_template_path": str(tmp_path / "marked.jinja")}
    spec = spec_of(
        tiny_model,
        write_jsonl(tmp_path / "rows.jsonl", rows),
        data=data,
        quantization=quantization,
        training={"max_steps": 3},
    )
    run = trained_run(tmp_path / "run", spec)
    found = evaluated(spec, run.adapter_folder, (HELD_OUT,))
    assert found.mean_loss("held_out", "adapter") == pytest.approx(eval_of(run)["eval_loss"], abs=1e-3)
    one = found.losses["held_out", "base"][0]
    if kind == "turns":
        assert one.prompt == "and again"
        assert (one.expected or "").startswith("it is ")
        assert one.tokens > len(f"{one.expected}<"), "the first answer is learnt too"
    elif kind == "texts":
        assert one.prompt == ""
        assert (one.expected or "").startswith("twice ")
        assert one.tokens == 15, "16 tokens, and nothing comes before the first"
    elif kind == "packed":
        assert len(found.losses["held_out", "base"]) == len(load_data(spec).rows.held_out)


def test_with_one_row_a_batch_the_runs_loss_is_the_mean_over_rows(tiny_model: Path, tmp_path: Path) -> None:
    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": "a" * n, "completion": "b" * (n % 7 + 1)} for n in range(1, 30)]
    )
    spec = spec_of(tiny_model, rows, training={"per_device_eval_batch_size": 1, "max_steps": 3})
    run = trained_run(tmp_path / "run", spec)
    of_rows = evaluated(spec, run.adapter_folder, (HELD_OUT,)).losses["held_out", "adapter"].values()
    mean = sum(row.loss_sum / row.tokens for row in of_rows) / len(of_rows)
    assert mean == pytest.approx(eval_of(run)["eval_loss"], abs=1e-3)


def alone(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[float, int, int]:
    """Loss, learnt tokens and right ones of one row, from plain logits."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids).logits[0, :-1].float()
    learnt, targets = labels[0, 1:] != -100, labels[0, 1:]
    loss = torch.nn.functional.cross_entropy(logits[learnt], targets[learnt], reduction="sum")
    return float(loss), int(learnt.sum()), int((logits.argmax(-1) == targets)[learnt].sum())


def test_each_row_has_the_loss_and_the_right_tokens_that_it_has_by_itself(chat_run: Run, chat_spec: RunSpec) -> None:
    found = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,))
    data = load_data(chat_spec)
    assert data.held_out is not None
    model = put_on(load_base(chat_spec), chat_run.adapter_folder)
    for place in range(0, len(data.held_out), 5):
        sequence = data.held_out[place]
        ids, labels = torch.from_numpy(sequence["input_ids"])[None], torch.from_numpy(sequence["labels"])[None]

        for name in ("adapter", "base"):
            row = found.losses["held_out", name][place]
            if name == "base":
                with switched_off(model):
                    loss, tokens, right = alone(model, ids, labels)
            else:
                loss, tokens, right = alone(model, ids, labels)
            assert row.tokens == tokens
            assert row.loss_sum == pytest.approx(loss, rel=2e-2, abs=2e-2)
            assert abs(row.correct - right) <= 1


def test_rows_are_named_and_shown_once_and_limited_to_the_first(chat_run: Run, chat_spec: RunSpec) -> None:
    found = evaluated(chat_spec, chat_run.adapter_folder, (LossPart("held_out", "held_out", 5),))
    base, adapter = found.losses["held_out", "base"], found.losses["held_out", "adapter"]
    assert sorted(base) == [0, 1, 2, 3, 4]
    rows = load_data(chat_spec).rows.held_out
    for number, row in base.items():
        question, answer = rows[number]["messages"]
        assert (row.prompt, row.expected) == (question["content"], answer["content"])
        assert row.where == rows.where(number) == adapter[number].where
        assert adapter[number].prompt is adapter[number].expected is None


def test_batches_of_one_row_come_to_the_same(chat_run: Run, chat_spec: RunSpec) -> None:
    many = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,))
    one = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,), batch_size=1)
    assert one.result["batch_size"] == 1
    assert many.result["batch_size"] > 20
    for model in ("base", "adapter"):
        assert one.mean_loss("held_out", model) == pytest.approx(many.mean_loss("held_out", model), abs=1e-3)


def test_of_plain_text_every_token_but_the_first_is_measured(chat_run: Run, chat_spec: RunSpec, tmp_path: Path) -> None:
    texts = ["The river froze.", "Two\u2028lines", "x"]
    path = write_jsonl(tmp_path / "general.jsonl", [{"text": text} for text in texts])
    found = evaluated(chat_spec, chat_run.adapter_folder, (LossPart("general_text", str(path)),))
    for model in ("base", "adapter"):
        rows = found.losses["general_text", model]
        assert [rows[place].tokens for place in range(3)] == [len(text.encode()) - 1 for text in texts]
    row = found.losses["general_text", "base"][1]
    assert (row.where, row.prompt, row.expected) == ("general.jsonl, line 2", "", texts[1])
    # Near-random weights: about the logarithm of the vocabulary's 259 tokens.
    assert found.mean_loss("general_text", "base") == pytest.approx(5.56, abs=0.3)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True, "modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "use_rslora": True},
        {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 3}},
    ],
)
def test_of_every_kind_of_adapter_the_base_is_the_plain_base(
    tiny_model: Path, rows_file: Path, tmp_path: Path, lora: dict[str, Any], chat_run: Run, chat_spec: RunSpec
) -> None:
    spec = spec_of(tiny_model, rows_file, lora=lora, training={"max_steps": 3})
    run = trained_run(tmp_path / "run", spec)
    found = evaluated(spec, run.adapter_folder, (HELD_OUT,))
    assert found.mean_loss("held_out", "adapter") == pytest.approx(eval_of(run)["eval_loss"], abs=1e-3)
    other = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,))
    mine, others = found.losses["held_out", "base"], other.losses["held_out", "base"]
    assert {n: row.loss_sum for n, row in mine.items()} == {n: row.loss_sum for n, row in others.items()}


def test_data_that_is_gone_is_told_before_the_model_is_loaded(
    chat_run: Run, chat_spec: RunSpec, tmp_path: Path
) -> None:
    data = chat_spec.data.model_copy(update={"train": str(tmp_path / "gone.jsonl")})
    with pytest.raises(BadSpec, match=r"The held-out rows cannot be read: .*gone\.jsonl"):
        evaluated(chat_spec.model_copy(update={"data": data}), tmp_path / "nor this", (HELD_OUT,))
    nothing = chat_spec.model_copy(update={"data": chat_spec.data.model_copy(update={"eval_fraction": 0.0})})
    with pytest.raises(BadSpec, match="held out no rows"):
        evaluated(nothing, chat_run.adapter_folder, (HELD_OUT,))


def test_events_are_plain_json(chat_run: Run, chat_spec: RunSpec) -> None:
    found = evaluated(chat_spec, chat_run.adapter_folder, (HELD_OUT,))
    assert json.loads(json.dumps(found.result)) == found.result
    assert found.result["versions"].keys() == {"torch", "transformers", "peft", "bitsandbytes"}
    assert found.result["timed_out"] is False
    assert found.result["device"] == "cpu"
