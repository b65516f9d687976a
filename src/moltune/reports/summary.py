"""A run's metrics in words and rows, shared by its page and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METRIC_LABELS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "median_absolute_error": "Median abs. error",
    "r2": "R²",
    "spearman": "Spearman ρ",
    "mse": "MSE",
}
CLASS_METRIC_LABELS = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "mcc": "MCC",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "prevalence": "Prevalence",
}
BASELINE_LABELS = {
    "mean": "Training mean",
    "ridge": "Ridge",
    "random-forest": "Random forest",
    "xgboost": "XGBoost",
}
PROBE_HEADS = {"ridge": "Ridge", "svr": "SVR", "gp": "Gaussian process"}
PROBE_FEATURES = {
    "embedding": "frozen embeddings",
    "rdkit": "all descriptors",
    "rdkit-fast": "descriptors",
    "morgan": "Morgan counts",
    "ionisation": "ionisation",
    "minimol": "MiniMol",
}
MODEL = "model"
CROSS_VALIDATION = "cross_validation"
"""Entry of the metrics of a model that was trained on every molecule."""


@dataclass(frozen=True)
class Primary:
    """The metric that models are compared by: its name, its label, and 1 where lower is better, -1 where higher is."""

    name: str
    label: str
    sign: int


def primary_of(metrics: Mapping[str, Any]) -> Primary:
    """ROC AUC for classes, else the RMSE; ``metrics`` is the content of ``metrics.json``."""
    return Primary("roc_auc", "ROC AUC", -1) if metrics.get("classes") else Primary("rmse", "RMSE", 1)


def metric_labels(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Names and labels of the metrics that a run has."""
    return CLASS_METRIC_LABELS if metrics.get("classes") else METRIC_LABELS


@dataclass(frozen=True)
class MetricsRow:
    """One line of the metrics table.

    Attributes:
        part: "test", "cross_validation", "validation" or "train".
        source: "model", or the name of a baseline.
        label: the source in words, such as "This model" or "XGBoost".
        own: whether the run predicts with it: the blend where there is one, else the tuned model.
        n: number of molecules in the part.
        metrics: metric name -> {"value", "lower", "upper"}, in the order of :func:`metric_labels`.
    """

    part: str
    source: str
    label: str
    own: bool
    n: int
    metrics: dict[str, dict[str, float | None]]

    def text(self, metric: str) -> str:
        """The metric as "0.629 (0.591 to 0.668)"; "–" where it is not defined or was not computed."""
        return format_estimate(self.metrics.get(metric))


