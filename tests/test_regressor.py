"""The estimator keeps scikit-learn's contract."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from moltune import MolRegressor
from moltune.errors import CheckpointError, ConfigError, DataError, RunFolderError
from moltune.run import Run

Data = tuple[list[str], np.ndarray]


@pytest.fixture(scope="module")
def data(small_table: pd.DataFrame) -> Data:
    table = small_table.iloc[:60]
    return table["smiles"].tolist(), table["hydration_free_energy"].to_numpy()


@pytest.fixture
def estimator(tiny_model: Path) -> MolRegressor:
    return MolRegressor(str(tiny_model), epochs=2, settings={"threads": 1})


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, data: Data) -> MolRegressor:
    """Fitted once; read it, do not fit it again."""
    return MolRegressor(str(tiny_model), epochs=2, settings={"threads": 1}).fit(*data)


# --- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check",
    [
        check_get_params_invariance,
        check_set_params,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
    ],
)
def test_checks_of_scikit_learn(check: Any) -> None:
    check("MolRegressor", MolRegressor())


def test_parameters(estimator: MolRegressor) -> None:
    assert is_regressor(estimator)
    parameters = estimator.get_params()
    assert parameters["epochs"] == 2
    assert estimator.set_params(head="cls", learning_rate=1e-4) is estimator
    copy = clone(estimator)
    assert copy.get_params() == {**parameters, "head": "cls", "learning_rate": 1e-4}
    assert not hasattr(copy, "model_")
    assert "MolRegressor(" in repr(estimator)
    with pytest.raises(ValueError, match="nope"):
        estimator.set_params(nope=1)


def test_fit_changes_no_parameter_and_clone_forgets(fitted: MolRegressor) -> None:
    assert fitted.get_params() == clone(fitted).get_params()
    assert not hasattr(clone(fitted), "model_")


# --- fit, predict, score -------------------------------------------------------------------------------------------


def test_fitted_attributes(fitted: MolRegressor) -> None:
    assert fitted.n_features_in_ == 1
    assert list(fitted.history_["epoch"]) == [1, 2]
    assert fitted.best_epoch_ in (1, 2)
    assert not fitted.model_.network.training


def test_predictions_and_score(fitted: MolRegressor, data: Data) -> None:
    smiles, target = data
    predicted = fitted.predict(smiles)
    assert predicted.shape == (60,)
    assert predicted.dtype == np.float64
    assert fitted.score(smiles, target) == pytest.approx(r2_score(target, predicted))
    np.testing.assert_array_equal(fitted.predict(smiles), predicted)
    np.testing.assert_allclose(fitted.predict(smiles[:1]), predicted[:1], atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [np.array, pd.Series, tuple, lambda x: np.array(x)[:, None], lambda x: pd.DataFrame({"smiles": x}), "str_dtype"],
    ids=["array", "series", "tuple", "column", "frame", "string-array"],
)
def test_forms_of_x(fitted: MolRegressor, data: Data, form: Any) -> None:
    smiles = data[0][:5]
    given = pd.Series(smiles, index=[7, 3, 9, 1, 2], dtype="string") if form == "str_dtype" else form(smiles)
    np.testing.assert_array_equal(fitted.predict(given), fitted.predict(smiles))


def test_forms_of_y_and_refit(estimator: MolRegressor, fitted: MolRegressor, data: Data) -> None:
    smiles, target = data
    expected = fitted.predict(smiles)
    for form in (target.tolist(), pd.Series(target, index=range(100, 160)), target[:, None]):
        np.testing.assert_array_equal(estimator.fit(pd.Series(smiles), form).predict(smiles), expected)
    other = estimator.fit(smiles, -target).predict(smiles)
    assert not np.array_equal(other, expected)


def test_seed_and_head_matter(estimator: MolRegressor, fitted: MolRegressor, data: Data) -> None:
    expected = fitted.predict(data[0])
    assert not np.array_equal(estimator.set_params(seed=1).fit(*data).predict(data[0]), expected)
    estimator.set_params(seed=0, head="molformer")
    assert not np.array_equal(estimator.fit(*data).predict(data[0]), expected)


def test_global_random_state_is_not_used(estimator: MolRegressor, fitted: MolRegressor, data: Data) -> None:
    np.random.seed(99)  # noqa: NPY002 - a state that must not matter
    np.testing.assert_array_equal(estimator.fit(*data).predict(data[0]), fitted.predict(data[0]))


@pytest.mark.parametrize("method", ["head", "probe"])
def test_intervals(tiny_model: Path, small_table: pd.DataFrame, method: str) -> None:
    """From a validation share of 24 molecules, and from the folds of a probe."""
    smiles, target = small_table["smiles"].tolist(), small_table["hydration_free_energy"].to_numpy()
    model = MolRegressor(str(tiny_model), method, epochs=1, validation_fraction=0.4).fit(smiles, target)
    low, high = model.predict_interval(smiles, level=0.8)
    predicted = model.predict(smiles)
    assert ((low < predicted) & (predicted < high)).all()
    np.testing.assert_allclose((low + high) / 2, predicted, atol=1e-5)
    wider = model.predict_interval(smiles, level=0.9)
    assert (wider[1] - wider[0] >= high - low).all()
    assert np.mean((low <= target) & (target <= high)) > 0.6


def test_no_intervals(fitted: MolRegressor, finished: Run) -> None:
    with pytest.raises(DataError, match="raise validation_fraction"):
        fitted.predict_interval(["CCO"])
    with pytest.raises(DataError, match=r"use moltune\.Predictor"):
        MolRegressor.load(finished.path).predict_interval(["CCO"])


def test_without_validation_share(estimator: MolRegressor, data: Data) -> None:
    estimator.set_params(validation_fraction=0).fit(*data)
    assert estimator.best_epoch_ == 2
    assert estimator.history_["validation_loss"].isna().all()


def test_settings_and_report(estimator: MolRegressor, data: Data) -> None:
    states: list[dict[str, Any]] = []
    estimator.set_params(epochs=None, settings={"epochs": 1, "batch_size": 54}, method="head")
    estimator.fit(*data, report=states.append)
    assert len(estimator.history_) == 1
    assert {state["steps"] for state in states} == {1}
    trained = [name for name, parameter in estimator.model_.network.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("head.") for name in trained)


# --- with scikit-learn's tools -------------------------------------------------------------------------------------


def test_cross_validation(estimator: MolRegressor, data: Data) -> None:
    scores = cross_val_score(estimator.set_params(epochs=1), *data, cv=2)
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 2
    predicted = cross_val_predict(estimator, np.array(data[0], dtype=object), data[1], cv=2)
    assert predicted.shape == (60,)


def test_pipeline_and_grid_search(estimator: MolRegressor, data: Data) -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda x: [smiles.strip() for smiles in x]), estimator)
    grid = GridSearchCV(pipeline.set_params(molregressor__epochs=1), {"molregressor__head": ["mean", "cls"]}, cv=2)
    grid.fit([f" {smiles} " for smiles in data[0]], data[1])
    assert grid.best_params_["molregressor__head"] in ("mean", "cls")
    assert grid.predict(["CCO"]).shape == (1,)
    assert len(set(grid.cv_results_["mean_test_score"])) == 2


# --- saved and loaded ----------------------------------------------------------------------------------------------


def test_pickle_and_joblib(fitted: MolRegressor, data: Data) -> None:
    expected = fitted.predict(data[0])
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    buffer.seek(0)
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(buffer)):
        np.testing.assert_array_equal(copy.predict(data[0]), expected)
        assert copy.get_params() == fitted.get_params()


def test_save_and_load(fitted: MolRegressor, data: Data, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    loaded = MolRegressor.load(folder)
    np.testing.assert_allclose(loaded.predict(data[0]), fitted.predict(data[0]), atol=1e-6)
    assert loaded.head == "mean"
    assert loaded.model == fitted.model
    with pytest.raises(RunFolderError, match="exists already"):
        fitted.save(folder)


def test_load_a_run_folder(finished: Run) -> None:
    table = finished.predictions
    predicted = MolRegressor.load(finished.path).predict(table["smiles"])
    np.testing.assert_allclose(predicted, table["predicted"], atol=1e-5)


# --- errors --------------------------------------------------------------------------------------------------------


def test_not_fitted(estimator: MolRegressor, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        estimator.predict(["CCO"])
    with pytest.raises(NotFittedError):
        estimator.save(tmp_path / "model")


@pytest.mark.parametrize("bad", ["xx", "", None, float("nan"), 3])
def test_invalid_smiles_names_the_row(estimator: MolRegressor, fitted: MolRegressor, data: Data, bad: Any) -> None:
    smiles = [*data[0][:4], bad, *data[0][4:]]
    with pytest.raises(DataError, match="molecule 5 "):
        estimator.fit(smiles, np.arange(61.0))
    with pytest.raises(DataError, match="molecule 5 "):
        fitted.predict(smiles)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "high", None])
def test_invalid_target_names_the_row(estimator: MolRegressor, data: Data, bad: Any) -> None:
    target = [*data[1][:2], bad, *data[1][3:]]
    with pytest.raises(DataError, match="molecule 3 "):
        estimator.fit(data[0], target)


def test_over_long_smiles_names_the_row(estimator: MolRegressor, fitted: MolRegressor, data: Data) -> None:
    smiles = [data[0][0], "C" * 300, *data[0][2:]]
    with pytest.raises(DataError, match=r"molecule 2 .*302 tokens"):
        estimator.fit(smiles, data[1])
    with pytest.raises(DataError, match=r"molecule 2 .*302 tokens"):
        fitted.predict(smiles)


def test_wrong_shapes(estimator: MolRegressor, data: Data) -> None:
    smiles, target = data
    with pytest.raises(DataError, match="shape"):
        estimator.fit(np.array([smiles, smiles]).T, target)
    with pytest.raises(DataError, match="60 SMILES but 59 targets"):
        estimator.fit(smiles, target[:-1])
    with pytest.raises(DataError, match="empty"):
        estimator.fit([], [])
    with pytest.raises(DataError, match="sequence of SMILES"):
        estimator.fit("CCO", [1.0])


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"model": "nope"}, CheckpointError, "nope"),
        ({"head": "nope"}, ConfigError, "head"),
        ({"method": "nope"}, ConfigError, "nope"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"learning_rate": -1.0}, ConfigError, "learning_rate"),
        ({"settings": {"nope": 1}}, ConfigError, "nope"),
        ({"settings": {"optimizer": "nope"}}, ConfigError, "nope"),
        ({"validation_fraction": 1.0}, DataError, "validation_fraction"),
        ({"seed": -1}, ConfigError, "seed"),
    ],
    ids=str,
)
def test_wrong_parameters(
    estimator: MolRegressor, data: Data, parameters: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        estimator.set_params(**parameters).fit(*data)
