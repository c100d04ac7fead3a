"""A row of the data: its tokens as the model sees them, or the row as it was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.data_view.preview import Piece
from tui.data_view.token_lines import Line, text_lines, token_lines
from tui.glyphs import Glyphs


class TokenView(ScrollView, can_focus=True, inherit_bindings=False):
    """What is trained is bright and underlined, or in brackets where that may not be seen. Text is never markup."""

    HELP = (
        "The row as the model sees it. What is trained is bright and underlined, what is masked is dim; without "
        "colours what is trained is in [brackets]. Tokens next to each other differ a little in their ground, special "
        "tokens have a colour of their own, and a new line is a sign before it is one. Left and right move the line "
        "of max_length in the histogram, enter takes it."
    )
    ALLOW_SELECT: ClassVar[bool] = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "token-view--trained",
        "token-view--masked",
        "token-view--special",
        "token-view--odd",
        "token-view--beyond",
        "token-view--mark",
        "token-view--cut",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "scroll(-1)", "page up", show=False, id="tokens.page_up", tooltip="Up in a long row."),
        Binding("pagedown,space", "scroll(1)", "page down", show=False, id="tokens.page_down", tooltip="Down in it."),
    ]

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.glyphs = glyphs
        self.lines: list[Line] = []
        """What is drawn, as wide as the view is."""
        self._pieces: Sequence[Piece] = ()
        self._cut_at: int | None = None
        self._text: str | None = None
        self._laid_out_width = 0

    def show_tokens(self, pieces: Sequence[Piece], cut_at: int | None) -> None:
        """Show a row as the model sees it."""
        self._pieces, self._cut_at, self._text = pieces, cut_at, None
        self._show()

    def show_text(self, text: str) -> None:
        """Show text that has no tokens."""
        self._text = text
        self._show()

    def _show(self) -> None:
        self.scroll_to(y=0, animate=False, force=True)
        self._lay_out()

    def _lay_out(self) -> None:
        width = self._laid_out_width = max(2, self.size.width - 1)  # a column for the scrollbar that this may bring
        if self._text is None:
            brackets = self.glyphs.ascii or self.app.no_color
            self.lines = token_lines(self._pieces, width, self.glyphs, brackets=brackets, cut_at=self._cut_at)
        else:
            self.lines = text_lines(self._text, width, self.glyphs)
        self.virtual_size = Size(0, len(self.lines))
        self.refresh()

    def on_resize(self) -> None:
        if self.size.width - 1 != self._laid_out_width and self.size.width > self.scrollbar_size_vertical:
            self._lay_out()

    def action_scroll(self, direction: int) -> None:
        self.scroll_relative(y=direction * max(1, self.size.height - 1), animate=False)

    def render_line(self, y: int) -> Strip:
        width, style = self.scrollable_content_region.width, self.rich_style
        place = y + round(self.scroll_y)
        if place >= len(self.lines):
            return Strip.blank(width, style)
        segments = [Segment(text, self._style(names)) for text, names in self.lines[place]]
        return Strip(segments).adjust_cell_length(width, style)

    def _style(self, names: str) -> Style:
        style = self.rich_style
        for name in names.split():
            own = self.get_component_rich_style(f"token-view--{name}", partial=True)
            if own.color is not None:  # alone it lacks the ground that it is half transparent on
                own += Style(color=self.get_component_rich_style(f"token-view--{name}").color)
            style += own
        return style
