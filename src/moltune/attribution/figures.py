"""Figures of influence scores, as PNG and SVG, and of the molecules that have them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rdkit.Chem.Draw import rdMolDraw2D

from moltune.data.chemistry import parse_all
from moltune.errors import DataError
from moltune.evaluation.normality import anderson_darling
from moltune.files import replacing
from moltune.reports.drawing import BLUE, GREY, VERMILION, axis_label, drawing, short_number, text_box


def score_histogram(scores: np.ndarray, threshold: float, stem: Path, *, label: str) -> list[Path]:
    """Draw the scores with a threshold, and say whether they are normal (Anderson-Darling).

    Args:
        scores: shape (n,).
        threshold: of a selection.
        stem: where to write, without suffix.
        label: of the horizontal axis.
    """
    with drawing(stem) as (axes, paths):
        bins = int(np.clip(2 * np.sqrt(len(scores)), 10, 40))
        axes.hist(scores, bins=bins, color=BLUE, alpha=0.8, edgecolor="white", linewidth=0.6)
        axes.axvline(0, color=GREY, linewidth=1.2, linestyle="--", label="no influence")
        axes.axvline(threshold, color=VERMILION, linewidth=1.6, label=f"threshold {short_number(threshold)}")
        axes.set(xlabel=label, ylabel="Molecules", title="Influence scores")
        try:
            test = anderson_darling(scores)
        except DataError:
            pass
        else:
            p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
            said = f"Anderson-Darling A² = {test.statistic:.2f}, {p}\nskewness = {short_number(test.skewness)}"
            text_box(axes, said)
        axes.legend(loc="upper right")
        axes.margins(y=0.3)
    return paths


def score_against_residual(
    scores: np.ndarray,
    residuals: np.ndarray,
    stem: Path,
    *,
    label: str,
    unit: str = "",
    residual: str = "Prediction − label",
) -> list[Path]:
    """Draw each molecule's score against prediction minus label.

    Args:
        scores: shape (n,).
        residuals: shape (n,), in ``unit``.
        stem: where to write, without suffix.
        label: of the scores.
        unit: of the target.
        residual: label of the residuals.
    """
    with drawing(stem) as (axes, paths):
        axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
        axes.scatter(residuals, scores, s=18, color=BLUE, alpha=0.6, linewidths=0)
        # Upright, a long label is cut off at both ends.
        axes.set(xlabel=axis_label(residual, unit), ylabel=textwrap.fill(label, 40))
        axes.set(title="Influence against residual")
    return paths


def draw_molecules(smiles: Sequence[str], legends: Sequence[str], path: Path) -> Path:
    """Draw molecules in a grid of three columns, each with its legend below, as PNG."""
    width, height = 260, 220
    canvas = rdMolDraw2D.MolDraw2DCairo(3 * width, height * -(-len(smiles) // 3), width, height)
    # Any: the stubs take its fields for something else.
    options: Any = canvas.drawOptions()
    options.legendFontSize = 18
    options.clearBackground = True
    canvas.DrawMolecules(parse_all(list(smiles)), legends=list(legends))
    canvas.FinishDrawing()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(canvas.GetDrawingText())
    return path
