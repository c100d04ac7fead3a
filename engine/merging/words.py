"""A merge's report as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from engine.merging.choice import loss_change
from engine.merging.report import MergeReport
from engine.units import amount, duration, figures, percent, tokens_per_s


def rows_of(report: MergeReport) -> Iterator[list[str]]:
    """Rows of a table: what it is, and its value for each merge."""
    merges = report.candidates
    differences = [each.difference for each in merges]
    yield ["loss of the adapter", *(figures(each.adapter_loss) for each in differences)]
    yield ["loss of the merge", *(figures(each.merged_loss) for each in differences)]
    yield ["", *(loss_change(each).removesuffix(" than").removesuffix(" to") for each in differences)]
    yield ["same top token", *(percent(each.equal_top_tokens) for each in differences)]
    yield ["  but for near ties", *(percent(each.as_good_top_tokens) for each in differences)]
    yield ["divergence (nats a token)", *(figures(each.mean_kl) for each in differences)]
    yield ["largest logit difference", *(figures(each.max_logit_difference) for each in differences)]
    yield ["mean logit difference", *(figures(each.mean_logit_difference) for each in differences)]
    yield ["speed of the adapter", *(tokens_per_s(each.speed.adapter_tokens_per_s) for each in merges)]
    yield ["speed of the merge", *(tokens_per_s(each.speed.merged_tokens_per_s) for each in merges)]
    yield ["same answer up to", *(f"{each.speed.equal_tokens} of {each.speed.tokens} tokens" for each in merges)]
    yield ["weights", *(amount(each.size_bytes) for each in merges)]
    yield ["merged in", *(duration(each.merge_s) for each in merges)]


def summary(report: MergeReport) -> Iterator[str]:
    """On what it was measured, what was decided and why, and what it took."""
    tokens = report.candidates[0].difference.tokens
    kind = "held-out rows" if report.rows_kind == "held-out" else "training rows, as none are held out"
    yield f"Measured on {tokens:,} learnt tokens of {report.rows} {kind}."
    yield report.reason
    for candidate in report.candidates:
        if not candidate.streamed:
            yield f"It was merged as a whole, not layer by layer: {candidate.why_whole}."
    yield (
        f"Memory: {amount(report.measured_peak_bytes)} at its peak, {amount(report.needs.peak_bytes)} predicted; "
        f"{amount(report.measured_resident_bytes)} with pages of files."
    )
    yield from report.warnings
