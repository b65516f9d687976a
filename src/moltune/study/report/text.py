"""A study's numbers as sentences and as rows of tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moltune.reports.summary import METRIC_LABELS, format_number
from moltune.study.analysis.verdicts import Analysis, Comparison

_LABELS = {**METRIC_LABELS, "seconds": "Seconds", "trainable_parameters": "Trained parameters"}
DECIDED, UNDECIDED = ("better", "worse", "equivalent"), "cannot tell"
SHOWN_METRICS = ("rmse", "mae", "median_absolute_error", "r2", "spearman")


def titles(analysis: Analysis) -> dict[str, str]:
    """Arm -> what readers see."""
    return {arm.name: arm.title for arm in analysis.recipe.arms}


def metric_label(metric: str, unit: str = "") -> str:
    """``RMSE (unit)``."""
    return f"{METRIC_LABELS[metric]} ({unit})" if unit else METRIC_LABELS[metric]


def sentence(comparison: Comparison, analysis: Analysis) -> str:
    """One verdict in words, with the numbers behind it."""
    names = titles(analysis)
    one, other = names[comparison.arm], names[comparison.reference]
    if comparison.difference is None or comparison.interval is None:
        return (
            f"Cannot tell {one} from {other}: they have {comparison.blocks} finished blocks on {comparison.units} "
            "splits in common, and at least two splits are needed."
        )
    label = METRIC_LABELS[analysis.metric]
    decimals = _decimals(comparison)
    gap = format_number(abs(comparison.difference), decimals)
    low, high = (format_number(value, decimals) for value in comparison.interval)
    share = ""
    if comparison.reference_mean:
        share = f", {format_number(100 * abs(comparison.difference) / comparison.reference_mean, 1)} %"
    numbers = f"95 % interval of the difference {low} to {high}"
    over = f"over {_count(comparison, analysis)}"
    if comparison.word in ("better", "worse"):
        way = "lower" if comparison.word == "better" else "higher"
        p = f"corrected p {_p(comparison.p_holm)}"
        return f"{one} is {comparison.word} than {other}: {label} {way} by {gap}{share} ({numbers}; {p}) {over}."
    if comparison.word == "equivalent":
        return (
            f"{one} and {other} are equivalent: they differ by less than {format_number(comparison.margin, decimals)} "
            f"({numbers}; corrected p of a larger difference {_p(comparison.p_equivalence_holm)}) {over}."
        )
    # Of several comparisons one interval can leave out zero, and still decide nothing.
    if comparison.p_holm is not None and (comparison.interval[0] > 0 or comparison.interval[1] < 0):
        numbers += f"; corrected p {_p(comparison.p_holm)}"
    way = "lower" if comparison.difference < 0 else "higher"
    detectable = format_number(comparison.detectable, decimals)
    return (
        f"Cannot tell {one} from {other}: {label} {way} by {gap}{share} ({numbers}) {over}. "
        f"Only differences above {detectable} would be found here; {_more(comparison)}."
    )


def in_order(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """What was decided and what was not, each in the recipe's order."""
    return (
        [item for item in comparisons if item.word != UNDECIDED],
        [item for item in comparisons if item.word == UNDECIDED],
    )


def tally(comparisons: Sequence[Comparison]) -> str:
    """``25 comparisons, corrected together: 1 worse, 1 equivalent, 23 cannot tell.``"""
    counts = Counter(item.word for item in comparisons)
    found = ", ".join(f"{counts[word]} {word}" for word in (*DECIDED, UNDECIDED) if counts[word])
    together = "1 comparison" if len(comparisons) == 1 else f"{len(comparisons)} comparisons, corrected together"
    return f"{together}: {found}."


def _more(comparison: Comparison) -> str:
    if comparison.margin is None:
        return "the reference does not vary, so no margin is known below which differences do not matter"
    margin = format_number(comparison.margin, _decimals(comparison))
    if comparison.more_units is None:
        return f"no number of further splits of these data would find one of {margin}, as they overlap too much"
    splits = "split" if comparison.more_units == 1 else "splits"
    return f"about {comparison.more_units:,} more {splits} would find one of {margin}"


def _count(comparison: Comparison, analysis: Analysis) -> str:
    unit = "folds" if analysis.recipe.protocol.folds else "splits"
    if len(analysis.recipe.protocol.splits) == 1 and not analysis.recipe.protocol.folds:
        return f"{comparison.blocks} seeds of one split"
    if comparison.blocks == comparison.units:
        return f"{comparison.units} {unit}"
    return f"{comparison.blocks} blocks on {comparison.units} {unit}"


