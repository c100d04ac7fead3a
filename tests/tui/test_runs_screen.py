from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from engine.runs.labels import add_note, read_labels, set_tags
from engine.runs.store import Run, RunStatus, runs_folder
from tests.tui.conftest import BEGAN, GIB, NOW, RunFolder, until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.screens.compare import CompareScreen
from tui.screens.confirm import ConfirmScreen
from tui.screens.monitor import MonitorScreen
from tui.screens.plan import PlanScreen
from tui.screens.runs import RunsScreen
from tui.widgets.line import Line
from tui.widgets.run_table import RunTable
from tui.widgets.words import Words

OLDER, NEWER, NEWEST = (f"2026112{day}-052000-model-{day}{day}{day}{day}" for day in (1, 2, 3))
HOSTILE = "[red]m\x1b[2J[/red]\u202e\ud800\U0001f680日本" + "x" * 1_000_000


def app() -> LoradeckApp:
    return LoradeckApp(now=lambda: NOW, inspector=KnownModels(), tracing=False)


def runs_screen(pilot: Pilot[None]) -> RunsScreen:
    """The list, whatever stands over it."""
    return next(screen for screen in pilot.app.screen_stack if isinstance(screen, RunsScreen))


def said(pilot: Pilot[None], where: str) -> str:
    widget = runs_screen(pilot).query_one(f"#{where}")
    assert isinstance(widget, (Words, Line))
    return str(widget.words)


def table_text(pilot: Pilot[None]) -> list[str]:
    table = runs_screen(pilot).query_one(RunTable)
    return [table.render_line(y).text.rstrip() for y in range(len(table.rows) + 1)]


async def listed(pilot: Pilot[None], *ids: str) -> None:
    table = runs_screen(pilot).query_one(RunTable)
    await until(pilot, lambda: [row.run.id for row in table.rows] == list(ids), f"{ids} are listed")


async def typed(pilot: Pilot[None], text: str) -> None:
    """Type into the prompt, as if it had been pasted: a key a character would take long."""
    pilot.app.screen.query_one(Input).insert_text_at_cursor(text)
    await pilot.pause()


async def test_without_runs_the_screen_says_how_to_make_one() -> None:
    async with app().run_test() as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, PlanScreen), "the plan is open")
        await pilot.press("3")
        empty = pilot.app.screen.query_one("#empty", Words)
        await until(pilot, lambda: empty.display, "the empty list is explained")
        assert "loradeck demo" in str(empty.words)
        assert "loradeck new" in str(empty.words)
        await pilot.press("d", "t", "n", "c", "slash", "space", "s")
        assert isinstance(pilot.app.screen, RunsScreen)


async def test_runs_are_listed_newest_first_with_what_they_did(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="finished", step=300, total_steps=300, loss=1.1, ended=BEGAN + 500)
    new_run(NEWER, live=True).status(
        step=12, total_steps=1402, loss=2.5, eval_loss=2.4, predicted_bytes=8 * GIB, peak_bytes=int(7.9 * GIB)
    )
    new_run(NEWEST).status(state="failed", cause="oom")
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        header, failed, training, finished = table_text(pilot)
        assert " ".join(header.split()) == "state model targets step loss eval took peak/pred. started ↓ id"
        assert "✗ failed" in failed
        assert training.split() == [
            *("●", "training", "SmolLM2-135M-Ins…", "-", "12/1,402", "2.500", "2.400", "10", "min", "7.9/8.0", "GiB"),
            *("10", "min", "ago", "2222"),
        ]
        assert "✓ finished" in finished
        assert "300/300   1.100       -     8 min              -  10 min ago  1111" in finished


async def test_a_run_whose_lock_is_free_without_an_end_is_lost(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="training")
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        assert "? lost" in table_text(pilot)[1]


