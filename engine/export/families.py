"""How Ollama has to write a conversation, for families of chat templates: told by what a model's own template writes.

A model's template is asked to write a few conversations (TRIALS). Where a family writes the same, its template in
Ollama's language (Go's text/template; ollama/template/template.go fills `.Messages` and `.System`) is taken; text is
compared, never the templates' code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

Turn = dict[str, str]

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "How many legs has a spider?"}
ANSWERED = {"role": "assistant", "content": "Eight."}
ASKED_AGAIN = {"role": "user", "content": "And an ant?"}

TRIALS: tuple[tuple[Turn, ...], ...] = (
    (ASKED,),
    (ASKED, ANSWERED, ASKED_AGAIN),
    (SYSTEM, ASKED),
    (SYSTEM, ASKED, ANSWERED, ASKED_AGAIN),
)
"""Each is written up to where the next answer begins."""
WITH_SYSTEM_TURNS = ("ChatML", "Llama 3")
"""Families in which a system turn is a turn of its own."""
WITHOUT_SYSTEM = 2
"""So many trials at the beginning have no system turn."""


@dataclass(frozen=True)
class Family:
    """A way of writing conversations."""

    name: str
    write: Callable[[Sequence[Turn]], str]
    template: Callable[[str], str]
    """The same in Ollama's language, with these words at the beginning of every system turn, which is then always
    there; without words as it comes."""
    stop: tuple[str, ...]
    """What ends a turn."""


@dataclass(frozen=True)
class Recognised:
    """The family that a model's template is of."""

    family: Family
    default_system: str | None
    """The system turn that the model's template writes where a conversation has none."""
    prefix: str = ""
    """What the model's template writes before the words of every system turn, which is then always there."""
    takes_system: bool = True
    """Whether the model's template takes system turns at all."""

    @property
    def template(self) -> str:
        """In Ollama's language."""
        return self.family.template(self.prefix)


def recognise(written: Sequence[str | None], begin: str = "") -> Recognised | None:
    """The family that writes the TRIALS as `written`; None stands for a conversation that the template refuses.

    `begin` is the beginning-of-sequence token: Ollama adds it itself, so a text may do without it. Some models call a
    token so that is part of every turn (SmolLM2: `<|im_start|>`).
    """
    without = [text if text is None else text.removeprefix(begin) for text in written]
    return _recognise(written) or _recognise(without)


def _recognise(written: Sequence[str | None]) -> Recognised | None:
    for family in _families():
        default = _default_system(family, written[0])
        if default is None:
            continue
        whole = [(dict(SYSTEM, content=default), *trial) if default else trial for trial in TRIALS[:WITHOUT_SYSTEM]]
        if [family.write(trial) for trial in whole] != list(written[:WITHOUT_SYSTEM]):
            continue
        with_system = list(written[WITHOUT_SYSTEM:])
        if all(text is None for text in with_system):
            return Recognised(family, default or None, takes_system=False)
        if _with_prefix(family, "") == with_system:
            return Recognised(family, default or None)
        if default and family.name in WITH_SYSTEM_TURNS and _with_prefix(family, default) == with_system:
            return Recognised(family, None, prefix=default)
    return None


def _with_prefix(family: Family, prefix: str) -> list[str]:
    """The trials with a system turn, whose words come after `prefix`."""
    return [
        family.write((dict(SYSTEM, content=prefix + SYSTEM["content"]), *trial[1:]))
        for trial in TRIALS[WITHOUT_SYSTEM:]
    ]


def _default_system(family: Family, first: str | None) -> str | None:
    """The system turn that stands in the first trial without being asked for; empty where none does, and None where
    that trial is not of this family."""
    if first is None:
        return None
    if first == family.write(TRIALS[0]):
        return ""
    mark = "\0"
    before, _, after = family.write((dict(SYSTEM, content=mark), *TRIALS[0])).partition(mark)
    if len(first) > len(before) + len(after) and first.startswith(before) and first.endswith(after):
        return first[len(before) : len(first) - len(after)]
    return None