def source_labels(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What predicts, the baselines and probes as a reader knows them: "XGBoost", "SVR on frozen embeddings"."""
    blended = bool(metrics.get("blend"))
    named = {"blend": "This model, a blend", MODEL: "Tuned model alone" if blended else "This model"}
    return named | {name: baseline_label(name) for name in metrics.get("baselines") or {}}


def metrics_table(metrics: Mapping[str, Any]) -> list[MetricsRow]:
    """Rows of a metrics table: test first, then validation and train; in each part what predicts, then the baselines.

    Args:
        metrics: the content of ``metrics.json``; parts and baselines that were not evaluated get no row.
    """
    sources: dict[str, Mapping[str, Any]] = {MODEL: metrics, **(metrics.get("baselines") or {})}
    if metrics.get("blend"):
        sources = {"blend": metrics["blend"], **sources}
    own, labels = next(iter(sources)), source_labels(metrics)
    rows = []
    for part in ("test", CROSS_VALIDATION, "validation", "train"):
        for source, results in sources.items():
            if values := results.get(part):
                label = labels[source]
                kept = {name: values[name] for name in metric_labels(metrics) if name in values}
                rows.append(MetricsRow(part, source, label, source == own, int(values["n"]), kept))
    return rows


def verdict(metrics: Mapping[str, Any], *, unit: str = "") -> str:
    """Say in one sentence whether the language model was worth it, judged on the test part alone.

    What it predicts, in a blend where there is one, is compared by RMSE, or ROC AUC for classes, with the training mean
    or guessing, and with the best of the baselines that do without it; a difference counts where the paired interval in
    ``"comparison"`` leaves out zero.

    Args:
        metrics: the content of ``metrics.json``.
        unit: unit of the target; empty when it has none.
    """
    if metrics.get(CROSS_VALIDATION):
        error = _with_unit(format_estimate(metrics[CROSS_VALIDATION]["rmse"]), unit)
        return f"Trained on every molecule: the cross-validated RMSE is {error}."
    if not metrics.get("test"):
        return "There is no test part, so nothing can be said about how well the model predicts new molecules."
    blend, by = metrics.get("blend") or {}, primary_of(metrics)
    if metrics["test"][by.name]["value"] is None:
        return f"The test part holds one class alone, so there is no {by.label}, and nothing to compare."
    own = blend if blend.get("test") else metrics
    model = f"the language model's test {by.label} is {_with_unit(format_estimate(metrics['test'][by.name]), unit)}"
    if own is blend:
        blended = _with_unit(format_estimate(own["test"][by.name]), unit)
        alone = format_number(metrics["test"][by.name]["value"])
        model = f"the test {by.label} of the blend is {blended} (the tuned language model alone: {alone})"
    rivals = {
        name: result["test"][by.name]
        for name, result in (metrics.get("baselines") or {}).items()
        if result.get("test") and "embedding" not in name.partition(":")[2].split("+")
    }
    if not rivals:
        return (
            f"Not compared: {model}, but no baseline was run that does without it, so it is open whether a simpler "
            "model does as well."
        )
    if "mean" in rivals:
        mean = rivals.pop("mean")
        guess = "the training mean" if by.sign > 0 else "guessing"
        outcome, gap = _outcome(own, "mean", mean, by), _gap(own, "mean", mean, unit, by)
        if outcome == "worse":
            rather = "predicting the training mean for every molecule" if by.sign > 0 else guess
            return f"Do not use this model: {model}, worse than {rather} ({gap})."
        if outcome == "cannot tell":
            return f"The model shows nothing yet: {model}, which cannot be distinguished from {guess} ({gap})."
        model += f" and beats {guess}"
    if not rivals:
        return f"Better than guessing: {model}; no classical model was run to compare it with."
    best = min(rivals, key=lambda name: by.sign * rivals[name]["value"])
    label, rival = baseline_label(best), rivals[best]
    outcome, gap = _outcome(own, best, rival, by), _gap(own, best, rival, unit, by)
    if outcome == "better":
        return f"The language model is worth it: {model}, and it beats {label} too ({gap})."
    if outcome == "worse":
        return f"The language model is not worth it here: {model}, but {label} is better ({gap})."
    return (
        f"No clear winner: {model}, but it cannot be distinguished from {label} ({gap}), so the simpler {label} is "
        "enough on this evidence."
    )


def refit_words(refit: Mapping[str, Any], *, unit: str = "") -> str:
    """What became of the head after training, in one sentence; ``refit`` is that entry of ``metrics.json``."""
    svr = "a support vector machine on the tuned embeddings"
    validation, folds = refit["validation"], refit.get("cross_validation")
    errors = validation or folds
    if not errors:
        # Runs of version 0.1 took the support vector machine where they could not compare.
        taken = svr if refit["head"] == "svr" else "as trained"
        return f"head: {taken} (there were too few molecules to compare it with another head)"
    own = "trained" if validation else "linear"
    best = min(error for name, error in errors.items() if name != own)
    kind, other = ("validation", "the trained head") if validation else ("cross-validated", "a linear head")
    numbers = f"{kind} RMSE {format_number(best)} against {_with_unit(format_number(errors[own]), unit)} of {other}"
    if not validation:
        count = refit["validation_molecules"]
        part = f"the validation part of {count} is too small" if count else "there is no validation part"
        numbers += f", over folds of the training and validation molecules, as {part} to choose on"
    return (
        f"head: {svr} ({numbers})" if refit["head"] == "svr" else f"head: as trained; {svr} was no better ({numbers})"
    )


def blend_words(metrics: Mapping[str, Any], *, unit: str = "") -> str:
    """Say in one sentence what a blend is made of, and whether it beats its members; empty where there is none.

    Args:
        metrics: the content of ``metrics.json``.
        unit: unit of the target; empty when it has none.
    """
    blend = metrics.get("blend")
    if not blend:
        return ""
    labels = {name: "the language model" if name == MODEL else baseline_label(name) for name in blend["weights"]}
    shares = ", ".join(f"{100 * weight:.0f} % {labels[name]}" for name, weight in blend["weights"].items())
    text = f"The blend is {shares} (weights from the validation part)"
    if not blend.get("test"):
        return f"{text}."
    said = {"better": "better than", "worse": "worse than", "cannot tell": "not distinguishable from"}
    members: dict[str, list[str]] = {}
    for name, result in (blend.get("comparison") or {}).items():
        if name not in labels:
            continue
        members.setdefault(said[result["verdict"]], []).append(labels[name])
    by = primary_of(metrics)
    found = _with_unit(format_estimate(blend["test"][by.name]), unit)
    return (
        ", ".join(
            [
                f"{text}; its test {by.label} is {found}",
                *(f"{kind} {' and '.join(names)}" for kind, names in members.items()),
            ]
        )
        + "."
    )


def intervals_shown(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the test part says of the intervals of the run's best prediction; empty where there are none."""
    found = metrics.get("intervals") or {}
    return found.get("blend") or found.get(MODEL) or {}


def class_words(metrics: Mapping[str, Any]) -> list[str]:
    """What calibration, confusion and prediction sets say of a classifier on the test part, one sentence each."""
    said = []
    negative, positive = metrics.get("classes") or ("", "")
    if found := metrics.get("calibration"):
        before, after = found["before"], found["after"]
        how = f"a temperature of {format_number(1 / found['scale'])}"
        if found["shift"]:
            how = f"Platt's scaling ({format_number(found['scale'])} · logit {found['shift']:+.3g})"
        said.append(
            f"Probabilities were calibrated on {found['molecules']:,} validation molecules with {how}. On the test "
            f"part the calibration error was {format_number(before['calibration_error'])} before and is "
            f"{format_number(after['calibration_error'])} after it; the log loss was "
            f"{format_number(before['log_loss'])} and is {format_number(after['log_loss'])}."
        )
    source = "blend" if metrics.get("blend") else MODEL
    if table := (metrics.get("confusion") or {}).get(source):
        (tn, fp), (fn, tp) = table
        said.append(
            f"Cut at a probability of one half, {tp:,} of {tp + fn:,} molecules of class {positive!r} and {tn:,} of "
            f"{tn + fp:,} of class {negative!r} are predicted to be what they are."
        )
    if own := (metrics.get("prediction_sets") or {}).get(source):
        parts = [
            f"{100 * share:.1f} % of the molecules of class {name!r}"
            for name, share in zip((positive, negative), reversed(own["by_class"]), strict=True)
            if share is not None
        ]
        said.append(
            f"Prediction sets of {100 * own['level']:g} % hold the true class of {' and '.join(parts)}; "
            f"{100 * own['one']:.0f} % of them name one class, {100 * own['both']:.0f} % leave it open, and "
            f"{100 * own['none']:.0f} % say that the molecule is like neither."
        )
    return said


def interval_words(metrics: Mapping[str, Any], *, unit: str = "") -> str:
    """Say in a few sentences whether intervals hold what they promise; empty where there are none.

    Args:
        metrics: the content of ``metrics.json``.
        unit: unit of the target; empty when it has none.
    """
    own = intervals_shown(metrics)
    if not own:
        return ""
    level, n = own["level"], own["molecules"]
    # Measurements in and outside are counts: twice their deviation is what chance alone does.
    chance = 2 * math.sqrt(level * (1 - level) / n)
    difference = own["coverage"] - level
    said = "as promised"
    if abs(difference) > chance:
        said = "fewer than promised" if difference < 0 else "more than promised"
    width = _with_unit(format_number(own["mean_width"]), unit)
    text = (
        f"Intervals of {100 * level:g} % hold {100 * own['coverage']:.1f} % of the {n:,} measurements, {said} "
        f"(chance alone: ±{100 * chance:.1f} %). Their mean width is {width}."
    )
    rank = own.get("spearman")
    if rank is None:
        return text
    worth = "says nothing" if rank < 2 / math.sqrt(n) else "says little" if rank < 0.2 else "tells something"
    return f"{text} Their standard deviation {worth} about which errors are large (Spearman ρ {format_number(rank)})."


def is_probe_name(name: str) -> bool:
    """Whether a baseline is a probe, named by its head and features: ``svr:embedding+rdkit``."""
    return ":" in name


def baseline_label(name: str) -> str:
    """Name of a baseline or probe as a reader knows it: "SVR on frozen embeddings + descriptors"."""
    head, _, features = name.partition(":")
    if not is_probe_name(name) or head not in PROBE_HEADS:
        return BASELINE_LABELS.get(name, name)
    read = (part.partition("@") for part in features.split("+"))
    words = [PROBE_FEATURES.get(part, part) + (f" at pH {ph}" if ph else "") for part, _, ph in read]
    return f"{PROBE_HEADS[head]} on {' + '.join(words)}"


def format_number(value: float | None, decimals: int | None = None) -> str:
    """Three significant digits (at most four decimals) or that many decimals, a true minus sign; "–" for None."""
    if value is None or not math.isfinite(value):
        return "–"
    if (value and decimals is None and abs(value) < 1e-4) or abs(value) >= 1e6:
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:.{_decimals(value) if decimals is None else decimals}f}"
    # -0.00 reads as if the sign meant something.
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def format_estimate(estimate: Mapping[str, float | None] | None) -> str:
    """A value with its interval, "0.629 (0.591 to 0.668)"; the interval is left out where there is none."""
    value = estimate.get("value") if estimate else None
    if estimate is None or value is None:
        return "–"
    if estimate.get("lower") is None:
        return format_number(value)
    ends = (format_number(estimate[end], _decimals(value)) for end in ("lower", "upper"))
    return f"{format_number(value, _decimals(value))} ({' to '.join(ends)})"


