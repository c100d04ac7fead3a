"""The keys of the evaluation screen."""

from __future__ import annotations

from textual.binding import Binding, BindingType


def _key(key: str, action: str, words: str, id: str, tooltip: str, shown: str | None = None) -> Binding:
    """A key that help lists and the footer does not."""
    return Binding(key, action, words, show=False, key_display=shown, id=f"evaluation.{id}", tooltip=tooltip)


IN_FOOTER: list[BindingType] = [
    Binding("e,E", "evaluate", "evaluate", key_display="e", id="evaluation.start", tooltip="Says what it would take."),
    Binding("x", "stop", "stop it", id="evaluation.stop", tooltip="End the evaluation that goes on. Asks first."),
    Binding("b", "order('best')", "best", id="evaluation.best", tooltip="Rows that changed most for better first."),
    Binding("w", "order('worst')", "worst", id="evaluation.worst", tooltip="Those that changed most for worse first."),
    Binding("n", "next(1)", "next", id="evaluation.next", tooltip="The next row."),
    Binding("f", "part", "part", id="evaluation.part", tooltip="Only the rows of one part, of the next, of all."),
    Binding("v", "view", "view", id="evaluation.view", tooltip="The table and the rows, or one of them alone."),
    Binding("left_square_bracket", "other(1)", "older", key_display="[", id="evaluation.older",
            tooltip="The evaluation before this one."),
    Binding("escape", "back", "back", key_display="esc", id="evaluation.back",
            tooltip="Leave. An evaluation goes on meanwhile."),
]  # fmt: skip

IN_HELP: list[BindingType] = [
    _key("right_square_bracket", "other(-1)", "newer", "newer", "The evaluation after this one.", "]"),
    _key("h", "choose", "all evaluations", "choose", "A list of this run's evaluations."),
    _key("p", "next(-1)", "previous", "previous", "The row before."),
    _key("enter", "whole", "whole prompt", "whole", "The whole prompt of the row, or its beginning.", "enter"),
    _key("pageup", "page(-1)", "page up", "page_up", "Up in the answers, or in the table where it is alone."),
    _key("pagedown,space", "page(1)", "page down", "page_down", "Down in them."),
    _key("c", "copy", "copy table", "copy", "The table as CSV: to the clipboard and a file."),
]

BINDINGS = [*IN_FOOTER, *IN_HELP]
