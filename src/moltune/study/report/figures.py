"""The figures of a study, each as PNG and SVG, in the style of :mod:`moltune.reports.drawing`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from moltune.evaluation.classification import reliability
from moltune.reports.class_figures import cumulated
from moltune.reports.drawing import BLUE, GREEN, GREY, ORANGE, VERMILION, drawing, plain
from moltune.reports.summary import format_number
from moltune.study.analysis.verdicts import Comparison, Ranking

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", GREY, "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Differences this many times as large as the median do not share an axis with it.
_FAR = 8
# Characters of an arm's name in one line beside a figure.
_WIDEST = 32
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
_WORD_COLOURS = {"better": BLUE, "worse": VERMILION, "equivalent": GREEN, "cannot tell": GREY}


def blocks_figure(
    frame: pd.DataFrame, metric: str, titles: Mapping[str, str], path_stem: Path, *, label: str, sign: int = 1
) -> list[Path]:
    """Draw every run as a dot, one line of dots per arm, means marked: what the verdicts are made of.

    An arm far behind all others, such as the training mean, becomes an arrow at the edge, with its mean. With ``sign``
    -1 a higher value is better.
    """
    shown = frame.dropna(subset=[metric]).drop_duplicates("hash")
    runs = {arm: shown.loc[shown["arm"] == arm] for arm in titles if arm in set(shown["arm"])}
    best = sign * (sign * shown[metric]).min()
    edge = far_edge([(sign * (values[metric] - best)).max() for values in runs.values()])
    units = list(dict.fromkeys(shown["unit"]))
    with _lines([titles[arm] for arm in runs], "Every run, and each arm's mean", path_stem, label) as (axes, paths):
        for at, values in enumerate(runs.values()):
            errors = values[metric]
            if edge is not None and (sign * (errors - best)).max() > edge:
                _arrow(axes, best + sign * edge, at, format_number(errors.mean()), VERMILION, right=sign > 0)
                continue
            offset = [(units.index(unit) / max(1, len(units) - 1) - 0.5) * 0.5 for unit in values["unit"]]
            axes.scatter(errors, at + np.array(offset), s=18, color=BLUE, alpha=0.65, linewidths=0, zorder=3)
            axes.plot([errors.mean()] * 2, [at - 0.36, at + 0.36], color=VERMILION, linewidth=2, zorder=4)
    return paths


def differences_figure(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], path_stem: Path, *, label: str, sign: int = 1
) -> list[Path]:
    """Draw each paired difference with its interval, and the band within which differences do not matter.

    A difference many times as large as most, such as that of a control, would squeeze the others into one line: it
    becomes an arrow at the edge, with its number. With ``sign`` -1 a higher value is better.
    """
    shown = [(item, item.interval, item.difference or 0.0) for item in comparisons if item.interval is not None]
    edge = far_edge([max(map(abs, interval)) for _, interval, _ in shown])
    references = {item.reference for item, _, _ in shown}
    common = titles[next(iter(references))] if len(references) == 1 else None
    names = [titles[item.arm] if common else f"{titles[item.arm]} − {titles[item.reference]}" for item, _, _ in shown]
    against = f" against {plain(common)}" if common else ""
    better = "left of zero: smaller error" if sign > 0 else "right of zero: better"
    title = f"Paired differences{against}\n({better})"
    with _lines(names, title, path_stem, label) as (axes, paths):
        for at, (item, interval, difference) in enumerate(shown):
            colour = _WORD_COLOURS[item.word]
            if item.margin:
                band: Any = {"height": 0.8, "color": ORANGE, "alpha": 0.22, "linewidth": 0}
                axes.barh(at, 2 * item.margin, left=-item.margin, **band)
            if edge is not None and max(map(abs, interval)) > edge:
                mark = "+" if difference > 0 else "−"
                words = f"{item.word}, {mark}{format_number(abs(difference))}"
                _arrow(axes, edge if difference > 0 else -edge, at, words, colour, right=difference > 0)
                continue
            axes.plot(interval, [at, at], color=colour, linewidth=2.4, solid_capstyle="butt")
            axes.plot([difference], [at], marker="o", color=colour, linestyle="none")
            axes.annotate(item.word, (interval[1], at), xytext=(6, 0), color=colour, **_BESIDE)
        axes.axvline(0, color=GREY, linewidth=1.1, linestyle="--")
        axes.margins(x=0.1)
        # The words behind the bars take room of their own.
        left, right = axes.get_xlim()
        axes.set_xlim(left, right + 0.2 * (right - left))
    return paths


def far_edge(reaches: Sequence[float]) -> float | None:
    """Where to cut an axis about zero: behind all that reaches at most eight times as far as half of them do."""
    if not reaches:
        return None
    most = _FAR * float(np.median(reaches))
    near = [reach for reach in reaches if reach <= most]
    return None if len(near) == len(reaches) else 1.1 * max(near)


def critical_difference_figure(ranking: Ranking, titles: Mapping[str, str], path_stem: Path) -> list[Path]:
    """Draw average ranks, arms that do not differ joined by a bar (Demšar, JMLR 2006, 7, 1).

    One arm to a line, with its name beside it, so that ten long names are as easy to read as three short ones; the
    bars stand upright behind the last rank.
    """
    assert ranking.friedman is not None
    ranks, reach = ranking.friedman.average_ranks, ranking.friedman.critical_difference
    order = np.argsort(ranks, kind="stable")
    groups, k = _groups(ranks[order], reach), len(order)
    title = f"Ranks over {len(ranking.table)} splits; critical difference {reach:.2f}"
    names = [titles[ranking.arms[arm]] for arm in order]
    with _lines(names, title, path_stem, "Average rank (1 is best)") as (axes, paths):
        for at, arm in enumerate(order):
            axes.plot([ranks[arm]], [at], marker="o", color=BLUE, linestyle="none", zorder=3)
            axes.annotate(f"{ranks[arm]:.2f}", (ranks[arm], at), xytext=(7, 0), color=GREY, **_BESIDE)
        for at, (first, last) in enumerate(groups):
            place = 1.12 * k + 0.04 * k * at
            axes.plot([place] * 2, [first - 0.25, last + 0.25], color=VERMILION, linewidth=3.5, solid_capstyle="butt")
        axes.set_xticks(range(1, k + 1))
        axes.set_xlim(1 - 0.05 * k, 1.12 * k + 0.04 * k * max(1, len(groups)))
    return paths


def _groups(ranks: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Longest stretches of sorted ranks that lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = int(np.flatnonzero(ranks <= rank + reach)[-1])
        if last > first and not (found and last <= found[-1][1]):
            found.append((first, last))
    return found


def intervals_figure(ranking: Ranking, titles: Mapping[str, str], path_stem: Path, *, label: str) -> list[Path]:
    """Draw simultaneous intervals against the best arm, as Ash et al. (2025) do: those left of its band are like it.

    Half the Tukey interval of a difference stands on either mean (Hochberg & Tamhane 1987), so two arms differ where
    their bars do not overlap.
    """
    means = ranking.table.mean(axis=0)
    half = (ranking.tukey[0].upper - ranking.tukey[0].lower) / 4
    order = np.argsort(ranking.sign * means, kind="stable")
    best = float(means[order[0]])
    names = [titles[ranking.arms[arm]] for arm in order]
    with _lines(names, "Tukey HSD intervals; red: differs from the best", path_stem, label) as (axes, paths):
        axes.axvspan(best - half, best + half, color=BLUE, alpha=0.12, linewidth=0)
        for at, arm in enumerate(order):
            alike = abs(means[arm] - best) <= 2 * half
            colour = BLUE if at == 0 else GREY if alike else VERMILION
            axes.errorbar(means[arm], at, xerr=half, fmt="o", color=colour, capsize=3, linewidth=2)
    return paths


def grid_figure(values: pd.DataFrame, path_stem: Path, *, label: str, sign: int = 1) -> list[Path]:
    """Draw a map of one number over two settings, each cell with its value, the best one framed.

    Args:
        values: index and columns are the settings, named after them; NaN where there is no run.
        path_stem: where to write, without suffix.
        label: of the number.
        sign: 1 where the smallest number is the best, -1 where the largest is.
    """
    numbers = values.to_numpy(dtype=float)
    size = (1.8 + 0.95 * numbers.shape[1], 1.4 + 0.62 * numbers.shape[0])
    with drawing(path_stem, size) as (axes, paths):
        image = axes.imshow(numbers, cmap="cividis_r", aspect="auto")
        middle = float(np.nanmin(numbers) + np.nanmax(numbers)) / 2
        for row, column in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
            value = numbers[row, column]
            # The map's dark end is that of large values.
            colour = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=10)
        row, column = np.unravel_index(int(np.nanargmin(sign * numbers)), numbers.shape)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5))
        axes.set_xticks(range(numbers.shape[1]), [f"{value:g}" for value in values.columns])
        axes.set_yticks(range(numbers.shape[0]), [f"{value:g}" for value in values.index])
        axes.set(xlabel=plain(str(values.columns.name)), ylabel=plain(str(values.index.name)))
        axes.grid(visible=False)
        axes.figure.colorbar(image, label=label)
    return paths


def losses_figure(
    histories: Mapping[str, Sequence[pd.DataFrame]], titles: Mapping[str, str], path_stem: Path
) -> list[Path]:
    """Draw the mean validation loss (solid) and training loss (dashed) by epoch, over the blocks of each arm.

    A ring marks the epoch with the smallest mean validation loss.
    """
    with drawing(path_stem, (7.2, 4.4)) as (axes, paths):
        for at, (arm, tables) in enumerate(histories.items()):
            joined = pd.concat(tables).groupby("epoch")[["train_loss", "validation_loss"]].mean()
            loss, colour = joined["validation_loss"], COLOURS[at % len(COLOURS)]
            style: Any = {"color": colour, "marker": MARKERS[at % len(MARKERS)], "markersize": 4}
            axes.plot(joined.index, loss, label=plain(titles[arm]), **style)
            axes.plot(joined.index, joined["train_loss"], color=colour, linestyle="--", linewidth=1)
            if loss.notna().any():
                best = int(loss.argmin())
                ring: Any = {"s": 110, "facecolors": "none", "edgecolors": colour, "linewidths": 1.6, "zorder": 4}
                axes.scatter(joined.index[[best]].to_numpy(), loss.to_numpy()[[best]], **ring)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        title = "Validation loss (solid) and training loss (dashed), mean of runs"
        axes.set(xlabel="Epoch", ylabel="Loss", title=title)
        axes.legend(loc="best")
    return paths


def scatter_figure(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], titles: Mapping[str, str], path_stem: Path, *, label: str
) -> list[Path]:
    """Draw true against predicted values, one panel per arm on common axes.

    The band is the identity ± the median absolute error: half of the molecules lie inside.

    Args:
        panels: arm -> (true, predicted), each of shape (n,).
        titles: arm -> title.
        path_stem: where to write, without suffix.
        label: name and unit of the target.
    """
    values = np.concatenate([np.concatenate(pair) for pair in panels.values()])
    pad = 0.05 * float(np.ptp(values)) or 0.5
    limits = (float(values.min()) - pad, float(values.max()) + pad)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(path_stem, (3.1 * columns, 3.2 * rows + 0.3)) as (first, paths):
        figure: Any = first.figure
        first.remove()
        for at, (arm, (true, predicted)) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, at + 1)
            half = float(np.median(np.abs(predicted - true)))
            axes.plot(limits, limits, color=GREY, linewidth=1, linestyle="--")
            axes.fill_between(limits, np.array(limits) - half, np.array(limits) + half, color=ORANGE, alpha=0.2, lw=0)
            # A page of many panels would be megabytes of circles.
            dots: Any = {"s": 6 if len(true) > 300 else 16, "rasterized": len(true) * len(panels) > 2000}
            axes.scatter(true, predicted, color=BLUE, alpha=0.45, linewidths=0, **dots)
            axes.set(xlim=limits, ylim=limits, aspect="equal")
            axes.set_title(_wrapped(titles[arm]), fontsize=10)
        figure.supxlabel(plain(f"Measured {label}"), fontsize=11)
        figure.supylabel(plain(f"Predicted {label}"), fontsize=11)
    return paths


def curves_figure(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], titles: Mapping[str, str], path_stem: Path
) -> list[Path]:
    """Draw the ROC curves of arms, and the share of positives against their probabilities in ten bins.

    Args:
        panels: arm -> (classes 0 and 1, probabilities of class 1), each of shape (n,).
        titles: arm -> title.
        path_stem: where to write, without suffix.
    """
    with drawing(path_stem, (10.4, 5.2)) as (first, paths):
        figure: Any = first.figure
        first.remove()
        roc, calibration = (figure.add_subplot(1, 2, at) for at in (1, 2))
        for axes in (roc, calibration):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
            axes.set(xlim=(0, 1), ylim=(0, 1.01))
        for at, (arm, (true, predicted)) in enumerate(panels.items()):
            colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
            tp, fp = cumulated(true, predicted)
            roc.plot(fp / fp[-1], tp / tp[-1], color=colour, label=_wrapped(titles[arm]))
            bins = reliability(true, predicted)
            calibration.plot(bins["predicted"], bins["measured"], color=colour, marker=marker, markersize=4)
        roc.set(xlabel="False positive rate", ylabel="True positive rate")
        roc.legend(loc="lower right", fontsize=9)
        calibration.set(xlabel="Predicted probability", ylabel="Share of positives")
    return paths


@contextmanager
def _lines(names: Sequence[str], title: str, path_stem: Path, label: str) -> Iterator[tuple[Axes, list[Path]]]:
    """Axes with one line per name, from top to bottom."""
    with drawing(path_stem, (7.2, 1.4 + 0.42 * len(names))) as (axes, paths):
        axes.set_yticks(range(len(names)), [_wrapped(name) for name in names])
        # Over the figure: long names of arms leave the axes too narrow for a title of their own.
        axes.figure.suptitle(title)
        axes.grid(visible=False, axis="y")
        yield axes, paths
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)


def _arrow(axes: Axes, place: float, at: int, words: str, colour: str, *, right: bool) -> None:
    """An arrow at the edge for what lies far beyond it."""
    axes.plot([place], [at], marker=">" if right else "<", color=colour, linestyle="none")
    align = "right" if right else "left"
    axes.annotate(words, (place, at), xytext=(-9 if right else 9, 0), ha=align, color=colour, **_BESIDE)


def _wrapped(name: str) -> str:
    """A name on as many lines as leave room for the axes beside it."""
    return plain(textwrap.fill(name.replace(" %", "\N{NO-BREAK SPACE}%"), _WIDEST))
