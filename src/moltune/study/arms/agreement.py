"""Whether scores of molecules repeat with another seed and on another split; if not, selecting by them is random."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from moltune.reports.drawing import BLUE, GREY, VERMILION, drawing
from moltune.reports.summary import format_number
from moltune.study.recipe.protocol import Block

SAME, OTHER = "same split, another seed", "another split"
# Dropout draws with the seed: two models of one seed share that noise.
SHARES_NOISE = ("variance",)

Agreement = dict[tuple[str, str], list[float]]
"""(score, ``SAME`` or ``OTHER``) -> Spearman correlations, one per pair of blocks."""


def agreement(tables: Mapping[str, pd.DataFrame], blocks: Mapping[str, Block], scores: list[str]) -> Agreement:
    """Compare the scores that the models of different blocks give to the same molecules.

    Args:
        tables: block name -> table with a column ``row`` (which molecule) and the scores.
        blocks: block name -> block.
        scores: columns.

    Returns:
        One entry per score and kind of pair that there is, pairs with fewer than three common molecules left out.
    """
    found: Agreement = {(score, among): [] for score in scores for among in (SAME, OTHER)}
    for score in scores if tables else []:
        columns = {block: table.set_index("row")[score] for block, table in tables.items()}
        correlations = pd.concat(columns, axis=1).corr(method="spearman", min_periods=3).to_numpy()
        for (i, first), (j, second) in combinations(enumerate(tables), 2):
            one, two, value = blocks[first], blocks[second], float(correlations[i, j])
            if np.isfinite(value) and not (score in SHARES_NOISE and one.seed == two.seed):
                found[score, SAME if one.unit == two.unit else OTHER].append(value)
    return {key: values for key, values in found.items() if values}


def agreement_words(found: Agreement, labels: Mapping[str, str]) -> str:
    """Means as one sentence."""
    means = [
        f"{labels[score]}, {among} {format_number(float(np.mean(rho)), 2)}" for (score, among), rho in found.items()
    ]
    return f"Do the scores repeat? Mean rank correlation between two models: {'; '.join(means)}."


def agreement_figure(found: Agreement, labels: Mapping[str, str], stem: Path) -> list[Path]:
    """Draw every pair as a dot, means marked, one line per score."""
    scores = list(dict.fromkeys(score for score, _ in found))
    styles = {SAME: (BLUE, -0.16, "o"), OTHER: (VERMILION, 0.16, "s")}
    with drawing(stem, (6.4, 1.6 + 0.75 * len(scores))) as (axes, paths):
        axes.axvline(0, color=GREY, linewidth=1.1, linestyle="--")
        for (score, among), correlations in found.items():
            colour, shift, marker = styles[among]
            at = scores.index(score) + shift
            axes.plot(correlations, [at] * len(correlations), marker, color=colour, alpha=0.5, ms=5)
            axes.plot([np.mean(correlations)] * 2, [at - 0.14, at + 0.14], color=colour, linewidth=2.5)
        for among in dict.fromkeys(among for _, among in found):
            colour, _, marker = styles[among]
            axes.plot([], [], marker, color=colour, label=among)
        axes.set_yticks(range(len(scores)), [labels[score] for score in scores])
        axes.set(ylim=(len(scores) - 0.5, -0.5), xlim=(None, 1.02), xlabel="Spearman's ρ of the molecules' ranks")
        axes.figure.suptitle("Do the scores repeat?")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
        axes.grid(visible=False, axis="y")
    return paths
