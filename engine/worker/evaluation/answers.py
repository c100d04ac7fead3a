"""Greedy answers, many at once: padded on the left, rows of about one length together, keys and values kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from transformers import GenerationConfig

from engine.evaluation.plan import Answer, AnswerPart
from engine.worker.evaluation.batches import Batches, drawn
from engine.worker.evaluation.models import Models
from engine.worker.evaluation.questions import Question


def tell_answers(
    models: Models,
    part: AnswerPart,
    questions: Sequence[Question],
    batches: Batches,
    tell: Callable[[Answer], None],
    on_rows: Callable[[int], None],
    is_over: Callable[[], bool],
) -> bool:
    """Answer each question by all models of `part`. `on_rows` hears how many are done. Returns False where the time was
    over first."""
    order = [questions[place] for place in drawn(len(questions), batches.in_windows)]
    done = 0

    def do(batch: list[int]) -> None:
        nonlocal done
        together = [order[place] for place in batch]
        answers: list[Answer] = []
        for model in part.models:
            with models.answering(model):
                generated = answer(models, [question.ids for question in together], part.max_new_tokens)
            for question, (ids, cut) in zip(together, generated, strict=True):
                text = models.tokenizer.decode(ids, skip_special_tokens=True).strip()
                answers.append(Answer(part.part, model, question.row, text, len(ids), cut))
        for each in answers:
            tell(each)
        done += len(batch)
        on_rows(done)

    return batches.each([len(question.ids) + part.max_new_tokens for question in order], do, is_over)


def answer(models: Models, prompts: Sequence[list[int]], max_new_tokens: int) -> list[tuple[list[int], bool]]:
    """Of each prompt what the model that is switched on goes on with, without the token that ends it, and whether it
    was cut off. A prompt that leaves no room in the model's context gets nothing, cut off."""
    answers: list[tuple[list[int], bool]] = [([], True)] * len(prompts)
    context = models.context_tokens

    def room(place: int) -> int:
        return max_new_tokens if context is None else max(min(max_new_tokens, context - len(prompts[place])), 0)

    for tokens, group in groupby(sorted(range(len(prompts)), key=room), key=room):
        places = list(group)
        if tokens:
            for place, each in zip(places, _generate(models, [prompts[i] for i in places], tokens), strict=True):
                answers[place] = each
    return answers


def _generate(models: Models, prompts: Sequence[list[int]], max_new_tokens: int) -> list[tuple[list[int], bool]]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), models.padding)  # rows x tokens
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, longest - len(prompt) :] = torch.tensor(prompt)
        mask[place, longest - len(prompt) :] = 1
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=models.ends or None,
        pad_token_id=models.padding,
    )
    with models.as_answering():
        output = models.base.generate(
            ids.to(models.device), attention_mask=mask.to(models.device), generation_config=settings
        )
    return [_until_end(row, models.ends) for row in output[:, longest:].tolist()]


def _until_end(ids: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    return (ids, True) if end is None else (ids[:end], False)
