"""What the screen says: who answers, what is loaded, how an answer ended."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from engine.chat.session import BASE, Answer
from engine.jobs.process import JobFailed
from engine.jobs.subject import Subject
from engine.spec import RunSpec
from engine.units import amount, tokens_per_s
from tui.chat.columns import Column
from tui.chat.settings import Settings
from tui.chat.subjects import Candidate, Opened
from tui.chat.talk import Exchange, Reply
from tui.data_view.visible import visible
from tui.glyphs import Glyphs
from tui.listing.columns import shown

GAP = "   "
TIME_OF_ID = len("20261124-052000")
ENDED = {"end": "ended", "length": "cut at {tokens:,} tokens", "stopped": "stopped"}


def model_name(spec: RunSpec, glyphs: Glyphs) -> str:
    return shown(spec.model.name_or_path.rstrip("/").rpartition("/")[2], glyphs)


def stored(spec: RunSpec) -> str:
    """How the base's weights are stored."""
    section = spec.quantization
    if section.load_in == "none":
        return spec.model.dtype
    return f"4bit {section.bnb_4bit_quant_type}" if section.load_in == "4bit" else section.load_in


def short_id(run_id: str) -> str:
    return run_id.rpartition("-")[2]


def point(subject: Subject) -> str:
    """Which state of a run it is."""
    return "final adapter" if subject.step is None else f"step {subject.step:,}"


def title(column: Column, spec: RunSpec, glyphs: Glyphs, is_chosen: bool) -> Content:
    """The head of a column."""
    name = "base" if column.subject is None else shown(short_id(column.subject.run.id), glyphs)
    note = f"{model_name(spec, glyphs)}, {stored(spec)}" if column.subject is None else point(column.subject)
    return Content.assemble((name, "bold underline $primary" if is_chosen else "bold"), "  ", (note, "$secondary"))


def loading(spec: RunSpec, columns: Sequence[Column], seconds: float, glyphs: Glyphs) -> str:
    number = sum(column.model != BASE for column in columns)
    adapters = f"{number} adapter{'s' if number != 1 else ''}"
    where = "the CPU" if spec.hardware.device == "cpu" else spec.hardware.device
    return f"loading {model_name(spec, glyphs)} ({stored(spec)}) and {adapters} on {where} ... {seconds:.0f} s"


def settings_line(settings: Settings, glyphs: Glyphs) -> list[str]:
    """What the next question is asked with, in parts."""
    sampling = settings.sampling
    drawn = ["greedy"]
    if not settings.is_greedy:
        drawn = [f"temperature {sampling.temperature:g}", f"top_p {sampling.top_p:g}", f"seed {sampling.seed}"]
    told = f"system: {visible(settings.system, glyphs)}" if settings.system else "no system prompt"
    return [*drawn, f"max_new_tokens {sampling.max_new_tokens:,}", told]


def lines_of(text: str, glyphs: Glyphs) -> list[str]:
    """A model's or a person's text, line by line, as text."""
    return [visible(line, glyphs) for line in text.split("\n")]


def reply_words(exchange: Exchange, model: str, glyphs: Glyphs) -> Content:
    """What `model` has said, and below how it ended."""
    reply = exchange.replies.get(model)
    if reply is None:
        return Content.styled("(was not asked)", "$secondary")
    lines = [Content(line) for line in lines_of(reply.text, glyphs)] if reply.text else []
    state, style = _state(exchange, model, reply, glyphs)
    return Content("\n").join([*lines, Content.styled(state, style)])


def _state(exchange: Exchange, model: str, reply: Reply, glyphs: Glyphs) -> tuple[str, str]:
    if reply.answer is not None:
        how = how_it_ended(reply.answer)
        if reply.answer.ended == "stopped" and not reply.text:
            return "stopped before it began", "$secondary"
        if exchange.is_as_of_base(model):
            how = f"{how}, word for word as the base"
        number = f"{reply.answer.tokens:,} token{'s' if reply.answer.tokens != 1 else ''}"
        parts = [*_speed(reply.answer), how]
        if reply.answer.ended != "length":
            parts.insert(0, number)
        return f" {glyphs.between} ".join(parts), "$secondary"
    if reply.has_failed:
        return f"{glyphs.bad} no whole answer", "$error"
    return (f"answering {glyphs.ellipsis}", "$primary") if exchange.answering == model else ("waiting", "$secondary")


def how_it_ended(answer: Answer) -> str:
    return ENDED[answer.ended].format(tokens=answer.tokens)


def _speed(answer: Answer) -> list[str]:
    return [tokens_per_s(answer.tokens / answer.seconds)] if answer.tokens and answer.seconds > 0 else []


def note(candidate: Candidate, base: RunSpec, glyphs: Glyphs) -> str:
    """What is known of an adapter that could answer too."""
    status, own = candidate.status, stored(candidate.subject.spec)
    loss = status.loss if status.eval_loss is None else status.eval_loss
    if candidate.subject.step is not None:
        loss = None  # the run's is that of its end
    began = shown(candidate.subject.run.id[:TIME_OF_ID], glyphs)
    parts = [began, status.state, "" if loss is None else f"loss {loss:.3f}"]
    parts.append("" if own == stored(base) else f"trained on {own}, answers on {stored(base)} here")
    return ", ".join(filter(None, parts))


def beside_training(opened: Opened) -> str:
    """What it means to load a model where its run still trains."""
    card = opened.card
    where = "this machine's memory" if card.on_cpu else f"the memory of {opened.spec.hardware.device}"
    if opened.predicted_bytes is None:
        takes = "How much that takes is not known: the run was launched without a prediction."
    else:
        takes = f"That takes {amount(opened.predicted_bytes)} (predicted: weights and adapter), and more as it answers."
    free = "How much is free there cannot be read."
    if card.free_bytes is not None:
        free = f"{amount(card.free_bytes)} are free there now."
    slower = "Both share the processors and are slower meanwhile." if card.on_cpu else "Both are slower meanwhile."
    return (
        f"The model is loaded a second time, into {where}.\n{takes} {free}\n"
        f"If that does not suffice, the training may run out of memory. {slower}"
    )


def failed_to_load(error: JobFailed) -> str:
    """Why nothing can be asked, and what to do."""
    if error.cause == "oom":
        do = "Free memory there (F6 takes an adapter away, other processes may hold some), then F5 loads again."
    else:
        do = "F5 loads again."
    return " ".join(filter(None, (error.message, error.hint, do)))


def failed_to_answer(error: JobFailed) -> str:
    """Why there is no answer, and what to do."""
    hint, do = error.hint, ""
    if error.cause == "oom":
        hint = "A shorter question, a new conversation (ctrl+n) or a lower max_new_tokens (F2) needs less."
    elif error.cause != "bad-spec":
        do = "F5 loads the model again; ctrl+r then asks the same."
    return " ".join(filter(None, (error.message, hint, do)))
