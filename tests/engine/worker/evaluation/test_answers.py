"""Answers of many rows at once are those of each alone, and end where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checks import read_spec
from engine.evaluation.plan import ADAPTER, BASE, Answer, AnswerPart
from engine.runs.store import Run
from engine.spec import RunSpec
from engine.worker.evaluation.answers import answer
from engine.worker.evaluation.batches import Batches
from engine.worker.evaluation.choices import tell_choices
from engine.worker.evaluation.losses import prepare_for_losses
from engine.worker.evaluation.models import Models
from engine.worker.evaluation.questions import Writer
from engine.worker.failures import BadSpec
from engine.worker.loaded import load_base, load_tokenizer_of
from tests.engine.worker.evaluation.trained import evaluated, spec_of, trained_run, write_jsonl


@pytest.fixture(scope="module")
def exact_run(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """In fp32, where rows together and rows alone come to the same but for the last bits."""
    spec = spec_of(
        tiny_model,
        rows_file,
        model={"dtype": "float32"},
        quantization={"load_in": "none"},
        training={"bf16": False, "max_steps": 40},
    )
    return trained_run(tmp_path_factory.mktemp("exact") / "run", spec)


@pytest.fixture
def exact(exact_run: Run) -> Models:
    spec = read_spec(exact_run.spec_path)
    return Models(spec, exact_run.adapter_folder, load_tokenizer_of(spec, exact_run.adapter_folder))


PROMPTS = [
    f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("double 2", "double 31", "hi", "?")
]


def test_rows_together_answer_as_each_does_alone_in_plain_transformers(exact: Models) -> None:
    prompts = [exact.tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    for name in (ADAPTER, BASE):
        with exact.answering(name):
            together = answer(exact, prompts, 20)
            alone = [
                exact.base.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20, pad_token_id=0)
                for ids in prompts
            ]
        for (ids, cut), prompt, output in zip(together, prompts, alone, strict=True):
            generated = output[0, len(prompt) :].tolist()
            ended = exact.ends[0] in generated
            assert ids == (generated[: generated.index(exact.ends[0])] if ended else generated)
            assert cut is not ended
    with exact.answering(ADAPTER):
        text = exact.tokenizer.decode(answer(exact, prompts[:1], 20)[0][0])
    assert text.startswith("it is "), "it learnt how its answers begin"


def test_an_answer_ends_before_its_end_token_and_is_cut_off_without_one(exact: Models) -> None:
    prompts = [exact.tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    with exact.answering(ADAPTER):
        whole = answer(exact, prompts, 12)
        exact.ends = [whole[0][0][4]]
        ended = answer(exact, prompts[:1], 12)[0]
        short = answer(exact, prompts[:1], 2)[0]
    first = whole[0][0]
    assert ended == (first[: first.index(first[4])], False)
    assert short == (first[:2], True)


def test_a_prompt_gets_the_room_that_the_context_leaves(exact: Models) -> None:
    exact.base.config.max_position_embeddings = 40
    prompts = [[5] * 10, [5] * 38, [5] * 40, [5] * 50]
    with exact.answering(BASE):
        answers = answer(exact, prompts, 8)
    assert [len(ids) for ids, _ in answers[1:]] == [2, 0, 0]
    assert [cut for _, cut in answers[1:]] == [True, True, True]
    assert len(answers[0][0]) == 8


def test_a_choice_has_the_sum_of_its_tokens_log_likelihoods(exact: Models) -> None:
    prepare_for_losses(exact.base)
    writer = Writer(exact.spec, exact.tokenizer)
    rows: list[dict[str, Any]] = [
        {"prompt": "double 4", "choices": ["oh no 8", "it is 8"]},
        {"messages": [{"role": "user", "content": "hi"}], "choices": ["a", "bb", "ccc"]},
    ]
    questions = [writer.question(number, row) for number, row in enumerate(rows)]
    told: list[Answer] = []
    part = AnswerPart("benchmark", "", models=(ADAPTER,))
    done: list[int] = []
    assert tell_choices(exact, writer, part, questions, Batches(2, 1000), told.append, done.append, lambda: False)
    assert done[-1] == 2
    for found in told:
        choices: list[str] = rows[found.row]["choices"]
        expected = []
        for choice in choices:
            prompt = questions[found.row].ids
            ids = torch.tensor(
                [exact.tokenizer(questions[found.row].text + choice, add_special_tokens=False)["input_ids"]]
            )
            with exact.answering(ADAPTER):
                likely = exact.base(input_ids=ids).logits[0].log_softmax(-1)
            expected.append(sum(float(likely[n - 1, ids[0, n]]) for n in range(len(prompt), ids.shape[1])))
        assert found.choice_log_likelihoods == pytest.approx(expected, abs=1e-4)
        assert found.choice == max(range(len(choices)), key=expected.__getitem__)
        assert found.text == choices[found.choice]
    assert next(found for found in told if found.row == 0).text == "it is 8", "which is how its answers begin"


def test_both_models_answer_every_row_and_differ(chat_run: Run, chat_spec: RunSpec, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"double {n}"} for n in range(10)]
    rows[3] = {"messages": [{"role": "user", "content": "double\u2028 3"}]}
    rows[5] = {"prompt": "double 5", "choices": ["it is 10", "oh no 10"]}
    path = write_jsonl(tmp_path / "bench.jsonl", rows)
    found = evaluated(chat_spec, chat_run.adapter_folder, (), (AnswerPart("benchmark", str(path), 8),))
    base, adapter = found.answers["benchmark", "base"], found.answers["benchmark", "adapter"]
    assert sorted(base) == sorted(adapter) == list(range(10))
    assert all(answer.cut and answer.tokens == 8 for n, answer in base.items() if n != 5)
    assert sum(answer.text.startswith("it is") for answer in adapter.values()) > 5
    assert (adapter[5].choice, adapter[5].text, adapter[5].tokens) == (0, "it is 10", 0)
    first = evaluated(chat_spec, chat_run.adapter_folder, (), (AnswerPart("benchmark", str(path), 8, limit=4),))
    assert sorted(first.answers["benchmark", "base"]) == [0, 1, 2, 3]


def test_prompts_are_written_as_the_run_learnt_them(
    chat_run: Run, chat_spec: RunSpec, tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer_of(chat_spec, chat_run.adapter_folder)
    chat = Writer(chat_spec, tokenizer)
    assert chat.question(0, {"prompt": "hi"}).text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    plain_rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{n} is ", "completion": "x"} for n in range(9)])
    plain = Writer(spec_of(tiny_model, plain_rows), tokenizer)
    assert plain.question(0, {"prompt": "hi"}).text == "hi"
    messages = [{"role": "user", "content": "hi"}]
    assert plain.question(0, {"messages": messages}).text == chat.question(0, {"messages": messages}).text
    tokenizer.chat_template = None
    with pytest.raises(BadSpec, match="Row 2 of the benchmark has `messages`"):
        Writer(chat_spec, tokenizer).question(1, {"messages": messages})
    tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(BadSpec, match="does not take row 2 of the benchmark: no such role"):
        Writer(chat_spec, tokenizer).question(1, {"messages": messages})


def test_few_answers_of_a_quantized_model_change_with_the_batch(
    chat_run: Run, chat_spec: RunSpec, tmp_path: Path
) -> None:
    """In bf16 a sum in another order may turn a near tie: answers are the same but for a few."""
    path = write_jsonl(tmp_path / "bench.jsonl", [{"prompt": f"double {n}"} for n in range(40)])
    part = AnswerPart("benchmark", str(path), 10)
    together = evaluated(chat_spec, chat_run.adapter_folder, (), (part,)).answers["benchmark", "adapter"]
    alone = evaluated(chat_spec, chat_run.adapter_folder, (), (part,), batch_size=1).answers["benchmark", "adapter"]
    equal = sum(together[row].text == alone[row].text for row in range(40))
    assert equal >= 30, f"{equal} of 40"


def test_the_base_alone_gives_the_answers_of_a_base_without_an_adapter(exact: Models) -> None:
    plain = load_base(exact.spec)
    ids = exact.tokenizer(PROMPTS[1], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = plain.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=10, pad_token_id=0)
    with exact.answering(BASE):
        assert answer(exact, [ids], 10)[0][0] == expected[0, len(ids) :].tolist()
