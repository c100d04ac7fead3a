"""The part of an exported script that reads rows and makes tokens and labels of them: only what one run needs of it.

Each function gives the text of functions of the script. Constants in capitals are its settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.data.sources import FileFormat, Source
from engine.data.turns import ROLE_OF
from engine.worker.export.literals import literal

SPECIAL_KEYS = ("name", "tool_call_id", "reasoning_content", "tool_calls")
"""What a turn can have besides role and content."""

JSONL = """\
    with {opened} encoding="utf-8-sig", newline="\\n") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)
"""
TEXT = """\
    with {opened} encoding="utf-8-sig", newline="\\n") as file:
        for line in file:
            if line.strip():
                yield {{"text": line.rstrip("\\r\\n")}}
"""
JSON = """\
    with {opened} encoding="utf-8-sig") as file:
        yield from json.load(file)
"""
TABLE = """\
    csv.field_size_limit(2**24)
    with {opened} encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter={delimiter}):
            yield {{name: value for name, value in row.items() if value is not None}}
"""
PARQUET = "    yield from Dataset.from_parquet(path)\n"
ARROW = "    yield from Dataset.from_file(path)\n"
SAVED = """\
    saved = load_from_disk(path)
    yield from saved if split is None else saved[split]
"""
HUB = "    yield from load_dataset(name, config, split=split, streaming=True)\n"


class CannotRead(ValueError):
    """No few lines read these rows as the run did; the message says why."""


def rows_of(sources: Sequence[Source], delimiter: str = ",") -> str:
    """`rows_of`, which gives the rows of one source in their order. Raises CannotRead."""
    kinds = {(source.kind, source.format, source.compression) for source in sources}
    if len(kinds) > 1:
        raise CannotRead("the rows are in files of several kinds")
    ((kind, form, compression),) = kinds
    if kind == "hub":
        return f'def rows_of(name, config, split):\n    """The rows of a dataset on the hub."""\n{HUB}'
    if kind == "saved":
        return f'def rows_of(path, split):\n    """The rows of a folder that `datasets` saved."""\n{SAVED}'
    assert form is not None
    if compression == "zstd":
        raise CannotRead("the rows are in a file packed with zstd, which Python's own library does not unpack")
    body = _body_of(form).format(
        opened='gzip.open(path, "rt",' if compression == "gzip" else "open(path,",
        delimiter=literal("\t" if form == "tsv" else delimiter),
    )
    return f'def rows_of(path):\n    """The rows of a file, in their order."""\n{body}'


def _body_of(form: FileFormat) -> str:
    return {
        "jsonl": JSONL,
        "json": JSON,
        "csv": TABLE,
        "tsv": TABLE,
        "txt": TEXT,
        "parquet": PARQUET,
        "arrow": ARROW,
    }[form]


def source_literal(source: Source) -> str:
    """What stands for a source among the settings: the arguments of `rows_of`."""
    if source.kind == "hub":
        return literal((source.name, source.config, source.split))
    return literal((source.name, source.split) if source.kind == "saved" else source.name)


def example_of(form: str, names: Sequence[str], conversations: bool, special: Sequence[str], extras: set[str]) -> str:
    """`example_of`, which brings a row into the form that is learnt from.

    `names` are the columns that `engine.data.shapes.Shape` lists, as they are called in the data. `special` are the
    keys of SPECIAL_KEYS that turns have, `extras` those of `system`, `tools`, `chat_template_kwargs` that rows have.
    """
    head = 'def example_of(row):\n    """What is learnt of a row."""\n'
    if form == "text":
        return f'{head}    return {{"text": row[{literal(names[0])}]}}\n'
    if form == "prompt-completion" and not conversations:
        prompt, completion = map(literal, names[:2])
        return f'{head}    return {{"prompt": row[{prompt}], "completion": row[{completion}]}}\n'
    if form == "alpaca":
        return head + _alpaca(names)
    roles = ""
    if form == "sharegpt":
        renamed = {name: role for name, role in ROLE_OF.items() if name != role and name != "function_call"}
        roles = f"ROLES = {literal(renamed)}\n\n\n"
    keep = ""
    if special:
        keep = f" | {{key: turn[key] for key in {literal(tuple(special))} if turn.get(key)}}"
    if form == "sharegpt":
        turn = '{"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}'
    else:
        turn = '{"role": turn["role"], "content": turn["content"]}'
        if special:
            turn = '{"role": turn["role"], "content": turn.get("content") or ""}'
    turns = f"row[{literal(names[0])}]"
    if form == "prompt-completion":
        turns = f"row[{literal(names[0])}] + row[{literal(names[1])}]"
    lines = [f"    turns = [{turn}{keep} for turn in {turns}]"]
    if "system" in extras:
        lines += [
            '    if row.get("system") and turns[0]["role"] not in ("system", "developer"):',
            '        turns.insert(0, {"role": "system", "content": row["system"]})',
        ]
    if not extras & {"tools", "chat_template_kwargs"}:
        return roles + head + "\n".join([*lines, '    return {"messages": turns}']) + "\n"
    lines.append('    example = {"messages": turns}')
    for extra in ("tools", "chat_template_kwargs"):
        if extra in extras:
            lines += [f'    if row.get("{extra}"):', f'        example["{extra}"] = row["{extra}"]']
    lines.append("    return example")
    return roles + head + "\n".join(lines) + "\n"


def _alpaca(names: Sequence[str]) -> str:
    instruction, given, output, system, history = map(literal, names)
    return f"""\
    turns = []
    if row.get({system}):
        turns.append({{"role": "system", "content": row[{system}]}})
    for asked, answered in row.get({history}) or []:
        turns += [{{"role": "user", "content": asked}}, {{"role": "assistant", "content": answered}}]
    parts = [part for part in (row.get({instruction}), row.get({given})) if part and not part.isspace()]
    turns.append({{"role": "user", "content": "\\n\\n".join(parts)}})
    turns.append({{"role": "assistant", "content": row[{output}]}})
    return {{"messages": turns}}