def _decimals(value: float) -> int:
    return min(4, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 2


def _outcome(own: Mapping[str, Any], name: str, rival: Mapping[str, Any], by: Primary) -> str:
    """The paired verdict; without one, what two intervals that do not overlap show (a stricter test)."""
    if comparison := (own.get("comparison") or {}).get(name):
        return str(comparison["verdict"])
    model = own["test"][by.name]
    if model["upper"] is None or rival["upper"] is None:
        return "cannot tell"
    lower, higher = ("better", "worse") if by.sign > 0 else ("worse", "better")
    if model["upper"] < rival["lower"]:
        return lower
    return higher if model["lower"] > rival["upper"] else "cannot tell"


def _gap(own: Mapping[str, Any], name: str, rival: Mapping[str, Any], unit: str, by: Primary) -> str:
    """The baseline's metric, and how far the model's lies from it."""
    against = f"{by.label} {_with_unit(format_number(rival['value']), unit)}"
    comparison = (own.get("comparison") or {}).get(name)
    if not comparison:
        return f"{against}; the two were not compared molecule by molecule"
    difference = comparison["difference"]
    if difference.get("lower") is None:
        return f"{against}; difference {format_number(difference['value'])}, without an interval"
    decimals = _decimals(difference["value"])
    value, lower, upper = (format_number(difference[key], decimals) for key in ("value", "lower", "upper"))
    sign = "+" if difference["value"] > 0 else ""
    share = f"{100 * comparison.get('confidence', 0.95):g} %"
    return f"{against}; difference {sign}{value}, {share} interval {lower} to {upper}"


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text
