from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from crepes import ConformalRegressor
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.optimize import minimize

from moltune.calibration.conformal import FEWEST_PER_CLASS, Calibration, Intervals
from moltune.calibration.difficulty import Difficulty
from moltune.calibration.folds import fold_labels, out_of_fold
from moltune.calibration.merit import CURVE_LEVELS, assess, coverage, interval_score, mean_width
from moltune.errors import CheckpointError, ConfigError, DataError, NumericsError

LEVELS_OF_TEST = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**32 - 1)


def world(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Truth, prediction, inputs and classes of molecules whose error grows with the distance."""
    rng = np.random.default_rng(seed)
    distance, noise = rng.uniform(0, 1, n), rng.normal(size=n)
    predicted = rng.normal(2, 1, n)
    true = predicted + rng.normal(size=n) * np.exp(1.5 * distance - 1)
    classes = np.digitize(distance, [0.7, 0.9])
    return true, predicted, {"distance": distance, "noise": noise}, classes


def some(world: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray], at: np.ndarray) -> tuple:
    true, predicted, inputs, classes = world
    return true[at], predicted[at], {name: value[at] for name, value in inputs.items()}, classes[at]


def test_difficulty_is_the_likeliest_exponential_regression() -> None:
    true, predicted, inputs, _ = world(0)
    errors = np.abs(true - predicted)
    x = np.column_stack(list(inputs.values()))
    x = (x - x.mean(axis=0)) / x.std(axis=0)

    def loss(solution: np.ndarray) -> float:
        z = x @ solution[:-1] + solution[-1]
        return float((errors / errors.mean() * np.exp(-z) + z).sum() + 0.5 * (solution[:-1] ** 2).sum())

    expected = minimize(loss, np.zeros(3), tol=1e-12).x
    found = Difficulty.fit(inputs, errors)
    np.testing.assert_allclose(found.weights, expected[:-1], atol=1e-4)
    np.testing.assert_allclose(found.intercept, expected[-1] + np.log(errors.mean()), atol=1e-4)
    assert found.weights[0] > 5 * abs(found.weights[1])


def test_without_inputs_difficulty_is_the_mean_error() -> None:
    errors = np.array([1.0, -3.0, 2.0])
    np.testing.assert_allclose(Difficulty.fit({}, errors)({}, 4), np.full(4, 2.0))
    constant = Difficulty.fit({"same": np.full(3, 7.0)}, errors)
    np.testing.assert_allclose(constant({"same": np.array([7.0, 100.0])}, 2), np.full(2, 2.0))


def test_beyond_the_inputs_of_the_fit_difficulty_stays() -> None:
    true, predicted, inputs, _ = world(1)
    difficulty = Difficulty.fit({"distance": inputs["distance"]}, true - predicted)
    most = inputs["distance"].max()
    at_most, far = difficulty({"distance": np.array([most, 50.0])}, 2)
    assert at_most == far


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("mondrian", [False, True])
@pytest.mark.parametrize("level", [0.511, 0.807, 0.903, 0.951])
def test_intervals_are_those_of_crepes(normalised: bool, mondrian: bool, level: float) -> None:
    """Given the same scores. At round levels crepes may take the next larger one, since 1 − 0.8 is not quite 0.2."""
    known, asked = world(2, 500), world(3, 60)
    true, predicted, inputs, classes = known
    inputs = inputs if normalised else {}
    calibration = Calibration.fit(true, predicted, inputs, classes if mondrian else None, 3)
    groups = np.repeat(np.arange(len(calibration.sizes)), calibration.sizes)
    sigma = calibration.difficulty({name: asked[2][name] for name in inputs}, 60)
    bins = {"bins": groups} if mondrian else {}
    reference = ConformalRegressor().fit(calibration.scores, sigmas=np.ones(500), **bins)
    new_bins = {"bins": calibration.group_of[asked[3]]} if mondrian else {}
    expected = reference.predict_int(asked[1], sigmas=sigma, confidence=level, **new_bins)
    found = calibration.predict(asked[1], asked[2], asked[3] if mondrian else None, level)
    np.testing.assert_allclose(np.column_stack([found.low, found.high]), expected)


def test_constant_width_is_crepes_from_start_to_end() -> None:
    true, predicted, _, _ = world(4, 300)
    reference = ConformalRegressor().fit(true - predicted)
    found = Calibration.fit(true, predicted)
    # Difficulty is learned from the other parts, so it differs by a few percent between them.
    expected = reference.predict_int(np.zeros(1), confidence=0.903)[0, 1]
    assert found.predict(np.zeros(1), level=0.903).high[0] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("n", [20, 60, 300])
def test_exchangeable_molecules_are_covered(level: float, n: int) -> None:
    """On average over calibration sets."""
    found = []
    for seed in range(150):
        data = world(seed, n + 50)
        true, predicted, inputs, classes = some(data, np.arange(n))
        new = some(data, np.arange(n, n + 50))
        intervals = Calibration.fit(true, predicted, inputs, classes, 3).predict(*new[1:], level=level)
        found.append(coverage(new[0], intervals))
    assert level - 0.025 < np.mean(found) < level + (0.06 if n < 100 else 0.025)


def test_each_class_is_covered_by_itself() -> None:
    """Errors of one class are three times as large, and no input tells."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [4000, 4000])
    true = rng.normal(size=8000) * np.where(classes, 3.0, 1.0)
    half = rng.permutation(8000)
    known, new = half[:4000], half[4000:]
    calibration = Calibration.fit(true[known], np.zeros(4000), None, classes[known], 2)
    intervals = calibration.predict(np.zeros(4000), None, classes[new])
    for value in (0, 1):
        own = classes[new] == value
        part = Intervals(intervals.low[own], intervals.high[own], intervals.sd[own])
        assert coverage(true[new][own], part) == pytest.approx(0.9, abs=0.03)
        assert part.sd.mean() == pytest.approx(3.0 if value else 1.0, rel=0.05)


@given(SEEDS, LEVELS_OF_TEST, LEVELS_OF_TEST, st.integers(21, 150))
@settings(deadline=None, max_examples=30)
def test_a_higher_level_is_never_narrower(seed: int, one: float, other: float, n: int) -> None:
    true, predicted, inputs, classes = world(seed, n)
    calibration = Calibration.fit(true, predicted, inputs, classes, 3)
    narrow, wide = (calibration.predict(predicted, inputs, classes, level) for level in sorted((one, other)))
    assert (wide.high >= narrow.high).all()
    assert (wide.low <= narrow.low).all()
    np.testing.assert_allclose(wide.high - predicted, predicted - wide.low)


@given(SEEDS, st.integers(2, 80))
@settings(deadline=None, max_examples=30)
def test_order_does_not_matter(seed: int, n: int) -> None:
    data = world(seed, n)
    order = np.random.default_rng(seed).permutation(n)
    plain, shuffled = (Calibration.fit(*some(data, at), 3) for at in (np.arange(n), order))
    np.testing.assert_allclose(plain.scores, shuffled.scores, rtol=1e-6)
    np.testing.assert_allclose(plain.difficulty.weights, shuffled.difficulty.weights, atol=1e-6)


@given(SEEDS, st.floats(1e-6, 1e6), st.floats(-100, 100))
@settings(deadline=None, max_examples=30)
def test_intervals_go_with_the_unit_of_the_target(seed: int, factor: float, shift: float) -> None:
    true, predicted, inputs, classes = world(seed, 80)
    plain = Calibration.fit(true, predicted, inputs, classes, 3).predict(predicted, inputs, classes)
    true, other = true * factor + shift * factor, predicted * factor + shift * factor
    scaled = Calibration.fit(true, other, inputs, classes, 3).predict(other, inputs, classes)
    np.testing.assert_allclose(scaled.high - scaled.low, (plain.high - plain.low) * factor, rtol=1e-4)
    np.testing.assert_allclose(scaled.sd, plain.sd * factor, rtol=1e-4)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100, 100, 100], [0, 1, 2]),
        ([100, 40, 3], [0, 1, 1]),
        ([100, 6, 6], [0, 1, 1]),
        ([100, 4, 3], [0, 0, 0]),
        ([100, 0, 0], [0, 0, 0]),
        ([5, 100, 100], [0, 0, 1]),
        ([40, 4, 35], [0, 0, 1]),
        ([4, 3, 2], [0, 0, 0]),
    ],
)
def test_small_classes_join_the_one_before(counts: list[int], expected: list[int]) -> None:
    classes = np.repeat(np.arange(3), counts)
    true = np.random.default_rng(0).normal(size=len(classes))
    calibration = Calibration.fit(true, np.zeros(len(classes)), None, classes, 3)
    assert calibration.group_of.tolist() == expected
    assert calibration.sizes.sum() == len(classes)
    intervals = calibration.predict(np.zeros(3), None, np.arange(3), 0.5)
    assert np.isfinite(intervals.high).all()


