"""A study's numbers as sentences and as rows of tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from moltune.evaluation.metrics import CLASSIFICATION
from moltune.reports.summary import format_number
from moltune.study.analysis.claims import OPEN, judge_claim
from moltune.study.analysis.verdicts import LABELS, Analysis, Comparison

DECIDED, UNDECIDED = ("better", "worse", "equivalent"), "cannot tell"
SHOWN_METRICS = {
    "regression": ("rmse", "mae", "median_absolute_error", "r2", "spearman"),
    "classification": ("roc_auc", "pr_auc", "mcc", "balanced_accuracy", "brier", "log_loss", "calibration_error"),
}


def titles(analysis: Analysis) -> dict[str, str]:
    """Arm -> what readers see."""
    return {arm.name: arm.title for arm in analysis.recipe.arms}


def sentence(comparison: Comparison, analysis: Analysis) -> str:
    """One verdict in words, with the numbers behind it."""
    names, decimals = titles(analysis), _decimals(comparison)
    one, other = names[comparison.arm], names[comparison.reference]
    over = f"over {_count(comparison, analysis)}"
    if comparison.difference is None or comparison.interval is None:
        return (
            f"{one} cannot be compared with {other}: they have {comparison.blocks} finished blocks on "
            f"{comparison.units} splits in common, and at least two splits are needed."
        )
    numbers = f"95 % interval of the difference {_ends(comparison.interval, decimals)}"
    if comparison.word == "equivalent":
        margin, p = format_number(comparison.margin, decimals), _p(comparison.p_equivalence_holm)
        return (
            f"{one} and {other} are equivalent: they differ by less than {margin} "
            f"({numbers}; corrected p of a larger difference {p}) {over}."
        )
    gap = format_number(abs(comparison.difference), decimals)
    # A share of an ROC AUC would be taken for points of it.
    if comparison.reference_mean and analysis.recipe.sign > 0:
        gap += f", {format_number(100 * abs(comparison.difference) / comparison.reference_mean, 1)} %"
    found = f"{analysis.label} {'lower' if comparison.difference < 0 else 'higher'} by {gap}"
    # Of several comparisons one interval can leave out zero, and still decide nothing.
    if comparison.word != UNDECIDED or comparison.interval[0] > 0 or comparison.interval[1] < 0:
        numbers += f"; corrected p {_p(comparison.p_holm)}"
    if comparison.word != UNDECIDED:
        return f"{one} is {comparison.word} than {other}: {found} ({numbers}) {over}."
    return (
        f"{one} cannot be distinguished from {other}: {found} ({numbers}) {over}. The smallest difference that would "
        f"be detected here is {format_number(comparison.detectable, decimals)}; {_more(comparison)}."
    )


def in_order(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """What was decided and what was not, each in the recipe's order."""
    decided = [item for item in comparisons if item.word != UNDECIDED]
    return decided, [item for item in comparisons if item.word == UNDECIDED]


def tally(comparisons: Sequence[Comparison]) -> str:
    """``25 comparisons, corrected together: 1 worse, 1 equivalent, 23 cannot tell.``"""
    counts = Counter(item.word for item in comparisons)
    found = ", ".join(f"{counts[word]} {word}" for word in (*DECIDED, UNDECIDED) if counts[word])
    together = "1 comparison" if len(comparisons) == 1 else f"{len(comparisons)} comparisons, corrected together"
    return f"{together}: {found}."


def _more(comparison: Comparison) -> str:
    if comparison.margin is None:
        return "the reference does not vary, so there is no margin below which differences do not matter"
    margin = format_number(comparison.margin, _decimals(comparison))
    if comparison.more_units is None:
        return f"no number of further splits would detect a difference of {margin}, since they overlap too much"
    splits = "split" if comparison.more_units == 1 else "splits"
    return f"about {comparison.more_units:,} more {splits} would detect a difference of {margin}"


def _count(comparison: Comparison, analysis: Analysis) -> str:
    protocol = analysis.recipe.protocol
    if len(protocol.splits) == 1 and not protocol.folds:
        return f"{comparison.blocks} seeds of one split"
    units = f"{comparison.units} {'folds' if protocol.folds else 'splits'}"
    return units if comparison.blocks == comparison.units else f"{comparison.blocks} blocks on {units}"


def _decimals(comparison: Comparison) -> int:
    scale = abs(comparison.reference_mean or 1.0)
    return 4 if scale < 1 else 3 if scale < 10 else 2


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ends(interval: tuple[float, float] | None, decimals: int = 3) -> str:
    return "–" if interval is None else " to ".join(format_number(end, decimals) for end in interval)


