"""Which of a question's choices a model finds likeliest: nothing is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.evaluation.plan import Answer, AnswerPart, ModelName
from engine.worker.evaluation.batches import Batches, drawn
from engine.worker.evaluation.losses import measure
from engine.worker.evaluation.models import Models
from engine.worker.evaluation.questions import Question, Writer


def tell_choices(
    models: Models,
    writer: Writer,
    part: AnswerPart,
    questions: Sequence[Question],
    batches: Batches,
    tell: Callable[[Answer], None],
    on_rows: Callable[[int], None],
    is_over: Callable[[], bool],
) -> bool:
    """Measure every choice of each question by all models of `part`. `on_rows` hears how many questions are done.
    Returns False where the time was over first."""
    order = [questions[place] for place in drawn(len(questions), batches.in_windows)]
    choices = [(question, choice) for question in order for choice in range(len(question.choices or ()))]
    tokens = [writer.with_choice(question, (question.choices or [])[choice]) for question, choice in choices]
    sums: dict[tuple[int, ModelName], dict[int, float]] = {}
    """Row and model -> choice -> its log-likelihood."""
    done = 0

    def do(batch: list[int]) -> None:
        nonlocal done
        measured: list[list[float]] = []
        for model in part.models:
            with models.answering(model):
                measured.append([-each.loss_sum for each in measure(models, [tokens[place] for place in batch])])
        for model, of_model in zip(part.models, measured, strict=True):
            for place, log_likelihood in zip(batch, of_model, strict=True):
                question, choice = choices[place]
                of_row = sums.setdefault((question.row, model), {})
                of_row[choice] = log_likelihood
                if len(of_row) == len(question.choices or ()):
                    tell(_answer(part, model, question, of_row))
                    done += model == part.models[-1]
        on_rows(done)

    return batches.each([len(ids) for ids, _ in tokens], do, is_over)


def _answer(part: AnswerPart, model: ModelName, question: Question, sums: dict[int, float]) -> Answer:
    likeliest = max(sorted(sums), key=sums.__getitem__)
    text = (question.choices or [])[likeliest]
    return Answer(part.part, model, question.row, text, 0, False, likeliest, [sums[choice] for choice in sorted(sums)])
