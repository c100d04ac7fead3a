from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tui.conftest import until
from tests.tui.models import KnownModels
from tui.app import LoradeckApp
from tui.settings import Settings
from tui.themes import DEFAULT_THEME, BadTheme, load_themes, read_theme


def test_the_themes_that_come_along() -> None:
    themes = {theme.name: theme for theme in load_themes()}
    assert set(themes) == {"dark", "light", "terminal16", "contrast"}
    assert not themes["light"].dark
    assert [name for name, theme in themes.items() if theme.ansi] == ["terminal16"]


def test_a_bad_theme_names_every_field_and_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('primry: "#123456"\nsuccess: greenish\ndark: maybe\ntext_alpha: 7\nvariables: [1]\n')
    with pytest.raises(BadTheme) as raised:
        read_theme(path)
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["mine.yaml", field] for field in ("primary", "primry", "success", "dark", "text_alpha", "variables")
    ]


@pytest.mark.parametrize("text", ["- a list", "just text", "a: [unclosed", ""])
def test_a_file_that_is_no_theme_is_a_readable_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(BadTheme, match=r"mine\.yaml"):
        read_theme(path)


async def test_every_theme_can_be_chosen_while_the_app_runs() -> None:
    app = LoradeckApp(inspector=KnownModels(), tracing=False)
    async with app.run_test() as pilot:
        assert app.theme == DEFAULT_THEME
        app.theme = "light"
        await pilot.pause()
        assert not app.current_theme.dark


async def test_a_persons_own_theme_is_chosen_in_the_settings_and_changes_with_its_file(config: Path) -> None:
    themes = config / "themes"
    themes.mkdir(parents=True)
    own = themes / "mine.yaml"
    own.write_text('primary: "#ff0000"\nbackground: "#111111"\n')
    app = LoradeckApp(inspector=KnownModels(), tracing=False, settings=Settings(theme="mine"))
    async with app.run_test() as pilot:
        assert app.theme == "mine"
        await pilot.pause()
        own.write_text('primary: "#00ff00"\nbackground: "#222222"\n')
        os.utime(own, ns=(1, 1))  # another time than before, however coarse the file system's clock
        await until(pilot, lambda: app.theme_variables["primary"] == "#00FF00", "the new colours are in use")
        await until(pilot, lambda: app.screen.styles.background.hex == "#222222", "they are on the screen")


async def test_a_theme_that_turns_bad_is_told_and_the_old_one_stays(config: Path) -> None:
    themes = config / "themes"
    themes.mkdir(parents=True)
    app = LoradeckApp(inspector=KnownModels(), tracing=False)
    async with app.run_test(notifications=True) as pilot:
        (themes / "mine.yaml").write_text("primary: no colour\n")
        await until(pilot, lambda: len(app._notifications), "it is told")
        assert "mine.yaml: primary: 'no colour' is no colour" in next(iter(app._notifications)).message
        assert app.theme == DEFAULT_THEME
