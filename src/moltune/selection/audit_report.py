"""An audit on paper: figures, tables, one HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import norm

from moltune.data.overlap import LEVELS
from moltune.data.reading.write import write_table
from moltune.features.physchem import DESCRIPTORS
from moltune.files import write_json, write_text
from moltune.reports.class_figures import confusion_matrix
from moltune.reports.drawing import BLUE, GREY, ORANGE, VERMILION, axis_label, draw_identity, drawing, plain
from moltune.reports.page import render
from moltune.selection.audit import SHIFTED
from moltune.selection.findings import Audit
from moltune.selection.noise import LabelNoise

REPORT, TABLE, SUMMARY = "audit.html", "shared.csv", "audit.json"
_COLOURS = {"smiles": VERMILION, "inchikey": ORANGE, "connectivity": BLUE}
_LABELS = {"smiles": "same SMILES", "inchikey": "same InChIKey", "connectivity": "same connectivity"}


def write_audit(audit: Audit, folder: str | Path) -> Path:
    """Write ``audit.html``, ``audit.json``, ``shared.csv`` and ``figures/`` into a folder; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    further = audit.external.further(*audit.shown.columns).iloc[audit.shared["position"].to_numpy(dtype=int)]
    write_table(audit.shown.join(further.reset_index(drop=True)), folder / TABLE)
    write_json(folder / SUMMARY, audit.to_dict())
    source = Path(str(audit.external.provenance.get("source") or "external molecules")).name
    against = Path(str(audit.known.provenance.get("source") or "training molecules")).name
    page = render(
        "analysis.html",
        title=f"Audit of {source} against {against}",
        verdict=audit.verdict,
        findings=[(one.level, one.text) for one in audit.findings],
        tables={"Shared molecules": _shared_table(audit), "Descriptors": _descriptor_table(audit)},
        figures=draw_audit(audit, folder / "figures"),
    )
    return write_text(folder / REPORT, page)


def draw_audit(audit: Audit, folder: Path) -> dict[str, Path]:
    """Draw the figures; returns caption → PNG."""
    figures = {}
    if audit.shared["difference"].notna().any():
        agree = "on the dashed line" if audit.known.classes is None else "from the upper left to the lower right"
        caption = f"Labels of molecules that both files have; {agree} they agree."
        draw = _draw_shared if audit.known.classes is None else _draw_shared_classes
        figures[caption] = draw(audit, folder / "shared_labels")
    caption = "Tanimoto similarity to the nearest training molecule; for training molecules, to the nearest other one."
    with drawing(folder / "similarity") as (axes, paths):
        _draw_shares(axes, audit.similarity, audit.reference_similarity)
        axes.set(xlabel="Tanimoto similarity", ylabel="Share of molecules", title="Nearest neighbours")
        axes.legend(loc="best")
    figures[caption] = paths[0]
    if audit.target is not None and audit.known.classes is not None:
        figures["Shares of the classes."] = _draw_classes(audit, audit.known.classes, folder / "labels")
    elif audit.target is not None:
        with drawing(folder / "labels") as (axes, paths):
            _draw_shares(axes, audit.external.target[np.isfinite(audit.external.target)], audit.known.target)
            name = str(audit.known.provenance.get("target_column") or "target")
            axes.set(xlabel=axis_label(name, audit.unit), ylabel="Share of molecules", title="Labels")
            axes.legend(loc="best")
        figures["Distribution of the labels."] = paths[0]
    figures["Where the molecules lie in four descriptors."] = _draw_descriptors(audit, folder / "descriptors")
    if isinstance(audit.noise, LabelNoise):
        caption = "External label minus the prediction of a model of the training labels, against what was expected."
        figures[caption] = _draw_residuals(audit, folder / "residuals")
    return figures


def _draw_shared(audit: Audit, stem: Path) -> Path:
    shared = audit.shared.dropna(subset=["difference"])
    with drawing(stem, (5.6, 5.6)) as (axes, paths):
        draw_identity(axes, shared[["label", "known_label"]].to_numpy(dtype=float))
        for level in reversed(LEVELS):
            part = shared[shared["level"] == level]
            if len(part):
                label = f"{_LABELS[level]} ({len(part)})"
                axes.scatter(part["known_label"], part["label"], s=30, color=_COLOURS[level], label=label, zorder=3)
        axes.set(xlabel=axis_label("Training label", audit.unit), ylabel=axis_label("External label", audit.unit))
        axes.set_title("Shared molecules")
        axes.legend(loc="upper left")
    return paths[0]


