"""The figures of a run, each written as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from moltune.errors import DataError
from moltune.evaluation.metrics import check_pair, evaluate
from moltune.reports.drawing import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    axis_label,
    draw_identity,
    drawing,
    plain,
    quantity,
    short_number,
    text_box,
)


def loss_curves(
    history: pd.DataFrame, chosen_epoch: float | None, path_stem: str | Path, *, loss: str = "Loss"
) -> list[Path]:
    """Draw the training and validation loss by epoch, with the epoch whose weights were kept marked.

    Args:
        history: columns ``epoch``, ``train_loss``, ``validation_loss``; NaN where one was not measured.
        chosen_epoch: epoch of the weights that were kept; None when no epoch was chosen.
        path_stem: where to write, without suffix: ``.png`` and ``.svg`` are added.
        loss: label of the vertical axis, such as "Mean squared error".

    Returns:
        The PNG and the SVG path.

    Raises:
        DataError: a column is missing, or no loss is finite.
    """
    lines = {"train_loss": (BLUE, "o-", "training"), "validation_loss": (VERMILION, "s--", "validation")}
    missing = [column for column in ("epoch", *lines) if column not in history]
    if missing:
        raise DataError(f"the loss history lacks the column {missing[0]!r}; it has {', '.join(map(str, history))}")
    if not np.isfinite(history[list(lines)].to_numpy(dtype=float)).any():
        raise DataError("the loss history holds no finite loss, so there is nothing to draw")
    with drawing(path_stem) as (axes, paths):
        for column, (colour, line, label) in lines.items():
            # The two losses are often logged on different lines, NaN in between: joining what is there keeps one line.
            shown = history[["epoch", column]].dropna()
            if len(shown):
                size = 4.5 if len(shown) <= 60 else 0
                axes.plot(shown["epoch"], shown[column], line, color=colour, markersize=size, label=label)
        if chosen_epoch is not None:
            axes.axvline(
                chosen_epoch, color=GREY, linewidth=1.2, linestyle=":", label=f"chosen epoch ({chosen_epoch:g})"
            )
            kept = history[np.isclose(history["epoch"], chosen_epoch)].dropna(subset="validation_loss").tail(1)
            axes.plot(kept["epoch"], kept["validation_loss"], "o", ms=11, mfc="none", mec=GREY, mew=1.6)
        axes.set(xlabel="Epoch", ylabel=plain(loss), title="Loss during training")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        low, high = axes.get_ylim()
        axes.set_ylim(bottom=0 if 0 < low < high / 3 else low)
        axes.legend(loc="best")
    return paths


def true_against_predicted(
    true: np.ndarray | Sequence[float],
    predicted: np.ndarray | Sequence[float],
    path_stem: str | Path,
    *,
    unit: str = "",
    target: str = "target",
    title: str = "",
) -> list[Path]:
    """Draw predictions against measurements, with the identity line and the ± median-absolute-error band.

    Half of the molecules lie inside the band.

    Args:
        true: measurements, shape (n,), in ``unit``.
        predicted: predictions of the same molecules, shape (n,).
        path_stem: where to write, without suffix.
        unit: unit of the target, for the labels; empty when it has none.
        target: name of the target, for the labels.
        title: title above the axes.

    Returns:
        The PNG and the SVG path.

    Raises:
        DataError, NumericsError: as :func:`moltune.evaluation.metrics.evaluate`.
    """
    y, p = check_pair(np.asarray(true), np.asarray(predicted))
    values = {name: metric["value"] for name, metric in evaluate(y, p, bootstrap=0).items() if name != "n"}
    error = values["median_absolute_error"]
    with drawing(path_stem, (5.6, 5.6)) as (axes, paths):
        line = draw_identity(axes, np.concatenate([y, p]))
        label = f"± median absolute error ({quantity(error, unit)})"
        axes.fill_between(line, line - error, line + error, color=ORANGE, alpha=0.28, linewidth=0, label=label)
        many = len(y) > 300
        # Thousands of vector dots make an SVG that a browser chokes on.
        size, alpha = (12, 0.45) if many else (22, 0.75)
        axes.scatter(y, p, s=size, color=BLUE, alpha=alpha, linewidths=0, rasterized=len(y) > 2000, zorder=3)
        axes.set(xlabel=axis_label(f"Measured {target}", unit), ylabel=axis_label(f"Predicted {target}", unit))
        axes.set(title=plain(title))
        said = [f"n = {len(y):,}", f"RMSE = {quantity(values['rmse'], unit)}", f"MAE = {quantity(values['mae'], unit)}"]
        text_box(axes, "\n".join([*said, f"R² = {short_number(values['r2'])}"] if values["r2"] is not None else said))
        axes.legend(loc="lower right")
    return paths


def residual_histogram(
    true: np.ndarray | Sequence[float],
    predicted: np.ndarray | Sequence[float],
    path_stem: str | Path,
    *,
    unit: str = "",
    target: str = "target",
    title: str = "",
) -> list[Path]:
    """Draw the distribution of the residuals, predicted minus measured, with zero and their mean marked.

    Args, Returns and Raises are those of :func:`true_against_predicted`.
    """
    y, p = check_pair(np.asarray(true), np.asarray(predicted))
    residuals = p - y
    with drawing(path_stem) as (axes, paths):
        edges = _bin_edges(residuals)
        axes.hist(residuals, bins=edges.tolist(), color=BLUE, alpha=0.8, edgecolor="white", linewidth=0.6)
        axes.axvline(0.0, color=GREY, linewidth=1.2, linestyle="--", label="no error")
        mean = float(residuals.mean())
        axes.axvline(mean, color=VERMILION, linewidth=1.6, label=f"mean residual ({quantity(mean, unit)})")
        axes.set(xlabel=axis_label(f"Predicted − measured {target}", unit), ylabel="Molecules", title=plain(title))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        text_box(axes, f"n = {len(residuals):,}\nSD = {quantity(float(residuals.std()), unit)}")
        axes.legend(loc="upper right")
        axes.margins(y=0.22)
    return paths


def calibration_curve(curve: Sequence[Sequence[float]], molecules: int, path_stem: str | Path) -> list[Path]:
    """Draw the share of measurements within intervals against the share that the intervals promise.

    Args:
        curve: pairs of level and coverage, both from 0 to 1.
        molecules: behind each coverage; the band is what chance alone does to exact intervals (two standard deviations
            of a binomial share).
        path_stem: where to write, without suffix.

    Returns:
        The PNG and the SVG path.
    """
    levels, found = np.array(curve, dtype=np.float64).reshape(-1, 2).T
    with drawing(path_stem, (5.6, 5.6)) as (axes, paths):
        line = np.linspace(0, 1, 101)
        chance = 2 * np.sqrt(line * (1 - line) / molecules)
        axes.fill_between(line, line - chance, line + chance, color=ORANGE, alpha=0.28, linewidth=0, label="chance")
        axes.plot(line, line, color=GREY, linewidth=1.2, linestyle="--", label="as promised")
        axes.plot(levels, found, "o-", color=BLUE, markersize=4, label=f"{molecules:,} molecules")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Level of the interval", ylabel="Share of measurements within it")
        axes.set(title="Calibration of the intervals")
        axes.legend(loc="upper left")
    return paths


def _bin_edges(residuals: np.ndarray) -> np.ndarray:
    """Edges of equal bins, one of them at zero, so that the sign of a residual is never split within a bar."""
    low, high = min(float(residuals.min()), 0.0), max(float(residuals.max()), 0.0)
    if high - low <= 0:
        return np.linspace(-0.5, 0.5, 12)
    quartiles = np.quantile(residuals, [0.25, 0.75])
    width = 2 * float(quartiles[1] - quartiles[0]) / len(residuals) ** (1 / 3)  # Freedman & Diaconis 1981
    width = float(np.clip(width, (high - low) / 60, (high - low) / 8))
    return width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)
