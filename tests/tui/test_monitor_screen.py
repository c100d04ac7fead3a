"""The monitor of one run: what it shows, and its keys."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from textual.widget import Widget

from engine.runs.labels import read_labels
from tests.tui.conftest import BEGAN, GIB, NOW, RunFolder, until
from tests.tui.monitoring import SPEC, app, chart, log_text, monitor, on_screen, opened, said
from tui.screens.confirm import ConfirmScreen
from tui.screens.help import HelpScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.runs import RunsScreen
from tui.widgets.log_pane import LogPane
from tui.widgets.words import Words


async def test_a_run_is_shown_with_its_step_eta_charts_events_and_log(trained_run: RunFolder) -> None:
    async with app(trained_run, now=lambda: NOW - 440).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert "● training   step 120 of 300   epoch 1.20   ETA 3 min" in said(pilot, "progress")
        assert "eval 1.204 at 100" in chart(pilot)
        assert "this run 7.9 GiB" in chart(pilot, "side-chart")
        assert "capacity 12.0 GiB" in chart(pilot, "side-chart")
        assert "predicted 8.0 GiB" in chart(pilot, "side-chart")
        assert "lr 1.2e-4   grad norm 0.620   1,940 tok/s" in said(pilot, "measurements")
        assert "healthy   peak 7.9 GiB   predicted 8.0 GiB   util 97 %   71 °C   198 W" in said(pilot, "measurements")
        assert "eval loss 1.204 at step 100 (best), token accuracy 68.0 %" in said(pilot, "events")
        assert "checkpoint-100 saved" in said(pilot, "events")
        assert "/far/away" not in said(pilot, "events")
        assert "→ The learning rate is the first suspect." in said(pilot, "events")
        assert "sample at 100  Q: How many clips did Natalia sell?  A: 24 clips" in said(pilot, "events")
        assert said(pilot, "sample").splitlines() == [
            "sample at 100  How many clips did Natalia sell?",
            "base      I do not know.",
            "adapter   24 clips in May.↵So 72.",
            "expected  72",
        ]
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
        assert "host memory, GiB   trainer 2.0 GiB   3% of 64.0 GiB" in chart(pilot, "side-chart")
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
    folder.status(state="failed", cause="error", message="The model cannot be loaded.")
    folder.trainer.write("error", time=BEGAN, code="error", message="m", hint="Look at its folder.")
    async with app(folder).run_test() as pilot:
        await opened(pilot)
        assert said(pilot, "notice").splitlines() == [
            "✗ failed: an error",
            "The model cannot be loaded.",
            "→ Look at its folder.",
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
        await pilot.press("C")
        await until(pilot, lambda: "smoothed" in chart(pilot), "the loss again")
        await pilot.press("f2")
        await until(pilot, lambda: "smoothed" in chart(pilot), "the first of the list")
        await pilot.press("C")
        await until(pilot, lambda: "RTX 4070 SUPER" in said(pilot, "machine"), "the machine, before the loss")
        await pilot.press("f2")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: side.styles.display != "none", "two charts again")


async def test_the_loss_can_be_shown_on_a_log_axis(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("y")
        await until(pilot, lambda: "loss, log" in chart(pilot).splitlines()[0], "a log axis")


async def test_the_log_takes_the_whole_screen_and_gives_it_back(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        log = monitor(pilot).query_one(LogPane)
        small = log.size.height
        await pilot.press("o")
        await until(pilot, lambda: log.size.height > small + 5, "a tall log")
        await pilot.press("o")
        await until(pilot, lambda: log.size.height == small, "a small log")


HOSTILE = "[red]x[/red]\x1b]0;owned\x07\u202e日本語👩‍👩‍👧e\u0301\u0301"
SHOWN = "[red]x[/red]␛]0;owned␇<202e>日本語👩‍👩‍👧e\u0301\u0301"


def speak(folder: RunFolder, text: str) -> None:
    """Put `text` wherever others have a say in what a run shows."""
    folder.status(state="failed", cause="error", message=text, model=text, data=text)
    folder.trainer.write("plan", time=BEGAN, total_steps=1, notes=[text], device="cuda:0")
    folder.trainer.write("state", time=BEGAN, state="training")
    folder.steps(1, 100)
    process = {"pid": 7, "user": text, "name": text, "used_bytes": GIB}
    gpu = {"index": 0, "name": text, "used_bytes": 5 * GIB, "total_bytes": 12 * GIB, "throttling": [text]}
    for second in range(3):
        folder.hardware.write("hardware", time=BEGAN + second, gpus=[{**gpu, "processes": [process]}], host={})
    for model in ("base", text):
        folder.trainer.write(
            "sample", time=BEGAN + 130, step=1, model=model, prompt=text, completion=text, expected=text
        )
    folder.trainer.write("warning", time=BEGAN + 131, code="c", message=text, hint=text)
    folder.trainer.write("checkpoint", time=BEGAN + 132, step=100, path=f"/x/{text.replace('/', '')}")
    folder.run.labels_path.write_text(json.dumps({"type": "note", "time": BEGAN + 133, "text": text}) + "\n")
    folder.run.log_path.write_text(f"{text}\nthe end\n")


async def test_text_of_others_changes_nothing_on_the_screen_but_itself(new_run: Callable[..., RunFolder]) -> None:
    seen = []
    for place, text in enumerate(("plain", HOSTILE, HOSTILE * 20_000)):  # the last are lines of a million bytes
        folder = new_run(f"20261124-05200{place}-[b]m[/b]-a1b2")
        speak(folder, text)
        async with app(folder).run_test(size=(120, 40)) as pilot:
            await opened(pilot)
            await until(pilot, lambda: log_text(pilot), "the log line")
            for width, height in ((120, 40), (80, 24)):
                await pilot.resize_terminal(width, height)
                await until(pilot, lambda w=width: len(chart(pilot).splitlines()[0]) in (57, w - 2), "the charts")
                seen.append((chart(pilot).splitlines(), said(pilot, "measurements").splitlines()[0]))
                screens = [on_screen(pilot)]
                for keys in (["f3"], ["f9"], ["o"], ["escape", "a"]):
                    await pilot.press(*keys)
                    await pilot.pause()
                    screens.append(on_screen(pilot))
                await pilot.press("escape", "f2")
                await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor again")
                assert {cell_len(line) for lines in screens for line in lines} == {width}
                everything = "".join("".join(lines) for lines in screens)
                assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in everything)
                assert "\u202e" not in everything
                assert SHOWN[:24] in everything or text == "plain"
    plain, hostile, long = seen[:2], seen[2:4], seen[4:]
    assert plain == hostile
    for (plain_chart, plain_numbers), (long_chart, long_numbers) in zip(plain, long, strict=True):
        assert plain_chart[0] == long_chart[0]  # below it a message of three lines takes some rows
        assert plain_numbers == long_numbers


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


async def test_the_next_evaluation_and_checkpoint_are_told_in_steps(trained_run: RunFolder) -> None:
    trained_run.run.spec_path.write_text(SPEC)
    trained_run.trainer.write("step", time=BEGAN + 150, step=121, loss=1.0, tokens_per_s=1940.0, padding_share=0.064)
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        line = said(pilot, "measurements").splitlines()[0]
        assert "1,940 tok/s   eval in 29   checkpoint in 79 steps   padding 6 %" in line
        assert "memory_limit 11.0 GiB" in chart(pilot, "side-chart")


async def test_an_evaluation_is_asked_for_where_there_are_rows_for_it(trained_run: RunFolder) -> None:
    request = trained_run.run.control_folder / "evaluate"
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("E")
        await until(pilot, lambda: "No rows are held out" in said(pilot, "flash"), "why not")
        assert not request.exists()
    trained_run.run.spec_path.write_text(SPEC)
    async with app(trained_run).run_test() as pilot:
        await opened(pilot)
        await pilot.press("E")
        await until(pilot, request.exists, "the request")
        await until(pilot, lambda: "evaluation asked" in said(pilot, "notice"), "it is shown")


async def test_a_note_is_kept_with_the_run_and_listed(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("n")
        assert monitor(pilot).query_one("#prompt").display
        await pilot.press(*"lower", "space", *"lr[b]?", "enter")
        await until(pilot, lambda: "note  lower lr[b]?" in said(pilot, "events"), "the note")
        assert [note["text"] for note in read_labels(trained_run.run).notes] == ["lower lr[b]?"]
        await pilot.press("n", "x", "escape")
        await pilot.press("c")
        await until(pilot, lambda: "GPU 0 load" in chart(pilot, "side-chart"), "keys are keys again")
        assert len(read_labels(trained_run.run).notes) == 1


async def test_opening_help_again_and_again_keeps_nothing(trained_run: RunFolder) -> None:
    async with app(trained_run).run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        before = detached()
        for _ in range(3):
            await pilot.press("f1")
            await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen), "help is open")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "help is closed")
        await pilot.pause(0.2)
        assert detached() <= before


def detached() -> int:
    """Widgets that are on no screen and still there, those of other tests among them."""
    gc.collect()
    return sum(isinstance(each, Widget) and not each.is_attached for each in gc.get_objects())
