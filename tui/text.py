"""Text that was written by others (models, data, logs, file names), made safe to show in a terminal."""

from __future__ import annotations

import re

# Unicode's directional controls can show one text and mean another (https://trojansource.codes).
BIDI_CONTROLS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
LINE_SEPARATORS = (0x2028, 0x2029)

PLACEHOLDERS = (
    {code: 0x2400 + code for code in range(0x20)}
    | {0x7F: "␡"}
    | {code: f"<{code:02x}>" for code in range(0x80, 0xA0)}
    | {code: f"<{code:04x}>" for code in (*BIDI_CONTROLS, *LINE_SEPARATORS)}
    | {ord("\t"): "    ", ord("\n"): "↵", ord("\r"): "↵"}
)
"""What is shown for a character that would steer the terminal: Unicode's control pictures, or the code."""

COLOUR_CODE = re.compile(r"\x1b\[[0-9;:]*m")


def plain(text: str, *, ascii: bool = False) -> str:
    """`text` on one line, every control character as a visible placeholder. It is still text, never markup.

    With `ascii`, for a terminal that can show nothing else, other characters are written as escapes.
    """
    if ascii:
        return re.sub(r"[\x00-\x1f\x7f]", _caret, text).encode("ascii", "backslashreplace").decode("ascii")
    return text.translate(PLACEHOLDERS)


def plain_log_line(line: str, *, ascii: bool = False) -> str:
    """A line of a log for `plain`: colours are dropped rather than shown, as they only decorate."""
    return plain(COLOUR_CODE.sub("", line), ascii=ascii)


def shortened(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` in at most `width` characters."""
    return text if len(text) <= width else text[: max(0, width - len(ellipsis))] + ellipsis


def _caret(control: re.Match[str]) -> str:
    return "    " if control[0] == "\t" else f"^{chr(ord(control[0]) ^ 0x40)}"
