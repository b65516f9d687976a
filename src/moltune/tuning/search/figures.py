"""The figures of a hyperparameter search: validation error by trial, and what each setting explains of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from moltune.errors import DataError
from moltune.reports.drawing import BLUE, GREY, VERMILION, drawing, plain


def draw_search_history(trials: pd.DataFrame, path_stem: str | Path, label: str = "RMSE") -> None:
    """Draw the validation error of each trial, and the best one so far.

    Args:
        trials: columns ``number``, ``state`` ("complete" or "pruned") and ``value``.
        path_stem: where to write, without suffix: ``.png`` and ``.svg`` are added.
        label: of the error.

    Raises:
        DataError: no trial is complete.
    """
    complete = trials[trials["state"] == "complete"].sort_values("number")
    pruned = trials[(trials["state"] == "pruned") & np.isfinite(trials["value"].astype(float))]
    if not len(complete):
        raise DataError("there is no complete trial to draw")
    with drawing(path_stem) as (axes, _):
        axes.plot(complete["number"], complete["value"], "o", color=BLUE, label="complete")
        if len(pruned):
            axes.plot(pruned["number"], pruned["value"], "x", color=GREY, label="stopped early (last value)")
        best = complete["value"].astype(float).cummin()
        axes.step(complete["number"], best, where="post", color=VERMILION, label="best so far")
        # One trial that diverged would squeeze all others into a line.
        low, high = float(complete["value"].min()), float(np.quantile(trials["value"].dropna().astype(float), 0.9))
        margin = 0.08 * max(high - low, 1e-6)
        axes.set_ylim(low - margin, max(high, float(best.iloc[0])) + margin)
        axes.set(xlabel="Trial", ylabel=f"Validation {label}")
        axes.set_title(f"Search: mean validation {label} by trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.legend(loc="upper right")


def draw_importances(importances: Mapping[str, float], path_stem: str | Path) -> None:
    """Draw the share of the variance between trials that each setting explains, largest on top."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    with drawing(path_stem, (6.4, 1.4 + 0.4 * len(ordered))) as (axes, _):
        bars = axes.barh([plain(name) for name, _ in ordered], [value for _, value in ordered], color=BLUE)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set(xlabel="Share of the variance explained (fANOVA)", xlim=(0, 1.12 * max(ordered[-1][1], 1e-9)))
        axes.set_title("What mattered in the search")
        axes.grid(axis="y", visible=False)
