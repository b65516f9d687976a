"""The page of one run: verdict, metrics, comparisons, cost, figures, data and settings."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from moltune.files import write_text
from moltune.reports.page import render
from moltune.reports.summary import (
    baseline_label,
    blend_words,
    class_words,
    format_estimate,
    format_number,
    interval_words,
    intervals_shown,
    metric_labels,
    metrics_table,
    primary_of,
    source_labels,
    verdict,
)

FIGURE_CAPTIONS = {
    "loss_curves": "Loss by epoch on the training and validation parts; the dotted line marks the epoch whose weights "
    "were kept.",
    "true_against_predicted": "Predicted against measured values; half of the molecules lie inside the orange band "
    "around the identity line.",
    "residual_histogram": "Distribution of predicted minus measured values.",
    "roc_curve": "True positive rate against false positive rate for every cut of the probability.",
    "precision_recall": "Precision against recall for every cut of the probability; guessing has the prevalence.",
    "reliability": "Share of positives against the mean probability, in bins of equal numbers of molecules; the bars "
    "are what chance alone does.",
    "confusion_matrix": "Molecules by measured and by predicted class, cut at a probability of one half.",
    "calibration_curve": "Share of the measurements that lie within intervals of each level; the band is what chance "
    "alone does to exact intervals.",
}
_PACKAGES = ("moltune", "torch", "transformers", "peft", "rdkit", "scikit-learn", "xgboost", "xgboost-cpu", "numpy")
_MOST_ITEMS = 20


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    figures: Mapping[str, Path],
    config: Mapping[str, Any],
    notes: Sequence[str],
    data_summary: Mapping[str, Any] | None = None,
    unit: str = "",
) -> Path:
    """Write the page of a run.

    Args:
        path: HTML file to write (atomically).
        title: heading of the page.
        metrics: the content of ``metrics.json``.
        figures: key or caption -> SVG or PNG file, embedded; keys of ``FIGURE_CAPTIONS`` get their caption.
        config: settings of the run, nested as in its settings file.
        notes: warnings for the reader, such as rejected rows and leakage, one sentence each.
        data_summary: what :func:`moltune.data.describe.describe` says; None leaves the section out.
        unit: unit of the target; empty when it has none.

    Returns:
        ``path``.

    Raises:
        RunFolderError: a figure is missing, or is neither SVG nor PNG.
    """
    names = source_labels(metrics)
    page = render(
        "run.html",
        title=title,
        verdict=verdict(metrics, unit=unit),
        blend=blend_words(metrics, unit=unit),
        notes=notes,
        labels=metric_labels(metrics),
        primary=primary_of(metrics),
        class_words=class_words(metrics),
        groups=[(part, list(rows)) for part, rows in groupby(metrics_table(metrics), lambda row: row.part)],
        percent=f"{100 * (config.get('evaluation') or {}).get('confidence', 0.95):g}",
        unit=unit,
        comparisons=[
            (names.get(name, name), format_estimate(result["difference"]), result["verdict"])
            for name, result in ((metrics.get("blend") or metrics).get("comparison") or {}).items()
        ],
        intervals=interval_words(metrics, unit=unit),
        classes=_classes(intervals_shown(metrics), unit),
        cost=_cost(metrics),
        figures={FIGURE_CAPTIONS.get(key, key): Path(figure) for key, figure in figures.items()},
        data=list(_counts(data_summary or {})),
        spreads=pd.DataFrame(list(_spreads(data_summary or {}))),
        settings=list(_flatten(config)),
        versions=list(_versions()),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, page)


def _classes(intervals: Mapping[str, Any], unit: str) -> pd.DataFrame:
    """Intervals and errors by domain flag."""
    tail = f" ({unit})" if unit else ""
    rows = [
        {
            "Domain": flag,
            "Molecules": own["molecules"],
            "Within the interval": f"{100 * own['coverage']:.1f} %",
            f"Mean width{tail}": own["mean_width"],
            f"RMSE{tail}": own["rmse"],
        }
        for flag, own in (intervals.get("by_class") or {}).items()
    ]
    return pd.DataFrame(rows)


def _cost(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if "trainable_parameters" in metrics:
        trained, total = metrics["trainable_parameters"], metrics["total_parameters"]
        facts.append(("Parameters trained", f"{trained:,} of {total:,} ({100 * trained / total:.4g} %)"))
        if metrics["best_epoch"]:
            facts.append(("Epoch chosen", f"{metrics['best_epoch']:g}"))
        facts.append(("Time to train", _duration(metrics["seconds"])))
    if cost := metrics.get("cost"):
        peak, growth = (f"{cost[key] / 2**20:,.0f} MiB" for key in ("peak_memory_bytes", "memory_growth_bytes"))
        facts += [
            ("Arithmetic of training", cost["precision"] or "–"),
            ("Training molecules per second", format_number(cost["molecules_per_second"])),
            ("Peak memory", f"{peak}, of which {growth} for the training"),
            ("Saved weights", f"{cost['weights_bytes'] / 1e6:,.3g} MB"),
        ]
    for name, result in (metrics.get("baselines") or {}).items():
        if result.get("seconds") is not None:
            facts.append((f"Time of {baseline_label(name)}", _duration(result["seconds"])))
    return facts


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return "under 0.1 s"
    return f"{format_number(seconds)} s" if seconds < 120 else f"{format_number(seconds / 60)} min"


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def _counts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the data summary counts, as names and texts."""
    for key, value in summary.items():
        if not isinstance(value, Mapping):
            yield _words(key), _value_text(value)
        elif not list(_spreads({key: value})):
            yield _words(key), _value_text([f"{name}: {_value_text(count)}" for name, count in value.items()])


def _spreads(summary: Mapping[str, Any], of: str = "") -> Iterator[dict[str, Any]]:
    """What the data summary says of numbers, as rows: of what, n, mean, sd and quantiles."""
    for key, value in summary.items():
        name = f"{of} {key}".strip()
        if isinstance(value, Mapping) and "mean" in value:
            yield {"Of": _words(name.removeprefix("parts ")), **value}
        elif isinstance(value, Mapping):
            yield from _spreads(value, name)


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize().replace("Smiles", "SMILES")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as ("training.epochs", "12") pairs, in their order."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _value_text(value)


def _value_text(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}".replace("e-0", "e-")
    if isinstance(value, list | tuple):
        shown = ", ".join(_value_text(item) for item in value[:_MOST_ITEMS])
        return f"{shown}, and {len(value) - _MOST_ITEMS} more" if len(value) > _MOST_ITEMS else shown or "none"
    return str(value)
