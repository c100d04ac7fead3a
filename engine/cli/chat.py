"""`chat`: talk to a run's model on the terminal, or ask it once."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import AsJson, console, fail, print_json, wrong_input_explained
from engine.cli.watch import fail_of_job, found_run

if TYPE_CHECKING:
    from engine.chat.session import Answer, ChatSession, Loaded
    from engine.jobs.subject import Subject
    from engine.spec import RunSpec

RunNames = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Runs of one base: ids, parts of them, folders, or `last`.")
]


def chat(
    names: RunNames,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Let the base model answer beside them.")] = True,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="A checkpoint's step, or newest; without it the finished adapter."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What stands before the conversation.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from the likeliest tokens, up to this share.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")] = 256,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this and end; so does text that is piped in.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0; without it the run's, if it is here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a run's model: the base and its adapters answer in turn. Works while the run goes on."""
    from engine.chat.session import Sampling
    from engine.cli.chat_talk import Talk, ask_once, conversation_of
    from engine.jobs.process import JobFailed

    if top_p == 0:
        fail("--top-p must be more than 0, and 1 at most.", 2, as_json)
    sampling = Sampling(temperature, top_p, seed, max_new_tokens)
    talks = prompt is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    question = None if talks else _question(prompt, as_json)
    subjects = _subjects(names, checkpoint, as_json)
    with wrong_input_explained(as_json):
        spec = _spec_of(subjects, device, as_json)
    try:
        session, loaded = _loaded(spec, subjects, checkpoint, as_json)
    except JobFailed as error:
        fail_of_job(error, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    try:
        if system is not None and not loaded.has_chat_template:
            fail("--system needs a chat template, and this run learnt plain text.", 2, as_json)
        answering = [name for name in loaded.names if base or name != "base"]
        if question is None:
            Talk(session, loaded, answering, sampling, system).run(_heading(spec, loaded))
            return
        turns = dict.fromkeys(answering, conversation_of(system, [], question))
        answers = ask_once(session, turns, sampling, quiet=as_json)
    except JobFailed as error:
        fail_of_job(error, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        session.close()
    if as_json:
        print_json(
            {
                "model": spec.model.name_or_path,
                "device": spec.hardware.device,
                "loaded_s": loaded.seconds,
                "has_chat_template": loaded.has_chat_template,
                "system": system,
                "prompt": question,
                "sampling": asdict(sampling),
                "answers": [_facts(answers[name], subjects) for name in answering],
            }
        )
    if any(answer.ended == "stopped" for answer in answers.values()):
        raise typer.Exit(130)


def _question(prompt: str | None, as_json: bool) -> str:
    """What is asked once; ends the command where that is nothing."""
    if prompt is None and sys.stdin.isatty():
        fail("There is nothing to ask: write --prompt TEXT, or pipe it in.", 2, as_json)
    try:
        question = prompt if prompt is not None else sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        fail(f"What is piped in is no text: {error}.", 2, as_json)
    if not question.strip():
        fail("There is nothing to ask: the text is empty.", 2, as_json)
    return question


def _subjects(names: list[str], checkpoint: str | None, as_json: bool) -> dict[str, Subject]:
    """Label -> adapter, each once."""
    from engine.jobs.subject import NoAdapter, subject_of

    subjects: dict[str, Subject] = {}
    for name in names:
        run = found_run(name, as_json)
        with wrong_input_explained(as_json):
            try:
                subject = subject_of(run, checkpoint)
            except NoAdapter as error:
                fail(str(error), 2, as_json)
        subjects[subject.name] = subject
    return subjects


def _spec_of(subjects: dict[str, Subject], device: str | None, as_json: bool) -> RunSpec:
    """The spec by which the base is loaded; ends the command for adapters of several. Raises InvalidSpec."""
    from engine.chat.one_base import why_not_together
    from engine.jobs.device import on_device

    first, *others = subjects.values()
    for other in others:
        if reason := why_not_together(first, other):
            fail(reason, 2, as_json)
    return on_device(first.spec, device)


def _loaded(
    spec: RunSpec, subjects: dict[str, Subject], checkpoint: str | None, as_json: bool
) -> tuple[ChatSession, Loaded]:
    """A session that is ready. Of a run that goes on a checkpoint may be replaced while it is read: then the next one
    is taken, unless a certain one was asked for. Raises JobFailed."""
    from engine.chat.session import ChatSession
    from engine.jobs.process import JobFailed
    from engine.jobs.subject import NEWEST

    while True:
        session = ChatSession(spec, {label: subject.adapter for label, subject in subjects.items()})
        try:
            session.start()
            with console(stderr=True, quiet=as_json or not sys.stderr.isatty()).status("Loading the model"):
                return session, session.wait_until_loaded()
        except JobFailed:
            session.close()
            gone = [label for label, subject in subjects.items() if not subject.adapter.is_dir()]
            if not gone or checkpoint not in (None, NEWEST):
                raise
        except BaseException:
            session.close()
            raise
        subjects_now = _subjects([str(subject.run.folder) for subject in subjects.values()], checkpoint, as_json)
        subjects.clear()
        subjects.update(subjects_now)


def _heading(spec: RunSpec, loaded: Loaded) -> str:
    from pathlib import Path

    name = Path(spec.model.name_or_path).name
    return f"{name} on {spec.hardware.device}, loaded in {loaded.seconds:.1f} s"


def _facts(answer: Answer, subjects: dict[str, Subject]) -> dict[str, Any]:
    subject = subjects.get(answer.model)
    of_run = {} if subject is None else {"run": subject.run.id, "step": subject.step}
    return {**asdict(answer), **of_run}
