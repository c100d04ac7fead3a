"""How conversations are written for a model: its own chat template, one that marks what is learnt, or another."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from engine.spec import DataSection
from engine.worker.failures import BadSpec

FIELD = "data.chat_template_path"
TWIN = "_training"
"""What TRL adds to a family's name for the same template with marks."""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TRAINING_TEMPLATE = "TRL's training template"
"""The source of a template that marks the turns of the model's own."""
MADE_BY_HAND = (
    "Copy the template into a .jinja file, put {% generation %} and {% endgeneration %} around what an assistant's "
    f"turn writes, and name the file in {FIELD}"
)

CHATML = """\
{%- set first = messages[0] %}
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if first.role == 'system' %}{{ first.content + '\\n\\n' }}{% endif %}
{{- 'You may call these functions:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\n\\nA call is written as <tool_call>\\n{"name": ..., "arguments": {...}}' }}
{{- '\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- generation %}
{%- if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ '\\n' }}{% endif %}
{{- '<tool_call>\\n' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
{{- '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>' END}}
{%- endgeneration %}
{{- '\\n' }}
{%- elif not (tools and loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
"""Tool calls are written as Hermes and Qwen models do, reasoning as DeepSeek and Qwen do. END is where an
end-of-sequence token goes for vocabularies in which `<|im_end|>` is several tokens."""


@dataclass(frozen=True)
class Template:
    """What writes conversations."""

    text: str | None
    """Jinja; None where rows are plain text, and nothing is written around them."""
    source: str
    """Where it is from, for a person, to stand before the word "template"; empty for plain text."""
    marks_turns: bool = False
    """Whether it marks what an assistant's turn writes, and the tokenizer can tell which tokens these are."""
    saved: str | None = None
    """What the adapter's tokenizer gets as chat template; None leaves the model's own there."""
    with_tools: str | None = None
    """Another template of the model's for rows that have tools."""


def choose_template(tokenizer: PreTrainedTokenizerBase, data: DataSection, conversations: bool) -> Template:
    """The template for rows, which are `conversations` or plain text.

    Raises BadSpec for conversations where there is no template, for a `data.chat_template_path` that names none, and
    with `data.assistant_only_loss: true` where turns cannot be marked.
    """
    if not conversations:
        return Template(None, "")
    if data.chat_template_path is not None:
        template = _named_template(data.chat_template_path, tokenizer)
    else:
        template = _own_template(tokenizer, data)
    if data.assistant_only_loss and not template.marks_turns:
        raise BadSpec(_why_no_marks(template, tokenizer), f"{MADE_BY_HAND}; or write data.assistant_only_loss: false.")
    return template


