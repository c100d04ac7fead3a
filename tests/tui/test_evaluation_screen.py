"""The evaluation screen: a real evaluation of a tiny run, and scripted ones for what a real one shows too slowly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine.evaluation.asked import Progress
from engine.evaluation.results import ROWS, evaluations_of
from engine.jobs.process import JobFailed
from engine.runs.store import Run
from tests.tui.conftest import RunFolder, until
from tests.tui.evaluations import (
    EVALUATION,
    FIRST,
    SECOND,
    Script,
    answered,
    answers,
    app_of,
    benchmark_row,
    evaluation_screen,
    finished,
    keep,
    list_text,
    older,
    read,
    said,
    screen_of,
    table_text,
)
from tests.tui.monitoring import on_screen
from tests.tui.trained import trained_run
from tui.app import LoradeckApp
from tui.screens.choose import ChooseScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.evaluate import EvaluateScreen
from tui.screens.evaluation import EvaluationScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.runs import RunsScreen
from tui.widgets.answer_pair import AnswerPair
from tui.widgets.changed_rows import ChangedRows
from tui.widgets.words import Words

SIZE = (120, 40)
SMALL = (80, 24)
EVALUATION_S = 90.0
"""A process that evaluates imports torch, transformers and peft first: 5 s on 2 idle cores, far more on busy ones."""
NEWER = replace(EVALUATION, id="20261124-093000", created=EVALUATION.created + 4_800)


@pytest.fixture
def run(new_run: Callable[..., RunFolder]) -> Run:
    """A run that was not evaluated."""
    return finished(new_run())


@pytest.fixture
def evaluated_run(run: Run) -> Run:
    """One that was evaluated twice."""
    keep(run, older())
    keep(run, replace(EVALUATION, settings={**EVALUATION.settings, "benchmark": None}))
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Run:
    """A real run of 20 steps on the tiny model, with held-out rows."""
    return trained_run(
        tmp_path_factory.mktemp("evaluated"),
        tiny_model,
        rows_file,
        lora={"target_modules": "all-linear"},
        data={"eval_fraction": 0.3},
        training={"max_steps": 20, "save_strategy": "no", "eval_strategy": "no"},
    )


async def start(pilot: Pilot[None]) -> None:
    """Ask for an evaluation as the form comes."""
    await pilot.press("e")
    await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
    await pilot.press("enter")
    await until(pilot, lambda: screen_of(pilot).under_way is not None, "it goes on")


async def ended(pilot: Pilot[None], patience_s: float = 20.0) -> None:
    screen = screen_of(pilot)
    await until(pilot, lambda: screen._ticking is None, "it has ended and is told", patience_s)
    await read(pilot)


# ---- the real thing


async def test_a_real_run_is_evaluated_and_its_rows_are_shown(
    trained: Run, deck_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_CACHE", str(tmp_path / "deck-cache"))
    folder = deck_home / "runs" / trained.id
    folder.parent.mkdir(parents=True)
    folder.symlink_to(trained.folder)
    benchmark = tmp_path / "doubles.jsonl"
    benchmark.write_text(
        "".join(json.dumps({"prompt": f"double {n}", "expected": str(2 * n)}) + "\n" for n in range(3))
    )
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, Run(folder))
        assert "was not evaluated yet" in said(pilot, "empty")
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
        pilot.app.screen.query_one("#benchmark", Input).value = str(benchmark)
        pilot.app.screen.query_one("#max_new_tokens", Input).value = "8"
        await pilot.press("enter")
        await until(pilot, lambda: screen.under_way is not None, "it goes on")
        await until(pilot, lambda: "loading the model" in said(pilot, "doing"), "its progress")
        await ended(pilot, EVALUATION_S)
        assert said(pilot, "trouble") == ""
        assert screen.evaluation == evaluations_of(Run(folder))[0]
        assert [part.name for part in screen.evaluation.parts] == ["held_out", "benchmark", "general_text"]
        assert said(pilot, "findings").startswith("✓ Better on held-out rows: loss ")
        assert "doubles.jsonl, scored by number" in table_text(pilot)
        shown = {change.row.part: change for change in screen.changes}
        assert len(screen.changes) == sum(part.rows for part in screen.evaluation.parts)
        assert shown["held_out"].direction == "better"
        await pilot.press("f", "f")  # the benchmark alone
        await until(pilot, lambda: "double" in answers(pilot).asked_text, "a row of it")
        row = answers(pilot).row
        assert row is not None
        assert row.part == "benchmark"
        assert row.adapter is not None
        assert f"{row.adapter.tokens} token" in answers(pilot).text_of("adapter")


# ---- reading


async def test_what_is_proven_stands_above_the_table_and_the_rows(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, evaluated_run)
        lines = said(pilot, "findings").splitlines()
        assert lines[0] == "✓ Better on held-out rows: loss 1.931 → 1.412 (-0.519, 95 % -0.580 to -0.458, 120 rows)"
        assert lines[1].startswith("= No difference shown on gsm8k.jsonl")
        assert lines[2].endswith("it forgot a little")
        assert lines[3].endswith("base known from before")
        assert "Held-out rows   120 rows, 4,113 tokens" in table_text(pilot)
        assert "all rows: 16   changed most for better first   9 better, 4 worse, 3 the same" in said(pilot, "count")
        assert list_text(pilot)[0].split()[:5] == ["✓", "better", "wrong", "→", "right"]
        assert "[24] clips" in answers(pilot).text_of("adapter")
        assert "[20] clips" in answers(pilot).text_of("base")
        assert said(pilot, "what").endswith("24 Nov 08:10 · 2 of 2")


async def test_best_worst_next_and_one_part(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, evaluated_run)
        await pilot.press("w")
        assert "changed most for worse first" in said(pilot, "count")
        assert list_text(pilot)[0].split()[:2] == ["✗", "worse"]
        await until(pilot, lambda: "What is 4 + 5?" in answers(pilot).asked_text, "the worst row")
        await pilot.press("n")
        await until(pilot, lambda: "rows.jsonl, line 4" in answers(pilot).asked_text, "the next one")
        assert answers(pilot).text_of("adapter").startswith("adapter\nloss 2.250 nats a token")
        await pilot.press("p", "b", "f")
        assert said(pilot, "count").startswith("rows of held out: 8   changed most for better first")
        assert all("held out" in line for line in list_text(pilot))
        await pilot.press("f", "f")
        assert said(pilot, "count").startswith("rows of general: 4")
        await until(pilot, lambda: "text  Water of kind 0" in answers(pilot).asked_text, "a text")
        await pilot.press("f")
        assert said(pilot, "count").startswith("all rows: 16")


async def test_on_a_small_terminal_the_table_or_the_rows_are_in_sight(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SMALL) as pilot:
        screen = await evaluation_screen(pilot, evaluated_run)
        assert not screen.query_one(ChangedRows).display
        assert "= none shown" in "\n".join(on_screen(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "wrong → right" in "\n".join(on_screen(pilot)), "the rows")
        lines = on_screen(pilot)
        base = next(place for place, line in enumerate(lines) if line.strip().startswith("base   ✗ wrong"))
        adapter = next(place for place, line in enumerate(lines) if line.strip().startswith("adapter   ✓ right"))
        assert base < adapter
        assert "Better on held-out rows" not in "\n".join(lines)
        await pilot.press("down")
        await until(pilot, lambda: "rows.jsonl, line 8" in answers(pilot).asked_text, "the keys move in the list")
        await pilot.press("v")
        await until(pilot, lambda: "Better on held-out rows" in "\n".join(on_screen(pilot)), "the table again")
        await pilot.press("w")
        await until(pilot, lambda: "right → wrong" in "\n".join(on_screen(pilot)), "worst goes to the rows")


async def test_a_view_can_be_had_alone_on_a_large_terminal_too(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, evaluated_run)
        await pilot.press("v")
        assert not screen.query_one(AnswerPair).display
        await pilot.press("v")
        assert not screen.query_one("#figures").display
        assert screen.query_one(AnswerPair).display
        await pilot.press("v")
        assert screen.query_one("#figures").display
        await until(pilot, lambda: isinstance(screen.focused, ChangedRows), "the list has the keys")


async def test_the_whole_prompt_is_shown_when_asked_for(run: Run) -> None:
    long = "\n".join(f"line {number} of the prompt" for number in range(30))
    row = benchmark_row(0, answered("a b c", 0.0), answered("a b d", 1.0), long, "d")
    keep(run, of_rows=[row])
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, run)
        assert "line 3 of" not in answers(pilot).asked_text
        await pilot.press("enter")
        assert "line 29 of the prompt" in answers(pilot).asked_text
        await pilot.press("pagedown", "pagedown", "pagedown")
        await until(pilot, lambda: answers(pilot).scroll_offset.y > 0, "it scrolls")
        await pilot.press("enter")
        assert "line 29 of the prompt" not in answers(pilot).asked_text


async def test_text_of_a_model_is_never_markup_or_a_code(run: Run) -> None:
    evil = "\x1b]0;title\x07[bold]x[/bold] [link='http://a']\u202ey"
    keep(run, of_rows=[benchmark_row(0, answered(evil, 0.0), answered(f"{evil} more", 0.0), evil, evil)])
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, run)
        lines = "\n".join(on_screen(pilot))
        assert "␛]0;title␇[bold]x[/bold] [link='http://a']<202e>y" in lines
        assert "\x1b" not in lines
        assert "[more]" in answers(pilot).text_of("adapter")


async def test_a_run_that_was_not_evaluated_says_what_to_do(run: Run) -> None:
    async with app_of().run_test(size=SMALL) as pilot:
        await evaluation_screen(pilot, run)
        assert f"loradeck eval {run.id}" in said(pilot, "empty")
        await pilot.press("b", "w", "f", "v", "c", "left_square_bracket", "enter")
        assert screen_of(pilot).evaluation is None
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "back in the list")


async def test_an_evaluation_without_rows_has_its_table(run: Run) -> None:
    keep(run, of_rows=[])
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, run)
        assert screen.query_one("#figures").display
        assert not screen.query_one(ChangedRows).display
        folder = run.folder / "evaluations" / SECOND
        (folder / ROWS).unlink()
        screen.read()
        await until(pilot, lambda: "rows cannot be read" in said(pilot, "said"), "the loss is told")
        assert "Better on held-out rows" in said(pilot, "findings")


# ---- other evaluations


async def test_older_evaluations_are_walked_through_and_chosen_from_a_list(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, evaluated_run)
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: screen.evaluation and screen.evaluation.id == FIRST, "the older one")
        await read(pilot)
        assert said(pilot, "findings").startswith("= No difference shown on held-out rows")
        assert "! The time limit of 10 min ended it" in said(pilot, "findings")
        assert "checkpoint of step 412" in said(pilot, "findings")
        assert "1 of 2" in said(pilot, "what")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "oldest" in said(pilot, "said"), "there is none before")
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: screen.evaluation and screen.evaluation.id == SECOND, "the newer one")
        await pilot.press("h")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseScreen), "the list")
        listed = "24 Nov 06:15  step 412        no difference shown on held-out rows"
        await until(pilot, lambda: listed in "\n".join(on_screen(pilot)), "each has its line")
        await pilot.press("down", "enter")
        await until(pilot, lambda: screen.evaluation and screen.evaluation.id == FIRST, "the chosen one")


# ---- evaluating


async def test_how_far_it_is_is_told_and_what_comes_of_it_is_shown(evaluated_run: Run) -> None:
    script = Script(NEWER, progress=[Progress("answers", "adapter", "benchmark", 34, 120)])
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, evaluated_run, script.evaluate)
        await start(pilot)
        await until(
            pilot, lambda: "answers to the benchmark, adapter   34 of 120" in said(pilot, "doing"), "its progress"
        )
        assert any("28 %" in line for line in on_screen(pilot))
        script.ends.set()
        await ended(pilot)
        assert screen.evaluation is not None
        assert screen.evaluation.id == NEWER.id
        assert not screen.query_one("#work").display
        assert "3 of 3" in said(pilot, "what")
    assert script.asked[0].checkpoint is None
    assert (script.asked[0].options.limit, script.asked[0].options.max_new_tokens) == (120, 200)


async def test_it_is_stopped_after_a_question_and_nothing_of_it_is_kept(run: Run) -> None:
    script = Script()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, run, script.evaluate)
        await start(pilot)
        await pilot.press("x", "escape")
        assert screen.under_way is not None
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question")
        await pilot.press("y")
        await ended(pilot)
        assert said(pilot, "said") == "Stopped. Nothing of it is kept."
    assert evaluations_of(run) == []


async def test_a_failure_is_a_message_with_what_to_do(run: Run) -> None:
    script = Script(error=JobFailed("Evaluating failed: out of memory.", "Free some.", "oom"))
    script.ends.set()
    async with app_of().run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, run, script.evaluate)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
        await pilot.press("enter")
        await until(pilot, lambda: said(pilot, "trouble"), "why")
        assert said(pilot, "trouble").startswith("Evaluating failed: out of memory. Free some. A smaller limit")
        assert screen.query_one("#trouble").display
        script.error, script.result = None, NEWER
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
        await pilot.press("enter")
        await until(pilot, lambda: screen.evaluation is not None, "the second try")
        assert not screen.query_one("#trouble").display


async def test_it_goes_on_when_the_screen_is_left_and_is_found_again(run: Run) -> None:
    script = Script(NEWER)
    async with app_of().run_test(size=SIZE, notifications=True) as pilot:
        await evaluation_screen(pilot, run, script.evaluate)
        await start(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "it is left")
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluationScreen), "it is opened again")
        await until(pilot, lambda: "evaluating" in said(pilot, "doing"), "it goes on")
        await pilot.press("escape")
        script.ends.set()
        await until(
            pilot,
            lambda: any("is evaluated: better on held-out" in each.message for each in pilot.app._notifications),
            "its end is told",
        )


async def test_closing_the_app_asks_first_and_ends_it(run: Run) -> None:
    script = Script()
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        screen = await evaluation_screen(pilot, run, script.evaluate)
        await start(pilot)
        work = screen.under_way
        assert work is not None
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen), "the question")
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen, "it goes on")
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen), "the question")
        await pilot.press("y")
    work._ended.wait(20)
    assert work.has_ended
    assert work.evaluation is None


async def test_the_form_says_what_is_wrong_with_a_value_and_with_a_benchmark(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"prompt": "a"}\n')
    script = Script()
    async with app_of().run_test(size=SMALL) as pilot:
        await evaluation_screen(pilot, run, script.evaluate)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
        form = pilot.app.screen
        await until(pilot, lambda: "are free now" in form_said(form, "memory"), "the memory is told")
        await pilot.press(*"/no", "enter")
        await until(pilot, lambda: form_said(form, "meaning") == "there is no such file", "why")
        form.query_one("#benchmark", Input).value = str(wrong)
        await pilot.press("enter")
        await until(pilot, lambda: "has no `expected`" in form_said(form, "meaning"), "what is wrong with the rows")
        form.query_one("#benchmark", Input).value = ""
        form.query_one("#limit", Input).value = "0"
        await pilot.press("enter")
        await until(pilot, lambda: form.focused is form.query_one("#limit"), "the field that is wrong")
        assert "write a whole number from 1, or nothing" in "\n".join(on_screen(pilot))
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: screen_of(pilot).under_way is not None, "it goes on")
    assert script.asked[0].options.limit == 3


def form_said(form: object, where: str) -> str:
    assert isinstance(form, EvaluateScreen)
    return str(form.query_one(f".{where}", Words).words)


async def test_a_run_that_held_out_nothing_is_asked_without_them(new_run: Callable[..., RunFolder]) -> None:
    run = finished(new_run(), holds_out=False)
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, run)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, EvaluateScreen), "the form")
        assert pilot.app.screen.query_one("#held_out", Input).value == "no"
        assert "the run held out no rows" in "\n".join(on_screen(pilot))


async def test_a_run_without_an_adapter_cannot_be_evaluated(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    run = finished(folder)
    (run.adapter_folder / "adapter_config.json").unlink()
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, run)
        await pilot.press("e")
        await until(pilot, lambda: "has no adapter yet" in said(pilot, "said"), "why not")


# ---- from elsewhere


def commands(app: LoradeckApp) -> set[str]:
    """What the command palette offers."""
    return {command.title for command in app.get_system_commands(app.screen)}


async def test_the_list_the_monitor_and_the_palette_lead_to_it(evaluated_run: Run) -> None:
    app = app_of()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.all_rows, "the list")
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, EvaluationScreen), "from the list")
        await read(pilot)
        assert {"Evaluate", "Copy the table"} <= commands(app)
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen), "back")
        await pilot.press("enter")
        await until(
            pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.share_read == 1.0, "the monitor"
        )
        assert "Evaluation" in commands(app)
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, EvaluationScreen), "from the monitor of an ended run")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "back on the monitor")


async def test_the_table_is_copied_to_the_clipboard_and_a_file(evaluated_run: Run) -> None:
    async with app_of().run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, evaluated_run)
        await pilot.press("c")
        await until(pilot, lambda: "Copied the table to" in said(pilot, "said"), "it is copied")
        text = (evaluated_run.folder / "copied" / f"evaluation-{SECOND}.csv").read_text()
        assert text.startswith("part,title,rows,measure,base,")
        assert pilot.app.clipboard == text.rstrip("\n")


async def test_everything_on_an_ascii_terminal_is_ascii(evaluated_run: Run) -> None:
    async with app_of(ascii=True).run_test(size=SIZE) as pilot:
        await evaluation_screen(pilot, evaluated_run)
        assert all(line.isascii() for line in on_screen(pilot))
        await pilot.press("v", "v", "w")
        assert all(line.isascii() for line in on_screen(pilot))
