"""Whether scores of molecules repeat with another seed and on another split; if not, selecting by them is random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from moltune.reports.drawing import BLUE, GREY, VERMILION, drawing
from moltune.reports.summary import format_number
from moltune.study.recipe.protocol import Block

SAME, OTHER = "same split, another seed", "another split"
# Dropout draws with the seed: two models of one seed share that noise.
SHARES_NOISE = ("variance",)


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of one score between pairs of blocks.

    Attributes:
        score: column.
        among: ``SAME`` or ``OTHER``.
        correlations: Spearman's, one per pair.
    """

    score: str
    among: str
    correlations: list[float]


def agreement(tables: Mapping[str, pd.DataFrame], blocks: Mapping[str, Block], scores: list[str]) -> list[Agreement]:
    """Compare the scores that the models of different blocks give to the same molecules.

    Args:
        tables: block name -> table with a column ``row`` (which molecule) and the scores.
        blocks: block name -> block.
        scores: columns.

    Returns:
        One entry per score and kind of pair that there is, pairs with fewer than three common molecules left out.
    """
    found = {(score, among): Agreement(score, among, []) for score in scores for among in (SAME, OTHER)}
    for first, second in combinations(tables, 2):
        one, two = blocks[first], blocks[second]
        both = tables[first].merge(tables[second], on="row", suffixes=("_1", "_2"))
        for score in scores:
            if score in SHARES_NOISE and one.seed == two.seed:
                continue
            left, right = both[f"{score}_1"], both[f"{score}_2"]
            if len(both) > 2 and left.nunique() > 1 and right.nunique() > 1:
                pairs = found[score, SAME if one.unit == two.unit else OTHER]
                pairs.correlations.append(float(spearmanr(left, right).statistic))
    return [item for item in found.values() if item.correlations]


def agreement_words(found: list[Agreement], labels: Mapping[str, str]) -> str:
    """Means as one sentence."""
    parts = [
        f"{labels[item.score]}, {item.among} {format_number(float(np.mean(item.correlations)), 2)}" for item in found
    ]
    return f"Do the scores repeat? Mean rank correlation between two models: {'; '.join(parts)}."


def agreement_figure(found: list[Agreement], labels: Mapping[str, str], stem: Path) -> list[Path]:
    """Draw every pair as a dot, means marked, one line per score."""
    scores = list(dict.fromkeys(item.score for item in found))
    with drawing(stem, (6.4, 1.6 + 0.75 * len(scores))) as (axes, paths):
        axes.axvline(0, color=GREY, linewidth=1.1, linestyle="--")
        for among, colour, shift, marker in ((SAME, BLUE, -0.16, "o"), (OTHER, VERMILION, 0.16, "s")):
            shown = [item for item in found if item.among == among]
            for item in shown:
                at = scores.index(item.score) + shift
                axes.plot(item.correlations, [at] * len(item.correlations), marker, color=colour, alpha=0.5, ms=5)
                axes.plot([float(np.mean(item.correlations))] * 2, [at - 0.14, at + 0.14], color=colour, linewidth=2.5)
            if shown:
                axes.plot([], [], marker, color=colour, label=among)
        axes.set_yticks(range(len(scores)), [labels[score] for score in scores])
        axes.set(ylim=(len(scores) - 0.5, -0.5), xlim=(None, 1.02), xlabel="Spearman's ρ of the molecules' ranks")
        axes.figure.suptitle("Do the scores repeat?")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
        axes.grid(visible=False, axis="y")
    return paths