"""


HELD_OUT = '''\
def is_held_out(example):
    """Decided by a hash of the row itself: rows that are added move none of the others."""
    text = json.dumps(example, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return mixed(number ^ mixed(TRAINING["seed"])) < int(HELD_OUT_SHARE * 2**64)


def mixed(number):
    """SplitMix64 (Steele, Lea and Flood 2014, figure 17)."""
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)
'''

COMMON = '''\
def after_common_start(ids, prompt_ids):
    """Labels: what comes after the tokens that a row and its prompt both begin with is learnt, -100 is not."""
    common = 0
    while common < min(len(ids), len(prompt_ids)) and ids[common] == prompt_ids[common]:
        common += 1
    return [-100] * common + ids[common:]
'''
ENDED = '''\
def ended(tokenizer, text):
    """`text` with the token that ends it."""
    end = tokenizer.eos_token or ""
    return text if text.endswith(end) else text + end
'''

ENCODE_HEAD = '''\
def encode(tokenizer, example):
    """Token ids of a row and its labels; {learnt}."""
'''


def encode(conversations: bool, prompts: bool, learns: str, exact_spans: bool, extras: set[str]) -> str:
    """`encode`, for what `engine.worker.data.encode.Encoder.learns` says.

    `exact_spans` writes out how marked turns become labels, where `apply_chat_template` marks other tokens.
    """
    if not conversations:
        if prompts and learns != "everything":
            return "\n\n".join((ENDED, COMMON, ENCODE_HEAD.format(learnt="the prompt is not learnt") + _PROMPT))
        text = 'example["prompt"] + ended(tokenizer, example["completion"])' if prompts else "_"
        text = text if prompts else 'ended(tokenizer, example["text"])'
        return "\n\n".join((ENDED, ENCODE_HEAD.format(learnt="all of it is learnt") + _ALL_TEXT.format(text=text)))
    options = ""
    if "tools" in extras:
        options += ', tools=example.get("tools")'
    if "chat_template_kwargs" in extras:
        options += ', **example.get("chat_template_kwargs", {})'
    if learns == "everything":
        body = ENCODE_HEAD.format(learnt="all of it is learnt") + _ALL_TURNS
        return WRITTEN.format(options=options) + "\n\n" + body
    if learns == "last":
        body = ENCODE_HEAD.format(learnt="the last answer is learnt") + _LAST
        return "\n\n".join((WRITTEN.format(options=options), COMMON, body))
    head = ENCODE_HEAD.format(learnt="what the assistant writes is learnt, by the marks in the chat template")
    return head + (_SPANS if exact_spans else _MARKED).format(options=options)


_PROMPT = """\
    ids = tokenizer(example["prompt"] + ended(tokenizer, example["completion"]))["input_ids"]
    return ids, after_common_start(ids, tokenizer(example["prompt"])["input_ids"])
"""
_ALL_TEXT = """\
    ids = tokenizer({text})["input_ids"]
    return ids, list(ids)
"""
WRITTEN = '''\
def written(tokenizer, example, turns, asks=False):
    """The conversation as text; `asks` adds what comes before an answer."""
    return tokenizer.apply_chat_template(
        turns, tokenize=False, chat_template=TEMPLATE, add_generation_prompt=asks{options}
    )
'''
_ALL_TURNS = """\
    ids = tokenizer(written(tokenizer, example, example["messages"]), add_special_tokens=False)["input_ids"]
    return ids, list(ids)
