"""How often the study's verdicts see a difference where there is none, and find one that is there.

Three settings, each judged by :func:`moltune.study.analysis.verdicts.compare`, the function behind every verdict:

- ``a_a``: real runs. One arm (extremely randomised trees on descriptors of ESOL) against itself with other seeds, on
  protocol P's five stratified splits with three seeds each; every repetition draws five new splits.
- ``interaction``: synthetic blocks of two arms that are equal on average but not on each split, correlated between
  splits as overlapping training sets make them (n_test / (n_train + n_test)). This is what fools tests that take
  seeds for independent evidence; the naive t-test over 15 blocks is counted beside ours.
- ``planted``: the runs of ``a_a``, one arm's error made 10 % worse, and synthetic blocks with a planted 10 %; the
  share found stands beside the power that :func:`moltune.evaluation.power.power` states.

``classes`` holds the same for a target of two classes: classifiers on B3DB by ROC AUC and by log loss, synthetic ROC
AUCs around 0.9 whose noise is that of their logits, and one arm's distance from a perfect ROC AUC made 30 % larger.

Writes ``benchmarks/results/null_calibration.json``; what another task left there stays.

    python benchmarks/null_calibration.py
    python benchmarks/null_calibration.py --task classification
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from moltune.config import SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.evaluation.metrics import CLASSIFICATION
from moltune.evaluation.power import minimum_detectable_effect, power
from moltune.features.physchem import physchem
from moltune.study.analysis.verdicts import Comparison, compare
from moltune.study.recipe.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "null_calibration.json"
SPLITS, SEEDS, RATIO, PLANTED, CLASS_PLANTED = 5, 3, 0.2 / 0.7, 0.10, 0.30
PROTOCOL = f"{SPLITS} splits x {SEEDS} seeds, tests on {SPLITS} split means, ratio {RATIO:.4f}"
RECIPE = Recipe.model_validate(
    {
        "name": "null",
        "data": {"source": "none"},
        "protocol": "P",
        "arms": [{"name": "b", "kind": "any"}, {"name": "a", "kind": "any"}],
        "statistics": {"bootstrap": 200},
    }
)


def recipe(metric: str) -> Recipe:
    """The two arms compared by this metric."""
    classes = ("0", "1") if metric in CLASSIFICATION.metrics else None
    statistics = RECIPE.statistics.model_copy(update={"metric": metric})
    return RECIPE.model_copy(update={"classes": classes, "statistics": statistics})


def judge(a: np.ndarray, b: np.ndarray, metric: str = "rmse") -> Comparison:
    """Verdict on arm a against arm b; values of the metric have shape (splits, seeds)."""
    rows = [
        {"arm": name, "unit": f"s{i}", "block": f"s{i}-r{j}", "hash": f"{name}{i}-{j}", metric: value}
        for name, values in (("b", b), ("a", a))
        for (i, j), value in np.ndenumerate(values)
    ]
    return compare(pd.DataFrame(rows), recipe(metric), RATIO, plan=False)[0]


def naive_p(a: np.ndarray, b: np.ndarray) -> float:
    """The paired t-test over all blocks as if they were independent."""
    return float(stats.ttest_rel(a.ravel(), b.ravel()).pvalue)


def real_blocks(repetitions: int, molecules: int) -> np.ndarray:
    """RMSE of one arm, twice with different seeds: shape (repetitions, 2, splits, seeds)."""
    data = load_molecules("esol")
    data = data.reject(dict.fromkeys(range(molecules, len(data)), "not needed"))
    features, target = np.nan_to_num(physchem(data.smiles)), data.target
    errors = np.empty((repetitions, 2, SPLITS, SEEDS))
    for repetition, copy, split, seed in np.ndindex(*errors.shape):
        parts = make_split(data, SplitSettings(), 1000 * repetition + split)
        state = int(np.random.SeedSequence([repetition, copy, split, seed]).generate_state(1)[0])
        model = ExtraTreesRegressor(8, max_features=0.3, random_state=state)
        model.fit(features[parts.train], target[parts.train])
        residual = model.predict(features[parts.test]) - target[parts.test]
        errors[repetition, copy, split, seed] = math.sqrt(np.mean(residual**2))
    return errors


def class_blocks(repetitions: int, molecules: int, metrics: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Metrics of one classifier, twice with different seeds: metric -> shape (repetitions, 2, splits, seeds)."""
    data = load_molecules("b3db")
    # The table is not in random order.
    wanted = set(np.random.default_rng(0).permutation(len(data))[:molecules].tolist())
    data = data.reject({at: "not needed" for at in range(len(data)) if at not in wanted})
    features, target = np.nan_to_num(physchem(data.smiles)), data.target
    values = {name: np.empty((repetitions, 2, SPLITS, SEEDS)) for name in metrics}
    for repetition, copy, split, seed in np.ndindex(repetitions, 2, SPLITS, SEEDS):
        parts = make_split(data, SplitSettings(), 1000 * repetition + split)
        state = int(np.random.SeedSequence([repetition, copy, split, seed]).generate_state(1)[0])
        model = ExtraTreesClassifier(16, max_features=0.3, min_samples_leaf=3, random_state=state)
        model.fit(features[parts.train], target[parts.train])
        predicted = model.predict_proba(features[parts.test])[:, 1]
        for name in metrics:
            found = CLASSIFICATION.metrics[name](target[parts.test], predicted)
            values[name][repetition, copy, split, seed] = found
    return values