def _decimals(comparison: Comparison) -> int:
    scale = abs(comparison.reference_mean or 1.0)
    return 4 if scale < 1 else 3 if scale < 10 else 2


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def arms_table(analysis: Analysis) -> pd.DataFrame:
    """One line per arm, best first, then the published numbers; all cells are text.

    Our cells are mean ± standard deviation over runs; columns: Arm, Kind, Runs, the metrics, after that of the study
    the 95 % interval of its mean, Seconds (median), Trained parameters (with their share), Peak memory (of the
    process), Saved (weights of one run, + those of a kernel head).
    """
    interval = f"{METRIC_LABELS[analysis.metric]}, 95 % interval"
    theirs = [_with_rmse(published.metrics) for published in analysis.recipe.published]
    # Who publishes squared errors is read beside ours in that unit, too.
    shown = [*SHOWN_METRICS, *(["mse"] if any("mse" in metrics for metrics in theirs) else [])]
    rows = []
    done = analysis.frame.dropna(subset=[analysis.metric])
    means = done.groupby("arm")[analysis.metric].mean()
    ours = [arm for arm in analysis.recipe.arms if not arm.grid]
    arms = sorted(ours, key=lambda arm: means.get(arm.name, float("inf")))
    for arm in arms:
        runs = done.loc[done["arm"] == arm.name].drop_duplicates("hash")
        all_runs = analysis.frame.loc[analysis.frame["arm"] == arm.name, "hash"].nunique()
        row = {"Arm": arm.title + (" (control)" if arm.control else ""), "Kind": arm.kind}
        row["Runs"] = str(len(runs)) if len(runs) == all_runs else f"{len(runs)} of {all_runs}"
        for metric in shown:
            row[METRIC_LABELS[metric]] = _spread(runs[metric])
            if metric == analysis.metric:
                row[interval] = _interval(analysis.interval(arm.name))
        # The median, as one run that waited for a busy machine says nothing of the arm.
        row["Seconds"] = format_number(runs["seconds"].median()) if len(runs) else "–"
        row["Trained parameters"] = _parameters(runs)
        row["Peak memory"] = _megabytes(runs["peak_memory_mb"].max()) if len(runs) else "–"
        row["Saved"] = _saved(runs)
        rows.append(row)
    for published, metrics in zip(analysis.recipe.published, theirs, strict=True):
        row = dict.fromkeys(rows[0], "–") | {"Arm": f"{published.label} (published)", "Kind": "theirs, not tested"}
        for metric, value in metrics.items():
            if METRIC_LABELS[metric] in row:
                row[METRIC_LABELS[metric]] = format_number(value)
        rows.append(row)
    return pd.DataFrame(rows)


def _with_rmse(metrics: Mapping[str, float]) -> dict[str, float]:
    """Published numbers; the RMSE of a run is the root of its MSE, where only that was given."""
    return {"rmse": math.sqrt(metrics["mse"]), **metrics} if "mse" in metrics else dict(metrics)


def _spread(values: pd.Series) -> str:
    known = values.dropna()
    if not len(known):
        return "–"
    sd = f" ± {format_number(float(known.std(ddof=1)), 3)}" if len(known) > 1 else ""
    return f"{format_number(float(known.mean()), 3)}{sd}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{format_number(interval[0], 3)} to {format_number(interval[1], 3)}"


def _parameters(runs: pd.DataFrame) -> str:
    """How many are trained, and their share of all."""
    trained, total = _largest(runs, "trainable_parameters"), _largest(runs, "total_parameters")
    if trained is None:
        return "–"
    return f"{int(trained):,}" + (f" ({trained / total:.3%})" if total else "")


def _saved(runs: pd.DataFrame) -> str:
    """Weights of one run, what its kernel head takes apart."""
    saved = _largest(runs, "weights_bytes")
    if saved is None:
        return "–"
    facts = [entry["refit"] for entry in runs["facts"] if isinstance(entry, Mapping) and entry.get("refit")]
    kernel = max((entry.get("bytes", 0) for entry in facts), default=0)
    return _megabytes((saved - kernel) / 1e6) + (f" + {_megabytes(kernel / 1e6)}" if kernel else "")


def _largest(runs: pd.DataFrame, fact: str) -> float | None:
    facts = [entry for entry in runs["facts"] if isinstance(entry, Mapping)]
    return max((float(entry[fact]) for entry in facts if entry.get(fact) is not None), default=None)


def _megabytes(value: float) -> str:
    return f"{format_number(value)} MB" if pd.notna(value) else "–"


def comparisons_table(analysis: Analysis) -> pd.DataFrame:
    """One line per comparison; all cells are text."""
    names = titles(analysis)
    rows: list[dict[str, Any]] = []
    for item in analysis.comparisons:
        decimals = _decimals(item)

        def pair(interval: tuple[float, float] | None, decimals: int = decimals) -> str:
            if interval is None:
                return "–"
            return f"{format_number(interval[0], decimals)} to {format_number(interval[1], decimals)}"

        rows.append(
            {
                "Arm": names[item.arm],
                "Against": names[item.reference],
                "Verdict": item.word,
                f"Δ {METRIC_LABELS[analysis.metric]}": format_number(item.difference, decimals),
                "95 % interval": pair(item.interval),
                "Bootstrap": pair(item.bootstrap),
                "p": _p(item.p),
                "p (Holm)": _p(item.p_holm),
                "p (equivalent, Holm)": _p(item.p_equivalence_holm),
                "Effect size": format_number(item.effect_size, 2),
                "Margin": format_number(item.margin, decimals),
                "Detectable": format_number(item.detectable, decimals),
                "Splits": str(item.units),
            }
        )
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame) -> str:
    """A GitHub table."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join(lines) + "\n"


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$"}
_LATEX |= {"²": "$^2$", "ρ": r"$\rho$", "–": "--", "<": "$<$", "{": r"\{", "}": r"\}", "³": "$^3$"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A booktabs table."""

    def line(cells: list[str]) -> str:
        return "  " + " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    body = [line(row) for row in table.to_numpy().tolist()]
    columns = "l" * min(3, table.shape[1]) + "r" * max(0, table.shape[1] - 3)
    head = ["\\begin{table}", "  \\centering", f"  \\caption{{{line([caption]).strip()[:-3]}}}"]
    head += [f"  \\begin{{tabular}}{{{columns}}}", "  \\toprule", line(list(table.columns)), "  \\midrule"]
    return "\n".join([*head, *body, "  \\bottomrule", "  \\end{tabular}", "\\end{table}"]) + "\n"
