"""The keys of the screen that tries a model out."""

from __future__ import annotations

from textual.binding import Binding, BindingType


def _key(
    key: str, action: str, words: str, id: str, tooltip: str, shown: str, *, in_footer: bool = False, first: bool = True
) -> Binding:
    """A key of this screen. With `first` it is so before the box with the question, which knows some of them too."""
    return Binding(
        key, action, words, show=in_footer, key_display=shown, id=f"chat.{id}", tooltip=tooltip, priority=first
    )


IN_FOOTER: list[BindingType] = [
    _key("escape", "stop", "stop", "stop", "End the answer at once.", "esc", in_footer=True, first=False),
    _key("escape", "leave", "back", "back", "Leave; the conversation goes.", "esc", in_footer=True, first=False),
    _key("f5", "load_again", "load again", "load_again", "After a failure.", "F5", in_footer=True),
    _key("f2", "settings", "settings", "settings", "temperature, top_p, seed, length, system.", "F2", in_footer=True),
    _key("f3", "add", "add", "add", "Another checkpoint or run of this base. Loads anew.", "F3", in_footer=True),
    _key("tab", "column(1)", "column", "column", "Choose the next column; it comes in sight.", "tab", in_footer=True),
    _key("ctrl+r", "again", "again", "again", "The last question with another seed.", "^r", in_footer=True),
    _key("ctrl+n", "new", "new", "new", "Forget the conversation and begin anew.", "^n", in_footer=True),
]

IN_HELP: list[BindingType] = [
    _key("shift+tab", "column(-1)", "column before", "column_before", "Choose the one before.", "shift+tab"),
    _key("f4", "alone", "one column", "alone", "The chosen column on the whole width, and back.", "F4"),
    _key("f6", "take_away", "take away", "take_away", "The chosen column answers no more.", "F6"),
    _key("f7", "copy", "copy answer", "copy", "The chosen column's last: to clipboard and file.", "F7"),
    _key("f8", "copy_all", "copy all", "copy_all", "The conversation: to clipboard and file.", "F8"),
    _key("ctrl+e", "editor", "editor", "editor", "The question in your $EDITOR.", "^e"),
    _key("pageup", "page(-1)", "page up", "page_up", "Earlier in the conversation.", "pgup"),
    _key("pagedown", "page(1)", "page down", "page_down", "Later in the conversation.", "pgdn"),
]

BINDINGS = [*IN_FOOTER, *IN_HELP]
