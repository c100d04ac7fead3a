"""Something to ship of a run: an adapter folder with its card, one script, a config for trl, an Ollama Modelfile, GGUF.

Nothing here is sent anywhere unless a person asks for it (`push.py`), and nothing is written over.
"""

from __future__ import annotations


class ExportRefused(ValueError):
    """What was asked for cannot be exported. The message is for the person: what, why, and what to do."""
