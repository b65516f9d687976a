"""Uncertainties on disk: table, facts, sorted-score figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moltune.data.reading.write import write_table
from moltune.files import write_json
from moltune.reports.drawing import BLUE, VERMILION, axis_label, drawing
from moltune.uncertainty.estimate import UncertaintyScores

TABLE, FACTS = "uncertainty.csv", "uncertainty.json"
VARIANCE = "Variance of the prediction"


def write_uncertainty(found: UncertaintyScores, folder: str | Path, *, percentile: float = 90.0) -> Path:
    """Write ``uncertainty.csv``, ``uncertainty.json`` and ``figures/sorted_scores``; returns the table's path.

    Args:
        found: the scores.
        folder: made if missing.
        percentile: of the variance, or of classes of the entropy, above which molecules count as unsure in the figure.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spread, classes = found.spread, found.classes
    facts = {**found.facts, "percentile": percentile, "threshold": float(np.percentile(spread, percentile))}
    write_table(found.table, folder / TABLE)
    write_json(folder / FACTS, facts)
    label, unit = (VARIANCE, found.unit) if classes is None else ("Entropy of the predicted class (nats)", "")
    sorted_scores(spread, percentile, folder / "figures" / "sorted_scores", unit=unit, label=label)
    return folder / TABLE


def sorted_scores(
    variance: np.ndarray, percentile: float, stem: Path, *, unit: str = "", label: str = VARIANCE
) -> list[Path]:
    """Draw variances, or entropies, in ascending order with a percentile marked (the figure of founding study A).

    Args:
        variance: of the prediction of each molecule, shape (n,).
        percentile: above which molecules count as unsure.
        stem: where to write, without suffix.
        unit: of the target.
        label: of what is drawn.
    """
    threshold = float(np.percentile(variance, percentile))
    variance = np.sort(variance)
    above = variance > threshold
    at = np.arange(1, len(variance) + 1)
    square = f"{unit}²" if unit and " " not in unit else ""
    with drawing(stem) as (axes, paths):
        for part, colour, words in (
            (~above, BLUE, f"the surest {percentile:.3g} %"),
            (above, VERMILION, f"the others ({int(above.sum())} molecules)"),
        ):
            axes.scatter(at[part], variance[part], s=14, color=colour, linewidths=0, label=words)
        axes.axhline(threshold, color=VERMILION, linewidth=1.2, linestyle="--")
        axes.set(xlabel="Molecules, the surest first", ylabel=axis_label(label, square))
        axes.set(title="Sorted uncertainty")
        axes.legend(loc="best")
    return paths
