"""The keys of the monitor."""

from __future__ import annotations

from textual.binding import Binding, BindingType


def _key(key: str, action: str, words: str, id: str, tooltip: str, shown: str | None = None) -> Binding:
    """A key that help lists and the footer does not."""
    return Binding(key, action, words, show=False, key_display=shown, id=f"monitor.{id}", tooltip=tooltip)


IN_FOOTER: list[BindingType] = [
    Binding("s", "stop", "stop", id="monitor.stop", tooltip="Finish the step, save a checkpoint, end. Asks first."),
    Binding("p", "pause", "pause", id="monitor.pause", tooltip="Hold after this step, or go on."),
    Binding("k", "save", "save now", id="monitor.save", tooltip="Save a checkpoint after this step."),
    Binding("c", "chart(1)", "chart", id="monitor.chart", tooltip="The next chart: memory, learning rate, ..."),
    Binding("w", "window", "window", id="monitor.window", tooltip="The last 1,000, 200, 50 steps, or all again."),
    Binding("o", "log", "log", id="monitor.log", tooltip="The trainer's output on the whole screen; / searches it."),
    Binding("n", "note", "note", id="monitor.note", tooltip="Write a note to this run."),
    Binding("escape", "back", "back", key_display="esc", id="monitor.back", tooltip="The list of runs."),
]

IN_HELP: list[BindingType] = [
    _key("enter", "next_step", "go on", "next_step", "What the lines above offer: ways out of memory, the next run."),
    _key("E", "evaluate", "evaluate", "evaluate", "Held-out rows now; of an ended run, base against adapter."),
    _key("C", "chart(-1)", "chart before", "chart_before", "The chart before this one."),
    _key("y", "log_scale", "log y", "log_scale", "Loss on a logarithmic axis."),
    _key("plus,equals_sign", "zoom(True)", "closer", "closer", "See half as much of the chart.", "+"),
    _key("minus", "zoom(False)", "wider", "wider", "See twice as much of the chart.", "-"),
    _key("left", "move(-1)", "left", "left", "Move the cursor, or else the window."),
    _key("right", "move(1)", "right", "right", "Move the cursor, or else the window."),
    _key("shift+left", "move(-1, True)", "far left", "far_left", "Move it by a large step."),
    _key("shift+right", "move(1, True)", "far right", "far_right", "Move it by a large step."),
    _key("v", "cursor", "cursor", "cursor", "A cursor that reads out values: on the chart, the other one, away."),
    _key("a", "samples", "samples", "samples", "All answers to held-out prompts."),
    _key("t", "try", "try", "try", "Ask its model: base and adapter side by side."),
    _key("e", "editor", "log in editor", "editor", "The log that is shown, in your $EDITOR."),
    _key("x", "copy", "copy", "copy", "The chart's values in sight as CSV: to the clipboard and a file."),
    _key("X", "copy_command", "copy command", "copy_command", "The run's command: to the clipboard and a file."),
    _key("u", "parent", "parent", "parent", "The run that this one continues."),
]

CHARTS: list[BindingType] = [
    _key(f"f{place + 2}", f"choose({place})", f"chart {place + 1}", f"chart_{place + 1}", "This chart of the list.")
    for place in range(9)
]

BINDINGS = [*IN_FOOTER, *IN_HELP, *CHARTS]
