"""Whether answers are right, by each scorer."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest

from engine.evaluation.benchmark_set import BenchmarkRow
from engine.evaluation.expected import Scorer
from engine.evaluation.last_number import last_number
from engine.evaluation.plan import Answer
from engine.evaluation.scoring import PATTERN_LIMIT_S, score


def value(scorer: Scorer, expected: Any, text: str) -> float:
    row = BenchmarkRow("f, line 1", "q", None, expected, scorer)
    return score(row, Answer("benchmark", "base", 0, text, 3, False)).value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 x 7 = 42", "42"),
        ("#### 1,234", "1234"),
        ("She pays $18.50.", "18.50"),
        ("That is 50%.", "50"),
        ("50 %", "50"),
        ("-3", "-3"),
        ("x = \u22124.", "-4"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("7-3", "3"),
        ("10-20", "20"),
        ("- 4 apples", "4"),
        ("3, 4 and 1,234,567.", "1234567"),
        ("1,2,3", "3"),
        ("about 1.5e3", "1500"),
        ("\\boxed{42}", "42"),
        ("#### **42**", "42"),
        ("#### 7\n\nQuestion: 3 apples and 5 pears", "7"),
        ("first #### then #### 8", "8"),
        ("the 3rd", "3"),
        (".5", "0.5"),
        ("1e99999999999999999999", None),
        ("version v1.2.3", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_that_an_answer_comes_to(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_number_takes_a_whole_gsm8k_answer_as_expected_and_compares_by_value() -> None:
    expected = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nTogether 48+24 = 72.\n#### 72"
    assert value("number", expected, "So she sold 72.0 clips.") == 1
    assert value("number", expected, "So she sold 24 clips.") == 0
    assert value("number", expected, "I do not know.") == 0
    assert value("number", 0.1, "0.10") == 1
    assert value("number", "1,000", "1000") == 1


def test_exact_knows_no_difference_of_spaces_and_unicode_forms_but_of_case() -> None:
    assert value("exact", "caf\u00e9 au lait", " cafe\u0301  au\nlait ") == 1
    assert value("exact", "ABC 1", "\uff21\uff22\uff23 \uff11") == 1
    assert value("exact", "Paris", "paris") == 0
    assert value("exact", "Paris", "Paris.") == 0
    assert value("exact", ["Paris", "paris"], "paris") == 1


def test_contains_looks_anywhere() -> None:
    assert value("contains", "New  York", "It is New York, I think.") == 1
    assert value("contains", ["Rome", "York"], "New York") == 1
    assert value("contains", "Rome", "New York") == 0


def test_regex_searches_anywhere() -> None:
    assert value("regex", r"(?i)\bparis\b", "It is PARIS.") == 1
    assert value("regex", r"^Paris$", "It is Paris") == 0


def test_a_pattern_that_would_take_for_ever_is_given_up_and_said() -> None:
    row = BenchmarkRow("f, line 1", "q", None, r"(a|aa)+(b|bb)+c\1$", "regex")
    began = time.process_time()  # a busy machine may let it wait
    scored = score(row, Answer("benchmark", "base", 0, "a" * 60 + "b" * 60, 3, False))
    assert (scored.value, scored.took_too_long) == (0.0, True)
    assert time.process_time() - began < PATTERN_LIMIT_S + 1


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"who": "Ann", "age": 3, "tags": ["a", {"b": null}]}', True),
        ('{"tags": ["a", {"b": null}], "age": 3.0, "who": "Ann"}', True),
        ('Here it is:\n```json\n{"who": "Ann", "age": 3, "tags": ["a", {"b": null}]}\n```\nDone.', True),
        ('```\n{"who": "Ann", "age": 3, "tags": ["a", {"b": null}]}\n```', True),
        ('Sure! {"who": "Ann", "age": 3, "tags": ["a", {"b": null}]}', False),
        ('{"who": "Ann", "age": 3, "tags": [{"b": null}, "a"]}', False),
        ('{"who": "Ann", "age": 3}', False),
        ('{"who": "Ann", "age": 3, "tags": ["a", {"b": null}], "more": 1}', False),
        ('{"who": "Ann", "age": "3", "tags": ["a", {"b": null}]}', False),
        ('{"who": "Ann", "age": NaN}', False),
        ("[" * 100_000, False),
        ("1" * 5_000, False),
        ("", False),
    ],
)
def test_json_is_right_when_it_parses_and_all_fields_are_equal(text: str, right: bool) -> None:
    assert value("json", {"who": "Ann", "age": 3, "tags": ["a", {"b": None}]}, text) == float(right)


def test_json_true_is_not_one() -> None:
    assert value("json", {"ok": True}, '{"ok": 1}') == 0
    assert value("json", {"ok": 1}, '{"ok": true}') == 0
    assert value("json", {"ok": True}, '{"ok": true}') == 1


def test_a_choice_counts_by_byte_and_tells_what_the_whole_log_likelihood_says() -> None:
    row = BenchmarkRow("f, line 1", "q", None, 1, "choice", ("no", "certainly not"))
    scored = score(row, Answer("benchmark", "base", 0, "no", 0, False, 0, [-3.0, -6.0]))
    assert (scored.value, scored.by_sum) == (1.0, 0.0)  # 1.5 nats a byte against 0.46
    scored = score(row, Answer("benchmark", "base", 0, "no", 0, False, 0, [-1.0, -26.0]))
    assert (scored.value, scored.by_sum) == (0.0, 0.0)
