from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import rankdata, spearmanr
from sklearn import metrics as sklearn_metrics

from moltune.errors import ConfigError, DataError, NumericsError
from moltune.evaluation import metrics as module
from moltune.evaluation.metrics import METRICS, compare_paired, evaluate

REFERENCE = {
    "mse": sklearn_metrics.mean_squared_error,
    "rmse": sklearn_metrics.root_mean_squared_error,
    "mae": sklearn_metrics.mean_absolute_error,
    "r2": sklearn_metrics.r2_score,
    "median_absolute_error": sklearn_metrics.median_absolute_error,
    "spearman": lambda true, predicted: spearmanr(true, predicted).statistic,
}


def sample(n: int = 200, seed: int = 0, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    true = generator.normal(2.0, 1.2, n)
    return true, true + generator.normal(0.0, noise, n)


def test_has_the_agreed_metrics() -> None:
    assert list(METRICS) == ["mse", "rmse", "mae", "r2", "median_absolute_error", "spearman"]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "ties"])
def test_agrees_with_scikit_learn_and_scipy(name: str, rounded: bool) -> None:
    true, predicted = sample()
    if rounded:
        true, predicted = true.round(), predicted.round()
    assert evaluate(true, predicted, bootstrap=0)[name]["value"] == pytest.approx(REFERENCE[name](true, predicted))


@pytest.mark.parametrize("name", METRICS)
def test_reduces_the_last_axis(name: str) -> None:
    true, predicted = sample(120)
    together = METRICS[name](true.reshape(4, 30), predicted.reshape(4, 30))
    one_by_one = [METRICS[name](t, p) for t, p in zip(true.reshape(4, 30), predicted.reshape(4, 30), strict=True)]
    np.testing.assert_allclose(together, one_by_one)


@given(arrays(np.int64, (3, 7), elements=st.integers(0, 5)))
def test_ranks_by_counting_are_average_ranks(codes: np.ndarray) -> None:
    np.testing.assert_array_equal(module._ranks_of_codes(codes), rankdata(codes, axis=-1))


