"""What others claimed, beside what this study found."""

from __future__ import annotations

from moltune.study.analysis.verdicts import Comparison
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
