"""The look that all figures share, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moltune.files import replacing

# Okabe & Ito (2008): distinct for colour-blind readers, and in grey print through their lightness.
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
# Without what would change the bytes from one run to the next.
_FORMATS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@contextmanager
def drawing(path_stem: str | Path, size: tuple[float, float] = (6.4, 4.2)) -> Iterator[tuple[Axes, list[Path]]]:
    """Yield the axes of a new figure and the paths, PNG and SVG, that it is saved to when the block ends.

    The figure is its own, so that no global state of pyplot is touched, and the files are the same byte for byte when
    the numbers are.

    Args:
        path_stem: where to write, without suffix; the folder is made if missing.
        size: width and height in inches.
    """
    stem = Path(path_stem)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in _FORMATS]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure.add_subplot(), paths
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path, (suffix, metadata) in zip(paths, _FORMATS.items(), strict=True):
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata)


def draw_identity(axes: Axes, values: np.ndarray) -> np.ndarray:
    """Draw the identity line across ``values`` and make the axes equal; returns the ends of the line, shape (2,)."""
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or max(0.5, 0.05 * abs(low))
    ends = np.array([low - pad, high + pad])
    axes.plot(ends, ends, color=GREY, linewidth=1.2, linestyle="--", label="identity")
    axes.set(xlim=tuple(ends), ylim=tuple(ends))
    axes.set_aspect("equal", adjustable="box")
    return ends


def text_box(axes: Axes, text: str) -> None:
    """Write a few lines into the upper left corner."""
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#BBBBBB", "alpha": 0.9}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", ha="left", fontsize=10, bbox=box, zorder=4)


def axis_label(text: str, unit: str = "") -> str:
    """The label of an axis, "logD (log units)", on as many lines as fit beside it."""
    return textwrap.fill(plain(f"{text} ({unit})" if unit else text), _LABEL_WIDTH)


def quantity(value: float, unit: str) -> str:
    """A number with its unit; a long unit is left to the axes."""
    return f"{short_number(value)} {plain(unit)}" if unit and len(unit) <= _SHORT_UNIT else short_number(value)


def short_number(value: float) -> str:
    """Three significant digits, "0.00123" or "1.2e+06", with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def plain(text: str) -> str:
    """Text in which "$" is a character: a column named "$a_b$" is a name, not mathematics."""
    return text.replace("$", r"\$")
