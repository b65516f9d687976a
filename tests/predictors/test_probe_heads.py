"""Probe heads against scikit-learn and against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from moltune.errors import DataError, NumericsError
from moltune.predictors import gaussian_process
from moltune.predictors.gaussian_process import GpHead
from moltune.predictors.probe_heads import ProbeHead, RidgeHead, Scaler, SvrHead

HEADS: dict[str, type[ProbeHead]] = {head.name: head for head in (RidgeHead, SvrHead, GpHead)}


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 7))
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=80) + 3


def test_the_scaler_is_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    x = np.hstack([data[0] * 100, np.full((80, 1), 0.1), np.full((80, 1), np.nan)])
    x[3, 2], x[5, 4], x[7, 0] = np.nan, np.nan, 1e6
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -5, "a_max": 5})
    theirs = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), clip)
    scaler = Scaler(np.float64).fit(x)
    np.testing.assert_allclose(scaler.transform(x), theirs.fit_transform(x), atol=1e-12)
    assert Scaler().fit(x).transform(x).dtype == np.float32
    with pytest.raises(NumericsError, match="column 1 is infinite"):
        Scaler().fit(np.array([[0.0, np.inf], [1.0, 2.0]]))


def test_ridge_minimises_generalised_cross_validation(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    head = RidgeHead().fit(x, y)
    same = Ridge(alpha=head.penalty).fit(x, y)
    np.testing.assert_allclose(head.predict(x), same.predict(x), atol=1e-9)

    def score(penalty: float) -> float:
        centred = x - x.mean(0)
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(7), centred.T)
        left_over = (y - y.mean()) - hat @ (y - y.mean())
        return float(left_over @ left_over / (len(y) - 1 - np.trace(hat)) ** 2)

    step = RidgeHead.penalties[1] / RidgeHead.penalties[0]
    assert score(head.penalty) <= min(score(head.penalty * step), score(head.penalty / step), score(1e-6), score(1e4))
    assert head.fitted == 8


def test_ridge_with_more_features_than_molecules() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 50))
    head = RidgeHead().fit(x, rng.normal(size=20))
    assert np.isfinite(head.predict(x)).all()
    assert np.abs(head.predict(x) - head.predict(x).mean()).max() < 5


def test_support_vectors_predict_as_scikit_learn_does(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data[0].astype(np.float32), data[1]
    svr = SvrHead(C=3, epsilon=0.05).fit(x, y)
    np.testing.assert_allclose(svr.predict(x), SVR(C=3, epsilon=0.05).fit(x, y).predict(x), atol=1e-8)


def test_a_process_is_the_mean_of_two_machines_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data[0].astype(np.float32), data[1] / data[1].std()
    head = GpHead(np.repeat([0, 1], [4, 3])).fit(x, y)
    with np.errstate(divide="ignore"):  # a block that is left out has an infinite length scale
        lengths = np.repeat((head.weights / [4, 3]) ** -0.5, [4, 3])
    # Its maximum of the likelihood may lie elsewhere, so the kernel stays as it was found.
    kernel = ConstantKernel(head.signal) * Matern(lengths, nu=1.5) + WhiteKernel(head.noise)
    process = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x.astype(float), y - y.mean())
    gram = Matern(lengths, nu=1.5)(x.astype(float))
    machine = SVR(kernel="precomputed", C=2 * head.signal, epsilon=0.1).fit(gram, y - y.mean())
    expected = (process.predict(x.astype(float)) + machine.predict(gram)) / 2 + y.mean()
    # The points are stored in half precision.
    np.testing.assert_allclose(head.predict(x), expected, atol=2e-3)


def test_the_kernel_has_the_greatest_likelihood_near_its_start(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    head = GpHead([0, 1, 1, 1, 1, 1, 1]).fit(x, (y - y.mean()) / y.std())

    def likelihood(signal: float, noise: float, weights: np.ndarray) -> float:
        kernel = ConstantKernel(signal) * Matern(np.repeat((weights / [1, 6]) ** -0.5, [1, 6]), nu=1.5)
        process = GaussianProcessRegressor(kernel + WhiteKernel(noise), alpha=0.0, optimizer=None)
        return float(process.fit(x, (y - y.mean()) / y.std()).log_marginal_likelihood_value_)

    found = likelihood(head.signal, head.noise, head.weights)
    for factor in (0.5, 2.0):
        assert found > likelihood(head.signal * factor, head.noise, head.weights) - 0.05
        assert found > likelihood(head.signal, head.noise * factor, head.weights)
        assert found > likelihood(head.signal, head.noise, head.weights * [factor, 1])
        assert found > likelihood(head.signal, head.noise, head.weights * [1, factor])


def test_a_block_of_noise_is_left_out_and_a_telling_one_weighs_most() -> None:
    rng = np.random.default_rng(0)
    telling, other, noise = rng.normal(size=(150, 2)), rng.normal(size=(150, 3)), rng.normal(size=(150, 20))
    y = np.sin(2 * telling[:, 0]) + telling[:, 1] ** 2 / 2 + 0.3 * other[:, 0] + 0.05 * rng.normal(size=150)
    blocks = np.hstack([telling, other, noise])
    head = GpHead(np.repeat([0, 1, 2], [2, 3, 20])).fit(blocks[:100], (y[:100] - y.mean()) / y.std())
    assert head.weights[2] == 0
    assert head.weights[0] / 2 > 2 * head.weights[1] / 3 > 0
    errors = {
        name: np.mean((made.predict(x[100:]) - (y[100:] - y.mean()) / y.std()) ** 2)
        for name, made, x in (
            ("blocks", head, blocks),
            ("one", GpHead().fit(blocks[:100], (y[:100] - y.mean()) / y.std()), blocks),
        )
    }
    assert errors["blocks"] < 0.5 * errors["one"]


def test_columns_of_a_block_need_not_stand_side_by_side(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    apart = GpHead([0, 0, 1, 0, 0, 1, 0]).fit(x, y)
    beside = GpHead([0, 0, 0, 0, 0, 1, 1]).fit(x[:, [0, 1, 3, 4, 6, 2, 5]], y)
    np.testing.assert_allclose(apart.weights, beside.weights, rtol=1e-4)
    np.testing.assert_allclose(apart.predict(x), beside.predict(x[:, [0, 1, 3, 4, 6, 2, 5]]), atol=1e-3)


def test_a_subset_chooses_the_kernel_of_a_large_process(
    data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_process, "_FOR_SCALES", 30)
    head = GpHead().fit(*data)
    assert len(head.arrays["points"]) == 80
    np.testing.assert_array_equal(head.predict(data[0]), GpHead().fit(*data).predict(data[0]))
    monkeypatch.setattr(gaussian_process, "MOST_MOLECULES", 50)
    with pytest.raises(DataError, match="use --head svr or ridge"):
        GpHead().fit(*data)


def test_a_process_of_before_version_0_3_predicts_as_it_did(data: tuple[np.ndarray, np.ndarray]) -> None:
    x = data[0].astype(np.float32)
    old = GpHead()
    old.arrays = {"dual": np.arange(3.0), "points": x[:3], "kernel": np.array([0.1, 2.0])}
    squares = ((x[:, None].astype(float) - x[None, :3]) ** 2).sum(-1)
    np.testing.assert_allclose(old.predict(x), np.exp(-0.1 * squares) @ np.arange(3.0) + 2.0, rtol=1e-6)


def test_molecules_that_are_all_alike_are_no_obstacle() -> None:
    x, y = np.ones((12, 4), dtype=np.float32), np.linspace(-1, 1, 12)
    assert np.isfinite(GpHead([0, 1, 1, 1]).fit(x, y).predict(x)).all()


@pytest.mark.parametrize("name", HEADS)
def test_arrays_are_all_that_a_head_needs(name: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data[0].astype(np.float32), data[1]
    head = HEADS[name]().fit(x, y)
    again = HEADS[name]()
    again.arrays = dict(head.arrays)
    assert set(head.stored) <= set(head.arrays)
    np.testing.assert_array_equal(again.predict(x), head.predict(x))
    assert again.fitted == head.fitted
    assert head.predict(x[:0]).shape == (0,)