def synthetic_auc(repetitions: int, rng: np.random.Generator, *, interaction: float, noise: float) -> np.ndarray:
    """ROC AUCs around 0.9 of two arms that are equal on average: shape (repetitions, 2, splits, seeds).

    ``interaction`` and ``noise`` are those of :func:`synthetic_blocks`, of the logit; the interaction moves one arm up
    and the other down by half, so that their difference is symmetric about zero.
    """
    correlation = RATIO / (1 + RATIO)
    shared = math.sqrt(correlation) * rng.normal(size=(repetitions, 1, 1))
    own = math.sqrt(1 - correlation) * rng.normal(size=(repetitions, SPLITS, 1))
    logits = math.log(9) + 0.25 * rng.normal(size=(repetitions, 1, SPLITS, 1)) + np.zeros((1, 2, 1, SEEDS))
    logits[:, 0] += interaction * (shared + own) / 2
    logits[:, 1] -= interaction * (shared + own) / 2
    return np.asarray(1 / (1 + np.exp(-logits - noise * rng.normal(size=logits.shape))))


def synthetic_blocks(
    repetitions: int, rng: np.random.Generator, *, interaction: float, noise: float, effect: float = 0.0
) -> np.ndarray:
    """Errors around 0.65 of two arms, the first ``effect`` (a share) worse: shape (repetitions, 2, splits, seeds).

    ``interaction``: sd of what a split does to the difference of two arms; ``noise``: sd of a seed.
    """
    correlation = RATIO / (1 + RATIO)
    shared = math.sqrt(correlation) * rng.normal(size=(repetitions, 1, 1))
    own = math.sqrt(1 - correlation) * rng.normal(size=(repetitions, SPLITS, 1))
    errors = 0.65 + 0.03 * rng.normal(size=(repetitions, 1, SPLITS, 1)) + np.zeros((1, 2, 1, SEEDS))
    errors[:, 0] += interaction * (shared + own)
    errors += noise * rng.normal(size=errors.shape)
    errors[:, 0] += effect * 0.65
    return errors


def rates(blocks: np.ndarray, metric: str = "rmse") -> dict[str, Any]:
    """Share of repetitions with each verdict, and of naive t-tests that see a difference."""
    words = [judge(pair[0], pair[1], metric).word for pair in blocks]
    share = {word: words.count(word) / len(words) for word in ("better", "worse", "equivalent", "cannot tell")}
    differs = share["better"] + share["worse"]
    naive = float(np.mean([naive_p(pair[0], pair[1]) < 0.05 for pair in blocks]))
    error = 1.96 * math.sqrt(differs * (1 - differs) / len(words))
    return {
        "repetitions": len(words),
        "declares_a_difference": differs,
        "monte_carlo_error": round(error, 4),
        "naive_t_test_over_15_blocks": naive,
        "verdicts": share,
    }


