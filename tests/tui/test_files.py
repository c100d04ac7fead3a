"""Opening, saving, the person's own editor, presets, and leaving with unsaved changes."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from textual import work
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, OptionList

from engine.checks import parse_spec, read_spec, write_spec
from tests.tui.conftest import until
from tui.editor import edit_in_editor, editor_command
from tui.planning.draft import Draft
from tui.screens.files import OpenSpecScreen, SaveAsScreen, UnsavedScreen, paths_like, save
from tui.screens.presets import PresetScreen
from tui.widgets.words import Words


def draft(path: Path | None = None) -> Draft:
    spec = parse_spec({"model": {"name_or_path": "some/model"}, "data": {"train": "rows.jsonl"}})
    return Draft(spec, path)


class ScreenApp(App[None]):
    """One screen over nothing, and its answer."""

    def __init__(self, dialog: Callable[[], Screen[Any]]) -> None:
        super().__init__()
        self.dialog = dialog
        self.answers: list[Any] = []

    def on_mount(self) -> None:
        self.push_screen(self.dialog(), self.answers.append)


def said(pilot: Pilot[None]) -> str:
    return "\n".join(str(words.words) for words in pilot.app.screen.query(Words))


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A folder with a good spec, a bad one, a folder, and what is no spec."""
    folder = tmp_path / "specs"
    (folder / "sub").mkdir(parents=True)
    (folder / "good.yaml").write_text(write_spec(draft().spec))
    (folder / "sub" / "inner.yml").write_text(write_spec(draft().spec))
    (folder / "bad.yaml").write_text("lora: {rank: 8}\n")
    (folder / "rows.jsonl").write_text("{}")
    (folder / ".hidden.yaml").write_text("")
    return folder


# ---- open


def test_paths_are_completed_as_a_shell_would(specs: Path) -> None:
    at = f"{specs}/"
    assert paths_like(at) == [f"{at}bad.yaml", f"{at}good.yaml", f"{at}sub/"]
    assert paths_like(f"{at}g") == [f"{at}good.yaml"]
    assert paths_like(f"{at}.h") == [f"{at}.hidden.yaml"]
    assert paths_like(f"{at}nowhere/x") == []


async def test_a_spec_is_opened_by_its_path(specs: Path) -> None:
    app = ScreenApp(lambda: OpenSpecScreen(specs))
    async with app.run_test() as pilot:
        await pilot.press("g")
        listed = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: [o.id for o in listed.options] == [f"{specs}/good.yaml"], "one is left")
        await pilot.press("enter")
        await until(pilot, lambda: app.answers, "it is open")
        assert app.answers[0].path == specs / "good.yaml"


async def test_tab_completes_and_folders_are_entered(specs: Path) -> None:
    app = ScreenApp(lambda: OpenSpecScreen(specs))
    async with app.run_test() as pilot:
        listed = pilot.app.screen.query_one(OptionList)
        await pilot.press("s")
        await until(pilot, lambda: listed.option_count == 1, "the folder is listed")
        await pilot.press("tab")
        assert pilot.app.screen.query_one(Input).value == f"{specs}/sub/"
        await until(pilot, lambda: [o.id for o in listed.options] == [f"{specs}/sub/inner.yml"], "its spec is listed")
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.answers, "it is open")
        assert app.answers[0].path == specs / "sub" / "inner.yml"


async def test_a_file_that_is_no_spec_says_every_problem_and_the_screen_stays(specs: Path) -> None:
    app = ScreenApp(lambda: OpenSpecScreen(specs))
    async with app.run_test() as pilot:
        await pilot.press(*"bad.yaml")
        await pilot.pause(0.1)
        await pilot.press("enter")
        await until(pilot, lambda: "did you mean lora.r?" in said(pilot), "the problem is told")
        assert "model: is missing" in said(pilot)
        await pilot.press("escape")
        assert app.answers == [None]


# ---- save


async def test_a_draft_is_saved_under_a_new_name(tmp_path: Path) -> None:
    edited = draft()
    edited.change("lora.r", 8)
    app = ScreenApp(lambda: SaveAsScreen(edited))
    async with app.run_test() as pilot:
        pilot.app.screen.query_one(Input).value = str(tmp_path / "new")
        await pilot.press("enter")
        assert app.answers == [tmp_path / "new.yaml"]
    assert read_spec(tmp_path / "new.yaml").lora.r == 8
    assert not edited.is_unsaved
    assert edited.path == tmp_path / "new.yaml"


async def test_a_file_is_replaced_only_after_a_second_enter(specs: Path) -> None:
    edited = draft()
    edited.change("lora.r", 8)
    app = ScreenApp(lambda: SaveAsScreen(edited))
    async with app.run_test() as pilot:
        typed = pilot.app.screen.query_one(Input)
        typed.value = str(specs / "good.yaml")
        await pilot.press("enter")
        assert "exists" in said(pilot)
        typed.value = str(specs / "bad.yaml")
        await pilot.pause()
        await pilot.press("enter")
        assert read_spec(specs / "good.yaml").lora.r == 16
        assert (specs / "bad.yaml").read_text() == "lora: {rank: 8}\n"
        await pilot.press("enter")
        assert app.answers == [specs / "bad.yaml"]
    assert read_spec(specs / "bad.yaml").lora.r == 8


@pytest.mark.parametrize("name", ["", "missing/run.yaml", "sub", "sub/"])
async def test_where_nothing_can_be_written_it_says_so_and_keeps_the_draft(specs: Path, name: str) -> None:
    edited = draft()
    edited.change("lora.r", 8)
    app = ScreenApp(lambda: SaveAsScreen(edited))
    async with app.run_test() as pilot:
        pilot.app.screen.query_one(Input).value = f"{specs}/{name}" if name else ""
        await pilot.press("enter")
        assert app.answers == []
        assert "was not written" in said(pilot) or "name of a file" in said(pilot)
    assert edited.is_unsaved