def test_a_class_too_small_for_the_level_is_as_wide_as_all_or_wider() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [500, FEWEST_PER_CLASS])
    true = rng.normal(size=len(classes)) * np.where(classes, 0.1, 1.0)
    calibration = Calibration.fit(true, np.zeros(len(classes)), None, classes, 2)
    usual, small = calibration.predict(np.zeros(2), None, np.array([0, 1]), 0.99).high
    everywhere = Calibration.fit(true, np.zeros(len(classes))).predict(np.zeros(1), level=0.99).high[0]
    assert small == pytest.approx(everywhere, rel=0.1)
    assert usual > everywhere * 0.9
    assert calibration.predict(np.zeros(1), None, np.array([1]), 0.9).high[0] < 0.5


def test_ties_and_a_single_different_error() -> None:
    true = np.array([1.0] * 19 + [5.0])
    intervals = Calibration.fit(true, np.zeros(20)).predict(np.zeros(1), level=0.9)
    assert intervals.high[0] == pytest.approx(1.0, rel=0.3)
    only_one = Calibration.fit(np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(4)).predict(np.zeros(1), level=0.8)
    assert only_one.high[0] == pytest.approx(1.0, rel=0.01)


def test_tiny_sets_say_how_far_they_reach() -> None:
    calibration = Calibration.fit(np.arange(1.0, 6.0), np.zeros(5))
    assert calibration.predict(np.zeros(1), level=5 / 6).high[0] >= 4
    with pytest.raises(DataError, match=r"5 calibration molecules allow intervals of at most 83\.3%"):
        calibration.predict(np.zeros(1), level=0.9)
    assert Calibration.fit(np.array([1.0, 2.0]), np.zeros(2), {"x": np.arange(2.0)}).largest_level == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a: {**a, "true": a["true"][:-1]}, DataError, "10 predictions for 9 measurements"),
        (lambda a: {**a, "true": np.r_[a["true"][:-1], np.nan]}, NumericsError, "measurement of molecule 9 is not"),
        (lambda a: {**a, "predicted": np.r_[np.inf, a["predicted"][1:]]}, NumericsError, "prediction of molecule 0"),
        (lambda a: {**a, "inputs": {"x": np.full(10, np.nan)}}, NumericsError, "x of molecule 0 is not finite"),
        (lambda a: {**a, "inputs": {"x": np.zeros(3)}}, DataError, "3 values of x for 10 molecules"),
        (lambda a: {**a, "inputs": {"x": ["a"] * 10}}, DataError, "x of a molecule is not a number"),
        (lambda a: {**a, "classes": np.full(10, 3)}, DataError, "classes must be 0 to 1"),
        (lambda a: {**a, "classes": np.zeros(10)}, DataError, "whole numbers"),
        (lambda a: {**a, "predicted": a["true"]}, DataError, "every error is zero"),
        (lambda a: {**a, "true": a["true"][:1], "predicted": np.zeros(1)}, DataError, "at least two molecules"),
        (lambda a: {**a, "true": a["true"][:, None]}, DataError, r"shape is \(10, 1\)"),
    ],
)
def test_bad_input_is_named(change: Callable[[dict], dict], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Calibration.fit(**change({"true": np.arange(10.0), "predicted": np.zeros(10), "n_classes": 2}))


def test_a_prediction_needs_what_the_fit_had() -> None:
    true, predicted, inputs, classes = world(0)
    calibration = Calibration.fit(true, predicted, inputs, classes, 3)
    with pytest.raises(DataError, match="judged by distance, noise; distance is missing"):
        calibration.predict(predicted, None, classes)
    with pytest.raises(DataError, match="needs those of new molecules"):
        calibration.predict(predicted, inputs)
    with pytest.raises(DataError, match="classes must be 0 to 2"):
        calibration.predict(predicted, inputs, np.full(len(predicted), 3))
    for level in (0.0, 1.0, 90, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            calibration.predict(predicted, inputs, classes, level)
    empty = calibration.predict(np.empty(0), {name: np.empty(0) for name in inputs}, np.empty(0, dtype=np.int64))
    assert empty.low.shape == (0,)


@pytest.mark.parametrize("names", [(), ("distance",), ("distance", "noise")])
def test_arrays_bring_it_back_exactly(names: tuple[str, ...]) -> None:
    true, predicted, inputs, classes = world(5)
    inputs = {name: inputs[name] for name in names}
    own = Calibration.fit(true, predicted, inputs, classes, 3)
    file = io.BytesIO()
    np.savez(file, **own.to_arrays())
    file.seek(0)
    before = own.predict(predicted, inputs, classes)
    for arrays in (dict(np.load(file, allow_pickle=False)), load(save(own.to_arrays()))):
        after = Calibration.from_arrays(arrays).predict(predicted, inputs, classes)
        for name in ("low", "high", "sd"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    arrays = own.to_arrays()
    with pytest.raises(CheckpointError, match="lacks sizes"):
        Calibration.from_arrays({name: value for name, value in arrays.items() if name != "sizes"})
    with pytest.raises(CheckpointError, match="do not fit"):
        Calibration.from_arrays({**arrays, "scores": arrays["scores"][1:]})
    with pytest.raises(CheckpointError, match="later version"):
        Calibration.from_arrays({**arrays, "version": np.array([99])})


@given(st.lists(st.integers(0, 30), min_size=40, max_size=120), st.integers(2, 6), SEEDS)
def test_relatives_share_a_fold_and_folds_are_even(groups: list[int], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(DataError, match="at least as many different molecules"):
            fold_labels(groups, folds, seed)
        return
    labels = fold_labels(groups, folds, seed)
    for group in set(groups):
        assert len({label for label, own in zip(labels.tolist(), groups, strict=True) if own == group}) == 1
    sizes = np.bincount(labels, minlength=folds)
    largest = max(groups.count(group) for group in groups)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= largest


def test_no_molecule_is_predicted_by_what_saw_it() -> None:
    labels = fold_labels(list("abcdefgabcd"), 3)
    seen: list[np.ndarray] = []

    def predict(learn: np.ndarray, rest: np.ndarray) -> np.ndarray:
        assert not set(labels[learn]) & set(labels[rest])
        assert len(learn) + len(rest) == len(labels)
        seen.append(rest)
        return rest * 10.0

    np.testing.assert_array_equal(out_of_fold(labels, predict), np.arange(len(labels)) * 10.0)
    assert sorted(np.concatenate(seen).tolist()) == list(range(len(labels)))
    with pytest.raises(DataError, match="at least two folds"):
        fold_labels([1, 2, 3], 1)


def test_figures_of_merit_by_hand() -> None:
    intervals = Intervals(np.array([0.0, 0.0, 0.0]), np.array([1.0, 2.0, 3.0]), np.ones(3))
    true = np.array([1.0, 2.5, -1.0])
    assert coverage(true, intervals) == pytest.approx(1 / 3)
    assert mean_width(intervals) == pytest.approx(2.0)
    # Outside by 0.5 and by 1, at twice over 1 - level.
    assert interval_score(true, intervals, 0.9) == pytest.approx((1 + 2 + 10 + 3 + 20) / 3)


def test_the_true_quantiles_have_the_best_interval_score() -> None:
    true = np.random.default_rng(0).normal(size=20_000)
    scores = [interval_score(true, Intervals(-half, half, half), 0.9) for half in np.array([[1.2], [1.645], [2.2]])]
    assert scores[1] == min(scores)


def test_assessment_is_complete_and_ready_for_json() -> None:
    known, new = world(6, 600), world(7, 600)
    true, predicted, inputs, classes = known
    found = assess(Calibration.fit(true, predicted, inputs, classes, 3), *new)
    json.dumps(found, allow_nan=False)
    assert found["coverage"] == pytest.approx(0.9, abs=0.04)
    assert found["spearman"] > 0.3
    assert [level for level, _ in found["curve"]] == list(CURVE_LEVELS)
    assert all(abs(level - share) < 0.07 for level, share in found["curve"])
    assert sum(row["molecules"] for row in found["by_class"].values()) == 600
    constant = assess(Calibration.fit(true, predicted), new[0], new[1])
    assert constant["spearman"] is None
    assert constant["interval_score"] > found["interval_score"]
    tiny = assess(Calibration.fit(true[:10], predicted[:10]), new[0], new[1], level=0.5)
    assert tiny["curve"][-1][0] == 0.9


def test_a_prediction_imports_neither_torch_nor_sklearn_nor_pandas() -> None:
    code = (
        "import sys, json; import numpy as np; from moltune.calibration.conformal import Calibration; "
        "own = Calibration.fit(np.arange(40.0), np.zeros(40)); "
        "Calibration.from_arrays(own.to_arrays()).predict(np.zeros(2)); "
        "wrong = ('torch', 'transformers', 'sklearn', 'scipy', 'pandas', 'crepes'); "
        "print(json.dumps([name for name in wrong if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
