"""The keys at the foot of a screen."""

from __future__ import annotations

from textual.screen import Screen
from textual.widgets import Footer


class KeyLine(Footer):
    """Textual's footer, built anew only when a key has changed, and without keeping the widgets it has replaced."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False)
        self._keys: list[tuple[str, str, bool]] | None = None

    def bindings_changed(self, screen: Screen[object]) -> None:
        """Told at each change of focus or layout, mostly with the same keys as before."""
        if not screen.is_attached or screen is not self.screen:
            return
        keys = [
            (binding.key, binding.description, enabled)
            for _, binding, enabled, _ in screen.active_bindings.values()
            if binding.show
        ]
        if keys != self._keys and self.app.app_focus:
            self._keys = keys
            super().bindings_changed(screen)

    async def recompose(self) -> None:
        await super().recompose()
        # Each key watches `compact` here, and is let go of only when that changes (Textualize/textual#6666).
        self.mutate_reactive(Footer.compact)
