"""A fixed text of many kinds that no run is trained on: what an adapter makes worse there, it has forgotten.

`general_text.jsonl` holds paragraphs of science, history, everyday prose, code, arithmetic, dialogue and other
languages, written for this. It must not change: figures of different times would no longer compare.
"""

from __future__ import annotations

from pathlib import Path

GENERAL_TEXT_FILE = Path(__file__).parent / "general_text.jsonl"


def general_text_rows() -> int:
    with open(GENERAL_TEXT_FILE, "rb") as file:
        return sum(1 for line in file if line.strip())
