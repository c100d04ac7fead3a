"""What a run's folder says for its evaluation screen. Everything here touches the disk: call it off the UI's thread."""

from __future__ import annotations

from dataclasses import dataclass

from engine.checks import InvalidSpec
from engine.evaluation.results import Evaluation, evaluations_of, rows_of
from engine.jobs.subject import NoAdapter, subject_of
from engine.runs.store import ENDED, Run
from tui.evaluating.asked import Asked, first_asked
from tui.evaluating.changes import Change, change_of
from tui.listing.catalog import read_status


@dataclass(frozen=True)
class Looked:
    """What there is of a run."""

    evaluations: list[Evaluation]
    """Newest first."""
    holds_out: bool
    """Whether it held out rows."""
    is_going: bool
    """Whether it still trains."""
    why_not: str
    """Why it cannot be evaluated now; empty where it can."""

    def first_asked(self) -> Asked:
        """What a form begins with."""
        last = self.evaluations[0].settings if self.evaluations else None
        return first_asked(self.holds_out, self.is_going, last)


def look(run: Run) -> Looked:
    """What there is of `run`."""
    why_not, holds_out = "", False
    try:
        holds_out = subject_of(run).spec.has_eval
    except NoAdapter as error:
        why_not = f"{error} A checkpoint makes one: k on the monitor saves it."
    except (InvalidSpec, OSError) as error:
        why_not = f"It cannot be evaluated: {error}"
    return Looked(evaluations_of(run), holds_out, read_status(run).state not in ENDED, why_not)


def changes_of(run: Run, evaluation_id: str) -> list[Change]:
    """The rows of one evaluation. Raises OSError."""
    return [change_of(row) for row in rows_of(run, evaluation_id)]
