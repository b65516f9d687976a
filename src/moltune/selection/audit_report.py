"""An audit on paper: figures, tables, one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from moltune.data.overlap import LEVELS
from moltune.data.reading.write import write_bytes, write_table
from moltune.features.physchem import DESCRIPTORS
from moltune.reports.figures import _STYLE, BLUE, GREY, ORANGE, VERMILION, _axis_label, _new_figure, _plain, _save
from moltune.reports.page import html_page
from moltune.selection.audit import SHIFTED, Audit

REPORT, TABLE, SUMMARY = "audit.html", "shared.csv", "audit.json"
_COLOURS = {"smiles": VERMILION, "inchikey": ORANGE, "connectivity": BLUE}
_LABELS = {"smiles": "same SMILES", "inchikey": "same InChIKey", "connectivity": "same connectivity"}


def write_audit(audit: Audit, folder: str | Path) -> Path:
    """Write ``audit.html``, ``audit.json``, ``shared.csv`` and ``figures/`` into a folder; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(audit.shared, folder / TABLE)
    write_bytes((json.dumps(audit.to_dict(), indent=2, allow_nan=False, default=str) + "\n").encode(), folder / SUMMARY)
    figures = draw_audit(audit, folder / "figures")
    source = Path(str(audit.external.provenance.get("source") or "external molecules")).name
    against = Path(str(audit.known.provenance.get("source") or "training molecules")).name
    page = html_page(
        f"Audit of {source} against {against}",
        audit.verdict,
        [(one.level, one.text) for one in audit.findings],
        {"Shared molecules": _shared_table(audit), "Descriptors": _descriptor_table(audit)},
        figures,
    )
    write_bytes(page.encode(), folder / REPORT)
    return folder / REPORT


def draw_audit(audit: Audit, folder: Path) -> dict[str, Path]:
    """Draw the figures; returns caption → PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if audit.shared["difference"].notna().any():
        caption = "Labels of molecules that both files have; on the dashed line they agree."
        figures[caption] = _draw_shared(audit, folder / "shared_labels")
    caption = "Tanimoto similarity to the nearest training molecule; for training molecules, to the nearest other one."
    figures[caption] = _draw_pair(
        audit.similarity, audit.reference_similarity, folder / "similarity", "Tanimoto similarity", "Nearest neighbours"
    )
    if audit.target is not None:
        labels = audit.external.target[np.isfinite(audit.external.target)]
        name = str(audit.known.provenance.get("target_column") or "target")
        figures["Distribution of the labels."] = _draw_pair(
            labels, audit.known.target, folder / "labels", _axis_label(name, audit.unit), "Labels"
        )
    figures["Where the molecules lie in four descriptors."] = _draw_descriptors(audit, folder / "descriptors")
    if audit.noise is not None:
        caption = "External label minus the prediction of a model of the training labels, against what was expected."
        figures[caption] = _draw_residuals(audit, folder / "residuals")
    return figures


def _draw_shared(audit: Audit, stem: Path) -> Path:
    shared = audit.shared.dropna(subset=["difference"])
    values = shared[["label", "known_label"]].to_numpy(dtype=float)
    low, high = values.min() - 0.3, values.max() + 0.3
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((5.6, 5.6))
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1.2)
        for level in reversed(LEVELS):
            part = shared[shared["level"] == level]
            if len(part):
                label = f"{_LABELS[level]} ({len(part)})"
                axes.scatter(part["known_label"], part["label"], s=30, color=_COLOURS[level], label=label, zorder=3)
        axes.set(xlim=(low, high), ylim=(low, high), title="Shared molecules")
        axes.set(xlabel=_axis_label("Training label", audit.unit), ylabel=_axis_label("External label", audit.unit))
        axes.set_aspect("equal", adjustable="box")
        axes.legend(loc="upper left")
        return _save(figure, stem)[0]


def _draw_pair(external: np.ndarray, known: np.ndarray, stem: Path, label: str, title: str) -> Path:
    edges = np.linspace(min(external.min(), known.min()), max(external.max(), known.max()), 41)
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, 41)
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((6.4, 4.2))
        for values, colour, name in ((known, BLUE, "training"), (external, VERMILION, "external")):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, bins=edges.tolist(), weights=weights, color=colour, alpha=0.55, label=name)
        axes.set(xlabel=label, ylabel="Share of molecules", title=title)
        axes.legend(loc="best")
        return _save(figure, stem)[0]


def _draw_descriptors(audit: Audit, stem: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The four whose distributions are furthest apart.
    names = sorted(SHIFTED, key=lambda name: -audit.descriptors[name].statistic)[:4]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, name in zip(figure.subplots(2, 2).ravel(), names, strict=True):
            external, known = (values[:, DESCRIPTORS.index(name)] for values in audit.descriptor_values)
            low, high = np.quantile(np.concatenate([external, known]), [0.002, 0.998])
            edges = np.linspace(low, high if high > low else low + 1, 31).tolist()
            for values, colour, label in ((known, BLUE, "training"), (external, VERMILION, "external")):
                weights = np.full(len(values), 1 / len(values))
                axes.hist(
                    np.clip(values, low, high), bins=edges, weights=weights, color=colour, alpha=0.55, label=label
                )
            axes.set(title=f"{name} (KS {audit.descriptors[name].statistic:.2f})")
            axes.tick_params(labelsize=9)
        figure.axes[0].legend(loc="best")
        return _save(figure, stem)[0]


def _draw_residuals(audit: Audit, stem: Path) -> Path:
    assert audit.noise is not None
    residuals = audit.noise.residuals
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure((6.4, 4.2))
        axes.hist(
            residuals,
            bins=int(np.clip(2 * np.sqrt(len(residuals)), 10, 40)),
            color=VERMILION,
            alpha=0.6,
            density=True,
            label="external molecules",
        )
        width = audit.noise.expected_rmse
        grid = np.linspace(min(residuals.min(), -3 * width), max(residuals.max(), 3 * width), 300)
        normal = np.exp(-0.5 * (grid / width) ** 2) / (width * np.sqrt(2 * np.pi))
        axes.plot(grid, normal, color=BLUE, linewidth=1.8, label=f"expected (RMSE {width:.2g})")
        axes.axvline(0, color=GREY, linestyle="--", linewidth=1.2)
        axes.set(xlabel=_axis_label("Label − prediction", audit.unit), ylabel="Density", title=_plain("Residuals"))
        axes.legend(loc="best")
        return _save(figure, stem)[0]


def _shared_table(audit: Audit) -> pd.DataFrame:
    columns = ["level", "row", "known_row", "smiles", "known_smiles", "label", "known_label", "difference"]
    columns += ["part"] if "part" in audit.shared else []
    return audit.shared[columns].assign(level=audit.shared["level"].map(_LABELS))


def _descriptor_table(audit: Audit) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "descriptor": name,
                "external mean": shift.means[0],
                "training mean": shift.means[1],
                "external sd": shift.sds[0],
                "training sd": shift.sds[1],
                "Kolmogorov-Smirnov": shift.statistic,
                "p (Holm)": audit.adjusted[name],
            }
            for name, shift in audit.descriptors.items()
        ]
    )
