"""What a person types to have a run evaluated, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.evaluation.asked import Options
from engine.evaluation.expected import SCORERS
from engine.jobs.subject import NEWEST
from engine.units import seconds_of

FIELDS: dict[str, str] = {
    "checkpoint": "a step or newest; empty is the finished adapter, or else the newest checkpoint",
    "benchmark": "a JSONL file of rows to answer, with prompt or messages, and expected; empty is none",
    "scorer": f"how answers are judged: {', '.join(SCORERS)}; empty: the rows tell",
    "tasks": "tasks of lm-eval with commas between; empty is none",
    "held_out": "yes measures the rows that the run held out",
    "general_text": "yes measures what it has forgotten, on a fixed text that comes along",
    "limit": "only the first so many rows of each set; empty is all",
    "max_new_tokens": "an answer is cut off after so many tokens",
    "time_limit": "such as 10m; what both models did by then is compared; empty is none",
}
"""What each setting means."""
ANSWERS = {"yes": True, "y": True, "no": False, "n": False}


@dataclass(frozen=True)
class Asked:
    """What is evaluated, and how."""

    checkpoint: str | None
    options: Options


def texts(asked: Asked) -> dict[str, str]:
    """The settings as they are typed."""
    options = asked.options
    return {
        "checkpoint": asked.checkpoint or "",
        "benchmark": "" if options.benchmark is None else str(options.benchmark),
        "scorer": options.scorer or "",
        "tasks": ", ".join(options.tasks),
        "held_out": "yes" if options.held_out else "no",
        "general_text": "yes" if options.general_text else "no",
        "limit": "" if options.limit is None else str(options.limit),
        "max_new_tokens": str(options.max_new_tokens),
        "time_limit": "" if options.time_limit_s is None else f"{options.time_limit_s:g}s",
    }


def parse(typed: Mapping[str, str], holds_out: bool) -> Asked | dict[str, str]:
    """What was typed, or of each value that cannot be meant what is wrong with it. `holds_out`: the run has held-out
    rows. Asks the disk whether the benchmark is a file."""
    typed = {name: text.strip() for name, text in typed.items()}
    wrong: dict[str, str] = {}
    benchmark = Path(typed["benchmark"]).expanduser() if typed["benchmark"] else None
    if benchmark is not None and not benchmark.is_file():
        wrong["benchmark"] = "there is no such file"
    scorer = typed["scorer"].lower() or None
    if scorer is not None and scorer not in SCORERS:
        wrong["scorer"] = f"write one of {', '.join(SCORERS)}"
    elif scorer is not None and benchmark is None:
        wrong["scorer"] = "there is no benchmark to score"
    tasks = tuple(dict.fromkeys(filter(None, (task.strip() for task in typed["tasks"].split(",")))))
    switches = {name: ANSWERS.get(typed[name].lower()) for name in ("held_out", "general_text")}
    wrong |= {name: "write yes or no" for name, answer in switches.items() if answer is None}
    limit, most, time_limit_s = _whole(typed["limit"]), _whole(typed["max_new_tokens"]), seconds_of(typed["time_limit"])
    if typed["limit"] and not limit:
        wrong["limit"] = "write a whole number from 1, or nothing"
    if not most:
        wrong["max_new_tokens"] = "write a whole number from 1"
    if typed["time_limit"] and time_limit_s is None:
        wrong["time_limit"] = "write 90s, 10m or 2h, or nothing"
    if not wrong and switches["held_out"] and not holds_out and benchmark is None and not tasks:
        wrong["benchmark"] = "the run held out no rows: name some to answer, or write no to held_out"
    if not wrong and not any((*switches.values(), benchmark, tasks)):
        wrong["general_text"] = "nothing is left to evaluate on"
    if wrong or most is None:
        return wrong
    return Asked(
        typed["checkpoint"] or None,
        Options(
            benchmark=None if benchmark is None else benchmark.absolute(),
            scorer=scorer,
            tasks=tasks,
            held_out=bool(switches["held_out"]),
            general_text=bool(switches["general_text"]),
            limit=limit,
            max_new_tokens=most,
            time_limit_s=time_limit_s,
        ),
    )


def first_asked(holds_out: bool, is_going: bool, last: Mapping[str, object] | None) -> Asked:
    """What the form begins with: as the newest evaluation was asked, where there is one."""
    last = last or {}
    benchmark, scorer_of_last = last.get("benchmark"), last.get("scorer")
    scorer = None
    if isinstance(scorer_of_last, str) and scorer_of_last.startswith("--scorer "):
        scorer = scorer_of_last.removeprefix("--scorer ").partition(",")[0]
    most, limit, tasks = last.get("max_new_tokens"), last.get("limit"), last.get("tasks")
    return Asked(
        NEWEST if is_going else None,
        Options(
            benchmark=Path(benchmark) if isinstance(benchmark, str) else None,
            scorer=scorer,
            tasks=tuple(map(str, tasks)) if isinstance(tasks, list) else (),
            held_out=holds_out,
            limit=limit if isinstance(limit, int) else None,
            max_new_tokens=most if isinstance(most, int) else Options().max_new_tokens,
        ),
    )


def _whole(text: str) -> int | None:
    text = text.replace(",", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
