from __future__ import annotations

from pathlib import Path

import pytest

from tui.app import LoradeckApp
from tui.themes import DEFAULT_THEME, BadTheme, load_themes, read_theme


def test_the_themes_that_come_along_are_a_dark_and_a_light_one() -> None:
    themes = {theme.name: theme for theme in load_themes()}
    assert {name: theme.dark for name, theme in themes.items()} == {"loradeck-dark": True, "loradeck-light": False}


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
    app = LoradeckApp()
    async with app.run_test() as pilot:
        assert app.theme == DEFAULT_THEME
        app.theme = "loradeck-light"
        await pilot.pause()
        assert not app.current_theme.dark
