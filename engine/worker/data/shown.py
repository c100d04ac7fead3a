"""What a person is shown of a row's tokens: their texts, which are special, and whether an end is learnt."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from engine.worker.data.encode import IGNORED, Encoded, Encoder, RowRefused

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no whole character (yet)."""
MOST_UNFINISHED_TOKENS = 64
"""After so many tokens without a whole character, the text itself holds replacement characters."""


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each token, such that all together are the decoded text.

    A character that is spread over tokens is with the last of them; the others may have none.
    """
    decode = _decoder(tokenizer)
    pieces: list[str] = []
    # Decoders strip and join by what stands before: each token is decoded behind the last whole piece of text.
    begin, middle, shown = 0, 0, 0
    for place in range(len(ids)):
        text = decode(ids[begin : place + 1])
        whole = text.rstrip(UNFINISHED) if place - middle < MOST_UNFINISHED_TOKENS else text
        pieces.append(text[shown : len(whole)])
        shown = max(shown, len(whole))
        if len(whole) == len(text):
            begin, middle = middle, place + 1
            shown = len(decode(ids[begin:middle]))
    text = decode(ids)
    joined = "".join(pieces)
    if pieces and text.startswith(joined):
        pieces[-1] += text[len(joined) :]  # bytes of a character that never ends
    return pieces


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that stand for no text."""
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset([*tokenizer.all_special_ids, *added])


def is_end_learnt(
    tokenizer: PreTrainedTokenizerBase, row: Encoded, ends: frozenset[int], max_length: int | None
) -> bool | None:
    """Whether the last thing learnt of the row, cut at `max_length`, is one of `ends`; None if nothing is learnt."""
    last = _last_learnt(tokenizer, row.labels[:max_length])
    return None if last is None else last in ends


def end_ids(encoder: Encoder) -> frozenset[int]:
    """Ids of the tokens that end a row, or an answer in a conversation.

    These are the end-of-sequence token, what the template writes behind an answer where that is an added token (as
    `trl.chat_template_utils.is_chat_template_stop_token_trained` looks for it), and other special tokens that it does
    not write before an answer: some models end a call of a tool with one of its own.
    """
    tokenizer = encoder.tokenizer
    ends = frozenset[int]() if tokenizer.eos_token_id is None else frozenset([tokenizer.eos_token_id])
    if encoder.template.text is None:
        return ends
    others = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    question, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}
    # Some templates end no answer but where more follows.
    turns = [question, answer, question] if encoder.learns == "turns" else [question, answer]
    try:
        asked, _ = encoder.render([question], {}, asks=True)
        probe = encoder.encode({"messages": turns})
    except RowRefused:
        return ends | (special_ids(tokenizer) - others)
    others |= set(tokenizer(asked, add_special_tokens=False)["input_ids"])
    written = _last_learnt(tokenizer, probe.labels)
    closing = frozenset(number for number in tokenizer.get_added_vocab().values() if number == written)
    return ends | closing | (special_ids(tokenizer) - others)


def _last_learnt(tokenizer: PreTrainedTokenizerBase, labels: list[int]) -> int | None:
    """The last label, looking past tokens for white space such as a line's end."""
    learnt = (label for label in reversed(labels) if label != IGNORED)
    return next((label for label in learnt if tokenizer.decode([label]).strip()), None)


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    if tokenizer.is_fast:  # without what transformers does around it: this is called for every token
        backend = tokenizer.backend_tokenizer
        return lambda ids: str(backend.decode(ids, skip_special_tokens=False))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
