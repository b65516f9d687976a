"""A finished run in the terminal."""

from __future__ import annotations

from rich.table import Table

from moltune.cli.console import out, print_json
from moltune.evaluation.summary import METRIC_LABELS, metrics_table, verdict
from moltune.run import FIGURES, PREDICTIONS, REJECTS, REPORT, Run


def show_run(run: Run, as_json: bool) -> None:
    """Print the metrics object, or verdict, table and the places of the results."""
    if as_json:
        print_json(run.metrics)
        return
    unit = str(run.provenance.get("data", {}).get("unit") or "")
    out.print(f"\n[bold]{verdict(run.metrics, unit=unit)}[/]\n")
    out.print(_table(run))
    counted = run.metrics
    out.print(
        f"\n{counted['trainable_parameters']:,} of {counted['total_parameters']:,} parameters trained, "
        f"{counted['seconds']:.0f} s, epoch {counted['best_epoch']} of {counted['epochs']} kept; "
        "one split and one seed, so differences between runs may be noise\n"
    )
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


def _table(run: Run) -> Table:
    shown = [name for name in METRIC_LABELS if name != "mse"]
    table = Table(title="with 95 % bootstrap intervals" if _has_intervals(run) else None, title_justify="left")
    for heading in ("part", "n", "predicted by"):
        table.add_column(heading, justify="right" if heading == "n" else "left")
    for name in shown:
        table.add_column(METRIC_LABELS[name], justify="right")
    for row in metrics_table(run.metrics):
        style = "bold" if row.source == "model" else ""
        table.add_row(row.part, str(row.n), row.label, *(row.text(name) for name in shown), style=style)
    return table


def _has_intervals(run: Run) -> bool:
    return run.config.evaluation.bootstrap > 0 and run.config.evaluation.confidence == 0.95