def arms_table(analysis: Analysis) -> pd.DataFrame:
    """One line per arm, best first, then the published numbers; all cells are text.

    Our cells are mean ± standard deviation over runs; columns: Arm, Kind, Runs, the metrics, after that of the study
    the 95 % interval of its mean, Seconds (median), Trained parameters (with their share), Peak memory (of the
    process), Saved (weights of one run, + those of a kernel head). Of classes, the calibration error before
    calibration stands beside that of the probabilities, where an arm calibrates.
    """
    interval, task = f"{analysis.label}, 95 % interval", analysis.recipe.task
    theirs = [_with_rmse(published.metrics) for published in analysis.recipe.published]
    # Published squared errors are read beside ours in that unit, too.
    shown = [*SHOWN_METRICS[task.name], *(["mse"] if any("mse" in metrics for metrics in theirs) else [])]
    rows = []
    done = analysis.frame.dropna(subset=[analysis.metric])
    means = analysis.recipe.sign * done.groupby("arm")[analysis.metric].mean()
    ours = [arm for arm in analysis.recipe.arms if not arm.grid]
    for arm in sorted(ours, key=lambda arm: means.get(arm.name, float("inf"))):
        runs = done.loc[done["arm"] == arm.name].drop_duplicates("hash")
        all_runs = analysis.frame.loc[analysis.frame["arm"] == arm.name, "hash"].nunique()
        row = {"Arm": arm.title + (" (control)" if arm.control else ""), "Kind": arm.kind}
        row["Runs"] = str(len(runs)) if len(runs) == all_runs else f"{len(runs)} of {all_runs}"
        for metric in shown:
            row[LABELS[metric]] = _spread(runs[metric])
            if metric == analysis.metric:
                row[interval] = _ends(analysis.interval(arm.name))
        if task is CLASSIFICATION:
            row["Before calibration"] = _spread(_before_calibration(runs))
        # The median, as one run that waited for a busy machine says nothing of the arm.
        row["Seconds"] = format_number(runs["seconds"].astype(float).median())
        row |= _costs(runs)
        rows.append(row)
    for published, metrics in zip(analysis.recipe.published, theirs, strict=True):
        row = dict.fromkeys(rows[0], "–") | {"Arm": f"{published.label} (published)", "Kind": "theirs, not tested"}
        shown_here = {LABELS[metric]: format_number(value) for metric, value in metrics.items()}
        rows.append(row | {label: text for label, text in shown_here.items() if label in row})
    return pd.DataFrame(rows)


def _with_rmse(metrics: Mapping[str, float]) -> dict[str, float]:
    """Published numbers; the RMSE of a run is the root of its MSE, where only that was given."""
    return {"rmse": math.sqrt(metrics["mse"]), **metrics} if "mse" in metrics else dict(metrics)


def _spread(values: pd.Series) -> str:
    known = values.dropna().astype(float)
    sd = f" ± {format_number(known.std(), 3)}" if len(known) > 1 else ""
    return f"{format_number(known.mean(), 3)}{sd}"


def _before_calibration(runs: pd.DataFrame) -> pd.Series:
    """Calibration error of each run's test part before its probabilities were calibrated; NaN where nothing was."""
    facts = (entry.get("calibration") or {} if isinstance(entry, Mapping) else {} for entry in runs["facts"])
    return pd.Series([entry.get("before", {}).get("calibration_error") for entry in facts], dtype="float64")


def _costs(runs: pd.DataFrame) -> dict[str, str]:
    """Trained parameters and their share of all, peak memory, and weights of one run + those of its kernel head."""
    facts = [entry for entry in runs["facts"] if isinstance(entry, Mapping)]

    def largest(name: str) -> float | None:
        return max((float(entry[name]) for entry in facts if entry.get(name) is not None), default=None)

    trained, total, saved = largest("trainable_parameters"), largest("total_parameters"), largest("weights_bytes")
    memory = runs["peak_memory_mb"].astype(float).max()
    costs = dict.fromkeys(("Trained parameters", "Peak memory", "Saved"), "–")
    if trained is not None:
        costs["Trained parameters"] = f"{trained:,.0f}" + (f" ({trained / total:.3%})" if total else "")
    if pd.notna(memory):
        costs["Peak memory"] = _megabytes(memory)
    if saved is not None:
        kernel = max(((entry.get("refit") or {}).get("bytes", 0) for entry in facts), default=0)
        costs["Saved"] = _megabytes((saved - kernel) / 1e6) + (f" + {_megabytes(kernel / 1e6)}" if kernel else "")
    return costs


def _megabytes(value: float) -> str:
    return f"{format_number(value)} MB"


def comparisons_table(analysis: Analysis) -> pd.DataFrame:
    """One line per comparison; all cells are text."""
    names = titles(analysis)
    rows: list[dict[str, Any]] = []
    for item in analysis.comparisons:
        decimals = _decimals(item)
        rows.append(
            {
                "Arm": names[item.arm],
                "Against": names[item.reference],
                "Verdict": item.word,
                f"Δ {analysis.label}": format_number(item.difference, decimals),
                "95 % interval": _ends(item.interval, decimals),
                "Bootstrap": _ends(item.bootstrap, decimals),
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


def claims_table(analysis: Analysis) -> pd.DataFrame:
    """One line per claim; all cells are text. Empty where the recipe has none."""
    found = {(item.arm, item.reference): item for item in analysis.comparisons}
    rows = []
    for claim in analysis.recipe.claims:
        item = found[claim.arm, claim.against]
        ours, verdict = "–", judge_claim(claim, item)
        if item.difference is not None and item.interval is not None:
            ours = f"Δ {analysis.label} {format_number(item.difference, 3)} ({_ends(item.interval)})"
        rows.append(
            {
                "Claim": claim.text,
                "By": claim.source,
                "Their numbers": claim.theirs or "–",
                "Ours, 95 % interval": ours,
                "Verdict": verdict,
                "To decide it": _more(item) if verdict == OPEN and item.margin is not None else "–",
            }
        )
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame) -> str:
    """A GitHub table."""
    # DataFrame.to_markdown needs a package more.
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join(lines) + "\n"


# What pandas does not escape.
_LATEX = str.maketrans(
    {"±": r"$\pm$", "−": "$-$", "Δ": r"$\Delta$", "²": "$^2$", "³": "$^3$", "ρ": r"$\rho$", "–": "--", "<": "$<$"}
)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A booktabs table."""
    columns = "l" * min(3, table.shape[1]) + "r" * max(0, table.shape[1] - 3)
    styled = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    escaped = caption.replace("_", r"\_")
    return styled.to_latex(hrules=True, column_format=columns, position_float="centering", caption=escaped).translate(
        _LATEX
    )
