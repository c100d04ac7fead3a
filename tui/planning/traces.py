"""What the plan asks of the tracer, in the background: the trace of a draft, and settings that fit the card."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.catalog import ModelUnavailable, find_config
from engine.checks import InvalidSpec
from engine.inspector import Inspector
from engine.memory.depths import shallow_depths
from engine.memory.footprint import Footprint, Tier
from engine.memory.lengths import Lengths, measured
from engine.memory.predict import NotPredicted, Question, predict
from engine.memory.ways_out.fit import Fit, Progress, fit
from engine.memory.ways_out.pricing import price
from engine.prepare import for_device, with_absolute_paths
from engine.spec import RunSpec
from tui.planning.draft import UNSET
from tui.planning.memory import Answer, Asked, Trace
from tui.planning.work import model_from

ANY_ROWS = "rows"
"""Stands for data that is not chosen yet: memory does not depend on where the rows are."""


def trace(asked: Asked, folder: Path, tracer: Inspector) -> Answer:
    """Answer a request; whatever goes wrong is told in the answer. Slow.

    `folder` is where relative paths of the draft start.
    """
    try:
        question = located(asked.question, folder)
    except (ModelUnavailable, OSError) as error:
        return Answer(None, str(error))
    try:
        found = _traced(question, asked, tracer)
    except (NotPredicted, InvalidSpec, OSError) as error:
        return Answer(None, str(error), question.config_folder)
    return Answer(found, config_folder=question.config_folder)


def _traced(question: Question, asked: Asked, tracer: Inspector) -> Trace:
    spec, tier = question.spec, asked.tier
    try:
        depths = shallow_depths(question.architecture, spec.lora) if tier == "shallow" else None
        footprint = _predicted(question, tier, tracer)
    except KeyError:  # layers are counted by a config's usual names; all of them can be traced without counting
        return Trace(predict(question, "full", tracer))
    layers = depths.more if depths is not None and footprint.tier == "shallow" else None
    return Trace(footprint, layers)


def _predicted(question: Question, tier: Tier, tracer: Inspector) -> Footprint:
    if question.spec.training.activation_offloading and not question.card.on_cpu:
        return price(_with_data(question), tracer, tier)  # counted from the trace of the run without it
    return predict(question, tier, tracer)


def lengths(spec: RunSpec, folder: Path, tracer: Inspector) -> Lengths | None:
    """How long the training rows are in tokens; None where that cannot be known. Slow."""
    try:
        resolved = for_device(with_absolute_paths(spec, folder), "cpu", True)
        source, _ = find_config(resolved.model.name_or_path, resolved.model.revision)
    except (ModelUnavailable, OSError):
        return None
    model = resolved.model.model_copy(update={"name_or_path": source.name_or_path})
    return measured(resolved.model_copy(update={"model": model}), tracer)


def settings_that_fit(question: Question, folder: Path, tracer: Inspector | None, progress: Progress) -> Fit | str:
    """Settings with which the run fits its card, or why none can be looked for, for a person. Slow."""
    with suppress(ModelUnavailable, OSError):  # without the config the formula looks alone
        question = located(question, folder)
    try:
        return fit(_with_data(question), tracer, progress=progress)
    except InvalidSpec as error:
        return f"First there is this to put right: {error.problems[0]}"
    except KeyError:
        return "Settings cannot be looked for: the formula does not know this kind of model."
    except (ValueError, OSError) as error:
        return str(error)


def located(question: Question, folder: Path) -> Question:
    """`question` with the folder of the model's config, and the model by its absolute path.

    May ask the hub. Raises ModelUnavailable and OSError.
    """
    model = question.spec.model
    name = model_from(folder, model.name_or_path)
    config_folder = question.config_folder or find_config(name, model.revision)[1].parent
    spec = question.spec.model_copy(update={"model": model.model_copy(update={"name_or_path": name})})
    return replace(question, spec=spec, config_folder=config_folder)


def _with_data(question: Question) -> Question:
    spec: RunSpec = question.spec
    if spec.data.train not in (UNSET, []):
        return question
    return replace(question, spec=spec.model_copy(update={"data": spec.data.model_copy(update={"train": ANY_ROWS})}))
