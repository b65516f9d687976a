"""The figures of a run, each written as PNG and SVG.

Every function draws on a ``Figure`` of its own, so that no global state of pyplot is touched, and writes files that
are the same byte for byte when the numbers are.
"""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moltune.errors import DataError
from moltune.evaluation.metrics import check_pair, evaluate

# Okabe & Ito (2008): told apart by colour-blind readers, and in grey print through their lightness.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#4D4D4D"

# In characters.
_SHORT_UNIT, _LABEL_WIDTH = 12, 42

# Any: the typed keys of rc_context differ from one matplotlib to the next.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "figure.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.hashsalt": "moltune",
    # Text stays text: searchable, and smaller than outlines.
    "svg.fonttype": "none",
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def loss_curves(
    history: pd.DataFrame,
    chosen_epoch: float | None,
    path_stem: str | Path,
    *,
    title: str = "Loss during training",
    loss: str = "Loss",
) -> list[Path]:
    """Draw the training and validation loss by epoch, with the epoch whose weights were kept marked.

    Args:
        history: columns ``epoch``, ``train_loss``, ``validation_loss``; NaN where one was not measured.
        chosen_epoch: epoch of the weights that were kept; None when no epoch was chosen.
        path_stem: where to write, without suffix: ``.png`` and ``.svg`` are added.
        title: title above the axes.
        loss: label of the vertical axis, such as "Mean squared error".

    Returns:
        The PNG and the SVG path.

    Raises:
        DataError: a column is missing, or no loss is finite.
    """
    wanted = ["epoch", "train_loss", "validation_loss"]
    missing = [column for column in wanted if column not in history]
    if missing:
        raise DataError(f"the loss history lacks the column {missing[0]!r}; it has {', '.join(map(str, history))}")
    values = {column: pd.to_numeric(history[column], errors="coerce").to_numpy(dtype=float) for column in wanted}
    if not np.isfinite(np.concatenate([values["train_loss"], values["validation_loss"]])).any():
        raise DataError("the loss history holds no finite loss, so there is nothing to draw")
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((6.4, 4.2))
        _draw_loss(axes, values["epoch"], values["train_loss"], BLUE, "-", "o", "training")
        _draw_loss(axes, values["epoch"], values["validation_loss"], VERMILION, "--", "s", "validation")
        if chosen_epoch is not None:
            _mark_epoch(axes, float(chosen_epoch), values["epoch"], values["validation_loss"])
        axes.set(xlabel="Epoch", ylabel=_plain(loss), title=_plain(title))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        low, high = axes.get_ylim()
        axes.set_ylim(bottom=0 if 0 < low < high / 3 else low)
        axes.legend(loc="best")
        return _save(figure, path_stem)


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
    metrics = evaluate(y, p, bootstrap=0)
    error = metrics["median_absolute_error"]["value"]
    low, high = _padded_limits(np.concatenate([y, p]))
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((5.6, 5.6))
        line = np.array([low, high])
        label = f"± median absolute error ({_number(error)}{_spaced(unit)})"
        axes.fill_between(line, line - error, line + error, color=ORANGE, alpha=0.28, linewidth=0, label=label)
        axes.plot(line, line, color=GREY, linewidth=1.2, linestyle="--", label="identity")
        _scatter(axes, y, p)
        axes.set(xlim=(low, high), ylim=(low, high), title=_plain(title))
        axes.set(xlabel=_axis_label(f"Measured {target}", unit), ylabel=_axis_label(f"Predicted {target}", unit))
        axes.set_aspect("equal", adjustable="box")
        _text_box(axes, _summary(metrics, unit))
        axes.legend(loc="lower right")
        return _save(figure, path_stem)


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
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((6.4, 4.2))
        edges = _bin_edges(residuals)
        axes.hist(residuals, bins=edges.tolist(), color=BLUE, alpha=0.8, edgecolor="white", linewidth=0.6)
        axes.axvline(0.0, color=GREY, linewidth=1.2, linestyle="--", label="no error")
        mean = float(residuals.mean())
        axes.axvline(mean, color=VERMILION, linewidth=1.6, label=f"mean residual ({_number(mean)}{_spaced(unit)})")
        axes.set(xlabel=_axis_label(f"Predicted − measured {target}", unit), ylabel="Molecules", title=_plain(title))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        spread = float(residuals.std())
        _text_box(axes, f"n = {len(residuals):,}\nSD = {_number(spread)}{_spaced(unit)}")
        axes.legend(loc="upper right")
        axes.margins(y=0.22)
        return _save(figure, path_stem)