def apply_to(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Give the tokenizer that is saved with an adapter the template that was learnt.

    With a training twin of TRL's, that is the family's template without marks, as TRL's own trainer leaves it. A twin
    writes the same text but for what its first comment says: most add the marks only; Qwen3's and its likes also write
    the (empty) thoughts of every turn, where the model's own leaves out those before the last question.
    """
    if template.saved is not None:
        tokenizer.chat_template = template.saved


def families() -> dict[str, str]:
    """Name -> template, for every model family whose template TRL has, without the training twins."""
    return {name: text for name, text in _trl_templates().items() if not name.endswith(TWIN)}


def twin_of(text: str) -> str | None:
    """TRL's template that writes as `text` does and marks the turns; None where TRL has none.

    The same choice as `trl.chat_template_utils.get_training_chat_template` makes, whose import takes most of a second.
    """
    templates = _trl_templates()
    return next((templates.get(name + TWIN) for name, known in families().items() if known == text), None)


def has_marks(text: str) -> bool:
    """Whether a template marks what an assistant's turn writes."""
    return MARKS.search(text) is not None


def chatml(ends_in_eos: bool) -> str:
    """The built-in ChatML; an assistant's turn can end in the end-of-sequence token besides `<|im_end|>`."""
    return CHATML.rstrip("\n").replace("END", "+ eos_token " if ends_in_eos else "")


@lru_cache
def _trl_templates() -> dict[str, str]:
    spec = importlib.util.find_spec("trl")
    assert spec is not None, "trl is not installed"
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def _own_template(tokenizer: PreTrainedTokenizerBase, data: DataSection) -> Template:
    own = tokenizer.chat_template
    with_tools = None
    if isinstance(own, dict):  # named variants; transformers takes `tool_use` for rows that have tools
        with_tools = own.get("tool_use")
        own = own.get("default")
    if own is None:
        raise BadSpec(
            "The rows are conversations, and this model's tokenizer has no chat template to write them with.",
            f"Write {FIELD}: chatml (or the name of the model's family), take the model's chat variant, or give rows "
            "of prompt and completion as text.",
        )
    compiled(own, "The model's own chat template")
    marks_both = has_marks(own) and (with_tools is None or has_marks(with_tools))
    learns_marked = data.assistant_only_loss is not False and data.completion_only_loss is not False
    if learns_marked and not marks_both and tokenizer.is_fast and (twin := twin_of(own)) is not None:
        return Template(twin, TRAINING_TEMPLATE, marks_turns=True)
    return Template(own, "the model's own", marks_both and tokenizer.is_fast, with_tools=with_tools)


def _named_template(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Raises BadSpec where `name` means nothing."""
    if name == "chatml":
        end = tokenizer.get_vocab().get("<|im_end|>")
        text = chatml(ends_in_eos=end is None and tokenizer.eos_token is not None)
        return Template(text, "ChatML", tokenizer.is_fast, saved=without_marks(text))
    if (family := families().get(name)) is not None:
        return _with_twin(family, name, tokenizer)
    path = Path(name).expanduser()
    if path.is_dir():
        return _with_twin(_template_in(path), path.name, tokenizer)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSpec(f"{FIELD}: {path} cannot be read: {error}.", "Name a text file of Jinja.") from error
        compiled(text, str(path))
        return _with_twin(text, path.name, tokenizer)
    known = ["chatml", *families()]
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    raise BadSpec(
        f"{FIELD}: {name} is no template that is known here, no file and no folder.",
        f"Did you mean {' or '.join(close)}?" if close else f"Known are {', '.join(known)}.",
    )


def without_marks(text: str) -> str:
    """A template of one's own as other programs can read it; marks stand on lines that write nothing."""
    return re.sub(r"\{%-? (end)?generation -?%\}\n", "", text)


def _with_twin(text: str, source: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    twin = None if has_marks(text) else twin_of(text)
    used = twin or text
    return Template(used, source, has_marks(used) and tokenizer.is_fast, saved=text)


def _template_in(folder: Path) -> str:
    """The chat template of the tokenizer in a folder. Raises BadSpec if it has none."""
    text: Any = None
    try:
        if (folder / "chat_template.jinja").is_file():
            text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        elif (folder / "tokenizer_config.json").is_file():
            text = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError) as error:
        raise BadSpec(f"{FIELD}: the tokenizer in {folder} cannot be read: {error}.", "Save it there again.") from error
    if isinstance(text, list):
        text = next((each["template"] for each in text if each["name"] == "default"), None)
    if not isinstance(text, str):
        raise BadSpec(f"{FIELD}: {folder} has no tokenizer with a chat template.", "Name another folder, or chatml.")
    compiled(text, str(folder))
    return text


def compiled(text: str, name: str) -> None:
    """Raises BadSpec for a template that is no Jinja; what it writes is not looked at."""
    try:
        render_jinja_template(conversations=[[]], chat_template=text)
    except TemplateSyntaxError as error:
        raise BadSpec(
            f"{name} is no template that can be read: {error.message} (line {error.lineno}).",
            f"Correct it, or write {FIELD}: chatml.",
        ) from error
    except Exception:  # it is read; an empty conversation is nothing that it has to be able to write
        return


def _why_no_marks(template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.is_fast:
        return "This model's tokenizer cannot say which text its tokens stand for, so no turn can be learnt alone."
    return (
        f"The chat template ({template.source}) does not mark what an assistant's turn writes, and TRL has no training "
        "template for it: with data.assistant_only_loss: true nothing would be learnt."
    )
