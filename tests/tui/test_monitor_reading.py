"""Reading on the monitor: samples, log, a chart under the cursor, and what is copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.conftest import BEGAN, RunFolder, until
from tests.tui.monitoring import BOTH_SIZES, app, chart, monitor, on_screen, opened, said
from tui.screens.monitor import MonitorScreen
from tui.screens.samples import SamplesScreen
from tui.widgets.line import Line
from tui.widgets.words import Words


async def test_all_samples_are_on_a_screen_of_their_own(trained_run: RunFolder) -> None:
    for prompt in range(40):
        for model in ("base", "adapter"):
            trained_run.trainer.write(
                "sample",
                time=BEGAN + 200,
                step=120,
                prompt_index=prompt,
                model=model,
                prompt=f"why {prompt}?",
                completion="so",
            )
    async with app(trained_run).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(pilot.app.screen, SamplesScreen), "the samples")
        words = [str(each.words) for each in pilot.app.screen.query(Words)]
        assert words[0] == "samples: 41 prompts"
        assert words[1] == "step 120, prompt 1\nwhy 0?\nbase\n  so\nadapter\n  so"
        assert words[-1].startswith("step 100, prompt 1\nHow many clips did Natalia sell?\nbase\n  I do not know.")
        await pilot.press("pagedown")
        await until(pilot, lambda: pilot.app.screen.query_one("#samples").scroll_y > 0, "it scrolls")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")


async def test_answers_to_one_prompt_at_several_steps_are_together(trained_run: RunFolder) -> None:
    for step, model, said_then in ((40, "adapter", "hm"), (80, "adapter", "so"), (80, "base", "ah")):
        trained_run.trainer.write(
            "sample",
            time=BEGAN + 200,
            step=step,
            prompt_index=0,
            model=model,
            prompt="why?",
            completion=said_then,
        )
    async with app(trained_run).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(pilot.app.screen, SamplesScreen), "the samples")
        words = [str(each.words) for each in pilot.app.screen.query(Words)]
        assert words[-1] == (
            "steps 40 to 80, prompt 1\nwhy?\nadapter at step 80\n  so\nbase at step 80\n  ah\nadapter at step 40\n  hm"
        )


async def test_the_log_is_searched_by_keys(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("o", "slash", *"line", "space", *"3")
        about = monitor(pilot).query_one("#about-log", Line)
        await until(pilot, lambda: '"line 3": 11 of 11 lines' in str(about.words), "what is found")
        await pilot.press("enter", "n")
        await until(pilot, lambda: ": 1 of 11" in str(about.words), "the first match")
        assert any("line 3 of the log" in line for line in on_screen(pilot))
        await pilot.press("N")
        await until(pilot, lambda: ": 11 of 11" in str(about.words), "the last match")
        await pilot.press("slash", "escape")
        await until(pilot, lambda: "40 lines" in str(about.words) and ":" not in str(about.words), "no search")
        await pilot.press("escape")
        await until(pilot, lambda: not monitor(pilot).has_class("-log"), "the charts again")
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_only_the_end_of_a_long_log_is_in_the_pane_and_it_says_so(trained_run: RunFolder) -> None:
    trained_run.run.log_path.write_text("".join(f"line {number} {'x' * 90}\n" for number in range(20_000)))
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("o")
        about = monitor(pilot).query_one("#about-log", Line)
        await until(pilot, lambda: "the last 5,000 lines" in str(about.words), "how much is there")
        assert "1.4 MiB before them left out" in str(about.words)


async def test_the_log_opens_in_an_editor_that_is_there(
    trained_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "no-such-editor -f")
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("e")
        await until(pilot, lambda: "no-such-editor is not on this machine" in said(pilot, "flash"), "why not")
        assert str(trained_run.run.log_path) in said(pilot, "flash")
        monkeypatch.setenv("EDITOR", "true")
        await pilot.press("e")  # a test has no terminal to hand over
        await until(pilot, lambda: "This terminal cannot be handed to an editor" in said(pilot, "flash"), "why not")


async def test_a_chart_is_copied_to_the_clipboard_and_a_file_that_is_named(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("c", "c", "c", "w", "x")
        await until(pilot, lambda: "Copied 51 rows of learning rate to" in said(pilot, "flash"), "the copy")
        path = Path(said(pilot, "flash").rpartition(" to ")[2])
        assert path.parent == trained_run.run.folder / "copied"
        lines = path.read_text().splitlines()
        assert (lines[0], lines[1].split(",")[0], lines[-1].split(",")[0]) == ("step,learning_rate", "70", "120")
        assert pilot.app.clipboard.splitlines() == lines
        await pilot.press("X")
        await until(pilot, lambda: "loradeck attach" in pilot.app.clipboard, "the command")
        assert f"to {trained_run.run.folder / 'copied' / 'command.txt'}" in said(pilot, "flash")


@BOTH_SIZES
async def test_the_cursor_reads_out_a_step_and_leaves_with_escape(
    trained_run: RunFolder, size: tuple[int, int]
) -> None:
    async with app(trained_run).run_test(size=size) as pilot:
        await opened(pilot)
        await pilot.press("v", "left", "shift+left")
        assert "step 1" in chart(pilot).splitlines()[0]
        line = said(pilot, "measurements").splitlines()[0]
        assert line.startswith("step 1")
        assert "   lr 1." in line.replace("  ", "   ")
        assert "eval 1.204 at 100" in chart(pilot).splitlines()[0] + line
        await pilot.press("escape")
        await pilot.pause()
        assert "lr 1.2e-4" in said(pilot, "measurements")
        assert isinstance(pilot.app.screen, MonitorScreen)
        await pilot.press("plus", "plus", "left")
        assert "steps 82 to 112" in chart(pilot).splitlines()[0]
        await pilot.press("w")
        assert "steps" not in chart(pilot).splitlines()[0]
