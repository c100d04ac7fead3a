"""All answers of a run to its prompts: those that it was asked last first, each with all answers to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen

from tui.glyphs import Glyphs
from tui.watching.event_words import answers
from tui.watching.state import Sample
from tui.widgets.key_line import KeyLine
from tui.widgets.tab_line import TabLine
from tui.widgets.words import Words

MOST_PROMPTS = 100


class SamplesScreen(Screen[None]):
    """Prompts with the answers to each below each other, the newest first, and what was expected."""

    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,a", "dismiss", "back", key_display="esc", id="samples.back", tooltip="The monitor again."),
    ]

    def __init__(self, samples: Sequence[Sample], glyphs: Glyphs) -> None:
        super().__init__()
        self.samples = samples
        self.glyphs = glyphs

    def compose(self) -> ComposeResult:
        prompts = list(_prompts(self.samples))
        shown = prompts[:MOST_PROMPTS]
        count = f"{len(prompts):,} prompt{'s' if len(prompts) != 1 else ''}"
        with Horizontal(classes="title"):
            yield TabLine("monitor")
            yield Words(
                f"samples: {count}" + (f", the newest {len(shown)}" if shown != prompts else ""), classes="rest"
            )
        with VerticalScroll(id="samples"):
            for prompt in shown:
                yield Words(self._words(prompt), classes="sample")
        yield KeyLine()

    def _words(self, samples: list[Sample]) -> Content:
        first, plain = samples[0], self.glyphs.plain
        steps = sorted({sample.step for sample in samples})
        when = f"step {first.step:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
        lines = [
            Content.styled(f"{when}, prompt {first.prompt_index + 1:,}", "$secondary"),
            *(Content.styled(plain(line), "bold") for line in first.prompt.strip().splitlines()),
        ]
        for who, said in answers(samples, with_steps=len(steps) > 1):
            lines.append(Content.styled(plain(who), "$secondary"))
            lines += [Content(f"  {plain(line)}") for line in said.strip().splitlines() or ["(nothing)"]]
        return Content("\n").join(lines)


def _prompts(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The samples of each prompt together, newest step first; prompts that were asked last come first."""
    asked: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        asked.setdefault((sample.prompt_index, sample.prompt), []).append(sample)
    each = [sorted(same, key=lambda sample: -sample.step) for same in asked.values()]
    yield from sorted(each, key=lambda same: (-same[0].step, same[0].prompt_index))
