"""Probe heads against scikit-learn and against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from moltune.errors import DataError, NumericsError
from moltune.predictors import probe_heads
from moltune.predictors.probe_heads import HEADS, GpHead, RidgeHead, Scaler, SvrHead


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


def test_kernel_heads_predict_as_scikit_learn_does(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data[0].astype(np.float32), data[1]
    svr = SvrHead(C=3, epsilon=0.05).fit(x, y)
    np.testing.assert_allclose(svr.predict(x), SVR(C=3, epsilon=0.05).fit(x, y).predict(x), atol=1e-8)
    gp = GpHead().fit(x, y)
    length = (0.5 / gp.arrays["kernel"][0]) ** 0.5
    # The signal and the noise are inside the weights; any pair with their ratio gives the same mean.
    kernel = GaussianProcessRegressor(ConstantKernel(1.0) * RBF(length) + WhiteKernel(0.1), alpha=1e-8)
    fitted = kernel.fit(x.astype(float), y - y.mean())
    np.testing.assert_allclose(gp.predict(x), fitted.predict(x.astype(float)) + y.mean(), atol=2e-3)
    assert np.sqrt(np.mean((gp.predict(x) - y) ** 2)) < 0.3


def test_a_subset_chooses_the_kernel_of_a_large_gp(
    data: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_heads, "_FOR_KERNEL", 30)
    head = GpHead().fit(*data)
    assert len(head.arrays["points"]) == 80
    np.testing.assert_array_equal(head.predict(data[0]), GpHead().fit(*data).predict(data[0]))
    monkeypatch.setattr(probe_heads, "MOST_FOR_GP", 50)
    with pytest.raises(DataError, match="use --head svr or ridge"):
        GpHead().fit(*data)


@pytest.mark.parametrize("name", HEADS)
def test_arrays_are_all_that_a_head_needs(name: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data[0].astype(np.float32), data[1]
    head = HEADS[name]().fit(x, y)
    again = HEADS[name]()
    again.arrays = {stored: head.arrays[stored] for stored in head.stored}
    np.testing.assert_array_equal(again.predict(x), head.predict(x))
    assert again.fitted == head.fitted
    assert head.predict(x[:0]).shape == (0,)
