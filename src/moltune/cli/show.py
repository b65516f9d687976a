"""A finished run in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from moltune.cli.console import out, print_json
from moltune.reports.summary import (
    MetricsRow,
    blend_words,
    class_words,
    format_number,
    is_probe_name,
    metric_labels,
    metrics_table,
    primary_of,
    refit_words,
    verdict,
)
from moltune.run import FIGURES, PREDICTIONS, PROPERTIES, REJECTS, REPORT, Run


def show_run(run: Run, as_json: bool) -> None:
    """Print the metrics object, or verdict, table and the places of the results."""
    if as_json:
        return print_json(run.metrics)
    unit = str(run.provenance.get("data", {}).get("unit") or "")
    out.print(f"\n[bold]{verdict(run.metrics, unit=unit)}[/]\n")
    if "blend" in run.metrics:
        out.print(f"{blend_words(run.metrics, unit=unit)}\n", markup=False)
    for words in class_words(run.metrics):
        out.print(f"{words}\n", markup=False)
    if "adaptation" in run.metrics:
        adaptation = run.metrics["adaptation"]
        out.print(f"first adapted ({adaptation['objective']}) to the {adaptation['part']}\n", markup=False)
    out.print(_table(run))
    counted = run.metrics
    cost = counted.get("cost", {})
    took = f"{counted['seconds']:.0f} s"
    if cost:
        took += f", {cost['peak_memory_bytes'] / 2**20:,.0f} MiB at most, {cost['saved_bytes'] / 1e6:.3g} MB saved"
    chosen = f"epoch {counted['best_epoch']} of {counted['epochs']} kept; " if counted["epochs"] else ""
    out.print(
        f"\n{counted['trainable_parameters']:,} of {counted['total_parameters']:,} parameters trained, "
        f"{took}; {chosen}"
        "one split and one seed, so differences between runs may be noise\n"
    )
    if counted.get("refit"):
        out.print(f"{refit_words(counted['refit'], unit=unit)}\n", markup=False)
    rows = run.provenance.get("rows", {})
    if rows.get("rejected"):
        out.print(f"left out  {rows['rejected']} of {rows['in']} rows, see {run.path / REJECTS}")
    for label, place in (
        ("report", REPORT),
        ("figures", FIGURES),
        ("predictions", PREDICTIONS),
        ("model", "model"),
    ):
        if (run.path / place).exists():
            out.print(f"{label:<12}{run.path / place}", soft_wrap=True)


def show_runs(runs: dict[str, Run], as_json: bool) -> None:
    """The same of several properties that were tuned together, by their names."""
    if len(runs) == 1:
        return show_run(next(iter(runs.values())), as_json)
    if as_json:
        return print_json({name: run.metrics for name, run in runs.items()})
    for name, run in runs.items():
        unit = str(run.provenance.get("data", {}).get("unit") or "")
        out.print(f"\n[bold]{escape(name)}[/]  {escape(verdict(run.metrics, unit=unit))}")
        out.print(_table(run))
    first = next(iter(runs.values()))
    folder, probe = first.path.parent, first.config.method.name == "probe"
    how = "Each has a probe of its own" if probe else "One encoder was tuned on all of them"
    out.print(f"{how}; one split and one seed, so differences between runs may be noise\n")
    for label, place in (("report", REPORT), ("all metrics", PROPERTIES)):
        out.print(f"{label:<12}{folder / place}", soft_wrap=True)
    for name, run in runs.items():
        out.print(f"{'run':<12}{run.path}  ({escape(name)})", soft_wrap=True)


def _short(row: MetricsRow, probes: set[str]) -> str:
    """A label that fits: a probe's whole name stands in the report, and here only where there are several."""
    if row.source not in probes:
        return row.label
    head, _, features = row.source.partition(":")
    return f"probe, {head}" if len(probes) == 1 else f"{head}: {features.replace('+', ' + ')}"


def _table(run: Run) -> Table:
    """Test part with its baselines, the model alone on the others; every interval is in the report."""
    # Narrow enough for a terminal of 80 columns.
    labels, by = metric_labels(run.metrics), primary_of(run.metrics)
    left_out = {by.name, "mse", "median_absolute_error", "balanced_accuracy", "brier", "prevalence"}
    others = [name for name in labels if name not in left_out]
    short = {"spearman": "ρ"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("part", no_wrap=True)
    table.add_column("predicted by", max_width=24)
    first = f"{by.label} ({run.config.evaluation.confidence:.0%} interval)"
    for heading in ("n", first, *(short.get(name, labels[name]) for name in others)):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = metrics_table(run.metrics)
    probes = {row.source for row in rows if is_probe_name(row.source)}
    for row in rows:
        if row.own or row.source == "model" or row.part == "test":
            numbers = (format_number(row.metrics[name]["value"], 2) for name in others)
            style = "bold" if row.own and row.part == "test" else ""
            table.add_row(row.part, _short(row, probes), str(row.n), row.text(by.name), *numbers, style=style)
    return table
