"""Settings that fit the card, each with its reason, before they are taken over."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from engine.memory.card import Card
from engine.memory.footprint import Footprint, Verdict
from engine.memory.ways_out.fit import Fit
from engine.units import amount
from tui.glyphs import Glyphs
from tui.planning.spec_fields import SpecField, spec_fields, value_in
from tui.planning.words import VERDICTS, room_word, tier
from tui.widgets.words import Words


class FitScreen(ModalScreen[bool]):
    """Returns whether all changes are to be made. It changes nothing itself."""

    DEFAULT_CSS = """
    FitScreen VerticalScroll { height: auto; max-height: 40vh; margin-top: 1; scrollbar-size: 1 1; }
    FitScreen VerticalScroll > Words { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "take all", id="fit.take"),
        Binding("escape,q", "dismiss(False)", "leave it", key_display="esc", id="fit.leave"),
    ]

    def __init__(self, fit: Fit, before: tuple[Footprint, str] | None, card: Card, glyphs: Glyphs) -> None:
        super().__init__()
        self.fit = fit
        self.before = before
        """What is predicted as the settings are now, and how it was."""
        self.card = card
        self.glyphs = glyphs
        self._changes = Words()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(heading(self.fit, self.card, self.glyphs))
            yield Words(before_and_after(self.fit, self.before))
            with VerticalScroll():
                yield self._changes
            keys = "enter take all   up, down scroll   esc leave it" if self.fit.changes else "esc back"
            yield Words(Content.styled(keys, "$secondary"))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        width = self.query_one(VerticalScroll).scrollable_content_region.width
        self._changes.say(changes(self.fit, max(30, width), self.glyphs))

    def action_take(self) -> None:
        self.dismiss(bool(self.fit.changes))


def heading(fit: Fit, card: Card, glyphs: Glyphs) -> Content:
    """What the list is: settings that fit, or none that do and which card would."""
    has = f"{amount(fit.room_bytes)} {room_word(card)} on {glyphs.plain(card.name)}"
    if fit.fits:
        what = "Settings that fit" if fit.changes else "It fits as it is"
        return Content.assemble((what, "bold"), (f"   {has}", "$secondary"))
    lines = [Content.assemble(("Nothing fits", "bold $error"), (f"   {has}", "$secondary"))]
    if fit.needed_bytes is not None:
        needs = f"The least that was found needs {amount(fit.needed_bytes)}"
        cards = f": the smallest card for it is {' or '.join(fit.smallest_cards[:2])}" if fit.smallest_cards else ""
        lines.append(Content(f"{needs}{cards}."))
    return Content("\n").join(lines)


def before_and_after(fit: Fit, before: tuple[Footprint, str] | None) -> Content:
    """The predicted peak and the verdict, as it is and as it would be."""
    lines = []
    if before is not None:
        footprint, how = before
        lines.append(_peak("now", footprint, how, footprint.verdict(fit.room_bytes)))
    if fit.changes or before is None:
        lines.append(_peak("then", fit.footprint, tier(fit.footprint), fit.verdict))
    return Content("\n").join(lines)


def _peak(when: str, footprint: Footprint, how: str, verdict: Verdict) -> Content:
    predicted = f"{amount(footprint.device_bytes):>9} predicted, {how}"
    return Content.assemble((f"{when:<5}", "$secondary"), f"{predicted:<48}", VERDICTS[verdict])


def changes(fit: Fit, width: int, glyphs: Glyphs) -> Content:
    """Each change with its reason, and what matters and stays, wrapped to `width` cells."""
    lines: list[Content] = []
    for name, (old, new) in fit.changes.items():
        field = spec_fields()[name]
        values = _values(field, old, new, max(20, width - len(name) - 3), glyphs)
        lines.append(Content.assemble((name, "$primary"), f"  {values}"))
        lines += _reason(fit.reasons.get(name, ""), width)
    stays = {name: reason for name, reason in fit.reasons.items() if name not in fit.changes and name in spec_fields()}
    if stays:
        lines += [Content(), Content.styled("stays as it is", "$secondary")]
    for name, reason in stays.items():
        value = spec_fields()[name].shown(value_in(fit.spec.model_dump(), name))
        lines.append(Content.assemble((name, "$primary"), f"  {glyphs.shortened(glyphs.plain(value), 40)}"))
        lines += _reason(reason, width)
    if fit.changes:
        learnt = "What is learnt changes." if fit.changes_training else "What is learnt stays the same, rounding apart."
        lines += [Content(), Content(learnt)]
    return Content("\n").join(lines)


def _values(field: SpecField, old: object, new: object, width: int, glyphs: Glyphs) -> str:
    each = max(8, (width - len(glyphs.arrow) - 2) // 2)
    was, will = (glyphs.shortened(glyphs.plain(field.shown(value)), each) for value in (old, new))
    return f"{was} {glyphs.arrow} {will}"


def _reason(reason: str, width: int) -> Iterator[Content]:
    if reason:
        yield Content.styled(textwrap.fill(reason, width, initial_indent="  ", subsequent_indent="  "), "$secondary")
