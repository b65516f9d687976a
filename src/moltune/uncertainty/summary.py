"""From samples of predictions to a table, and to words on what their spread says about the error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr
from scipy.stats import mannwhitneyu, rankdata, spearmanr

from moltune.data.molecules import Molecules
from moltune.evaluation.repeatability import TRUSTED, lengthened, stepped_up

UNCERTAINTY_COLUMNS = ["smiles", "inchikey", "label", "mean", "variance", "sd", "rank"]
ENTROPY, MUTUAL = "entropy", "mutual_information"
CLASS_COLUMNS = [*UNCERTAINTY_COLUMNS[:-1], ENTROPY, "expected_entropy", MUTUAL, "rank"]
"""Of classes, whose samples are probabilities."""
_ALPHA = 0.05
# From which rank correlation, and from which area under the ROC curve on, a spread says something, and much.
_CORRELATION, _AREA = (0.3, 0.6), (0.65, 0.8)

Measure = Callable[[np.ndarray], np.ndarray]
"""Samples, shape (samples, n) -> spread of each molecule, shape (n,)."""


def variance(samples: np.ndarray) -> np.ndarray:
    """With n - 1 in the denominator, in the target's unit squared."""
    return np.asarray(samples.var(axis=0, ddof=1))


def entropy(samples: np.ndarray) -> np.ndarray:
    """Of the mean of sampled probabilities, in nats, at most log 2: how open the class is, for whatever reason."""
    return _of_two(samples.mean(axis=0))


def expected_entropy(samples: np.ndarray) -> np.ndarray:
    """Mean entropy of the samples, in nats: how open each of them leaves the class."""
    return np.asarray(_of_two(samples).mean(axis=0))


def mutual_information(samples: np.ndarray) -> np.ndarray:
    """Entropy less expected entropy, in nats: how far the samples contradict each other.

    Bayesian active learning by disagreement (BALD; Houlsby et al. 2011, arXiv:1112.5745; with dropout Gal et al. 2017,
    arXiv:1703.02910).
    """
    return np.maximum(entropy(samples) - expected_entropy(samples), 0.0)


