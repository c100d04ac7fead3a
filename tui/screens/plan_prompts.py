"""What is typed on the plan screen: a rank, an alpha, a range of layers, a filter. What it does, and why it cannot."""

from __future__ import annotations

from engine.targets import BadPattern, layer_count, parse_layers
from tui.planning.draft import Draft
from tui.widgets.module_tree import ModuleTree
from tui.widgets.prompt import Prompt

LABELS = {
    "rank": ("rank r", "a number; empty takes the common one"),
    "alpha": ("lora_alpha", "a number; empty takes the common one"),
    "layers": ("layers", "0-15, -8: (the last eight), 3,5,7; empty takes all"),
    "filter": ("/", "part of a name, or a regular expression; enter goes there"),
}


class PlanPrompts:
    """The prompt of the plan screen, for the place under the tree's cursor."""

    def __init__(self, draft: Draft, tree: ModuleTree, prompt: Prompt) -> None:
        self.draft = draft
        self._tree = tree
        self._prompt = prompt

    def ask(self, what: str) -> None:
        """Open the prompt for `what`, with the value there is."""
        label, hint = LABELS[what]
        self._prompt.ask(what, label, hint, self._value(what))

    def _value(self, what: str) -> str:
        if what == "filter":
            return self._tree.pattern
        place = self._tree.place
        if what == "layers" or place is None:
            return ""
        selection, lora = self.draft.selection, self.draft.spec.lora
        own, common = (selection.ranks, lora.r) if what == "rank" else (selection.alphas, lora.lora_alpha)
        values = {own.get(name, common) for name in place.targets if name in selection.targets}
        return str(values.pop()) if len(values) == 1 else ""

    def typed(self, what: str, text: str) -> bool:
        """Follow a filter while it is typed. Says whether something changed."""
        if what != "filter":
            return False
        try:
            self._tree.filter(text.strip())
        except BadPattern as error:
            self._prompt.refuse(str(error))
            return False
        number = len(self._tree.matches)
        self._prompt.hint(f"{number:,} match{'es' if number != 1 else ''}" if text.strip() else LABELS[what][1])
        return True

    def answer(self, what: str, text: str) -> str:
        """Do what was typed. Returns why it cannot be done, or nothing."""
        if what == "filter":
            return self._filter(text)
        place, tree = self._tree.place, self._tree.layer_tree
        if place is None or tree is None:
            return ""
        if what == "layers":
            count = layer_count(tree.architecture)
            try:
                layers = parse_layers(text, count) if text else list(range(count))
            except ValueError as error:
                return str(error)
            return self.draft.choose(tree.in_layers(place, self.draft.selection.targets, layers))
        chosen = [name for name in place.targets if name in self.draft.selection.targets]
        if not chosen:
            return "nothing is chosen here yet: space selects it"
        if text and not (text.isascii() and text.isdecimal() and int(text) >= 1):
            return f"{text} is no whole number from 1"
        value = int(text) if text else None
        return self.draft.set_rank(chosen, value) if what == "rank" else self.draft.set_alpha(chosen, value)

    def _filter(self, text: str) -> str:
        try:
            self._tree.filter(text)
        except BadPattern as error:
            return str(error)
        if text and not self._tree.matches:
            return "no module is called that"
        if text:
            self._tree.go_to(self._tree.matches[0])
        return ""