class SavingApp(App[None]):
    def __init__(self, edited: Draft) -> None:
        super().__init__()
        self.edited = edited
        self.saved: list[Path | None] = []

    @work
    async def save(self) -> None:
        self.saved.append(await save(self, self.edited))


async def test_saving_goes_where_the_draft_came_from_or_asks(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(specs)
    app = SavingApp(Draft.open(specs / "good.yaml"))
    async with app.run_test() as pilot:
        app.edited.change("lora.r", 8)
        app.save()
        await until(pilot, lambda: app.saved, "it is saved")
        assert read_spec(specs / "good.yaml").lora.r == 8
        app.edited = draft()
        app.save()
        await until(pilot, lambda: isinstance(app.screen, SaveAsScreen), "a name is asked for")
        await pilot.press("enter")
        await until(pilot, lambda: len(app.saved) == 2, "it is saved")
        assert app.saved[1] == Path("run.yaml")
    assert (specs / "run.yaml").is_file()


@pytest.mark.parametrize(("key", "answer"), [("s", "save"), ("enter", "save"), ("d", "discard"), ("escape", None)])
async def test_unsaved_changes_are_asked_about(key: str, answer: str | None) -> None:
    app = ScreenApp(lambda: UnsavedScreen(draft(Path("mine.yaml"))))
    async with app.run_test() as pilot:
        assert "mine.yaml" in said(pilot)
        await pilot.press(key)
        assert app.answers == [answer]


# ---- the person's editor


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes an editor of a Python program that changes `text`; the file it saw lies beside it."""
    monkeypatch.setattr(App, "suspend", lambda self: nullcontext())
    monkeypatch.delenv("VISUAL", raising=False)

    def make(program: str) -> Path:
        script = tmp_path / "my editor"
        seen = tmp_path / "seen.yaml"
        script.write_text(
            "#!/usr/bin/env python3\nimport sys, pathlib\npath = pathlib.Path(sys.argv[-1])\ntext = path.read_text()\n"
            f"pathlib.Path({str(seen)!r}).write_text(text)\n{program}\npath.write_text(text)\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", f"'{script}' -w")
        return seen

    return make


def test_what_the_editor_wrote_is_one_step_to_undo(editor: Callable[[str], Path]) -> None:
    editor("text = text.replace('r: 16', 'r: 8').replace('num_train_epochs: 3.0', 'num_train_epochs: 1')")
    edited = draft()
    assert edit_in_editor(App(), edited) == []
    assert (edited.spec.lora.r, edited.spec.training.num_train_epochs) == (8, 1)
    assert edited.undo()
    assert edited.spec == draft().spec


def test_a_text_left_as_it_was_changes_nothing(editor: Callable[[str], Path]) -> None:
    seen = editor("")
    edited = draft()
    assert edit_in_editor(App(), edited) == []
    assert not edited.undo()
    assert read_spec(seen) == edited.spec


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("text = text.replace('r: 16', 'r: many  # why')", "lora.r"),
        ("text = text.replace('r: 16', 'rank: 16  # why')", "did you mean lora.r?"),
        ("text = text + '# why\\nlora: ['", "not YAML"),
        ("text = '# why'", "holds no settings"),
        ("text = text + '# why'; path.write_text(text); sys.exit(1)", "ended with 1"),
    ],
)
def test_a_text_that_is_no_spec_is_kept_and_comes_back(
    editor: Callable[[str], Path], program: str, expected: str
) -> None:
    editor(program)
    edited = draft()
    where, *problems = edit_in_editor(App(), edited)
    assert expected in "\n".join(map(str, problems))
    assert edited.spec == draft().spec
    assert "# why" in Path(where.field).read_text()
    seen = editor(f"text = {write_spec(edited.spec)!r}.replace('r: 16', 'r: 4')")
    assert edit_in_editor(App(), edited) == []
    assert "# why" in seen.read_text()
    assert seen.read_text().startswith("#! ")
    assert expected in seen.read_text()
    assert edited.spec.lora.r == 4
    assert not Path(where.field).exists()


def test_an_editor_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, editor: Callable[[str], Path]) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor")
    (problem,) = edit_in_editor(App(), draft())
    assert "no-such-editor cannot be started" in problem.reason


async def test_a_terminal_that_cannot_be_handed_over_says_so() -> None:
    app = App[None]()
    async with app.run_test():
        (problem,) = edit_in_editor(app, draft())
        assert "cannot be handed" in problem.reason


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({"VISUAL": "code -w", "EDITOR": "nano"}, ["code", "-w"]),
        ({"EDITOR": "nano"}, ["nano"]),
        ({"EDITOR": " "}, ["vi"]),
        ({"EDITOR": "it's"}, ["it's"]),
    ],
)
def test_the_editor_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], command: list[str]
) -> None:
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert editor_command() == command


# ---- presets


async def test_a_preset_shows_what_it_would_change_before_it_is_applied() -> None:
    edited = draft()
    edited.change("lora.r", 64)
    app = ScreenApp(lambda: PresetScreen(edited.spec))
    async with app.run_test() as pilot:
        await pilot.press("down")
        await until(pilot, lambda: "64 → 16" in said(pilot), "the difference is shown")
        assert "The middle of the usual 8 to 32." in said(pilot)
        await pilot.press("enter")
        assert app.answers == [{"lora.r": 16}]


async def test_leaving_the_presets_changes_nothing() -> None:
    app = ScreenApp(lambda: PresetScreen(draft().spec))
    async with app.run_test() as pilot:
        await pilot.press("down", "down", "escape")
        assert app.answers == [None]
