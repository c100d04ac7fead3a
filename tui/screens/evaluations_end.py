"""What is said when an evaluation ends while something else is on the screen, and asked before the app ends one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from textual.app import App, ScreenStackError

from tui.evaluating.under_way import UnderWay, any_under_way
from tui.screens.confirm import ConfirmScreen


def tell_end(app: App[Any], work: UnderWay) -> None:
    """Say that an evaluation has ended to who looks at something else. Called from its thread."""

    def tell() -> None:
        from tui.screens.evaluation import EvaluationScreen

        if isinstance(app.screen, EvaluationScreen) and app.screen.evaluated == work.run:
            return
        if work.evaluation is not None:
            from tui.evaluating.findings import one_word

            app.notify(f"{work.run.id} is evaluated: {one_word(work.evaluation)}.", markup=False)
        elif work.failure:
            app.notify(f"{work.run.id}: {work.failure}", severity="error", markup=False)

    with suppress(RuntimeError, ScreenStackError):  # the app was closed meanwhile
        app.call_from_thread(tell)


async def may_end_evaluations(app: App[Any]) -> bool:
    """Whether the app may be closed: asks where evaluations go on, which end with it. Call it from a worker."""
    works = any_under_way(app)
    if not works:
        return True
    count = "an evaluation" if len(works) == 1 else f"{len(works)} evaluations"
    agreed: bool = await app.push_screen_wait(
        ConfirmScreen(
            f"Close this window and end {count}?",
            "Runs go on without this window, evaluations do not: nothing of them is kept.",
            yes="close it",
            no="stay",
        )
    )
    return agreed
