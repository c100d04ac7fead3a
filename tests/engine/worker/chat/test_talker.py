"""Answers of the base and its adapters, in this process."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.chat.session import BASE, Sampling
from engine.spec import RunSpec
from engine.worker.chat import stopping
from engine.worker.chat.talker import Talker
from engine.worker.failures import BadSpec
from engine.worker.loaded import generation_ends
from tests.engine.chat.adapters import make_adapter
from tests.engine.worker import chat_tokenizers

MakeSpec = Callable[..., RunSpec]
HELLO = [{"role": "user", "content": "hello"}]
SHORT = Sampling(max_new_tokens=16)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(tiny_model, folder / str(seed), seed) for seed in (1, 2)]


def said(talker: Talker, name: str, sampling: Sampling = SHORT) -> str:
    return talker.answer(name, HELLO, sampling, lambda _: None).text


def unquantized(tiny_spec: MakeSpec, model: Path | None = None) -> RunSpec:
    changed = {} if model is None else {"name_or_path": str(model)}
    return tiny_spec(quantization={"load_in": "none"}, model=changed)


def test_greedy_answers_are_those_of_plain_transformers(tiny_spec: MakeSpec, tiny_model: Path) -> None:
    talker = Talker(unquantized(tiny_spec), {})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    inputs = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said(talker, BASE) == expected.rstrip("\N{REPLACEMENT CHARACTER}")


def test_each_adapter_answers_as_it_does_alone_and_the_base_as_without(
    tiny_spec: MakeSpec, adapters: list[Path]
) -> None:
    spec = tiny_spec()
    both = Talker(spec, {"20261124-052000-tiny.1": adapters[0], "keys": adapters[1]})  # names PEFT would not take
    alone = {name: Talker(spec, {name: folder}) for name, folder in zip(("a", "b"), adapters, strict=True)}
    without = Talker(spec, {})
    for _ in range(2):  # in any order
        assert said(both, "keys") == said(alone["b"], "b")
        assert said(both, BASE) == said(without, BASE) == said(alone["a"], BASE)
        assert said(both, "20261124-052000-tiny.1") == said(alone["a"], "a")
    assert len({said(both, name) for name in (BASE, "keys", "20261124-052000-tiny.1")}) == 3


def test_settings_of_the_model_do_not_leak_into_answers(tiny_spec: MakeSpec, tiny_model: Path, tmp_path: Path) -> None:
    """Such as a temperature, a penalty or a length in generation_config.json."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    leaks = {"do_sample": True, "temperature": 5.0, "top_k": 2, "repetition_penalty": 1.9, "max_length": 20}
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, **leaks}))
    leaking, plain = Talker(unquantized(tiny_spec, folder), {}), Talker(unquantized(tiny_spec), {})
    for sampling in (SHORT, Sampling(temperature=1.0, seed=7, max_new_tokens=16)):
        assert said(leaking, BASE, sampling) == said(plain, BASE, sampling)


def test_sampling_is_as_asked(tiny_spec: MakeSpec) -> None:
    talker = Talker(unquantized(tiny_spec), {})
    hot = [said(talker, BASE, Sampling(temperature=3.0, seed=seed, max_new_tokens=16)) for seed in range(4)]
    assert len(set(hot)) == 4
    nearly_greedy = [
        said(talker, BASE, Sampling(temperature=3.0, top_p=1e-6, seed=seed, max_new_tokens=16)) for seed in range(4)
    ]
    assert set(nearly_greedy) == {said(talker, BASE)}
    assert said(talker, BASE, Sampling(temperature=1e-4, seed=9, max_new_tokens=16)) == said(talker, BASE)


@pytest.fixture
def stoppable() -> Iterator[Callable[[], None]]:
    """Asks this thread to stop, as the signal asks the worker."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {stopping.ASKS})
    thread = threading.get_ident()
    yield lambda: signal.pthread_kill(thread, stopping.ASKS)
    stopping.forget()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_stop_ends_even_the_reading_of_the_conversation(
    tiny_spec: MakeSpec, adapters: list[Path], stoppable: Callable[[], None]
) -> None:
    talker = Talker(tiny_spec(), {"a": adapters[0]})
    layers = talker._base.model.layers
    ran: list[str] = []
    layers[0].self_attn.v_proj.register_forward_hook(lambda *_: stoppable())
    layers[0].mlp.gate_proj.register_forward_hook(lambda *_: ran.append("mlp"))

    answer = talker.answer("a", HELLO, SHORT, lambda _: pytest.fail("nothing was to say"))

    assert (answer.text, answer.tokens, answer.ended) == ("", 0, "stopped")
    assert ran == []
    again = talker.answer(BASE, HELLO, SHORT, lambda _: None)
    assert (again.tokens, again.ended) == (0, "stopped"), "the whole request is stopped"


def test_after_a_stop_answers_are_as_before(
    tiny_spec: MakeSpec, adapters: list[Path], stoppable: Callable[[], None]
) -> None:
    talker = Talker(tiny_spec(), {"a": adapters[0]})
    before = {name: said(talker, name) for name in (BASE, "a")}
    for name in (BASE, "a"):
        pieces: list[str] = []

        def stop_at_the_third(piece: str, pieces: list[str] = pieces) -> None:
            pieces.append(piece)
            if len(pieces) == 3:
                stoppable()

        stopped = talker.answer(name, HELLO, SHORT, stop_at_the_third)
        assert stopped.ended == "stopped"
        assert 0 < stopped.tokens < 16
        assert before[name].startswith(stopped.text)
        stopping.forget()
    assert {name: said(talker, name) for name in (BASE, "a")} == before


def test_a_base_or_an_adapter_that_is_gone_or_broken_is_told(
    tiny_spec: MakeSpec, adapters: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(BadSpec, match="The base model is gone: /no/model"):
        Talker(tiny_spec(model={"name_or_path": "/no/model"}), {"a": adapters[0]})
    with pytest.raises(BadSpec, match=r"no adapter in .* any more"):
        Talker(tiny_spec(), {"a": adapters[0], "b": tmp_path / "gone"})
    broken = tmp_path / "broken"
    shutil.copytree(adapters[0], broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadSpec, match="broken cannot be read"):
        Talker(tiny_spec(), {"a": broken})


def test_a_run_that_learnt_text_goes_on_from_text(tiny_spec: MakeSpec, adapters: list[Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "once upon a time"}) + "\n")
    conversations = Talker(tiny_spec(), {"a": adapters[0]})
    texts = Talker(tiny_spec(data={"train": str(rows)}), {"a": adapters[0]})
    assert conversations.has_chat_template
    assert not texts.has_chat_template
    assert said(texts, "a") != said(conversations, "a")
    parts: list[dict[str, Any]] = [{"role": "user", "content": "he"}, {"role": "assistant", "content": "llo"}]
    assert texts.answer("a", parts, SHORT, lambda _: None).text == said(texts, "a")


def test_a_turn_ends_where_the_template_ends_it(tiny_model: Path) -> None:
    """Also where the model's own end-of-sequence token is another, as base models have it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.generation_config.eos_token_id = 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = "<|endoftext|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation_ends(model, tokenizer) == sorted({0, end})
    tokenizer.chat_template = None
    assert generation_ends(model, tokenizer) == [0]
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert generation_ends(model, tokenizer) == [0]
    for make, token in ((chat_tokenizers.gemma, "<end_of_turn>"), (chat_tokenizers.mistral, "</s>")):
        assert make().convert_tokens_to_ids(token) in generation_ends(model, make())