def summarise(molecules: Molecules, samples: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and facts from samples (samples, n); of molecules with classes these are probabilities.

    Numbers are ranked by their variance, classes by their entropy.
    """
    classes, ranked_by = molecules.classes, variance if molecules.classes is None else entropy
    found = {"mean": samples.mean(axis=0), "variance": variance(samples), "sd": np.sqrt(variance(samples))}
    if classes is not None:
        measures = (entropy, expected_entropy, mutual_information)
        found |= {measure.__name__: measure(samples) for measure in measures}
    table = pd.DataFrame(
        {
            "smiles": molecules.smiles,
            "inchikey": molecules.table["inchikey"].to_numpy(),
            **molecules.labels(),
            **found,
            "rank": rankdata(-ranked_by(samples), method="ordinal"),
        }
    )
    facts: dict[str, Any] = {"molecules": len(table), "samples": len(samples), "mean_sd": float(table["sd"].mean())}
    repeats = {"rank_repeatability": repeatability(samples, ranked_by)}
    if classes is not None:
        facts |= {"classes": list(classes), "ranked_by": ENTROPY} | {
            f"mean_{name}": float(table[name].mean()) for name in (ENTROPY, MUTUAL)
        }
        repeats[f"{MUTUAL}_repeatability"] = repeatability(samples, mutual_information)
    facts |= {name: value for name, value in repeats.items() if value is not None}
    judge = _judge_numbers if classes is None else _judge_classes
    facts |= judge(table, molecules.target)
    further = molecules.further(*(UNCERTAINTY_COLUMNS if classes is None else CLASS_COLUMNS), "label_unit")
    return pd.concat([table, further], axis=1), facts


def says_nothing(facts: dict[str, Any]) -> bool:
    """Whether the spread that molecules are ranked by cannot be distinguished from one that ignores the error."""
    return bool(facts.get("spearman_p", facts.get(f"{ENTROPY}_p", 0.0)) >= _ALPHA)


def repeatability(
    samples: np.ndarray, measure: Measure = variance, *, halvings: int = 20, seed: int = 0
) -> float | None:
    """Rank correlation that the spreads of as many new samples are expected to have with these.

    The spreads of two random halves of the samples are compared, and the mean Spearman correlation over ``halvings``
    of them is stepped up to the full number (:func:`moltune.evaluation.repeatability.stepped_up`).

    Args:
        samples: shape (samples, n).
        measure: of the spread.
        halvings: how often the samples are cut into halves.
        seed: of the halvings.

    Returns:
        At most 1; None with fewer than four samples or three molecules, or where nothing varies.
    """
    count, n = samples.shape
    if count < 4 or n < 3:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(halvings):
        order = rng.permutation(count)
        one, two = (measure(samples[part]) for part in (order[: count // 2], order[count // 2 :]))
        if np.ptp(one) > 0 and np.ptp(two) > 0:
            found.append(float(spearmanr(one, two).statistic))
    return stepped_up(float(np.mean(found))) if found else None


def few_passes(facts: dict[str, Any]) -> str | None:
    """Where another time as many passes would give another order, that in words, and how many it takes."""
    names = {"rank_repeatability": "", f"{MUTUAL}_repeatability": " by mutual information"}
    by, repeats = min(
        ((words, facts[name]) for name, words in names.items() if name in facts),
        key=lambda pair: pair[1],
        default=("", 1.0),
    )
    if repeats >= TRUSTED:
        return None
    passes = facts["samples"]
    text = f"Another {passes} passes would rank the molecules differently{by} (rank correlation {repeats:.2f})"
    times = lengthened(repeats)
    if times is None:
        return f"{text}: this order is noise. Take many more passes, or an ensemble."
    return f"{text}. For a correlation of {TRUSTED:g}, take about {math.ceil(times * passes / 10) * 10:,} passes."


def _of_two(p: np.ndarray) -> np.ndarray:
    return np.asarray(entr(p) + entr(1 - p))


def _judge_numbers(table: pd.DataFrame, target: np.ndarray) -> dict[str, Any]:
    """Spearman correlation of spread and absolute error, and what it says."""
    labelled = np.isfinite(target)
    if labelled.sum() < 3 or table["sd"][labelled].nunique() < 2:
        text = "Whether the spread says anything about the error is not known: that takes three or more labels."
        return {"verdict": text}
    error = np.abs(table["mean"] - target)
    found = spearmanr(table["sd"][labelled], error[labelled], alternative="greater")
    rho, p = float(found.statistic), float(found.pvalue)
    numbers = f"rank correlation of spread and absolute error {rho:.2f} over {labelled.sum()} labelled molecules"
    text = f"The spread says {_strength(rho, p, _CORRELATION)} about the error: {numbers}{_like_chance(p, 'none')}."
    return {"spearman_sd_error": rho, "spearman_p": p, "verdict": text}


def _judge_classes(table: pd.DataFrame, target: np.ndarray) -> dict[str, Any]:
    """How often a molecule in the wrong class is the less sure one of a pair, and what that says."""
    labelled = np.isfinite(target)
    wrong = labelled & ((table["mean"].to_numpy() >= 0.5) != (target > 0.5))
    right, count = labelled & ~wrong, int(wrong.sum())
    facts: dict[str, Any] = {"misclassified": count} if labelled.any() else {}
    if not count or not right.any():
        numbers = f": {count} of {labelled.sum()} are misclassified" if labelled.any() else ""
        text = "Whether the spread says anything about the error is not known: that takes labelled molecules that are"
        return {**facts, "verdict": f"{text} misclassified, and others that are not{numbers}."}
    said = []
    for name, words in ((ENTROPY, "entropy"), (MUTUAL, "mutual information (how far the samples disagree)")):
        values = table[name].to_numpy()
        test = mannwhitneyu(values[wrong], values[right], alternative="greater")
        area, p = float(test.statistic) / (count * int(right.sum())), float(test.pvalue)
        facts |= {f"{name}_auroc": area, f"{name}_p": p}
        said.append(
            f"The {words} says {_strength(area, p, _AREA)} about the error: it is higher for the misclassified one in "
            f"{area:.0%} of the pairs of a misclassified molecule with another{_like_chance(p, 'half')}."
        )
    said.append(f"{count} of {labelled.sum()} labelled molecules are misclassified.")
    return {**facts, "verdict": " ".join(said)}


def _strength(value: float, p: float, limits: tuple[float, float]) -> str:
    if not p < _ALPHA:
        return "nothing"
    return "little" if value < limits[0] else "something" if value < limits[1] else "much"


def _like_chance(p: float, chance: str) -> str:
    return "" if p < _ALPHA else f", which cannot be distinguished from {chance}"
