"""Calibrated probabilities and prediction sets hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from moltune.calibration.platt import answer_probability, fit_answer_scale, fit_scale, probability, score_of
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


@pytest.mark.parametrize("kind", ["probability", "score"])
def test_answers_of_a_regression_become_probabilities(kind: str) -> None:
    """Where the answer is the probability itself, and where it is a score that a logistic function makes one."""
    rng = np.random.default_rng(1)
    true = rng.beta(0.7, 0.7, 40_000)
    answers = true if kind == "probability" else 0.5 + np.log(true / (1 - true)) / 12
    labels = (rng.random(len(true)) < true).astype(float)
    found = answer_probability(answers, fit_answer_scale(answers[::2], labels[::2]))
    assert np.sqrt(np.mean((found - true)[1::2] ** 2)) < 0.015


@given(st.sets(st.integers(-500, 1500), min_size=30, max_size=60), st.integers(0, 99))
def test_the_order_of_answers_stays(thousandths: set[int], seed: int) -> None:
    values = np.array(sorted(thousandths)) / 1000
    labels = np.random.default_rng(seed).integers(0, 2, len(values)).astype(float)
    found = answer_probability(values, fit_answer_scale(values, labels))
    unsure = (found > 1e-6) & (found < 1 - 1e-6)
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found[unsure]) > 0).all()


def test_answers_of_one_class_stay_as_they_are() -> None:
    assert fit_answer_scale(np.linspace(0, 1, 20), np.ones(20)) == (1.0, 0.0, 0.0)
    answers = np.linspace(0.02, 0.98, 9)
    np.testing.assert_allclose(answer_probability(answers, (1.0, 0.0, 0.0)), answers)


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
