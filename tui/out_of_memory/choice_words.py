"""What the chosen ways out of memory come to together: the line below their list, and what is asked before a start."""

from __future__ import annotations

from textual.content import Content

from engine.runs.oom_words import part_of
from tui.glyphs import Glyphs
from tui.out_of_memory.remedy_choice import RemedyChoice, effective_batch_size
from tui.out_of_memory.remedy_words import how_priced
from tui.out_of_memory.work import Looked, Price
from tui.planning.words import VERDICTS

NOTHING_CHOSEN = "Nothing is chosen: space chooses the line under the cursor."
NONE_FITS_ALONE = "None of them is known to fit alone, but several together may: space chooses."
NOTHING_TO_CHOOSE = "None of these is a setting of the run: they have to be done outside of it."


def choice_line(choice: RemedyChoice, price: Price | str | None, looked: Looked, glyphs: Glyphs) -> Content:
    """Predicted memory, effective batch, whether training changes, and where it goes on from."""
    if not choice.marked:
        return Content.styled(nothing_chosen(choice), "$secondary")
    words = Content.assemble(("with the choice: ", "$secondary"))
    if price is None:
        words += Content("pricing it")
    elif isinstance(price, str):
        words += Content.styled(glyphs.plain(f"not predicted ({price})"), "$warning")
    else:
        _, style = VERDICTS[price.verdict]
        room = "free" if not price.short_bytes else "usable"
        taken = f"{part_of(price.footprint.device_bytes, price.room_bytes)} {room}, "
        words += Content.assemble(taken, (price.verdict, style), f" ({how_priced(price.footprint)})")
    for part, style in _consequences(choice, looked):
        words += Content.assemble(", ", (part, style))
    return words


def nothing_chosen(choice: RemedyChoice) -> str:
    """What to do where nothing is marked."""
    settable = [remedy for remedy in choice.remedies if remedy.changes]
    if not settable:
        return NOTHING_TO_CHOOSE
    return NOTHING_CHOSEN if any(remedy.fits for remedy in settable) else NONE_FITS_ALONE


def _consequences(choice: RemedyChoice, looked: Looked) -> list[tuple[str, str]]:
    parts = []
    if looked.spec is not None:
        now = looked.spec.effective_batch_size
        then = effective_batch_size(choice.chosen, now)
        instead = (f"effective batch {then:,} instead of {now:,}", "$warning")
        parts.append((f"effective batch {then:,}", "") if then == now else instead)
    parts.append(("training changes", "$warning") if choice.changes_training else ("training the same", ""))
    if looked.checkpoint is None:
        parts.append(("begins at step 1", ""))
    elif choice.continues:
        parts.append((f"continues from {looked.checkpoint}", ""))
    else:
        parts.append(("begins anew", "$warning"))
    if choice.retries:
        parts.append(("next time by itself", ""))
    return parts


def doubts(choice: RemedyChoice, price: Price | str | None, looked: Looked) -> list[str]:
    """What a person should know before this is started; a sentence each."""
    found = []
    if isinstance(price, Price) and price.verdict == "does not fit":
        found.append(
            f"It is predicted not to fit: it takes {part_of(price.footprint.device_bytes, price.room_bytes)}. "
            "It would most likely end out of memory again."
        )
    if looked.checkpoint is not None and not choice.continues:
        found.append(
            f"It begins anew: {looked.checkpoint} holds other shapes and cannot be continued from. It is kept."
        )
    if looked.status.continued_by:
        found.append(f"{looked.status.continued_by} goes on from this run already.")
    return found
