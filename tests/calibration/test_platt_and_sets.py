"""Calibrated probabilities and prediction sets hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from moltune.calibration.platt import fit_scale, probability, score_of
from moltune.calibration.sets import PredictionSets, in_words


def drawn(n: int, scale: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels of which the logit is scale·score + shift."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n)
    return scores, (rng.random(n) < probability(scores, (scale, shift))).astype(np.float64)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (3.0, 0.0), (1.0, -1.5)])
def test_the_scale_that_made_the_labels_is_found(scale: float, shift: float) -> None:
    scores, labels = drawn(40_000, scale, shift)
    assert fit_scale(scores, labels) == pytest.approx((scale, shift), abs=0.1)
    if not shift:
        assert fit_scale(scores, labels, shift=False) == (pytest.approx(scale, abs=0.1), 0.0)


def test_platts_scaling_is_logistic_regression_where_molecules_are_many() -> None:
    scores, labels = drawn(5_000, 2.0, 0.7)
    theirs = LogisticRegression(C=1e9).fit(scores[:, None], labels)
    assert fit_scale(scores, labels) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=0.02)


def test_a_few_molecules_that_are_all_right_do_not_make_certainties() -> None:
    scores, labels = np.linspace(-1, 1, 20), (np.linspace(-1, 1, 20) > 0).astype(float)
    found = probability(scores, fit_scale(scores, labels))
    assert 0.5 < found.max() < 0.999
    assert fit_scale(scores, np.ones(20)) == (1.0, 0.0)


@given(st.floats(-8, 8), st.floats(0.1, 3), st.floats(-2, 2))
def test_scores_come_back_from_probabilities(score: float, scale: float, shift: float) -> None:
    found = score_of(probability(np.array([score]), (scale, shift)), (scale, shift))
    if abs(scale * score + shift) < 15:
        assert found[0] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_hold_the_true_class_of_each_class(level: float) -> None:
    """Also where the classes are of very different size and the probabilities are badly calibrated."""
    coverage, sizes = [], []
    for seed in range(40):
        scores, labels = drawn(1_200, 2.0, -2.5, seed)
        predicted = probability(scores, (0.7, 0.5))
        sets = PredictionSets.fit(labels[:600], predicted[:600])
        found = sets.judge(labels[600:], predicted[600:], level)
        coverage.append(found["by_class"])
        sizes.append(found["one"] + found["both"] + found["none"])
    assert np.mean(coverage, axis=0) == pytest.approx([level, level], abs=0.02)
    assert sizes == pytest.approx([1.0] * 40)


def test_sets_in_words() -> None:
    held = np.array([[True, False], [False, True], [True, True], [False, False]])
    assert in_words(held, ("no", "yes")).tolist() == ["no", "yes", "yes or no", "none"]


def test_a_class_of_few_molecules_is_never_excluded() -> None:
    sets = PredictionSets.fit(np.array([0.0] * 50 + [1.0] * 3), np.linspace(0, 1, 53))
    assert sets.predict(np.array([0.0, 1.0]), 0.9)[:, 1].all()