"""
_LAST = """\
    turns = example["messages"]
    last = max(place for place, turn in enumerate(turns) if turn["role"] == "assistant")
    text = written(tokenizer, example, turns[: last + 1])
    prompt = written(tokenizer, example, turns[:last], asks=True) if last else ""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids, after_common_start(ids, tokenizer(prompt, add_special_tokens=False)["input_ids"])
"""
_MARKED = """\
    out = tokenizer.apply_chat_template(
        example["messages"],
        chat_template=TEMPLATE,
        return_dict=True,
        return_assistant_tokens_mask=True{options},
    )
    ids = out["input_ids"]
    return ids, [token if learnt else -100 for token, learnt in zip(ids, out["assistant_masks"])]
"""
_SPANS = """\
    texts, stretches = render_jinja_template(
        conversations=[example["messages"]],
        chat_template=TEMPLATE,
        return_assistant_tokens_mask=True{options},
        **tokenizer.special_tokens_map,
    )
    out = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = out["input_ids"], out["offset_mapping"]
    labels = [-100] * len(ids)
    for begin, end in stretches[0]:
        # A token that stands for any of the stretch is learnt; some tokenizers say of a token for a space alone that
        # it stands for the nothing behind it.
        place = bisect_right([last for _, last in offsets], begin)
        while begin < end and place < len(ids) and (offsets[place][0] < end or offsets[place] == (end, end)):
            labels[place] = ids[place]
            place += 1
    return ids, labels
"""

CUT = '''\
def sequences(rows):
    """Rows up to MAX_LENGTH. Those of which nothing is learnt up to there are left out."""
    cut = [(ids[:MAX_LENGTH], labels[:MAX_LENGTH]) for ids, labels in rows]
    kept = [row for row in cut if any(label != -100 for label in row[1])]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in kept], "labels": [labels for _, labels in kept]})
'''

PACK = '''\
def sequences(rows):
    """Blocks of at most MAX_LENGTH tokens. Of 1,000 rows at a time the longest comes first, and each goes where it
    leaves the least space. Rows of which nothing is learnt are left out."""
    blocks = []
    for start in range(0, len(rows), 1000):
        parts = [part for ids, labels in rows[start : start + 1000] for part in parts_of(ids, labels)]
        first_block, spaces = len(blocks), []  # what is free in each block that is not full, in order
        for part in sorted(parts, key=lambda part: len(part[0]), reverse=True):
            length = len(part[0])
            fitting = bisect_left(spaces, (length, 0))
            if fitting < len(spaces):
                space, block = spaces.pop(fitting)
                blocks[first_block + block].append(part)
            else:
                space, block = MAX_LENGTH, len(blocks) - first_block
                blocks.append([part])
            if space > length:
                insort(spaces, (space - length, block))
    return Dataset.from_dict(
        {
            "input_ids": [[token for ids, _ in block for token in ids] for block in blocks],
            "labels": [[label for _, labels in block for label in labels] for block in blocks],
            "seq_lengths": [[len(ids) for ids, _ in block] for block in blocks],
        }
    )


'''
PARTS_CUT = '''\
def parts_of(ids, labels):
    """A row up to MAX_LENGTH, if anything is learnt of it up to there."""
    part = ids[:MAX_LENGTH], labels[:MAX_LENGTH]
    return [part] if any(label != -100 for label in part[1]) else []
'''
PARTS_SPLIT = '''\
def parts_of(ids, labels):
    """A row in parts of MAX_LENGTH tokens, from the first of which anything is learnt."""
    learnt = [place for place, label in enumerate(labels) if label != -100]
    if not learnt:
        return []
    begins = range(learnt[0] // MAX_LENGTH * MAX_LENGTH, len(ids), MAX_LENGTH)
    return [(ids[begin : begin + MAX_LENGTH], labels[begin : begin + MAX_LENGTH]) for begin in begins]
'''

LOAD = '''\
def load_rows(sources):
    """Every row of the files, in the form that is learnt from."""
    return (example_of(row) for source in sources for row in rows_of({source}))


def load_data(tokenizer):
    """What is trained on, and what it is measured on (or None)."""
{body}'''
LOAD_TRAIN = """\
    return sequences([encode(tokenizer, example) for example in load_rows(TRAIN)]), None
"""
LOAD_BOTH = """\
    train, held_out = load_rows(TRAIN), load_rows(HELD_OUT)
    return tuple(sequences([encode(tokenizer, example) for example in rows]) for rows in (train, held_out))
"""
LOAD_SHARE = """\
    sides = [], []
    for example in load_rows(TRAIN):
        sides[is_held_out(example)].append(encode(tokenizer, example))
    train, held_out = sides
    return sequences(train), sequences(held_out) if held_out else None
"""
