"""The classifier keeps scikit-learn's contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from moltune import MolClassifier, MolRegressor
from moltune.errors import DataError

Data = tuple[list[str], np.ndarray]


@pytest.fixture(scope="module")
def data(small_table: pd.DataFrame) -> Data:
    table = small_table.iloc[:80]
    labels = np.where(table["hydration_free_energy"] < -4.5, "soluble", "insoluble")
    return table["smiles"].tolist(), labels


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, data: Data) -> MolClassifier:
    """Fitted once; read it, do not fit it again."""
    return MolClassifier(str(tiny_model), epochs=3, validation_fraction=0.3, settings={"threads": 1}).fit(*data)


@pytest.mark.parametrize(
    "check",
    [
        check_get_params_invariance,
        check_set_params,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
    ],
)
def test_scikit_learn_checks(check: object) -> None:
    check("MolClassifier", MolClassifier())  # type: ignore[operator]


def test_it_is_a_classifier_with_probabilities_of_both_classes(fitted: MolClassifier, data: Data) -> None:
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == ["insoluble", "soluble"]
    proba, predicted = fitted.predict_proba(data[0]), fitted.predict(data[0])
    assert proba.shape == (80, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (predicted == fitted.classes_[proba.argmax(axis=1)]).all()
    assert fitted.score(*data) == np.mean(predicted == data[1])
    assert fitted.score(*data) > np.mean(data[1] == "insoluble")


@pytest.mark.parametrize("kind", [int, bool, str])
def test_labels_come_back_as_they_were(tiny_model: Path, data: Data, kind: type) -> None:
    labels = np.array([kind(one == "soluble") for one in data[1]])
    estimator = MolClassifier(str(tiny_model), epochs=1, settings={"threads": 1}).fit(data[0], labels)
    found = estimator.predict(data[0])
    assert found.dtype == labels.dtype
    assert set(found) <= set(labels)


def test_cross_validation_by_area(tiny_model: Path, data: Data) -> None:
    method = {"probe": {"head": "ridge", "features": ["rdkit-fast"]}}
    estimator = MolClassifier(str(tiny_model), "probe", method_settings=method, settings={"threads": 1})
    scores = cross_val_score(clone(estimator), *data, cv=3, scoring="roc_auc")
    assert scores.mean() > 0.75


def test_saved_and_loaded(fitted: MolClassifier, data: Data, tmp_path: Path) -> None:
    loaded = MolClassifier.load(fitted.save(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict_proba(data[0]), fitted.predict_proba(data[0]), atol=1e-6)
    assert loaded.predict(data[0]).tolist() == fitted.predict(data[0]).tolist()
    with pytest.raises(DataError, match="load it with MolClassifier"):
        MolRegressor.load(tmp_path / "model")


def test_what_cannot_be_told_apart_is_refused(tiny_model: Path, data: Data, small_table: pd.DataFrame) -> None:
    estimator = MolClassifier(str(tiny_model), epochs=1)
    with pytest.raises(DataError, match="y holds 1 different labels"):
        estimator.fit(data[0], ["a"] * 80)
    with pytest.raises(DataError, match="y holds 80 different labels"):
        estimator.fit(data[0], range(80))
    with pytest.raises(DataError, match="molecule 1"):
        estimator.fit(["C(", *data[0][1:]], data[1])