async def test_the_cursor_stays_on_its_run_when_a_newer_one_appears(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("down")
        new_run(NEWEST).status(state="finished")
        await listed(pilot, NEWEST, NEWER, OLDER)
        table = pilot.app.screen.query_one(RunTable)
        assert table.rows[table.cursor].run.id == OLDER


async def test_progress_shows_while_the_list_is_open(new_run: Callable[..., RunFolder]) -> None:
    folder = new_run(OLDER, live=True)
    folder.status(step=1, total_steps=300)
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        folder.status(step=2, total_steps=300)
        await until(pilot, lambda: "2/300" in table_text(pilot)[1], "the new step is listed")


async def test_enter_opens_a_run_and_escape_leads_back(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")
        assert isinstance(pilot.app.screen, MonitorScreen)
        assert pilot.app.screen.watched.id == OLDER
        await pilot.press("escape")
        await pilot.pause()
        assert pilot.app.screen.query_one(RunTable).cursor == 1


async def test_a_click_moves_the_cursor_and_a_second_one_opens(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        table = pilot.app.screen.query_one(RunTable)
        await pilot.click(RunTable, offset=(5, 2))
        assert table.cursor == 1
        await pilot.click(RunTable, offset=(5, 2))
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")


async def test_a_filter_is_followed_while_it_is_typed_and_escape_takes_it_back(
    new_run: Callable[..., RunFolder],
) -> None:
    new_run(OLDER).status(state="failed", cause="oom")
    new_run(NEWER).status(state="finished")
    newest = new_run(NEWEST)
    newest.status(state="stopped")
    set_tags(newest.run, ["baseline"])
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        await pilot.press("slash")
        await typed(pilot, "state:failed")
        await listed(pilot, OLDER)
        assert "1 of 3 runs" in str(pilot.app.screen.query_one(".hint", Line).words)
        await pilot.press("escape")
        await listed(pilot, NEWEST, NEWER, OLDER)
        await pilot.press("slash")
        await typed(pilot, "tag:base")
        await pilot.press("enter")
        await listed(pilot, NEWEST)
        assert said(pilot, "count") == "1 of 3 runs, filter tag:base, 0 going on"
        await pilot.press("slash")
        await typed(pilot, " nothing")
        await pilot.press("enter")
        await listed(pilot)
        assert "No run has all of that" in said(pilot, "detail")
        await pilot.press("escape")
        await listed(pilot, NEWEST, NEWER, OLDER)


async def test_printable_keys_are_text_while_a_prompt_is_open(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        await pilot.press("n", *"dstcv1 q", "slash")
        assert pilot.app.screen.query_one(Input).value == "dstcv1 q/"
        assert isinstance(pilot.app.screen, RunsScreen)
        await pilot.press("delete", "enter")
        await until(pilot, lambda: "dstcv1 q/" in said(pilot, "detail"), "the note is shown")
        assert [note["text"] for note in read_labels(Run(runs_folder() / OLDER)).notes] == ["dstcv1 q/"]


async def test_what_is_typed_faster_than_it_is_shown_is_in_the_answer(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, OLDER)
        await pilot.press("n")
        for character in "a short note":
            pilot.app.post_message(events.Key("space" if character == " " else character, character))
        pilot.app.post_message(events.Key("enter", None))
        await until(pilot, lambda: "a short note" in said(pilot, "detail"), "the note is shown", patience_s=8)


async def test_the_list_is_sorted_by_one_column_after_another_and_turned_round(
    new_run: Callable[..., RunFolder],
) -> None:
    for run_id, value in ((OLDER, 1.0), (NEWER, 3.0), (NEWEST, 2.0)):
        new_run(run_id).status(state="finished", loss=value)
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        await pilot.press("r")
        assert "started ↑" in table_text(pilot)[0]
        await pilot.press("s", "s", "s")
        await listed(pilot, OLDER, NEWEST, NEWER)
        assert "loss ↑" in table_text(pilot)[0]
        assert said(pilot, "count") == "3 runs, 0 going on, by loss ↑"
        await pilot.press("r")
        await listed(pilot, NEWER, NEWEST, OLDER)
        assert "loss ↓" in table_text(pilot)[0]


async def test_children_stand_under_their_parents_and_the_detail_says_what_was_changed(
    new_run: Callable[..., RunFolder],
) -> None:
    new_run(OLDER).status(state="failed", cause="oom", message="Out of memory in the backward pass.")
    new_run(NEWER).status(state="finished", model="other")
    child = new_run(NEWEST)
    child.status(state="finished", parent=OLDER)
    changes = "{training.per_device_train_batch_size: [4, 1], training.gradient_accumulation_steps: [4, 16]}"
    child.run.spec_path.write_text(f"parent: {{run: {OLDER}, checkpoint: checkpoint-30, changes: {changes}}}\n")
    async with app().run_test(size=(160, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        await pilot.press("v")
        await listed(pilot, OLDER, NEWEST, NEWER)
        assert "└ SmolLM2" in table_text(pilot)[2]
        await until(pilot, lambda: "→" in said(pilot, "detail"), "the changes are read")
        assert (
            f"continues {OLDER[:15]}…{OLDER[-5:]} from checkpoint-30: "
            "per_device_train_batch_size 4 → 1, gradient_accumulation_steps 4 → 16"
        ) in said(pilot, "detail")
        await pilot.press("up")
        await until(pilot, lambda: "continued by" in said(pilot, "detail"), "the parent's detail is shown")
        assert "✗ failed: oom   Out of memory in the backward pass." in said(pilot, "detail")
        await pilot.press("v")
        await listed(pilot, NEWEST, NEWER, OLDER)


async def test_tags_are_edited_for_one_run_and_for_all_that_are_marked(new_run: Callable[..., RunFolder]) -> None:
    runs = [new_run(run_id) for run_id in (OLDER, NEWER)]
    for folder in runs:
        folder.status(state="finished")
    set_tags(runs[0].run, ["common", "own"])
    set_tags(runs[1].run, ["common"])
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("space", "space")
        assert said(pilot, "count") == "2 runs, 0 going on, 2 marked"
        assert all(line.startswith("* ") for line in table_text(pilot)[1:])
        await pilot.press("t")
        assert pilot.app.screen.query_one(Input).value == "common"
        await typed(pilot, ", [b]new[/b]")
        await pilot.press("enter")
        await until(pilot, lambda: "new" in said(pilot, "detail"), "the tags are shown")
        assert [read_labels(folder.run).tags for folder in runs] == [
            ("own", "common", "[b]new[/b]"),
            ("common", "[b]new[/b]"),
        ]
        await pilot.press("escape", "t")
        assert not pilot.app.screen.query_one(RunTable).marked
        assert pilot.app.screen.query_one(Input).value == "own, common, [b]new[/b]"


async def test_deleting_asks_says_what_goes_and_never_touches_a_live_run(new_run: Callable[..., RunFolder]) -> None:
    new_run(OLDER).status(state="failed", ended=BEGAN + 1)
    new_run(NEWER).status(state="finished", parent=OLDER)
    new_run(NEWEST, live=True).status()
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, NEWEST, NEWER, OLDER)
        await pilot.press("d")
        await until(pilot, lambda: said(pilot, "flash"), "it says why not")
        assert said(pilot, "flash") == "It is going on: stop it first."
        await pilot.press("space", "end", "space", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question is asked")
        assert isinstance(pilot.app.screen, ConfirmScreen)
        question, meaning = pilot.app.screen.question, pilot.app.screen.meaning
        assert question == "Delete this run?"
        assert f"{OLDER}   failed   " in meaning
        assert "1 of the marked runs is going on and stays." in meaning
        assert f"Continued by {NEWER}: stays, with checkpoints of its own." in meaning
        await pilot.press("escape")
        await pilot.pause()
        assert (runs_folder() / OLDER).is_dir()
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question is asked again")
        await pilot.press("y")
        await listed(pilot, NEWEST, NEWER)
        await until(pilot, lambda: said(pilot, "flash") == "Deleted 1 run.", "it says what was done")
        assert sorted(path.name for path in runs_folder().iterdir()) == [NEWER, NEWEST]


async def test_two_to_eight_marked_runs_are_compared(new_run: Callable[..., RunFolder]) -> None:
    for run_id in (OLDER, NEWER):
        new_run(run_id).status(state="finished")
    async with app().run_test() as pilot:
        await listed(pilot, NEWER, OLDER)
        await pilot.press("c")
        assert "space marks the 2 to 8 runs" in said(pilot, "flash")
        await pilot.press("space", "c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen), "the comparison is open")
        assert isinstance(pilot.app.screen, CompareScreen)
        assert [run.row.run.id for run in pilot.app.screen.runs] == [NEWER, OLDER]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen), "the list is back")
        assert pilot.app.screen.query_one(RunTable).marked == {NEWER}
        await pilot.press("1", "3", "c")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen), "it opens again")


async def test_a_run_copied_from_another_box_is_lost_if_it_was_live_and_says_where_it_ran(
    new_run: Callable[..., RunFolder],
) -> None:
    run = new_run(OLDER).run
    run.write_status(
        RunStatus("training", model="m", host="gpu-box-2", started=BEGAN, heartbeat=BEGAN + 90, trainer_pid=os.getpid())
    )
    run.spec_path.write_text("model: {name_or_path: /srv/nowhere/model}\ndata: {train: /srv/nowhere/rows.jsonl}\n")
    async with app().run_test(size=(120, 40)) as pilot:
        await listed(pilot, OLDER)
        assert "? lost" in table_text(pilot)[1]
        assert "2 min" in table_text(pilot)[1]
        await until(pilot, lambda: said(pilot, "detail").endswith("on gpu-box-2"), "the host is shown")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MonitorScreen), "the monitor is open")


async def test_others_text_changes_nothing_but_itself(new_run: Callable[..., RunFolder]) -> None:
    run = new_run("20261123-[b]日本\udcff\x1b[31m-0001").run
    run.spec_path.write_text("parent: {run: x, checkpoint: '[i]c', changes: {'[b]': ['[/b]', \"\\e[2J\"]}}\n")
    hostile = dict.fromkeys(("model", "data", "message", "cause"), HOSTILE)
    run.status_path.write_text(json.dumps({"state": "failed", "parent": "[b]", **hostile}))
    set_tags(run, [HOSTILE])
    add_note(run, HOSTILE)
    new_run(OLDER).status(state="finished")
    async with app().run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(pilot.app.screen.query_one(RunTable).rows) == 2, "both are listed")
        await pilot.press("end")
        await until(pilot, lambda: "→" in said(pilot, "detail"), "the detail is read")
        table = pilot.app.screen.query_one(RunTable)
        lines = [table.render_line(y).text for y in range(3)]
        assert {cell_len(line) for line in lines} == {table.size.width}
        assert lines[2].index("0001") == lines[1].index("1111")
        assert "[red]m␛[2J[/red]" in lines[2]
        painted = "".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        assert not set(painted) & {"\x1b", "\u202e", "\ud800", "\x07"}
        assert "[red]m␛[2J[/red]<202e>?" in said(pilot, "detail")
        assert "from [i]c: [b] [/b] → ␛[2J" in said(pilot, "detail")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen), "the question is asked")
        await pilot.press("y")
        await listed(pilot, OLDER)


