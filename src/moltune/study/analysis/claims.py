"""What others claimed, beside what this study found."""

from __future__ import annotations

import pandas as pd

from moltune.reports.summary import format_number
from moltune.study.analysis.verdicts import Analysis, Comparison
from moltune.study.recipe.recipe import Claim

CONFIRMED, CONTRADICTED, REFUTED, OPEN = "confirmed", "contradicted", "refuted", "not shown"


def judge_claim(claim: Claim, comparison: Comparison) -> str:
    """One word: confirmed, contradicted (the opposite was found), not so (no difference that matters), not shown."""
    if comparison.word == "cannot tell":
        return OPEN
    if comparison.word == claim.expect:
        return CONFIRMED
    if {comparison.word, claim.expect} == {"better", "worse"}:
        return CONTRADICTED
    return REFUTED


def claims_table(analysis: Analysis) -> pd.DataFrame:
    """One line per claim; all cells are text. Empty where the recipe has none."""
    found = {(item.arm, item.reference): item for item in analysis.comparisons}
    rows = []
    for claim in analysis.recipe.claims:
        item = found[claim.arm, claim.against]
        ours = "–"
        if item.difference is not None and item.interval is not None:
            low, high = (format_number(value, 3) for value in item.interval)
            ours = f"Δ {analysis.label} {format_number(item.difference, 3)} ({low} to {high})"
        rows.append(
            {
                "Claim": claim.text,
                "By": claim.source,
                "Their numbers": claim.theirs or "–",
                "Ours, 95 % interval": ours,
                "Verdict": judge_claim(claim, item),
            }
        )
    return pd.DataFrame(rows)
