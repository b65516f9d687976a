"""The figures of a classifier, each written as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moltune.evaluation.classification import confusion, pr_auc, prevalence, reliability, roc_auc
from moltune.reports.drawing import BLUE, GREY, drawing, plain, short_number, text_box


def roc_curve(true: np.ndarray, predicted: np.ndarray, path_stem: str | Path, title: str = "") -> list[Path]:
    """Draw the rate of true against that of false positives.

    Args:
        true: classes 0 and 1, shape (n,), both of them present.
        predicted: probabilities of class 1, shape (n,).
        path_stem: where to write, without suffix.
        title: above the axes.

    Returns:
        The PNG and the SVG path.
    """
    tp, fp = cumulated(true, predicted)
    with drawing(path_stem, (5.6, 5.6)) as (axes, paths):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle="--", label="guessing")
        axes.plot(fp / fp[-1], tp / tp[-1], color=BLUE, label="this model")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="False positive rate", ylabel="True positive rate")
        axes.set(title=plain(title))
        axes.legend(loc="lower right")
        text_box(axes, f"ROC AUC = {short_number(float(roc_auc(true, predicted)))}")
    return paths


def precision_recall(true: np.ndarray, predicted: np.ndarray, path_stem: str | Path, title: str = "") -> list[Path]:
    """Draw precision against recall; arguments and result as of :func:`roc_curve`."""
    tp, fp = cumulated(true, predicted)
    share = float(prevalence(true, predicted))
    with drawing(path_stem, (5.6, 5.6)) as (axes, paths):
        label = f"guessing (prevalence {short_number(share)})"
        axes.axhline(share, color=GREY, linewidth=1.2, linestyle="--", label=label)
        axes.step(tp[1:] / tp[-1], tp[1:] / (tp + fp)[1:], where="pre", color=BLUE, label="this model")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="Recall", ylabel="Precision", title=plain(title))
        axes.legend(loc="lower left")
        text_box(axes, f"PR AUC = {short_number(float(pr_auc(true, predicted)))}")
    return paths


def reliability_curve(true: np.ndarray, predicted: np.ndarray, path_stem: str | Path, title: str = "") -> list[Path]:
    """Draw the share of positives against the mean probability of bins; otherwise as :func:`roc_curve`."""
    found = reliability(true, predicted)
    mean, share, size = (np.array(found[name], dtype=np.float64) for name in ("predicted", "measured", "molecules"))
    with drawing(path_stem, (5.6, 5.6)) as (axes, paths):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle="--", label="as predicted")
        chance = 2 * np.sqrt(mean * (1 - mean) / size)
        axes.errorbar(mean, share, yerr=chance, fmt="o-", color=BLUE, markersize=5, capsize=3, label="this model")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Predicted probability", ylabel="Share of positives")
        axes.set(title=plain(title))
        axes.legend(loc="lower right")
        text_box(axes, f"calibration error = {short_number(found['error'])}")
    return paths


def confusion_matrix(
    true: np.ndarray,
    predicted: np.ndarray,
    classes: tuple[str, str],
    path_stem: str | Path,
    title: str = "",
    axes: tuple[str, str] = ("Predicted", "Measured"),
) -> list[Path]:
    """Draw the numbers of molecules by measured and predicted class; arguments and result as of :func:`roc_curve`.

    ``axes`` are the labels of the columns and of the rows.
    """
    columns, rows = axes
    counts = np.array(confusion(true, predicted))
    with drawing(path_stem, (4.8, 4.4)) as (drawn, paths):
        drawn.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.4)
        for row, column in np.ndindex(2, 2):
            drawn.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=14)
        drawn.set(xticks=[0, 1], yticks=[0, 1], xlabel=columns, ylabel=rows, title=plain(title))
        drawn.set_xticklabels([plain(name) for name in classes])
        drawn.set_yticklabels([plain(name) for name in classes])
        drawn.grid(visible=False)
    return paths


def cumulated(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of true and false positives with a falling cut, from none to all; equal probabilities come together."""
    order = np.argsort(-predicted, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(predicted[order])), len(order) - 1)
    tp = np.cumsum(true[order])[ends]
    return np.append(0.0, tp), np.append(0.0, ends + 1 - tp)
