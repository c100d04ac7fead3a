"""What the setting under the cursor does, why one would change it, and what that costs."""

from __future__ import annotations

import textwrap

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content

from engine.field_help import HELP
from tui.planning.spec_fields import SpecField, sections, spec_fields, title
from tui.widgets.words import Words

LABEL_WIDTH = 10


class FieldHelp(VerticalScroll):
    """The help for one setting, or for a section of them. It scrolls where it is too long."""

    DEFAULT_CSS = """
    FieldHelp { height: 1fr; padding: 0 1; scrollbar-size: 1 1; scrollbar-gutter: stable; }
    FieldHelp > Words { height: auto; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.about = ""
        """Full name of the setting, or a section's name; set it with `show`."""
        self._words = Words()

    def compose(self) -> ComposeResult:
        yield self._words

    def show(self, about: str) -> None:
        """Explain the setting of this full name, or the section of this name."""
        if about != self.about:
            self.about = about
            self.scroll_home(animate=False)
            self._say()

    def on_resize(self) -> None:
        self._say()

    def _say(self) -> None:
        width = max(20, self.scrollable_content_region.width)
        if self.about in sections():
            words = help_of_section(self.about)
        elif self.about:
            words = help_of_field(spec_fields()[self.about], width)
        else:
            words = Content()
        self._words.say(words)


def help_of_section(section: str) -> Content:
    """What a group of settings is about."""
    return Content.assemble((title(section), "bold"), "\n", sections()[section].__doc__ or "")


def help_of_field(field: SpecField, width: int) -> Content:
    """All that is known about a setting, wrapped to `width` cells."""
    default = f"default {field.shown(field.default)}" if field.has_default else "every run has to say it"
    gap = width - len(field.full_name) - len(default)
    heading = Content.assemble(
        (field.full_name, "bold"), " " * gap if gap > 1 else "\n", (textwrap.shorten(default, width), "$secondary")
    )
    lines = [heading, Content(textwrap.fill(field.help, width)), Content()]
    if len(field.choices) > 2 or field.kind == "choice":
        lines.append(_item("choices", ", ".join(field.shown(choice) for choice in field.choices), width))
    if (help := HELP.get(field.full_name)) is not None:
        lines += [
            _item("usual", help.typical, width),
            _item("memory", help.memory, width),
            _item("training", help.training, width),
            Content(),
            Content.styled(textwrap.fill(help.source, width), "$secondary"),
        ]
    return Content("\n").join(lines)


def _item(label: str, text: str, width: int) -> Content:
    first, *rest = textwrap.wrap(text, width - LABEL_WIDTH)
    below = "".join(f"\n{' ' * LABEL_WIDTH}{line}" for line in rest)
    return Content.assemble((f"{label:<{LABEL_WIDTH}}", "$primary"), first, below)
