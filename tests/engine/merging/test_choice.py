"""Which merge passes, which is closer, and that the words say why."""

from __future__ import annotations

from dataclasses import replace

from engine.merging.choice import choose, faults
from engine.merging.report import Base, Candidate, Difference, Speed

GOOD = Difference(
    tokens=600,
    adapter_loss=0.2,
    merged_loss=0.202,
    mean_kl=1e-3,
    max_logit_difference=1.0,
    mean_logit_difference=0.1,
    equal_top_tokens=0.99,
    as_good_top_tokens=1.0,
    is_finite=True,
)


def candidate(base: Base, difference: Difference = GOOD) -> Candidate:
    return Candidate(base, difference, Speed(10.0, 20.0, 3, 96, 96), 1000, 1, 2.0, True)


def test_the_closer_of_two_good_merges_is_taken_whatever_their_losses() -> None:
    lower_loss = replace(GOOD, merged_loss=0.19, mean_kl=0.02)
    taken, passed, reason = choose([candidate("16bit", lower_loss), candidate("dequantized")])
    assert (taken, passed) == ("dequantized", True)
    assert "further from the adapter" in reason
    assert "0.020 against 0.001" in reason


def test_a_merge_that_lost_what_was_learnt_does_not_pass_and_the_other_is_taken() -> None:
    worse = replace(GOOD, merged_loss=0.226, mean_kl=1e-4)
    taken, passed, reason = choose([candidate("16bit", worse), candidate("dequantized")])
    assert (taken, passed) == ("dequantized", True)
    assert "13.0 % worse than the adapter's" in reason


def test_nothing_is_taken_where_none_passes_unless_it_is_wanted_all_the_same() -> None:
    worse, far = replace(GOOD, merged_loss=0.3, mean_kl=0.2), replace(GOOD, as_good_top_tokens=0.9, mean_kl=0.1)
    both = [candidate("16bit", worse), candidate("dequantized", far)]
    taken, passed, reason = choose(both)
    assert (taken, passed) == (None, False)
    assert "50.0 % worse" in reason
    assert "10.0 % of the places" in reason
    assert choose(both, keep_anyway=True)[:2] == ("dequantized", False)


def test_a_loss_near_zero_may_move_by_what_rounding_moves_it() -> None:
    assert faults(replace(GOOD, adapter_loss=0.01, merged_loss=0.025)) == []
    assert faults(replace(GOOD, adapter_loss=0.01, merged_loss=0.035)) != []
    assert faults(replace(GOOD, adapter_loss=2.0, merged_loss=2.09)) == []
    assert faults(replace(GOOD, adapter_loss=2.0, merged_loss=2.11)) != []


def test_numbers_that_are_none_never_pass() -> None:
    broken = replace(GOOD, is_finite=False, mean_kl=0.0)
    assert faults(broken)
    assert choose([candidate("16bit", broken), candidate("dequantized", GOOD)])[0] == "dequantized"
