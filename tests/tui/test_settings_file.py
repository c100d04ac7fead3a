from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.conftest import until
from tests.tui.planning import planned, planning_app
from tui.keymap import all_bindings, every_binding, problems_with
from tui.screens.problems import ProblemsScreen
from tui.settings import Settings, config_folder, read_settings


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(text)


def test_without_a_file_everything_is_as_it_comes(config: Path) -> None:
    assert config_folder() == config
    assert read_settings() == (Settings(), [])


def test_settings_are_read(config: Path) -> None:
    write(config, "theme: light\nascii: true\nmouse: false\nkeymap: {plan.start: f6}\n")
    assert read_settings() == (Settings("light", True, False, {"plan.start": "f6"}), [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("themes: light", "settings.yaml: themes: unknown; did you mean theme?"),
        ("colour: light", "settings.yaml: colour: unknown; there is theme, ascii, mouse, keymap."),
        ("ascii: maybe", "settings.yaml: ascii: 'maybe' is neither true nor false."),
        ("theme: [a]", "settings.yaml: theme: ['a'] is no name of a theme."),
        ("keymap: f6", "settings.yaml: keymap: write `plan.start: f6` lines below it."),
        ("keymap: {plan.start: 6}", "settings.yaml: keymap: plan.start: 6: write a key's name, such as f6 or ctrl+t."),
        ("- theme", "write `name: value` lines"),
        ("theme: {a: [", "is not YAML: line 2"),
        ("theme: \x01", "is not YAML: it may hold control characters."),
    ],
)
def test_what_is_wrong_is_said_and_the_rest_counts(config: Path, text: str, complaint: str) -> None:
    write(config, f"{text}\n")
    settings, complaints = read_settings()
    assert settings == Settings()
    assert len(complaints) == 1
    assert complaint in complaints[0]


def test_a_wrong_line_does_not_cost_the_others(config: Path) -> None:
    write(config, "theme: light\nascii: maybe\n")
    settings, complaints = read_settings()
    assert settings.theme == "light"
    assert len(complaints) == 1


def test_every_binding_has_an_id_of_its_own() -> None:
    bindings = list(every_binding())
    assert [binding for binding in bindings if binding.id is None] == []
    ids = [binding.id for binding in bindings]
    assert sorted({id for id in ids if ids.count(id) > 1}) == []
    assert {"app.help", "plan.start", "tree.select", "monitor.stop", "runs.open", "settings.edit"} <= set(
        all_bindings()
    )


def test_a_keymap_names_what_is_meant_and_what_clashes() -> None:
    assert problems_with({"plan.start": "f6"}) == []
    assert problems_with({"plan.strat": "f6"}) == ["keymap: plan.strat is no key's name here; did you mean plan.start?"]
    assert problems_with({"plan.start": "f2"}) == ["keymap: f2 is both plan.model and plan.start."]


async def test_a_remapped_key_works_and_the_old_one_does_not() -> None:
    app = planning_app(settings=Settings(keymap={"plan.start": "f6"}))
    async with app.run_test() as pilot:
        await planned(pilot)
        await pilot.press("f5")
        await pilot.pause()
        assert not isinstance(app.screen, ProblemsScreen)
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, ProblemsScreen), "the start says what is missing")


async def test_a_bad_keymap_and_a_bad_theme_are_told_on_the_screen() -> None:
    app = planning_app(settings=Settings(theme="lihgt", keymap={"plan.strat": "f6"}))
    async with app.run_test(notifications=True) as pilot:
        await planned(pilot)
        await until(pilot, lambda: len(app._notifications) == 2, "both are told")
        assert {notification.message for notification in app._notifications} == {
            "settings.yaml: theme: lihgt is unknown; did you mean light?",
            "keymap: plan.strat is no key's name here; did you mean plan.start?",
        }