def _families() -> Iterator[Family]:
    yield Family("ChatML", _chatml, _chatml_for_ollama, ("<|im_end|>",))
    yield Family("Llama 3", _llama3, _llama3_for_ollama, ("<|eot_id|>",))
    yield Family("Gemma", _gemma, lambda _: GEMMA, ("<end_of_turn>",))
    for opens, closes, before_answer, last in product(
        ("[INST] ", "[INST]"), (" [/INST]", "[/INST]"), (" ", ""), (0, 1)
    ):
        yield _mistral_family(opens, closes, before_answer, system_last=bool(last))


def _chatml(turns: Sequence[Turn]) -> str:
    return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns) + (
        "<|im_start|>assistant\n"
    )


def _chatml_for_ollama(prefix: str) -> str:
    always, before = _prefix_for_ollama("<|im_start|>system\n", prefix, "<|im_end|>\n")
    return (
        f"{always}{{{{ range .Messages }}}}<|im_start|>{{{{ .Role }}}}\n{before}{{{{ .Content }}}}<|im_end|>\n"
        "{{ end }}<|im_start|>assistant\n"
    )


def _llama3(turns: Sequence[Turn]) -> str:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    return "".join(f"{head.format(turn['role'])}{turn['content']}<|eot_id|>" for turn in turns) + (
        head.format("assistant")
    )


def _llama3_for_ollama(prefix: str) -> str:
    always, before = _prefix_for_ollama("<|start_header_id|>system<|end_header_id|>\n\n", prefix, "<|eot_id|>")
    return (
        f"{always}{{{{ range .Messages }}}}<|start_header_id|>{{{{ .Role }}}}<|end_header_id|>\n\n"
        f"{before}{{{{ .Content }}}}<|eot_id|>{{{{ end }}}}<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def _prefix_for_ollama(opens: str, prefix: str, closes: str) -> tuple[str, str]:
    """What is written where there is no system turn, and at the beginning of one where there is."""
    if not prefix:
        return "", ""
    words = f"{{{{ {json.dumps(prefix, ensure_ascii=False)} }}}}"
    return (
        f"{{{{ if not .System }}}}{opens}{words}{closes}{{{{ end }}}}",
        f'{{{{ if eq .Role "system" }}}}{words}{{{{ end }}}}',
    )


def _gemma(turns: Sequence[Turn]) -> str:
    """The system's words stand before the first question."""
    system = "".join(f"{turn['content']}\n\n" for turn in turns if turn["role"] == "system")
    text = ""
    for turn in turns:
        if turn["role"] == "user":
            text += f"<start_of_turn>user\n{system}{turn['content']}<end_of_turn>\n"
            system = ""
        elif turn["role"] == "assistant":
            text += f"<start_of_turn>model\n{turn['content']}<end_of_turn>\n"
    return text + "<start_of_turn>model\n"


GEMMA = """\
{{ range $index, $_ := .Messages }}{{ if eq .Role "user" }}<start_of_turn>user
{{ if and $.System (le $index 1) }}{{ $.System }}

{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}{{ end }}<start_of_turn>model
"""


def _mistral_family(opens: str, closes: str, before_answer: str, system_last: bool) -> Family:
    """Mistral's versions differ in spaces, and in whether the system's words come before the first or last question."""

    def write(turns: Sequence[Turn]) -> str:
        system = "".join(f"{turn['content']}\n\n" for turn in turns if turn["role"] == "system")
        asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
        bears_system = asked[-1] if system_last else asked[0]
        text = ""
        for place, turn in enumerate(turns):
            if turn["role"] == "user":
                text += f"{opens}{system if place == bears_system else ''}{turn['content']}{closes}"
            elif turn["role"] == "assistant":
                text += f"{before_answer}{turn['content']}</s>"
        return text

    where = "eq (len (slice $.Messages $index)) 1" if system_last else "le $index 1"
    template = (
        '{{ range $index, $_ := .Messages }}{{ if eq .Role "user" }}'
        f"{opens}{{{{ if and $.System ({where}) }}}}{{{{ $.System }}}}\n\n{{{{ end }}}}{{{{ .Content }}}}{closes}"
        '{{ else if eq .Role "assistant" }}'
        f"{before_answer}{{{{ .Content }}}}</s>{{{{ end }}}}{{{{ end }}}}"
    )
    return Family("Mistral", write, lambda _: template, ("</s>",))
