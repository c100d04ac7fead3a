"""What the screen that tries a model out knows, without the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.chat.session import BASE, Answer, Piece, Sampling
from engine.checks import read_spec
from engine.jobs.process import JobFailed
from engine.jobs.subject import NoAdapter, subject_of
from engine.memory.footprint import Footprint
from engine.runs.prediction import Prediction, write_prediction
from tests.tui.chatting import MODEL, adapter_in, finished, here, write_spec_of
from tests.tui.conftest import GIB, RunFolder
from tui.chat import words
from tui.chat.columns import Column, adapters, another, first_columns, in_sight
from tui.chat.pieces import Pieces
from tui.chat.settings import Settings, parse, texts
from tui.chat.subjects import candidates, open_subject
from tui.chat.talk import Talk
from tui.chat.transcript import last_answer, transcript
from tui.glyphs import ASCII, UNICODE

GREEDY = Sampling()
OLDER, NEWER = "20261123-052000-smollm2-aaaa", "20261124-052000-smollm2-bbbb"


def answer(model: str, text: str, ended: str = "end", seconds: float = 2.0) -> Answer:
    return Answer(model, text, len(text.split()), seconds, ended)  # type: ignore[arg-type]


def asked(talk: Talk, question: str, **said: str) -> None:
    """A question that each model has answered."""
    talk.begin(question, GREEDY, list(said))
    talk.finish({model: answer(model, text) for model, text in said.items()})


# ---- conversations


def test_each_model_goes_on_from_its_own_answers() -> None:
    talk = Talk()
    asked(talk, "Who?", base="I am.", adapter="We are.")
    talk.begin("Why?", GREEDY, ["base", "adapter"])
    assert talk.conversations("Be short.") == {
        model: [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": own},
            {"role": "user", "content": "Why?"},
        ]
        for model, own in (("base", "I am."), ("adapter", "We are."))
    }


def test_without_a_system_prompt_none_is_sent() -> None:
    talk = Talk()
    talk.begin("Who?", GREEDY, ["base"])
    assert talk.conversations("") == {"base": [{"role": "user", "content": "Who?"}]}


def test_what_a_model_did_not_answer_is_not_in_its_history() -> None:
    talk = Talk()
    asked(talk, "Who?", base="I am.")
    talk.begin("Where?", GREEDY, ["base", "adapter"])
    talk.finish({"base": answer("base", "Here.", "stopped"), "adapter": answer("adapter", "", "stopped")})
    talk.begin("Why?", GREEDY, ["base", "adapter"])
    told = talk.conversations("")
    assert [turn["content"] for turn in told["base"]] == ["Who?", "I am.", "Where?", "Here.", "Why?"]
    assert [turn["content"] for turn in told["adapter"]] == ["Why?"]


def test_a_failure_keeps_what_was_written_and_leaves_it_out_of_the_history() -> None:
    talk = Talk()
    exchange = talk.begin("Who?", GREEDY, ["base", "adapter"])
    talk.take([Piece("base", "I "), Piece("base", "am")])
    assert exchange.answering == "base"
    talk.fail()
    assert (exchange.replies["base"].text, exchange.is_open) == ("I am", False)
    talk.begin("Why?", GREEDY, ["base"])
    assert [turn["content"] for turn in talk.conversations("")["base"]] == ["Why?"]


def test_asking_again_takes_the_place_of_the_last_answers() -> None:
    talk = Talk()
    asked(talk, "Who?", base="I am.")
    talk.again(Sampling(seed=1), ["base"])
    assert [exchange.question for exchange in talk.exchanges] == ["Who?"]
    assert talk.exchanges[0].sampling.seed == 1
    assert [turn["content"] for turn in talk.conversations("")["base"]] == ["Who?"]


def test_only_an_adapter_that_says_the_same_is_marked() -> None:
    talk = Talk()
    asked(talk, "Who?", base="I am.", adapter="I am.", adapter_2="We are.")
    (exchange,) = talk.exchanges
    assert [exchange.is_as_of_base(model) for model in exchange.replies] == [False, True, False]
    assert "word for word as the base" in words.reply_words(exchange, "adapter", UNICODE).plain


def test_no_piece_is_lost_between_two_threads() -> None:
    pieces, taken = Pieces(), []

    def add() -> None:
        for number in range(2000):
            pieces.add(Piece("base", str(number)))

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        taken += pieces.taken()
    taken += pieces.taken()
    assert [piece.text for piece in taken] == [str(number) for number in range(2000)]


# ---- words


@pytest.mark.parametrize(
    ("ended", "text", "said"),
    [
        ("end", "one two three", "3 tokens · 1.5 tok/s · ended"),
        ("length", "one two", "1.0 tok/s · cut at 2 tokens"),
        ("stopped", "one", "1 token · 0.5 tok/s · stopped"),
        ("stopped", "", "stopped before it began"),
    ],
)
def test_below_an_answer_stands_how_it_ended(ended: str, text: str, said: str) -> None:
    talk = Talk()
    talk.begin("Who?", GREEDY, ["base"])
    talk.finish({"base": answer("base", text, ended)})
    assert words.reply_words(talk.exchanges[0], "base", UNICODE).plain.splitlines()[-1] == said


def test_who_waits_and_who_answers_is_told() -> None:
    talk = Talk()
    exchange = talk.begin("Who?", GREEDY, ["base", "adapter"])
    assert words.reply_words(exchange, "base", UNICODE).plain == "answering …"
    assert words.reply_words(exchange, "adapter", UNICODE).plain == "waiting"
    assert words.reply_words(exchange, "adapter_2", UNICODE).plain == "(was not asked)"


def test_an_answer_is_text_whatever_is_in_it() -> None:
    hostile = "[red]a\x1b[2J[/red]\u202e\ud800\tb\nc\r"
    assert words.lines_of(hostile, UNICODE) == ["[red]a␛[2J[/red]<202e><d800>    b", "c↵"]
    talk = Talk()
    asked(talk, "Who?", base=hostile)
    assert "[red]a␛[2J[/red]" in words.reply_words(talk.exchanges[0], "base", UNICODE).plain
    assert all(line.isascii() for line in words.lines_of(hostile, ASCII))


# ---- settings


def test_what_is_typed_comes_back_as_settings() -> None:
    settings = Settings(Sampling(0.7, 0.9, 3, 128), "Be short.")
    assert parse(texts(settings)) == settings
    assert texts(Settings())["temperature"] == "0"


@pytest.mark.parametrize(
    ("field", "typed", "why"),
    [
        ("temperature", "hot", "write a number from 0 to 5, such as 0.7"),
        ("temperature", "-1", "write a number from 0 to 5, such as 0.7"),
        ("temperature", "11500", "write a number from 0 to 5, such as 0.7"),
        ("temperature", "nan", "write a number from 0 to 5, such as 0.7"),
        ("top_p", "0", "write a number above 0, up to 1"),
        ("top_p", "1.1", "write a number above 0, up to 1"),
        ("seed", "-3", "write a whole number from 0 to 4294967295"),
        ("seed", "4294967296", "write a whole number from 0 to 4294967295"),
        ("max_new_tokens", "0", "write a whole number from 1"),
        ("max_new_tokens", "2.5", "write a whole number from 1"),
        ("max_new_tokens", "2,048", "the model looks at 2,048 tokens, question and answer together"),
    ],
)
def test_what_cannot_be_meant_is_said_beside_its_field(field: str, typed: str, why: str) -> None:
    assert parse({**texts(Settings()), field: typed}, context_tokens=2048) == {field: why}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    wrong = parse({"temperature": "", "top_p": "", "seed": "", "max_new_tokens": "", "system": ""})
    assert isinstance(wrong, dict)
    assert list(wrong) == ["temperature", "top_p", "seed", "max_new_tokens"]


def test_another_seed_is_the_next_one() -> None:
    assert Settings(Sampling(seed=3)).with_another_seed().sampling.seed == 4
    assert Settings(Sampling(seed=2**32 - 1)).with_another_seed().sampling.seed == 0


# ---- columns


@pytest.mark.parametrize(
    ("number", "chosen", "width", "alone", "places"),
    [
        (2, 0, 76, False, [0, 1]),
        (3, 0, 76, False, [0, 1]),
        (3, 2, 76, False, [1, 2]),
        (3, 2, 116, False, [0, 1, 2]),
        (4, 0, 200, False, [0, 1, 2, 3]),
        (2, 1, 60, False, [1]),
        (2, 1, 200, True, [1]),
        (2, 0, 0, False, [0]),
        (0, 0, 76, False, []),
    ],
)
def test_as_many_columns_are_shown_as_there_is_room_for(
    number: int, chosen: int, width: int, alone: bool, places: list[int]
) -> None:
    assert list(in_sight(number, chosen, width, alone)) == places


def test_each_adapter_has_a_name_of_its_own(new_run: Callable[..., RunFolder]) -> None:
    run = finished(new_run(NEWER), 10, 20)
    columns = first_columns(subject_of(run))
    columns.append(another(columns, [], subject_of(run, "10")))
    taken_away = columns.pop()
    columns.append(another(columns, [taken_away.model], subject_of(run, "20")))
    assert [column.model for column in columns] == ["base", "adapter", "adapter_3"]
    assert adapters(columns) == {
        "adapter": run.adapter_folder,
        "adapter_3": run.checkpoints_folder / "checkpoint-20",
    }


# ---- which model, and where


def test_a_run_is_opened_where_it_was_trained(new_run: Callable[..., RunFolder]) -> None:
    opened = open_subject(finished(new_run(NEWER)), here)
    assert (opened.subject.step, opened.spec.hardware.device, opened.is_moved) == (None, "cpu", False)
    assert (opened.shares_memory, opened.predicted_bytes) == (False, None)


def test_a_run_of_a_gpu_that_is_not_here_answers_on_the_cpu(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(NEWER, live=True)
    run = finished(folder, 5)
    folder.status()
    text = run.spec_path.read_text().replace("device: cpu", "device: cuda:1")
    run.spec_path.write_text(text)
    opened = open_subject(run, here)
    assert (opened.spec.hardware.device, opened.is_moved, opened.card.on_cpu) == ("cpu", True, True)
    assert not opened.shares_memory  # it trains elsewhere


def test_a_run_without_an_adapter_says_so(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(NEWER)
    folder.status(state="finished")
    write_spec_of(folder.run)
    with pytest.raises(NoAdapter, match="has no adapter yet"):
        open_subject(folder.run, here)


def footprint(**categories: int) -> Footprint:
    return Footprint("full", categories, {}, allocated_bytes=sum(categories.values()), device_bytes=4 * GIB)  # type: ignore[arg-type]


def test_beside_its_own_training_the_memory_that_it_takes_is_told(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(NEWER, live=True)
    run = finished(folder, 5)
    folder.status()
    opened = open_subject(run, here)
    assert opened.shares_memory
    assert "How much that takes is not known" in words.beside_training(opened)
    assert "3.0 GiB are free there now" in words.beside_training(opened)
    measured = footprint(weights=GIB, adapters=GIB // 4, context=GIB // 4, activations=9 * GIB)
    write_prediction(run, Prediction(measured, "host memory", True))
    assert "That takes 1.5 GiB (predicted: weights and adapter)" in words.beside_training(open_subject(run, here))


def test_adapters_of_the_same_base_can_answer_too(new_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = finished(new_run(NEWER), 10, 20)
    older = finished(new_run(OLDER), 5)
    finished(new_run("20261122-052000-smollm2-cccc"), name_or_path="/models/another")
    finished(new_run("20261121-052000-smollm2-dddd"), revision="v2")
    broken = new_run("20261120-052000-smollm2-eeee")
    broken.status(state="failed")
    broken.run.spec_path.write_text("model: [")
    adapter_in(broken.run.adapter_folder)
    found = candidates(run, read_spec(run.spec_path), {run.adapter_folder})
    assert [(candidate.subject.run.id, candidate.subject.step) for candidate in found] == [
        (run.id, 20),
        (run.id, 10),
        (older.id, None),
        (older.id, 5),
    ]
    base = read_spec(run.spec_path)
    assert words.note(found[2], base, UNICODE) == "20261123-052000, finished, loss 1.100"
    assert words.note(found[3], base, UNICODE) == "20261123-052000, finished"


def test_an_adapter_of_other_quantization_is_told(new_run: Callable[..., RunFolder]) -> None:
    run = finished(new_run(NEWER), 10)
    (found,) = candidates(run, read_spec(run.spec_path), {run.adapter_folder})
    base = read_spec(run.spec_path)
    base.quantization.load_in = "8bit"
    assert words.note(found, base, UNICODE).endswith("trained on 4bit nf4, answers on 8bit here")


# ---- failures, transcripts


def test_a_failure_says_what_to_do() -> None:
    oom = JobFailed("Out of memory while loading the model.", cause="oom")
    assert words.failed_to_load(oom) == (
        "Out of memory while loading the model. Free memory there (F6 takes an adapter away, other processes may hold "
        "some), then F5 loads again."
    )
    assert "a new conversation (ctrl+n)" in words.failed_to_answer(JobFailed("Out of memory.", "Hint.", "oom"))
    assert words.failed_to_answer(JobFailed("Too long.", "Shorten it.", "bad-spec")) == "Too long. Shorten it."
    assert words.failed_to_answer(JobFailed("It died.", cause="killed")).startswith("It died. F5 loads")


def test_a_transcript_is_the_models_own_text(new_run: Callable[..., RunFolder]) -> None:
    run = finished(new_run(NEWER))
    talk = Talk()
    asked(talk, "Who?", base="I *am*.", adapter="We\nare.")
    talk.begin("Why?", Sampling(0.7, 0.9, 3, 16), ["base", "adapter"])
    talk.fail()
    columns = [Column(BASE), Column("adapter", subject_of(run))]
    assert last_answer(talk.exchanges, "adapter") == "We\nare."
    assert last_answer(talk.exchanges, "nobody") is None
    assert transcript(talk.exchanges, columns, Settings(system="Be short."), MODEL) == (
        f"# {MODEL}\n\nsystem: Be short.\n\n"
        "## Question 1 (greedy, max_new_tokens 256)\n\nWho?\n\n"
        "### base (ended)\n\nI *am*.\n\n"
        f"### {NEWER}, final adapter (ended)\n\nWe\nare.\n\n"
        "## Question 2 (temperature 0.7, top_p 0.9, seed 3, max_new_tokens 16)\n\nWhy?\n\n"
        f"### base (no whole answer)\n\n\n\n### {NEWER}, final adapter (no whole answer)\n\n\n"
    )