def unit_sd(blocks: np.ndarray) -> float:
    """Standard deviation over splits of the difference, pooled over repetitions."""
    differences = (blocks[:, 0] - blocks[:, 1]).mean(axis=-1)
    return math.sqrt(float(differences.var(axis=1, ddof=1).mean()))


def of_numbers(repetitions: int, synthetic: int, molecules: int) -> dict[str, Any]:
    """What is known of a target of numbers."""
    rng = np.random.default_rng(0)
    real = real_blocks(repetitions, molecules)
    worse = real.copy()
    worse[:, 0] *= 1 + PLANTED
    sd = unit_sd(worse)
    effect = PLANTED * float(real.mean())
    # An interaction at which a planted 10 % is found with a stated power of 80 %.
    scale = PLANTED * 0.65 / minimum_detectable_effect(1.0, SPLITS, ratio=RATIO)
    # The sample's spread is smaller than the true one by the correlation that the splits share.
    scale /= math.sqrt(1 / (1 + RATIO))
    planted = synthetic_blocks(synthetic, rng, interaction=scale, noise=0.0, effect=PLANTED)
    return {
        "protocol": PROTOCOL,
        "a_a": rates(real),
        "interaction": rates(synthetic_blocks(synthetic, rng, interaction=0.02, noise=0.01)),
        "noise_only": rates(synthetic_blocks(synthetic, rng, interaction=0.0, noise=0.02)),
        "planted_real": {
            "effect": effect,
            "sd_of_split_differences": sd,
            "stated_power": power(effect, sd, SPLITS, ratio=RATIO),
            **rates(worse),
        },
        "planted_synthetic": {
            "effect": PLANTED * 0.65,
            "sd_of_split_differences": unit_sd(planted),
            "stated_power": power(PLANTED * 0.65, unit_sd(planted), SPLITS, ratio=RATIO),
            **rates(planted),
        },
    }


def of_classes(repetitions: int, synthetic: int, molecules: int) -> dict[str, Any]:
    """What is known of a target of two classes."""
    rng = np.random.default_rng(1)
    real = class_blocks(repetitions, molecules, ("roc_auc", "log_loss"))
    worse = real["roc_auc"].copy()
    worse[:, 0] = 1 - (1 + CLASS_PLANTED) * (1 - worse[:, 0])
    effect, sd = CLASS_PLANTED * float(1 - real["roc_auc"].mean()), unit_sd(worse)
    return {
        "protocol": PROTOCOL,
        "mean_roc_auc": float(real["roc_auc"].mean()),
        "a_a_roc_auc": rates(real["roc_auc"], "roc_auc"),
        "a_a_log_loss": rates(real["log_loss"], "log_loss"),
        "interaction_roc_auc": rates(synthetic_auc(synthetic, rng, interaction=0.3, noise=0.1), "roc_auc"),
        "noise_only_roc_auc": rates(synthetic_auc(synthetic, rng, interaction=0.0, noise=0.2), "roc_auc"),
        "planted_roc_auc": {
            "effect": effect,
            "sd_of_split_differences": sd,
            "stated_power": power(effect, sd, SPLITS, ratio=RATIO),
            **rates(worse, "roc_auc"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("regression", "classification"), default="regression")
    parser.add_argument("--repetitions", type=int, default=200, help="of the real runs")
    parser.add_argument("--synthetic", type=int, default=2000)
    parser.add_argument("--molecules", type=int, default=400)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    counts = arguments.repetitions, arguments.synthetic, arguments.molecules
    known = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    if arguments.task == "classification":
        report = known | {"classes": of_classes(*counts)}
    else:
        report = of_numbers(*counts) | {name: known[name] for name in ("classes",) if name in known}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
