"""Where a person looks: which charts are on the screen, which part of them, and where the cursor stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tui.watching.views import Sight, View
from tui.watching.windows import Kind, Window

MACHINE = "machine"
"""The name of what comes after the last chart: every GPU and process in words."""
MOVE = 0.25
"""Part of a window that it is moved by at a time."""
ZOOM = 2.0

Change = Callable[[Window, View, float, float], Window]
"""A window made from another one, on a chart whose values go from one x to another."""


class Lookout:
    """What the keys change. The charts themselves are made anew at every drawing, so they are known by name."""

    def __init__(self) -> None:
        self.chosen: str | None = None
        """Name of the chart that was switched to; None until then."""
        self.log = False
        """Whether the loss has a logarithmic axis."""
        self.windows: dict[Kind, Window] = {}
        self.cursors: dict[Kind, float] = {}

    def sight(self, growing: bool) -> Sight:
        return Sight(self.windows, self.cursors, self.log, growing)

    def shown(self, views: Sequence[View], two: bool) -> tuple[View | None, View | None]:
        """The main chart, and with `two` the one beside it: the loss always, and the chosen one. None is the machine
        in words, or nothing where there is one chart only."""
        names = self.names(views)
        place = names.index(self.chosen) if self.chosen in names else int(two)
        if not two:
            return (views[place] if place < len(views) else None), None
        beside = place or 1  # the loss is there already
        return views[0], (views[beside] if beside < len(views) else None)

    def names(self, views: Sequence[View]) -> list[str]:
        """What there is to switch to."""
        return [*(view.name for view in views), MACHINE]

    def step(self, views: Sequence[View], two: bool, by: int) -> None:
        """Switch to the next chart, or the one before."""
        names = self.names(views)
        first = int(two)  # with two charts the loss is not one of those that take turns
        place = names.index(self.chosen) if self.chosen in names else first
        self.chosen = names[first + (max(place, first) - first + by) % (len(names) - first)]

    def choose(self, views: Sequence[View], place: int) -> bool:
        """Switch to the chart at `place` of the list; returns whether there is one."""
        names = self.names(views)
        if place < len(names):
            self.chosen = names[place]
        return place < len(names)

    # ---- windows: of each kind of axis that is in sight, all at once

    def next_span(self, shown: Sequence[View]) -> bool:
        """The next of the usual windows; returns whether anything changed."""
        return self._change(shown, lambda window, view, low, high: window.next_span(view.kind, low, high))

    def zoom(self, shown: Sequence[View], closer: bool) -> bool:
        """See half as much, or twice as much, around the cursor where there is one."""
        factor = 1 / ZOOM if closer else ZOOM
        return self._change(
            shown,
            lambda window, view, low, high: window.zoomed(factor, view.kind, low, high, self.cursors.get(view.kind)),
        )

    def move_window(self, shown: Sequence[View], direction: int) -> bool:
        return self._change(shown, lambda window, view, low, high: window.moved(direction * MOVE, low, high))

    def _change(self, shown: Sequence[View], changed: Change) -> bool:
        before = dict(self.windows)
        for kind, view in _one_of_each_kind(shown).items():
            if (extent := view.extent()) is not None:
                self.windows[kind] = changed(self.windows.get(kind, Window()), view, *extent)
        return self.windows != before

    # ---- the cursor: on the charts of one kind of axis

    @property
    def has_cursor(self) -> bool:
        return bool(self.cursors)

    def next_cursor(self, shown: Sequence[View]) -> bool:
        """Put the cursor at the newest value of the first chart, then of the next with another kind of axis, then take
        it away; returns whether there is one now."""
        charts = {kind: view for kind, view in _one_of_each_kind(shown).items() if view.extent() is not None}
        kinds = list(charts)
        current = next(iter(self.cursors), None)
        following = kinds[kinds.index(current) + 1 :] if current in charts else kinds
        self.cursors.clear()
        for kind in following[:1]:
            _, end = self.windows.get(kind, Window()).sight(*(charts[kind].extent() or (0.0, 0.0)), growing=False)
            self.cursors[kind] = charts[kind].snapped(end)
        return self.has_cursor

    def move_cursor(self, shown: Sequence[View], columns: float) -> None:
        """Move the cursor by a share of what is in sight (`columns` of 1), and at least to the next value."""
        kind, x = next(iter(self.cursors.items()))
        view = _one_of_each_kind(shown).get(kind)
        if view is None or (extent := view.extent()) is None:
            return
        window = self.windows.get(kind, Window())
        begin, end = window.sight(*extent, growing=False)
        moved = view.snapped(min(max(x + columns * (end - begin), extent[0]), extent[1]))
        if moved == x or (moved < x) == (columns > 0):
            neighbour = view.lines[0].points.neighbour(x, forward=columns > 0)
            moved = x if neighbour is None else neighbour
        self.cursors[kind] = moved
        self.windows[kind] = window.showing(moved, *extent)


def _one_of_each_kind(shown: Sequence[View]) -> dict[Kind, View]:
    first: dict[Kind, View] = {}
    for view in shown:
        first.setdefault(view.kind, view)
    return first
