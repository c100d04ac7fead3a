"""What TRL's fused head and loss hold at once: trl/kernels/chunked_logprob.py, called by trl/trainer/utils.py
(`add_fused_lm_head`). It computes logits in tiles and never holds all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

LOSS_ROWS = 4096
"""Positions in a tile: TOKEN_CHUNK_SIZE."""
LOSS_COLUMNS = 32_768
"""Columns in a tile, however small the vocabulary is: _CHUNKED_LOGPROB_CHUNK_SIZE."""

FORWARD_STATISTICS = 11 * 4 + 8
"""Bytes a position when the forward ends: seven running statistics and four results in float32, and the target."""
BACKWARD_STATISTICS = 3 * 4 + 8

FORWARD_TILES = 3 * 4 + 1
"""Bytes for each logit of a tile on the CPU, `_forward_tile`: z, e and e * z in float32, and before_target."""
BACKWARD_TILES = 7 * 4 + 1
"""The same of `_backward_tile`: y, z, log_p, p, grad, is_target as float32 and what p is taken from; and is_target."""
SOFTCAP_TILE = 4
"""`_backward_tile` keeps the tanh as well where logits are capped."""


@dataclass(frozen=True)
class LossBytes:
    """The most that is held beside what the layers keep. Hidden states as the loss sees them are `activations`."""

    forward_activations: int
    forward_logits: int
    backward_activations: int
    backward_logits: int

    @property
    def forward(self) -> int:
        return self.forward_activations + self.forward_logits

    @property
    def backward(self) -> int:
        return self.backward_activations + self.backward_logits


def loss_bytes(
    *,
    rows: int,
    length: int,
    labelled_share: float,
    width: int,
    vocabulary: int,
    each: int,
    compute: int,
    on_cpu: bool,
    softcap: bool,
) -> LossBytes:
    """Of a batch of `rows` of `length` tokens whose last hidden states are `width` wide.

    `each` is the bytes of one number of the hidden states, `compute` of one in a matrix product.
    """
    tokens = rows * length
    positions = rows * (length - 1)  # the last token of a row predicts none
    if not on_cpu:
        # Triton folds the tiles without a buffer, and only labelled positions are scored.
        positions = max(1, round(positions * labelled_share))
    tile_rows = min(positions, LOSS_ROWS)
    buffer = tile_rows * LOSS_COLUMNS * compute  # mm_buf
    states = positions * width
    # The rows that are scored are a copy; the CPU scores all, which is a view as long as the batch is a single row.
    copy = each * states if rows > 1 or not on_cpu else 0
    last = each * tokens * width
    cast = compute * tile_rows * width if each != compute else 0  # hidden_chunk
    gradient = 4 * states  # grad_hidden, always float32
    returned = each * states if each != 4 else 0
    forward_buffer = backward_buffer = buffer
    at_end = returned
    if on_cpu:
        tile = tile_rows * min(vocabulary, LOSS_COLUMNS)
        forward_buffer += FORWARD_TILES * tile
        # _addmm_fp32 takes float32 copies of a tile and of the head's rows; the tile's buffers are freed by then.
        copies = 4 * tile + 4 * min(vocabulary, LOSS_COLUMNS) * width
        backward_buffer += max((BACKWARD_TILES + (SOFTCAP_TILE if softcap else 0)) * tile, copies)
        at_end = 0  # the tiles are gone when the gradient is cast
    return LossBytes(
        forward_activations=last + copy + cast + FORWARD_STATISTICS * positions,
        forward_logits=forward_buffer,
        # A copy outlives the hidden states that it was taken from.
        backward_activations=(copy or last) + cast + gradient + at_end + BACKWARD_STATISTICS * positions,
        backward_logits=backward_buffer,
    )
