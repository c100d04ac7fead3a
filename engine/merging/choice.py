"""Which merge is good enough, and which of two is closer to the adapter."""

from __future__ import annotations

from collections.abc import Sequence

from engine.merging.report import BASE_WORDS, Base, Candidate, Difference
from engine.units import figures, percent

MOST_LOSS_INCREASE = 0.05
"""Share by which the loss may grow. Rounding merged weights to 16 bits moves it by about 1 % (0.8 % on the demo model);
an adapter on weights that it was not trained on loses ten times that (13 % there), which is what training gained."""
LEAST_LOSS_INCREASE = 0.02
"""Nats a token that are never held against a merge: 2 % of perplexity, and more than rounding to 16 bits moves. Without
it a run whose loss is near 0 could not pass."""
LEAST_EQUAL_TOKENS = 0.95
"""Share of places where the merged model must find the same token most likely, near ties apart: below it one token in
twenty is another one, and answers are other answers."""
NEAR_TIE = 0.1
"""Nats. Where the adapter finds two tokens as likely as that (10 %), rounding decides between them."""


def faults(difference: Difference) -> list[str]:
    """Why a merge does not pass, in words; empty where it does."""
    if not difference.is_finite:
        return ["its logits are not finite numbers"]
    found = []
    most = difference.adapter_loss + max(MOST_LOSS_INCREASE * difference.adapter_loss, LEAST_LOSS_INCREASE)
    if difference.merged_loss > most:
        found.append(
            f"its loss is {figures(difference.merged_loss)}, {loss_change(difference)} the adapter's "
            f"{figures(difference.adapter_loss)} (at most {percent(MOST_LOSS_INCREASE)} worse passes)"
        )
    if difference.as_good_top_tokens < LEAST_EQUAL_TOKENS:
        found.append(
            f"it finds another token most likely at {percent(1 - difference.as_good_top_tokens)} of the places "
            f"(at most {percent(1 - LEAST_EQUAL_TOKENS)} pass; near ties are not counted)"
        )
    return found


def loss_change(difference: Difference) -> str:
    """The merged model's loss against the adapter's: `0.8 % worse than`, `equal to`."""
    change = difference.merged_loss - difference.adapter_loss
    share = abs(change) / difference.adapter_loss if difference.adapter_loss else 0.0
    if abs(change) < 5e-5 or share < 5e-4:
        return "equal to"
    return f"{percent(share)} {'worse' if change > 0 else 'better'} than"


def choose(candidates: Sequence[Candidate], keep_anyway: bool = False) -> tuple[Base | None, bool, str]:
    """Which merge to keep, whether it passes its check, and why, in words.

    The closest is the one of smallest divergence from the adapter's predictions: a merge shall answer as the adapter
    does, so a smaller loss alone is no merit. `keep_anyway` takes it also where none passes.
    """
    closest_first = sorted(candidates, key=lambda each: (not each.difference.is_finite, each.difference.mean_kl))
    good = [candidate for candidate in closest_first if not faults(candidate.difference)]
    if good:
        return good[0].base, True, _why_taken(good[0], [each for each in closest_first if each is not good[0]])
    why = " ".join(f"Onto {BASE_WORDS[each.base]}: {'; '.join(faults(each.difference))}." for each in closest_first)
    if keep_anyway:
        return closest_first[0].base, False, f"Kept although it does not pass its check. {why}"
    return None, False, f"No merge passes its check. {why}" if len(candidates) > 1 else why


def _why_taken(taken: Candidate, others: Sequence[Candidate]) -> str:
    difference = taken.difference
    words = (
        f"Merged onto {BASE_WORDS[taken.base]}: its loss is {loss_change(difference)} the adapter's, and "
        f"{percent(difference.equal_top_tokens)} of its top tokens are the same."
    )
    for other in others:
        if bad := faults(other.difference):
            words += f" Onto {BASE_WORDS[other.base]} it does not pass: {'; '.join(bad)}."
        else:
            words += (
                f" Onto {BASE_WORDS[other.base]} it is further from the adapter (divergence "
                f"{figures(other.difference.mean_kl)} against {figures(difference.mean_kl)} nats a token)."
            )
    return words
