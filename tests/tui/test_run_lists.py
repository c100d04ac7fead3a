"""Filters, orders, trees and columns of the list of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from engine.runs.labels import Labels
from engine.runs.store import Run, RunStatus, runs_folder
from tests.tui.conftest import BEGAN, GIB, NOW
from tui.glyphs import ASCII, UNICODE
from tui.listing.catalog import RunRow
from tui.listing.columns import GAP, Cells, columns, identity, loss, peak, step, took
from tui.listing.detail import detail
from tui.listing.filter import RunFilter
from tui.listing.lineage import as_trees, family
from tui.listing.order import ORDERS, in_order, took_s


def row(run_id: str, tags: tuple[str, ...] = (), note: str = "", **status: object) -> RunRow:
    notes = ({"type": "note", "time": BEGAN, "text": note},) if note else ()
    known = {"state": "finished", "started": BEGAN, "created": BEGAN, **status}
    return RunRow(Run(runs_folder() / run_id), RunStatus(**known), Labels(notes, tags))  # type: ignore[arg-type]


RUNS = [
    row("d", model="Qwen3-0.6B", data="gsm8k.jsonl", state="failed", cause="oom", targets="all-linear", host="box-7"),
    row("c", model="SmolLM2", data="alpaca.jsonl", tags=("baseline", "Night"), targets="q, v"),
    row("b", model="SmolLM2", data="gsm8k.jsonl", state="stopped", note="too high a learning rate", targets="q, v"),
]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", "dcb"),
        ("smol", "cb"),
        ("SMOL gsm8k", "b"),
        ("state:failed", "d"),
        ("state:oom", "d"),
        ("model:gsm8k", ""),
        ("tag:night", "c"),
        ("tag:base model:smol", "c"),
        ("note:learning", "b"),
        ("learning q, v", "b"),
        ("targets:all-linear", "d"),
        ("host:box", "d"),
        ("id:c", "c"),
        ("state:", "dcb"),
        ("http://x", ""),
        ("[", ""),
    ],
)
def test_a_filter_takes_runs_that_have_all_its_words(text: str, ids: str) -> None:
    wanted = RunFilter(text)
    assert "".join(listed.run.id for listed in RUNS if wanted.takes(listed)) == ids


def test_each_order_begins_with_what_one_looks_for_and_ends_with_what_is_unknown() -> None:
    rows = [
        row("a", loss=2.0, eval_loss=None, tokens=5, peak_bytes=GIB, ended=BEGAN + 10, model="b"),
        row(
            "b", loss=None, eval_loss=1.0, tokens=None, peak_bytes=2 * GIB, ended=BEGAN + 30, model="A", state="failed"
        ),
        row("c", loss=1.0, eval_loss=3.0, tokens=9, peak_bytes=None, ended=None, model="", started=BEGAN + 1),
    ]
    orders = {
        order.name: [
            "".join(listed.run.id for listed in in_order(rows, order, turned, NOW)) for turned in (False, True)
        ]
        for order in ORDERS
    }
    assert orders == {
        "started": ["cab", "abc"],
        "state": ["bac", "acb"],
        "model": ["bac", "abc"],
        "loss": ["cab", "acb"],
        "eval": ["bca", "cba"],
        "tokens": ["cab", "acb"],
        "took": ["bac", "abc"],
        "peak": ["bac", "abc"],
    }


def test_a_run_took_until_it_ended_and_a_lost_one_until_it_was_last_heard() -> None:
    assert took_s(row("a", ended=BEGAN + 60), NOW) == 60
    assert took_s(row("a", state="lost", heartbeat=BEGAN + 50), NOW) == 50
    assert took_s(row("a", state="training"), NOW) == NOW - BEGAN
    assert took_s(row("a", state="lost", started=0.0), NOW) is None


def drawn(rows: list[RunRow], ascii: bool = False) -> list[str]:
    return [branch.guide + branch.row.run.id for branch in as_trees(rows, ASCII if ascii else UNICODE)]


def test_children_stand_below_their_parents_in_order_of_time() -> None:
    rows = [
        row("z", created=BEGAN + 9),
        row("late", parent="root", created=BEGAN + 5),
        row("grandchild", parent="early", created=BEGAN + 3),
        row("root"),
        row("early", parent="root", created=BEGAN + 1),
        row("orphan", parent="removed"),
    ]
    assert drawn(rows) == ["z", "root", "├ early", "│ └ grandchild", "└ late", "orphan"]
    assert drawn(rows, ascii=True) == ["z", "root", "|-early", "| `-grandchild", "`-late", "orphan"]
    assert [member.run.id for member in family(rows, ["grandchild"])] == ["late", "grandchild", "root", "early"]


@given(st.lists(st.sampled_from("abcdef"), min_size=6, max_size=6))
def test_every_run_is_in_the_trees_once_even_where_files_claim_a_circle(parents: list[str]) -> None:
    rows = [row(name, parent=parent) for name, parent in zip("abcdef", parents, strict=True)]
    assert sorted(branch.row.run.id for branch in as_trees(rows, UNICODE)) == list("abcdef")
    assert {member.run.id for member in family(rows, ["a"])} >= {"a"}


@given(st.integers(0, 260), st.booleans())
def test_columns_never_take_more_than_there_is(width: int, tagged: bool) -> None:
    assert sum(column.width + len(GAP) for column in columns(width, tagged)) <= width + len(GAP)


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (77, "state model step loss eval started id"),
        (117, "state model step loss eval took peak started tags id"),
        (157, "state model data targets step loss eval tokens took peak started tags id"),
    ],
)
def test_columns_appear_as_there_is_room(width: int, names: str) -> None:
    assert [column.name for column in columns(width, True)] == names.split()


def test_without_tags_there_is_no_column_for_them() -> None:
    assert "tags" not in [column.name for column in columns(300, False)]


@given(st.text(max_size=60), st.sampled_from([ASCII, UNICODE]))
def test_a_cell_is_exactly_as_wide_as_its_column_whatever_is_in_it(text: str, glyphs: object) -> None:
    assert glyphs in (ASCII, UNICODE)
    cells = Cells(ASCII if glyphs is ASCII else UNICODE, lambda: NOW)
    listed = row("20261124-052000-" + text.replace("/", "_").replace("\0", "_"), (text,), model=text, data=text)
    for column in columns(200, True):
        cell = cells.cell(column, listed, guide="│ └ " if glyphs is UNICODE else "| `-")
        assert cell_len(cell) == column.width
        assert glyphs is UNICODE or cell.isascii()


def test_figures_are_short() -> None:
    assert [loss(value) for value in (1.1312, 12.31, 2e-5, 123456.0, None)] == ["1.131", "12.31", "2e-05", "1e+05", "-"]
    assert [took(seconds) for seconds in (12, 840, 5700, 10020, 200_000, 9e6)] == [
        *("12 s", "14 min", "95 min", "2:47 h", "2 d 8 h", "104 d"),
    ]
    assert [
        peak(*sizes) for sizes in ((int(7.9 * GIB), 8 * GIB), (None, GIB // 2), (120 * GIB, None), (None, None))
    ] == [
        *("7.9/8.0 GiB", "-/512 MiB", "120/- GiB", "-"),
    ]
    assert step(row("a", step=412, total_steps=1402), 11) == "412/1,402"
    assert step(row("a", step=412_000, total_steps=1_500_000), 11) == "412k/1.50M"
    assert [identity("20261124-051900-smollm2-a1b2", width, UNICODE) for width in (4, 21, 42)] == [
        *("a1b2", "20261124-051900…-a1b2", "20261124-051900-smollm2-a1b2"),
    ]


def test_the_best_step_is_told_where_a_run_looks_for_one() -> None:
    def told(**status: object) -> str:
        return str(detail(row("a", **status), (), None, UNICODE, NOW, lines=4))  # type: ignore[arg-type]

    by_loss = told(best_step=1200, best_metric="eval_loss", best_value=1.1309)
    assert "best eval loss 1.131 at step 1,200" in by_loss
    by_accuracy = told(best_step=40, best_metric="eval_mean_token_accuracy", best_value=0.712)
    assert "best token accuracy 71.2 % at step 40" in by_accuracy
    assert "best" not in told()


def test_the_detail_of_a_run_counts_its_processes_and_says_whose_peak_it_is() -> None:
    several = row("a", targets="q, v", processes=4, peak_bytes=8 * GIB, predicted_bytes=9 * GIB)
    words = str(detail(several, (), None, UNICODE, NOW, 4))
    assert "q, v · 4 processes" in words
    assert "peak 8.0 GiB, 9.0 GiB predicted a rank" in words
    assert "process" not in str(detail(row("b", peak_bytes=8 * GIB), (), None, UNICODE, NOW, 4))
