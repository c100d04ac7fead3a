"""The task `export`: one request, answered by the text of a script or a config that was compared with its run.

Request: `{"what": "script" | "trl", "spec": RunSpec as JSON, "run": its id, "template_path": for a config's template}`,
or `{"what": "chat", "folder": of a model, "trials": conversations, "trusted": bool}` (`chat_facts`).
Events: `progress` with `doing` (`data` or `check`), `done`, `total`. Result of a script: `{"text", "rows_checked",
"rows", "notes": [str]}`; of a config: `{"text", "template": str | null, "differences": [str]}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.worker.job import Tell, run_one


def main() -> int:
    return run_one(export, "exporting")


def export(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """What the request asks for. Raises BadSpec where it would not be right."""
    # Each imports what it needs: a tokenizer alone takes a third of the time that the trainer's libraries take.
    if request["what"] == "chat":
        from engine.worker.export.chat import chat_facts

        return chat_facts(Path(request["folder"]), request["trials"], request["trusted"])
    from engine.checks import parse_spec

    spec = parse_spec(request["spec"])
    if request["what"] == "trl":
        from engine.worker.export.trl_config import exported_config

        return exported_config(spec, request["run"], Path(request["template_path"]), tell)
    from engine.worker.export.checked import exported_script

    return exported_script(spec, request["run"], tell)