async def test_a_thousand_runs_scroll_with_the_cursor_and_are_painted_only_where_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tui.screens.runs.PERIOD_S", 0.05)
    for number in range(1000):
        run = Run(runs_folder() / f"20261101-{number:06}-m-0000")
        run.folder.mkdir(parents=True)
        run.write_status(RunStatus(state="finished", started=BEGAN - 86400, model="m"))
    async with app().run_test(size=(80, 24)) as pilot:
        table = pilot.app.screen.query_one(RunTable)
        await until(pilot, lambda: len(table.rows) == 1000, "all are listed")
        await pilot.press("end")
        await pilot.pause()
        in_sight = [table.render_line(y).text for y in range(table.size.height)]
        assert table.cursor == 999
        assert "0000" in in_sight[-1]
        await pilot.press("home")
        await pilot.pause()
        assert table.scroll_y == 0
        looks = runs_screen(pilot)._catalog._looks
        painted: list[object] = []
        monkeypatch.setattr(pilot.app, "_display", lambda _, what: painted.append(what))
        await until(pilot, lambda: runs_screen(pilot)._catalog._looks > looks + 3, "the list was read again")
        assert painted == []
        drawn = dict(table._drawn)
        changed = Run(runs_folder() / "20261101-000997-m-0000")
        changed.write_status(RunStatus(state="finished", started=BEGAN - 86400, model="changed"))
        await until(pilot, lambda: painted, "the change is painted")
        assert [y for y, line in table._drawn.items() if line != drawn[y]] == [3]
        assert "changed" in table_text(pilot)[3]