def _draw_shared_classes(audit: Audit, stem: Path) -> Path:
    shared, classes = audit.shared.dropna(subset=["difference"]), audit.known.classes
    assert classes is not None
    known, label = (shared[name].to_numpy(dtype=float) for name in ("known_label", "label"))
    axes = ("External label", "Training label")
    return confusion_matrix(known, label, classes, stem, "Shared molecules", axes)[0]


def _draw_classes(audit: Audit, classes: tuple[str, str], stem: Path) -> Path:
    labels = {"training": (audit.known.target, BLUE), "external": (audit.external.target, VERMILION)}
    with drawing(stem) as (axes, paths):
        for side, (name, (target, colour)) in zip((-0.2, 0.2), labels.items(), strict=True):
            positive = float(np.nanmean(target))
            axes.bar(np.arange(2) + side, [1 - positive, positive], width=0.4, color=colour, alpha=0.8, label=name)
        axes.set(xticks=[0, 1], xticklabels=[plain(name) for name in classes], ylim=(0, 1), title="Labels")
        axes.set(ylabel="Share of molecules")
        axes.legend(loc="best")
    return paths[0]


def _draw_shares(axes: Axes, external: np.ndarray, known: np.ndarray, *, bins: int = 40, tail: float = 0.0) -> None:
    """Draw two histograms of shares over the same bins; values beyond the quantile ``tail`` go into the last ones."""
    low, high = np.quantile(np.concatenate([external, known]), [tail, 1 - tail])
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
    for values, colour, label in ((known, BLUE, "training"), (external, VERMILION, "external")):
        weights = np.full(len(values), 1 / len(values))
        clipped = np.clip(values, edges[0], edges[-1])
        axes.hist(clipped, bins=edges.tolist(), weights=weights, color=colour, alpha=0.55, label=label)


def _draw_descriptors(audit: Audit, stem: Path) -> Path:
    # The four whose distributions are furthest apart.
    names = sorted(SHIFTED, key=lambda name: -audit.descriptors[name].statistic)[:4]
    with drawing(stem, (7.2, 5.6)) as (whole, paths):
        figure = whole.figure
        whole.remove()
        for axes, name in zip(figure.subplots(2, 2).flat, names, strict=True):
            external, known = (values[:, DESCRIPTORS.index(name)] for values in audit.descriptor_values)
            _draw_shares(axes, external, known, bins=30, tail=0.002)
            axes.set(title=f"{name} (KS {audit.descriptors[name].statistic:.2f})")
            axes.tick_params(labelsize=9)
        figure.axes[0].legend(loc="best")
    return paths[0]


def _draw_residuals(audit: Audit, stem: Path) -> Path:
    assert isinstance(audit.noise, LabelNoise)
    residuals, width = audit.noise.residuals, audit.noise.expected_rmse
    with drawing(stem) as (axes, paths):
        bins = int(np.clip(2 * np.sqrt(len(residuals)), 10, 40))
        axes.hist(residuals, bins=bins, color=VERMILION, alpha=0.6, density=True, label="external molecules")
        grid = np.linspace(min(residuals.min(), -3 * width), max(residuals.max(), 3 * width), 300)
        label = f"expected (RMSE {width:.2g})"
        axes.plot(grid, norm.pdf(grid, scale=width), color=BLUE, linewidth=1.8, label=label)
        axes.axvline(0, color=GREY, linestyle="--", linewidth=1.2)
        axes.set(xlabel=axis_label("Label − prediction", audit.unit), ylabel="Density", title="Residuals")
        axes.legend(loc="best")
    return paths[0]


def _shared_table(audit: Audit) -> pd.DataFrame:
    shared = audit.shown
    headings = {
        "level": "Same",
        "row": "Row",
        "known_row": "Training row",
        "smiles": "SMILES",
        "known_smiles": "Training SMILES",
        "label": "Label",
        "known_label": "Training label",
        "difference": "Difference",
        "part": "Part",
    }
    # A column of SMILES that are the same leaves no room for the others.
    known = shared["known_smiles"].mask(shared["known_smiles"] == shared["smiles"], "the same")
    table = shared.assign(level=shared["level"].map(_LABELS).str.removeprefix("same "), known_smiles=known)
    return table[[name for name in headings if name in table]].rename(columns=headings)


def _descriptor_table(audit: Audit) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Descriptor": name,
                "External mean": shift.means[0],
                "Training mean": shift.means[1],
                "External sd": shift.sds[0],
                "Training sd": shift.sds[1],
                "Kolmogorov-Smirnov": shift.statistic,
                "p (Holm)": audit.adjusted[name],
            }
            for name, shift in audit.descriptors.items()
        ]
    )