def _new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _draw_loss(
    axes: Axes, epoch: np.ndarray, loss: np.ndarray, colour: str, line: str, marker: str, label: str
) -> None:
    # The two losses are often logged on different lines, NaN in between: joining what is there keeps one line each.
    shown = np.isfinite(epoch) & np.isfinite(loss)
    if shown.any():
        size = 4.5 if shown.sum() <= 60 else 0
        axes.plot(epoch[shown], loss[shown], color=colour, linestyle=line, marker=marker, markersize=size, label=label)


def _mark_epoch(axes: Axes, chosen: float, epoch: np.ndarray, validation: np.ndarray) -> None:
    axes.axvline(chosen, color=GREY, linewidth=1.2, linestyle=":", label=f"chosen epoch ({chosen:g})")
    at = np.flatnonzero(np.isclose(epoch, chosen) & np.isfinite(validation))
    if len(at):
        axes.plot(
            [chosen],
            [validation[at[-1]]],
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=GREY,
            markeredgewidth=1.6,
            linestyle="none",
        )


def _scatter(axes: Axes, y: np.ndarray, p: np.ndarray) -> None:
    many = len(y) > 300
    # Thousands of vector dots make an SVG that a browser chokes on.
    axes.scatter(
        y,
        p,
        s=12 if many else 22,
        color=BLUE,
        alpha=0.45 if many else 0.75,
        linewidths=0,
        rasterized=len(y) > 2000,
        zorder=3,
    )


def _padded_limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or max(0.5, 0.05 * abs(low))
    return low - pad, high + pad


def _bin_edges(residuals: np.ndarray) -> np.ndarray:
    """Edges of equal bins, one of them at zero, so that the sign of a residual is never split within a bar."""
    low, high = min(float(residuals.min()), 0.0), max(float(residuals.max()), 0.0)
    if high - low <= 0:
        return np.linspace(-0.5, 0.5, 12)
    quartiles = np.quantile(residuals, [0.25, 0.75])
    width = 2 * float(quartiles[1] - quartiles[0]) / len(residuals) ** (1 / 3)  # Freedman & Diaconis 1981
    width = float(np.clip(width, (high - low) / 60, (high - low) / 8))
    return width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)


def _summary(metrics: dict[str, Any], unit: str) -> str:
    lines = [f"n = {metrics['n']:,}"]
    for name, label, has_unit in (("rmse", "RMSE", True), ("mae", "MAE", True), ("r2", "R²", False)):
        value = metrics[name]["value"]
        if value is not None:
            lines.append(f"{label} = {_number(value)}{_spaced(unit) if has_unit else ''}")
    return "\n".join(lines)


def _text_box(axes: Axes, text: str) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#BBBBBB", "alpha": 0.9}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", ha="left", fontsize=10, bbox=box, zorder=4)


def _axis_label(text: str, unit: str) -> str:
    return textwrap.fill(_plain(f"{text} ({unit})" if unit else text), _LABEL_WIDTH)


def _spaced(unit: str) -> str:
    # Beside every number there is no room for a long one; the axes say it.
    return f" {_plain(unit)}" if unit and len(unit) <= _SHORT_UNIT else ""


def _plain(text: str) -> str:
    # A column name such as "$a_b$" is a name, not mathematics.
    return text.replace("$", r"\$")


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _save(figure: Figure, path_stem: str | Path) -> list[Path]:
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        path = stem.with_name(stem.name + suffix)
        handle, temporary = tempfile.mkstemp(dir=stem.parent, prefix=f".{stem.name}-", suffix=suffix)
        os.close(handle)
        try:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        paths.append(path)
    return paths
