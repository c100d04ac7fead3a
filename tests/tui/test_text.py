from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.units import ago, amount, duration, figures, rate, seconds_of
from tui.glyphs import terminal_is_ascii
from tui.text import plain, plain_log_line, shortened

STEERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of the characters that turn text around."""


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    shown = plain(text)
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    assert not any(unicodedata.bidirectional(character) in STEERING for character in shown)


@given(st.text())
def test_ascii_text_is_printable_ascii(text: str) -> None:
    assert all(" " <= character <= "~" for character in plain(text, ascii=True))


def test_escape_codes_are_seen_as_text() -> None:
    assert plain("a\x1b[31mred\x1b]0;title\x07") == "a␛[31mred␛]0;title␇"
    assert plain("a\x1b[31m", ascii=True) == "a^[[31m"
    assert plain("\x9b31m") == "<9b>31m"


def test_ordinary_text_stays_as_it_is() -> None:
    assert plain("[bold] ünïcode 日本 \\[x]") == "[bold] ünïcode 日本 \\[x]"


def test_colours_of_a_log_are_dropped_and_other_codes_are_shown() -> None:
    assert plain_log_line("\x1b[1;33mwarning\x1b[0m \x1b[2J") == "warning ␛[2J"


def test_shortened_text_keeps_its_width() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abc", 4) == "abc"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (512 * 2**20, "512 MiB"), (int(7.9 * 2**30), "7.9 GiB"), (2**40, "1.0 TiB")]
)
def test_bytes_have_their_unit(size_bytes: int, text: str) -> None:
    assert amount(size_bytes) == text


def test_times_and_numbers_read_as_a_person_says_them() -> None:
    assert [duration(s) for s in (12, 840, 7500, 300000)] == ["12 s", "14 min", "2 h 05 min", "3 d 11 h"]
    assert [ago(s) for s in (1, 45, 130, 7300, 200000)] == ["just now", "45 s ago", "2 min ago", "2 h ago", "2 d ago"]
    assert [rate(value) for value in (2e-4, 1.7e-4, 0.0, 0.05)] == ["2e-4", "1.7e-4", "0", "0.05"]
    assert [figures(value) for value in (1.1312, 0.62, 12.31, 2e-5)] == ["1.131", "0.620", "12.31", "2.0e-05"]


@pytest.mark.parametrize(
    ("environment", "encoding", "expected"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", False),
        ({"LANG": "de_DE.utf8"}, "utf-8", False),
        ({}, "utf-8", False),
        ({"LC_ALL": "C"}, "utf-8", True),
        ({"LANG": "POSIX", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "C"}, "utf-8", False),
        ({"LANG": "en_US.UTF-8"}, "ascii", True),
        ({"LANG": "de_DE.ISO-8859-1"}, "iso-8859-1", True),
    ],
)
def test_an_ascii_locale_is_recognised(environment: dict[str, str], encoding: str, expected: bool) -> None:
    assert terminal_is_ascii(environment, encoding) is expected


def test_times_are_read() -> None:
    assert [seconds_of(text) for text in ("90", "90s", "10m", "10 min", "1.5h", "", "x", "-1")] == [
        *(90.0, 90.0, 600.0, 600.0, 5400.0, None, None, None)
    ]
    assert seconds_of("9" * 400) is None