finite = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=25))
def test_laws_hold_for_any_pairs(pairs: list[tuple[float, float]]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    result = evaluate(true, predicted, bootstrap=20)
    value = {name: result[name]["value"] for name in METRICS}
    assert value["rmse"] ** 2 == pytest.approx(value["mse"])
    assert value["mae"] <= value["rmse"] * (1 + 1e-9) + 1e-12
    assert value["r2"] is None or value["r2"] <= 1
    assert value["spearman"] is None or -1 <= value["spearman"] <= 1
    assert (value["r2"] is None) == (np.ptp(true) == 0)
    for name in METRICS:
        lower, upper = result[name]["lower"], result[name]["upper"]
        assert (lower is None) == (upper is None)
        assert lower is None or lower <= upper
    json.dumps(result, allow_nan=False)


def test_one_molecule_has_no_interval_and_no_rank() -> None:
    result = evaluate(np.array([1.0]), np.array([3.0]))
    assert result["n"] == 1
    assert result["rmse"] == {"value": 2.0, "lower": None, "upper": None}
    assert result["r2"] == result["spearman"] == {"value": None, "lower": None, "upper": None}


def test_constant_predictions_have_r2_but_no_spearman() -> None:
    true, _ = sample(50)
    result = evaluate(true, np.full(50, true.mean()))
    assert result["r2"]["value"] == pytest.approx(0.0, abs=1e-12)
    assert result["spearman"] == {"value": None, "lower": None, "upper": None}
    assert result["rmse"]["lower"] is not None


@pytest.mark.parametrize("constant", [0.1, 1e6 + 0.1, -3.3])
def test_constant_truth_is_undefined_despite_rounding(constant: float) -> None:
    result = evaluate(np.full(7, constant), np.arange(7.0))
    assert result["r2"]["value"] is None
    assert result["spearman"]["value"] is None


def test_too_many_undefined_resamples_give_no_interval() -> None:
    # One value differs: a third of the resamples leave it out and have no R².
    true = np.array([0.0] * 29 + [1.0])
    result = evaluate(true, true + np.linspace(-0.1, 0.1, 30))
    assert result["r2"]["value"] is not None
    assert result["r2"]["lower"] is None
    assert result["rmse"]["lower"] is not None


def test_same_seed_same_interval_another_seed_another() -> None:
    pair = sample()
    assert evaluate(*pair, seed=3) == evaluate(*pair, seed=3)
    assert evaluate(*pair, seed=3)["rmse"]["lower"] != evaluate(*pair, seed=4)["rmse"]["lower"]


def test_no_bootstrap_no_interval() -> None:
    result = evaluate(*sample(), bootstrap=0)
    assert all(result[name]["lower"] is result[name]["upper"] is None for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_interval_agrees_with_scipy_bootstrap(name: str) -> None:
    true, predicted = sample(150)
    ours = evaluate(true, predicted, bootstrap=4000, confidence=0.9)[name]
    theirs = scipy_bootstrap(
        (true, predicted),
        lambda t, p, axis=-1: METRICS[name](t, p),
        paired=True,
        method="percentile",
        n_resamples=4000,
        confidence_level=0.9,
        rng=1,
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours["lower"] - theirs.low) < 0.1 * width
    assert abs(ours["upper"] - theirs.high) < 0.1 * width


def coverage(n: int, repeats: int = 300) -> float:
    """Share of 95 % intervals of the RMSE that contain the true one, for normal residuals."""
    generator = np.random.default_rng(11)
    inside = 0
    for _ in range(repeats):
        errors = generator.normal(0, 0.7, n)
        rows = next(module._resamples(n, 400, int(generator.integers(1 << 30))))
        lower, upper = module._interval([METRICS["rmse"](np.zeros(n), errors[rows])], 0.95)
        assert lower is not None
        assert upper is not None
        inside += lower <= 0.7 <= upper
    return inside / repeats


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    # Binomial standard error 0.013; percentile intervals lose a few percent when molecules are few.
    assert 0.92 <= coverage(400) <= 0.98
    assert 0.86 <= coverage(30) <= 0.97


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(DataError, match="true has 3 values but predicted has 2"):
        evaluate(np.zeros(3), np.zeros(2))
    with pytest.raises(DataError, match=r"predicted must be one-dimensional.*\(3, 1\)"):
        evaluate(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(DataError, match="no molecules"):
        evaluate(np.empty(0), np.empty(0))
    with pytest.raises(DataError, match="numbers only"):
        evaluate(np.array(["a"]), np.zeros(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named_by_position(bad: float) -> None:
    values = np.zeros(5)
    values[3] = bad
    with pytest.raises(NumericsError, match=r"predicted\[3\] is -?(nan|inf)"):
        evaluate(np.arange(5.0), values)
    with pytest.raises(NumericsError, match=r"true\[3\]"):
        evaluate(values, np.arange(5.0))
    with pytest.raises(NumericsError, match=r"baseline_predicted\[3\]"):
        compare_paired(np.arange(5.0), np.zeros(5), values)


def test_overflow_is_an_error_not_an_infinity() -> None:
    with pytest.raises(NumericsError, match="rescale"):
        evaluate(np.array([1e200, 2.0]), np.zeros(2))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="bootstrap"):
        evaluate(*sample(), bootstrap=-1)
    with pytest.raises(ConfigError, match="confidence"):
        evaluate(*sample(), confidence=1.0)


def test_three_thousand_molecules_take_under_three_seconds() -> None:
    pair = sample(3000)
    start = time.process_time()
    evaluate(*pair, bootstrap=1000)
    assert time.process_time() - start < 3


def test_paired_comparison_sees_what_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(5)
    true = generator.normal(size=500)
    hard = generator.standard_t(3, 500)
    good, bad = true + hard, true + 1.06 * hard + generator.normal(0, 0.02, 500)
    assert evaluate(true, good)["rmse"]["upper"] > evaluate(true, bad)["rmse"]["lower"]
    result = compare_paired(true, good, bad)
    assert result["verdict"] == "better"
    assert result["difference"]["upper"] < 0
    mirrored = compare_paired(true, bad, good)
    assert mirrored["verdict"] == "worse"
    assert mirrored["difference"]["value"] == pytest.approx(-result["difference"]["value"])
    assert mirrored["difference"]["lower"] == pytest.approx(-result["difference"]["upper"])


def test_equal_predictions_cannot_be_told_apart() -> None:
    true, predicted = sample()
    result = compare_paired(true, predicted, predicted)
    assert result["difference"] == {"value": 0.0, "lower": 0.0, "upper": 0.0}
    assert result["verdict"] == "cannot tell"


def test_two_models_of_equal_error_are_rarely_told_apart() -> None:
    generator = np.random.default_rng(2)
    wrong = 0
    for repeat in range(200):
        errors = generator.normal(0, 0.6, (2, 200))
        wrong += compare_paired(np.zeros(200), *errors, bootstrap=300, seed=repeat)["verdict"] != "cannot tell"
    assert wrong / 200 < 0.10


def test_comparison_without_resamples_tells_nothing() -> None:
    result = compare_paired(*sample(), np.zeros(200), bootstrap=0)
    assert result["verdict"] == "cannot tell"
    assert result["difference"]["lower"] is None
    assert result["n"] == 200
