from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xgboost import XGBRegressor

from moltune.baselines.classical import BASELINES, XGBoostBaseline, load_baseline, make_baseline, save_baseline
from moltune.baselines.compare import run_baselines
from moltune.baselines.trees import Trees
from moltune.errors import ConfigError, DataError, NumericsError, RunFolderError
from moltune.features.registry import CLASSICAL as COLUMNS
from moltune.features.registry import FeatureTable

CLASSICAL = [name for name in BASELINES if name != "mean"]


class Counting:
    """Features that follow from the name; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        self.asked.extend(smiles)
        features = np.array([np.random.default_rng(int(text)).normal(size=12) for text in smiles], dtype=np.float32)
        features[:, 10] = np.nan
        features[:, 11] = 1e38
        return features


def table_of(featurizer: Counting) -> FeatureTable:
    return FeatureTable({COLUMNS: featurizer})


def problem(n: int, start: int = 0) -> tuple[list[str], np.ndarray]:
    names = [str(start + number) for number in range(n)]
    features = Counting()(names)
    return names, 2.0 * features[:, 0] - features[:, 1] + 5.0


def parts(train: int = 150, validation: int = 50, test: int = 60) -> dict[str, tuple[list[str], np.ndarray]]:
    return {
        "train": problem(train),
        "validation": problem(validation, 1000),
        "test": problem(test, 2000),
    }


def test_registry_has_the_agreed_baselines() -> None:
    assert list(BASELINES) == ["mean", "ridge", "random-forest", "xgboost"]
    assert all(make_baseline(name).name == name for name in BASELINES)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'svm'.*mean, ridge, random-forest, xgboost"):
        make_baseline("svm")


def test_unknown_name_fails_before_any_work() -> None:
    features = Counting()
    with pytest.raises(ConfigError):
        run_baselines(["ridge", "svm"], parts(), features=table_of(features))
    assert not features.asked


def test_features_are_computed_once_for_all_baselines() -> None:
    features = Counting()
    run_baselines(list(BASELINES), parts(), bootstrap=0, features=table_of(features))
    assert len(features.asked) == len(set(features.asked)) == 260


def test_feature_table_keeps_the_order_asked_for() -> None:
    table = table_of(Counting())
    both = table.get(COLUMNS, ["3", "1", "3"])
    np.testing.assert_array_equal(both[0], both[2])
    np.testing.assert_array_equal(both[[1]], Counting()(["1"]))
    with pytest.raises(DataError, match="no molecules"):
        table.get(COLUMNS, [])


def test_mean_predicts_the_training_mean_and_needs_no_features() -> None:
    features = Counting()
    data = parts()
    result = run_baselines(["mean"], data, features=table_of(features))["mean"]
    np.testing.assert_allclose(result.predictions["test"], data["train"][1].mean())
    assert result.metrics["train"]["r2"]["value"] == pytest.approx(0, abs=1e-6)
    assert not features.asked


@pytest.mark.parametrize("name", CLASSICAL)
def test_learns_a_learnable_target_and_repeats_itself(name: str) -> None:
    data = parts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [run_baselines([name], data, seed=4, features=table_of(Counting()))[name] for _ in range(2)]
    mean = run_baselines(["mean"], data)["mean"]
    assert runs[0].metrics["test"]["rmse"]["upper"] < mean.metrics["test"]["rmse"]["value"]
    np.testing.assert_array_equal(runs[0].predictions["test"], runs[1].predictions["test"])
    assert runs[0].metrics == runs[1].metrics
    assert runs[0].predictions["test"].dtype == np.float64
    json.dumps(runs[0].to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", BASELINES)
def test_test_targets_do_not_change_the_predictions(name: str) -> None:
    data = parts()
    table = table_of(Counting())
    first = run_baselines([name], data, bootstrap=0, features=table)[name]
    data["test"] = (data["test"][0], -data["test"][1])
    second = run_baselines([name], data, bootstrap=0, features=table)[name]
    np.testing.assert_array_equal(first.predictions["test"], second.predictions["test"])


def test_validation_stops_xgboost_but_is_not_trained_on() -> None:
    data = parts()
    noise = np.random.default_rng(0).normal(size=50)
    baseline: Any = make_baseline("xgboost", table_of(Counting()))
    baseline.fit(data["train"], (data["validation"][0], noise))
    stopped = baseline.model_.best_iteration
    baseline.fit(data["train"], data["validation"])
    assert stopped < baseline.model_.best_iteration < baseline.most_rounds


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("train", [1, 2, 5])
def test_tiny_training_parts_work(name: str, train: int) -> None:
    data = {"train": problem(train), "validation": ([], np.empty(0)), "test": problem(3, 2000)}
    result = run_baselines([name], data, bootstrap=10, features=table_of(Counting()))[name]
    assert set(result.metrics) == {"train", "test"}
    assert np.isfinite(result.predictions["test"]).all()


def test_empty_parts_are_left_out() -> None:
    data = {"train": problem(30), "validation": ([], np.empty(0)), "test": ([], np.empty(0))}
    result = run_baselines(["mean", "mean"], data)
    assert list(result) == ["mean"]
    assert list(result["mean"].metrics) == list(result["mean"].predictions) == ["train"]


def test_unusable_parts_are_named() -> None:
    with pytest.raises(DataError, match="training part"):
        run_baselines(["mean"], {"test": problem(3)})
    with pytest.raises(DataError, match="the test part has 3 molecules but 2"):
        run_baselines(["mean"], {"train": problem(3), "test": (["1", "2", "3"], np.zeros(2))})
    with pytest.raises(NumericsError, match=r"target of the train part\[1\] is nan"):
        run_baselines(["mean"], {"train": (["1", "2"], np.array([0.0, np.nan]))})


def test_ridge_is_not_thrown_off_by_an_odd_molecule() -> None:
    class Odd(Counting):
        def __call__(self, smiles: Sequence[str]) -> np.ndarray:
            features = super().__call__(smiles)
            features[[text == "2000" for text in smiles], 0] = 3e38
            return features

    data = parts()
    predicted = run_baselines(["ridge"], data, features=table_of(Odd()))["ridge"].predictions["test"]
    low, high = data["train"][1].min(), data["train"][1].max()
    assert low - 2 * (high - low) < predicted[0] < high + 2 * (high - low)


def test_real_features_have_descriptors_counts_and_ionisation() -> None:
    features = FeatureTable().get(COLUMNS, ["CCO", "c1ccccc1O", "CC(=O)[O-].[Na+]"])
    assert features.dtype == np.float32
    assert features.shape[0] == 3
    assert features.shape[1] > 2048 + 200
    assert not np.isinf(features).any()
    assert features[:, -2048 - 17 : -17].sum(axis=1).min() > 0


def test_real_molecules_from_end_to_end() -> None:
    smiles = ["C" * length + end for length in range(1, 13) for end in ("O", "N", "C(=O)O", "Cl")]
    target = np.array([len(text) / 2 + text.count("O") for text in smiles])
    rows = np.random.default_rng(0).permutation(len(smiles))
    data = {
        part: ([smiles[row] for row in chosen], target[chosen])
        for part, chosen in (("train", rows[:30]), ("validation", rows[30:36]), ("test", rows[36:]))
    }
    results = run_baselines(BASELINES, data, bootstrap=50)
    best = min(results[name].metrics["test"]["rmse"]["value"] for name in CLASSICAL)
    assert best < 0.5 * results["mean"].metrics["test"]["rmse"]["value"]


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("classes", [True, False])
def test_trees_as_arrays_predict_what_xgboost_predicts(stopped: bool, classes: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, 20)).astype(np.float32)
    # Values that are equal to thresholds, missing ones, and a column without any.
    features[:, 0] = np.rint(2 * features[:, 0])
    features[rng.random(features.shape) < 0.1] = np.nan
    features[:, 19] = np.nan
    target = np.nansum(features[:, :5], axis=1) + rng.normal(0, 1, 900) - 40
    # A share of positives that is not one half, so that the base counts.
    target = (target > -39).astype(float) if classes else target
    objective = "binary:logistic" if classes else "reg:squarederror"
    stopping = {"early_stopping_rounds": 5 if stopped else None}
    model = XGBRegressor(n_estimators=200, max_depth=5, objective=objective, n_jobs=1, **stopping)
    model.fit(features[:600], target[:600], eval_set=[(features[600:], target[600:])], verbose=False)
    trees = Trees.of(model)
    assert len(trees.roots) == (model.best_iteration + 1 if stopped else 200)
    np.testing.assert_allclose(trees.predict(features), model.predict(features), rtol=0, atol=1e-4)
    assert trees.predict(features[:0]).shape == (0,)


def test_arrays_stand_in_for_xgboost_on_disk(tmp_path: Path) -> None:
    table = table_of(Counting())
    fitted = XGBoostBaseline(table).fit(problem(80), problem(20, 100))
    save_baseline(fitted, tmp_path)
    fitted.save_light(tmp_path)
    smiles, _ = problem(30, 200)
    light = load_baseline("xgboost", tmp_path, table)
    assert light.trees_ is not None
    np.testing.assert_allclose(light.predict(smiles), fitted.predict(smiles), rtol=0, atol=1e-4)
    (tmp_path / "trees.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_baseline("xgboost", tmp_path, table)
