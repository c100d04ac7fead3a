from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Log

from tests.tui.conftest import BEGAN, GIB, NOW, RunFolder, until
from tui.app import LoradeckApp
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.runs import RunsScreen
from tui.widgets.chart import Chart
from tui.widgets.words import Words


def app(folder: RunFolder, **options: Any) -> LoradeckApp:
    return LoradeckApp(folder.run, now=lambda: NOW, **options)


def monitor(pilot: Pilot[None]) -> MonitorScreen:
    """The monitor, whatever stands over it."""
    return next(screen for screen in pilot.app.screen_stack if isinstance(screen, MonitorScreen))


def said(pilot: Pilot[None], where: str) -> str:
    return str(monitor(pilot).query_one(f"#{where}", Words).words)


def chart(pilot: Pilot[None], which: str = "main-chart") -> str:
    return monitor(pilot).query_one(f"#{which}", Chart).as_text()


def log_text(pilot: Pilot[None]) -> str:
    return "\n".join(monitor(pilot).query_one(Log).lines)


async def opened(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: monitor(pilot).status.model, "the run is read")


async def test_a_run_is_shown_with_its_step_eta_charts_events_and_log(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert "● training   step 120 of 300   epoch 1.20   ETA 3 min" in said(pilot, "progress")
        assert "eval 1.204 at 100" in chart(pilot)
        assert "this run 7.9 GiB" in chart(pilot, "side-chart")
        assert "capacity 12.0 GiB" in chart(pilot, "side-chart")
        assert "predicted 8.0 GiB" in chart(pilot, "side-chart")
        assert "lr 1.2e-4   grad norm 0.620   1,940 tok/s" in said(pilot, "measurements")
        assert "peak 7.9 GiB   predicted 8.0 GiB" in said(pilot, "measurements")
        assert "eval loss 1.204 at step 100 (best), token accuracy 68.0 %" in said(pilot, "events")
        assert "checkpoint-100 saved" in said(pilot, "events")
        assert "/far/away" not in said(pilot, "events")
        assert "→ The learning rate is the first suspect." in said(pilot, "events")
        assert "adapter  Q: How many clips did Natalia sell?  A: 24 clips" in said(pilot, "events")
        assert "optim: paged_adamw_32bit on a GPU" in said(pilot, "events")
        assert "line 40 of the log" in log_text(pilot)


async def test_what_is_written_while_the_screen_is_open_appears(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        trained_run.steps(121, 130)
        trained_run.trainer.write("eval", time=BEGAN + 200, step=130, eval_loss=0.9)
        with trained_run.run.log_path.open("a") as log:
            log.write("a new line\n")
        await until(pilot, lambda: "step 130 of 300" in said(pilot, "progress"), "the new step")
        await until(pilot, lambda: "eval loss 0.900 at step 130 (best)" in said(pilot, "events"), "the evaluation")
        await until(pilot, lambda: "a new line" in log_text(pilot), "the log line")
        assert "eval 0.900 at 130" in chart(pilot)


async def test_without_a_gpu_the_trainers_resident_memory_is_shown(
    new_run: Callable[..., RunFolder],
) -> None:
    folder = new_run(live=True)
    folder.status()
    folder.plan()
    for second in range(10):
        folder.sample(second)
    async with app(folder).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert "trainer, resident 2.0 GiB   3% of 64.0 GiB" in chart(pilot, "side-chart")
        assert "no step yet" in chart(pilot)


async def test_stop_asks_once_and_leaves_the_request_for_the_trainer(trained_run: RunFolder) -> None:
    request = trained_run.run.control_folder / "stop"
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question")
        assert not request.exists()
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")
        assert not request.exists()
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question")
        await pilot.press("y")
        await until(pilot, request.exists, "the request")
        await until(pilot, lambda: "stop asked" in said(pilot, "notice"), "the request is shown")
        await pilot.press("s")
        await until(pilot, lambda: "Asked already" in said(pilot, "flash"), "a second stop is answered")
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_the_trainers_acknowledgement_is_shown(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("k")
        request = trained_run.run.control_folder / "save"
        await until(pilot, request.exists, "the request")
        await until(pilot, lambda: "save asked" in said(pilot, "notice"), "the request is shown")
        request.unlink()
        trained_run.trainer.write("control", time=BEGAN + 300, request="save")
        await until(pilot, lambda: "saving a checkpoint" in said(pilot, "events"), "the acknowledgement")
        await until(pilot, lambda: "save asked" not in said(pilot, "notice"), "nothing waits any more")


async def test_pause_and_resume_are_one_key(trained_run: RunFolder) -> None:
    control = trained_run.run.control_folder
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("p")
        await until(pilot, (control / "pause").exists, "a pause is asked for")
        (control / "pause").unlink()
        trained_run.status(state="paused", step=120)
        await until(pilot, lambda: "‖ paused" in said(pilot, "progress"), "the run is paused")
        assert "p goes on" in said(pilot, "notice")
        await pilot.press("p")
        await until(pilot, (control / "resume").exists, "to go on is asked for")
        assert not (control / "pause").exists()


@pytest.mark.parametrize("key", ["s", "p", "k"])
async def test_a_run_that_has_ended_is_asked_for_nothing(new_run: Callable[..., RunFolder], key: str) -> None:
    folder = new_run()
    folder.status(state="finished")
    async with app(folder).run_test() as pilot:
        await opened(pilot)
        await pilot.press(key)
        await until(pilot, lambda: "the run is finished" in said(pilot, "flash"), "the answer")
        assert list(folder.run.control_folder.iterdir()) == []
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_a_failure_says_cause_message_hint_and_the_next_command(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.status(state="failed", cause="oom", message="Out of memory in the backward pass at step 37.")
    folder.trainer.write("error", time=BEGAN, code="oom", message="m", hint="Halve the batch.")
    async with app(folder).run_test() as pilot:
        await opened(pilot)
        assert said(pilot, "notice").splitlines() == [
            "✗ failed: out of memory",
            "Out of memory in the backward pass at step 37.",
            "→ Halve the batch.",
            f"then go on with loradeck resume {folder.run.id}",
        ]


async def test_a_lost_run_says_what_happened_and_how_to_go_on(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.status(state="training")
    async with app(folder).run_test() as pilot:
        await opened(pilot)
        assert "lost" in said(pilot, "notice")
        assert f"loradeck resume {folder.run.id}" in said(pilot, "notice")


async def test_narrow_shows_one_chart_and_wide_shows_two(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        side = monitor(pilot).query_one("#side-chart")
        assert side.display
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: side.styles.display == "none", "one chart")
        assert "smoothed" in chart(pilot)
        await pilot.press("c")
        await until(pilot, lambda: "GPU 0 memory" in chart(pilot), "the memory chart")
        await pilot.press("c", "c", "c", "c")
        await until(pilot, lambda: "smoothed" in chart(pilot), "the loss again")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: side.styles.display != "none", "two charts again")


async def test_the_loss_can_be_shown_on_a_log_axis(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("y")
        await until(pilot, lambda: " log" in chart(pilot).splitlines()[0], "a log axis")


async def test_the_log_takes_the_whole_screen_and_gives_it_back(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        log = monitor(pilot).query_one(Log)
        small = log.size.height
        await pilot.press("o")
        await until(pilot, lambda: log.size.height > small + 5, "a tall log")
        await pilot.press("o")
        await until(pilot, lambda: log.size.height == small, "a small log")


async def test_text_of_others_is_shown_as_text(new_run: Callable[..., RunFolder]) -> None:
    evil = "[red]x[/red]\x1b]0;owned\x07\u202e"
    shown = "[red]x[/red]␛]0;owned␇<202e>"
    folder = new_run()
    folder.status(state="failed", cause="error", message=evil, model=evil)
    folder.trainer.write("warning", time=BEGAN, code="c", message=evil, hint=evil)
    folder.trainer.write("sample", time=BEGAN, step=1, model=evil, prompt=evil, completion=evil)
    folder.trainer.write("plan", time=BEGAN, total_steps=1, notes=[evil])
    folder.hardware.write("hardware", gpus=[{"index": 0, "name": evil, "used_bytes": 5, "processes": []}])
    folder.run.log_path.write_text(evil + "\n")
    async with app(folder).run_test(size=(200, 50)) as pilot:
        await opened(pilot)
        await until(pilot, lambda: shown in log_text(pilot), "the log line")
        assert shown in said(pilot, "notice")
        assert shown in said(pilot, "what")
        assert said(pilot, "events").count(shown) == 6
        assert shown in chart(pilot, "side-chart")
        assert "\x1b" not in pilot.app.export_screenshot()


async def test_ascii_mode_shows_nothing_but_ascii(trained_run: RunFolder) -> None:
    trained_run.trainer.write("warning", time=BEGAN + 400, code="c", message="übel", hint="")
    async with app(trained_run, ascii=True).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        lines = ["".join(segment.text for segment in strip) for strip in pilot.app.screen._compositor.render_strips()]
        assert [line for line in lines if not line.isascii()] == []


async def test_escape_from_a_run_opened_by_name_leads_to_the_list(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "the list of runs")
        await pilot.press("q")
        await until(pilot, lambda: not pilot.app.is_running, "the app is gone")


async def test_help_lists_the_keys_of_the_screen(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen), "help")
        words = "\n".join(str(each.words) for each in pilot.app.screen.query(Words))
        assert "Finish the step, save a checkpoint, end. Asks first." in words
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")


async def test_the_app_leaves_at_the_end_of_the_run_only_when_told_to(trained_run: RunFolder) -> None:
    async with app(trained_run, leave_at_end=True).run_test() as pilot:
        await opened(pilot)
        assert pilot.app.is_running
        trained_run.status(state="finished", step=300)
        await until(pilot, lambda: not pilot.app.is_running, "the app is gone")


async def test_every_key_can_be_remapped(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        pilot.app.set_keymap({"monitor.save": "x"})
        await pilot.press("x")
        await until(pilot, (trained_run.run.control_folder / "save").exists, "the request")


async def test_a_long_history_leaves_the_screen_responsive(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run()
    folder.status(state="finished")
    folder.steps(1, 20_000)
    folder.sample(1, gpu_bytes=GIB)
    async with app(folder).run_test() as pilot:
        await until(pilot, lambda: "history" in said(pilot, "progress"), "the share that is read")
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen), "help in the midst of it")
        await opened(pilot)
        assert monitor(pilot).state.step == 20_000
