"""Metrics of two classes against scikit-learn's, one by one and over many resamples at once."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from moltune.evaluation.classification import CLASSIFICATION_METRICS, calibration_error, confusion, reliability
from moltune.evaluation.metrics import CLASSIFICATION, compare_paired, evaluate, task_of

THEIRS = {
    "roc_auc": sk.roc_auc_score,
    "pr_auc": sk.average_precision_score,
    "mcc": lambda y, p: sk.matthews_corrcoef(y, p >= 0.5),
    "balanced_accuracy": lambda y, p: sk.balanced_accuracy_score(y, p >= 0.5),
    "brier": sk.brier_score_loss,
    "log_loss": lambda y, p: sk.log_loss(y, np.clip(p, 1e-7, 1 - 1e-7)),
    "prevalence": lambda y, p: np.mean(y),
}
CASES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.50001, 0.9, 1.0])), min_size=2)


def arrays(rows: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    true[:2] = 0.0, 1.0
    return true, predicted


@given(CASES)
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    true, predicted = arrays(rows)
    found = evaluate(true, predicted, task=CLASSIFICATION, bootstrap=0)
    assert set(found) == {"n", *THEIRS}
    for name, theirs in THEIRS.items():
        assert found[name]["value"] == pytest.approx(float(theirs(true, predicted)), abs=1e-12), name
    assert confusion(true, predicted) == sk.confusion_matrix(true, predicted >= 0.5).tolist()


@given(CASES, st.integers(0, 100))
def test_many_resamples_at_once_are_each_by_itself(rows: list[tuple[bool, float]], seed: int) -> None:
    true, predicted = arrays(rows)
    at = np.random.default_rng(seed).integers(0, len(true), size=(7, len(true)))
    for name, metric in CLASSIFICATION_METRICS.items():
        together = metric(true[at], predicted[at])
        np.testing.assert_allclose(together, [metric(true[one], predicted[one]) for one in at], err_msg=name)


def test_one_class_alone_has_no_area() -> None:
    found = evaluate(np.ones(5), np.linspace(0, 1, 5), task=CLASSIFICATION, bootstrap=20)
    assert found["roc_auc"]["value"] is found["mcc"]["value"] is found["balanced_accuracy"]["value"] is None
    assert found["pr_auc"]["value"] == 1.0


def test_a_higher_area_is_better() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 300).astype(float)
    good, bad = (np.clip(true * weight + rng.random(300) * (1 - weight), 0, 1) for weight in (0.4, 0.05))
    better = compare_paired(true, good, bad, task=CLASSIFICATION)
    worse = compare_paired(true, bad, good, task=CLASSIFICATION)
    assert (better["verdict"], worse["verdict"]) == ("better", "worse")
    assert better["difference"]["value"] > 0
    assert better["difference"]["value"] == pytest.approx(-worse["difference"]["value"])
    assert task_of(None).primary == "rmse"
    assert task_of(("a", "b")) is CLASSIFICATION


def test_reliability_of_exact_probabilities_is_small_and_of_wrong_ones_large() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(20_000)
    true = (rng.random(20_000) < probability).astype(float)
    exact, wrong = reliability(true, probability), reliability(true, probability**3)
    assert exact["error"] < 0.02
    assert wrong["error"] > 0.15
    assert sum(exact["molecules"]) == 20_000
    np.testing.assert_allclose(exact["predicted"], exact["measured"], atol=0.05)


@given(CASES, st.randoms(use_true_random=False))
def test_reliability_does_not_depend_on_the_order_of_the_molecules(
    cases: list[tuple[bool, float]], random: Random
) -> None:
    mixed = random.sample(cases, len(cases))
    one, other = (reliability(*map(np.array, zip(*rows, strict=True))) for rows in (cases, mixed))
    assert one["error"] == pytest.approx(other["error"], abs=1e-12)
    assert one["measured"] == pytest.approx(other["measured"], abs=1e-12)


def test_the_share_of_positives_is_a_calibrated_probability() -> None:
    true = np.repeat([0.0, 1.0], [30, 70])
    assert calibration_error(true, np.full(100, 0.7)) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(true, np.full(100, 0.5)) == pytest.approx(0.2)
