"""One self-contained HTML page about one run: nothing is loaded from elsewhere, and no script runs."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from moltune.errors import RunFolderError
from moltune.reports.style import STYLE
from moltune.reports.summary import (
    METRIC_LABELS,
    MODEL,
    MetricsRow,
    baseline_label,
    blend_words,
    format_estimate,
    format_number,
    metrics_table,
    verdict,
)

__all__ = ["metrics_table", "verdict", "write_report"]

FIGURE_CAPTIONS = {
    "loss_curves": "Loss by epoch on the training and validation parts; the dotted line marks the epoch whose weights "
    "were kept.",
    "true_against_predicted": "Predicted against measured values; half of the molecules lie inside the orange band "
    "around the identity line.",
    "residual_histogram": "Distribution of predicted minus measured values.",
}
_PART_TITLES = {
    "test": "Test part: molecules that no choice was made on",
    "validation": "Validation part: the epoch was chosen on it",
    "train": "Training part",
}
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
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
    """Write the report of a run: verdict, metrics with intervals and baselines, figures, warnings, settings, versions.

    Args:
        path: HTML file to write (atomically); its folder is made if need be.
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
    confidence = (config.get("evaluation") or {}).get("confidence", 0.95)
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(verdict(metrics, unit=unit))}</p>',
        f"<p>{escape(blend_words(metrics, unit=unit))}</p>" if metrics.get("blend") else "",
        '<p class="soft">One split and one seed: another split or seed moves these numbers too, and the intervals '
        "below do not contain that. They show what other test molecules of the same kind would do.</p>",
        _warnings(notes),
        _metrics_section(metrics, confidence, unit),
        _comparison_section(metrics, unit),
        _cost_section(metrics),
        _figures_section(figures),
        _data_section(data_summary),
        _settings_section(config),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )
    return _write_atomically(Path(path), page)


def _warnings(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="warnings" aria-label="Warnings"><strong>Please note</strong><ul>{items}</ul></section>'


def _metrics_section(metrics: Mapping[str, Any], confidence: float, unit: str) -> str:
    rows = metrics_table(metrics)
    if not rows:
        return ""
    in_unit = f" Errors are in {escape(unit)}; MSE is in its square." if unit else ""
    head = "".join(f'<th scope="col" class="number">{escape(label)}</th>' for label in METRIC_LABELS.values())
    body = "".join(
        _metrics_group(part, list(group), len(METRIC_LABELS) + 1) for part, group in groupby(rows, lambda row: row.part)
    )
    return (
        '<h2>Metrics</h2>\n<div class="wide"><table>'
        f"<caption>Small figures: {100 * confidence:g} % bootstrap interval over molecules.{in_unit}</caption>"
        f'<thead><tr><th scope="col">Model</th>{head}</tr></thead>{body}</table></div>'
    )


def _metrics_group(part: str, rows: Sequence[MetricsRow], width: int) -> str:
    title = f"{_PART_TITLES[part]} (n = {rows[0].n:,})"
    lines = "".join(_metrics_line(row) for row in rows)
    return f'<tbody><tr><th scope="rowgroup" colspan="{width}">{escape(title)}</th></tr>{lines}</tbody>'


def _metrics_line(row: MetricsRow) -> str:
    cells = []
    for name in METRIC_LABELS:
        value, bracket, interval = row.text(name).partition(" (")
        small = f"<small>{escape(interval.removesuffix(')'))}</small>" if bracket else ""
        cells.append(f'<td class="number">{escape(value)}{small}</td>')
    kind = ' class="model"' if row.source == MODEL else ""
    return f'<tr{kind}><th scope="row">{escape(row.label)}</th>{"".join(cells)}</tr>'


def _comparison_section(metrics: Mapping[str, Any], unit: str) -> str:
    comparisons = metrics.get("comparison") or {}
    if not comparisons:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{escape(baseline_label(name))}</th>'
        f'<td class="number">{escape(format_estimate(result["difference"]))}</td>'
        f"<td>{escape(result['verdict'])}</td></tr>"
        for name, result in comparisons.items()
    )
    label = f"Difference of RMSE ({unit})" if unit else "Difference of RMSE"
    return (
        '<h2>Against each baseline</h2>\n<div class="wide"><table>'
        "<caption>Model minus baseline on the same test molecules, paired bootstrap; below zero the model is better."
        f'</caption><thead><tr><th scope="col">Baseline</th><th scope="col" class="number">{escape(label)}</th>'
        f'<th scope="col">The model is</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _cost_section(metrics: Mapping[str, Any]) -> str:
    facts = []
    trainable, total = metrics.get("trainable_parameters"), metrics.get("total_parameters")
    if trainable is not None:
        share = f" of {total:,} ({100 * trainable / total:.4g} %)" if total else ""
        facts.append(("Parameters trained", f"{trainable:,}{share}"))
    if metrics.get("best_epoch") is not None:
        facts.append(("Epoch chosen", f"{metrics['best_epoch']:g}"))
    if metrics.get("seconds") is not None:
        facts.append(("Time to train", _duration(metrics["seconds"])))
    cost = metrics.get("cost") or {}
    if cost.get("precision") is not None:
        facts.append(("Arithmetic of training", cost["precision"]))
    if cost.get("molecules_per_second") is not None:
        facts.append(("Training molecules per second", format_number(cost["molecules_per_second"])))
    if cost.get("peak_memory_bytes") is not None:
        peak, growth = (f"{cost[key] / 2**20:,.0f} MiB" for key in ("peak_memory_bytes", "memory_growth_bytes"))
        facts.append(("Peak memory", f"{peak}, of which {growth} for the training"))
    if cost.get("weights_bytes") is not None:
        facts.append(("Saved weights", f"{cost['weights_bytes'] / 1e6:,.3g} MB"))
    for name, result in (metrics.get("baselines") or {}).items():
        if result.get("seconds") is not None:
            facts.append((f"Time of {baseline_label(name)}", _duration(result["seconds"])))
    return f"<h2>Cost</h2>\n{_facts_table(facts)}" if facts else ""


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return "under 0.1 s"
    return f"{format_number(seconds)} s" if seconds < 120 else f"{format_number(seconds / 60)} min"


def _figures_section(figures: Mapping[str, Path]) -> str:
    if not figures:
        return ""
    blocks = "".join(_figure(key, Path(path)) for key, path in figures.items())
    return f'<h2>Figures</h2>\n<div class="figures">{blocks}</div>'


def _figure(key: str, path: Path) -> str:
    caption = escape(FIGURE_CAPTIONS.get(key, key))
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise RunFolderError(f"the figure {path} is neither SVG nor PNG, so the report cannot embed it")
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise RunFolderError(f"the figure {path} cannot be read: {error.strerror or error}") from None
    image = f'<img src="data:{media_type};base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _data_section(summary: Mapping[str, Any] | None) -> str:
    return f"<h2>Data</h2>\n{_facts_table(list(_flatten(summary)))}" if summary else ""


def _settings_section(config: Mapping[str, Any]) -> str:
    blocks = [("Settings", list(_flatten(config))), ("Versions", list(_versions()))]
    tables = "".join(
        f"<details open><summary>{title}</summary>{_facts_table(facts)}</details>" for title, facts in blocks if facts
    )
    return f"<h2>How to repeat it</h2>\n{tables}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as ("training.epochs", "12") pairs, in their order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{name}.")
        else:
            yield name, _value_text(value)


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


def _facts_table(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts)
    return f'<div class="wide"><table class="settings"><tbody>{lines}</tbody></table></div>'


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
