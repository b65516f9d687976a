"""The blend: its weights, what a run reports of it, and that it comes back from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.tiny import RunSettings

from moltune.baselines.classical import BASELINES, STORABLE, load_baseline, make_baseline, save_baseline
from moltune.config import make_config
from moltune.errors import ConfigError, DataError, NumericsError, RunFolderError
from moltune.features.registry import FeatureTable
from moltune.predictors.blend import Blend, blend_weights
from moltune.predictors.members import baselines_of, check_baselines
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.tuning.finetune import finetune


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_weights_are_the_best_on_the_simplex(seed: int, members: int, scale: float, shift: float) -> None:
    """Against a general solver, and against corners, edges and random points."""
    rng = np.random.default_rng(seed)
    true = scale * rng.standard_normal(40) + shift
    bias = rng.normal(0, 0.5, members)
    predicted = true[:, None] + scale * (rng.normal(0, rng.uniform(0.2, 2, members), (40, members)) + bias)
    weights = blend_weights(true, predicted)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)

    sizes = (((predicted - true[:, None]) / scale) ** 2).mean(axis=0)

    def error(w: np.ndarray) -> float:
        """Sum of squares over the 40 molecules and 30 more with independent errors of the same size."""
        return float((((predicted @ w - true) / scale) ** 2).sum() + 30 * sizes @ w**2)

    start = np.full(members, 1 / members)
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
    solved = minimize(error, start, bounds=[(0, 1)] * members, constraints=[constraint], tol=1e-12)
    assert error(weights) <= error(solved.x) * (1 + 1e-6)
    for other in [*np.eye(members), *rng.dirichlet(np.ones(members), 20)]:
        assert error(weights) <= error(other) * (1 + 1e-9)


def test_few_molecules_leave_weights_near_those_of_independent_errors() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(5000, 2)) * [1.0, 2.0] + 1.5 * rng.normal(size=(5000, 1))
    few = [blend_weights(np.zeros(12), errors[start : start + 12])[0] for start in range(0, 4800, 12)]
    many = blend_weights(np.zeros(5000), errors)[0]
    # The common error cancels, which leaves 1/1² against 1/2²; independent errors would give 1/3.25 against 1/6.25.
    assert many == pytest.approx(0.8, abs=0.03)
    assert np.mean(few) == pytest.approx(0.7, abs=0.05)
    assert np.std(few) < 0.15


def test_weights_of_special_cases() -> None:
    true = np.arange(5.0)
    np.testing.assert_allclose(blend_weights(true, np.column_stack([true + 1, true - 1])), [0.5, 0.5])
    np.testing.assert_allclose(blend_weights(true, np.column_stack([true, true])), [0.5, 0.5])
    np.testing.assert_allclose(blend_weights(true, np.column_stack([true + 5, true, true * 0])), [0, 1, 0], atol=1e-12)
    with pytest.raises(DataError, match="validation part"):
        blend_weights(np.empty(0), np.empty((0, 2)))
    with pytest.raises(NumericsError, match="not finite"):
        blend_weights(true, np.full((5, 2), np.nan))


@pytest.mark.parametrize("name", ["mean", "ridge", "xgboost"])
def test_stored_baselines_predict_the_same(name: str, small_table: pd.DataFrame, tmp_path: Path) -> None:
    smiles, y = small_table["smiles"].tolist(), small_table["hydration_free_energy"].to_numpy(dtype=float)
    table = FeatureTable()
    baseline = make_baseline(name, table).fit((smiles[:70], y[:70]), (smiles[70:90], y[70:90]), seed=3)
    (tmp_path / name).mkdir()
    save_baseline(baseline, tmp_path / name)
    files = [path.suffix for path in (tmp_path / name).iterdir()]
    assert set(files) <= {".json", ".safetensors", ".ubj"}
    again = load_baseline(name, tmp_path / name, table)
    np.testing.assert_allclose(again.predict(smiles), baseline.predict(smiles), rtol=1e-9, atol=1e-9)
    for path in (tmp_path / name).iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_baseline(name, tmp_path / name, table)


def test_what_needs_pickle_is_refused(settings: RunSettings, tmp_path: Path) -> None:
    assert set(STORABLE) == set(BASELINES) - {"random-forest"}
    with pytest.raises(ConfigError, match="random-forest cannot be stored without pickle"):
        make_baseline("random-forest").save(tmp_path)
    with pytest.raises(ConfigError, match=r"'random-forest' cannot be part of a blend.*xgboost, ridge, mean"):
        finetune(make_config(settings(output=tmp_path / "r", **{"prediction.blend": ["random-forest"]})))
    with pytest.raises(ConfigError, match="twice"):
        finetune(make_config(settings(output=tmp_path / "r", **{"prediction.blend": ["ridge", "ridge"]})))
    changes = {"prediction.blend": ["ridge"], "split.ratios": "80/0/20"}
    with pytest.raises(ConfigError, match="validation part"):
        finetune(make_config(settings(output=tmp_path / "r", **changes)))
    assert not (tmp_path / "r").exists()


def test_a_probe_is_a_baseline_like_any_other(settings: RunSettings, tmp_path: Path) -> None:
    """Compared with the model, to the same predictions as a run of that probe alone."""
    name = "svr:embedding+rdkit"
    run = finetune(settings(tmp_path / "run", **{"evaluation.baselines": ["mean", name], "training.epochs": 1}))
    probe = {"name": "probe", "probe": {"head": "svr", "features": ["embedding", "rdkit"]}}
    changes: dict[str, Any] = {"method": probe, "evaluation.baselines": ["mean", name]}
    alone = finetune(settings(tmp_path / "alone", **changes))
    assert list(alone.metrics["baselines"]) == ["mean"]
    np.testing.assert_allclose(run.predictions[f"predicted_{name}"], alone.predictions["predicted"], atol=1e-6)
    assert run.metrics["comparison"][name]["n"] == run.metrics["test"]["n"]
    assert "SVR on frozen embeddings + all descriptors" in (run.path / "report.html").read_text()


def test_random_weights_have_no_probe() -> None:
    names = ["mean", "svr:embedding", "svr:rdkit"]
    values: dict[str, Any] = {"evaluation": {"baselines": names}}
    assert baselines_of(make_config({**values, "model": {"weights": "random"}}), 100) == ["mean", "svr:rdkit"]
    assert baselines_of(make_config(values), 100) == names
    with pytest.raises(ConfigError, match="no probe, such as svr:embedding"):
        check_baselines(["svr:nothing"])


@pytest.fixture(scope="module")
def blended(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("blend") / "run"
    return finetune(make_config(settings(output=output, **{"prediction.blend": ["xgboost", "ridge"]})))


def test_run_reports_all_and_weights_come_from_validation_alone(blended: Run) -> None:
    table, metrics = blended.predictions, blended.metrics
    assert list(table.columns)[3:] == [
        *("predicted", "predicted_mean", "predicted_xgboost", "predicted_ridge", "predicted_blend"),
    ]
    members = {"model": "predicted", "xgboost": "predicted_xgboost", "ridge": "predicted_ridge"}
    validation = table[table["split"] == "validation"]
    expected = blend_weights(validation["true"].to_numpy(), validation[list(members.values())].to_numpy())
    assert list(metrics["blend"]["weights"]) == list(members)
    np.testing.assert_allclose(list(metrics["blend"]["weights"].values()), expected, atol=1e-6)
    weights = np.array(list(metrics["blend"]["weights"].values()))
    np.testing.assert_allclose(table["predicted_blend"], table[list(members.values())].to_numpy() @ weights)
    test = table[table["split"] == "test"]
    rmse = float(np.sqrt(((test["predicted_blend"] - test["true"]) ** 2).mean()))
    assert metrics["blend"]["test"]["rmse"]["value"] == pytest.approx(rmse)
    difference = metrics["blend"]["comparison"]["model"]["difference"]["value"]
    assert difference == pytest.approx(rmse - metrics["test"]["rmse"]["value"])
    assert set(metrics["baselines"]) == {"mean", "xgboost", "ridge"}
    report = (blended.path / "report.html").read_text()
    assert "weights from the validation part" in report
    assert "This model, a blend" in report


def test_predictor_gives_the_blend(blended: Run, finished: Run, small_csv: Path) -> None:
    table = blended.predictions
    again = Predictor.load(blended.path).predict(table["smiles"].tolist())
    np.testing.assert_allclose(again["predicted"], table["predicted_blend"], rtol=1e-5)
    np.testing.assert_allclose(again["predicted_model_alone"], table["predicted"], rtol=1e-5)
    alone = Predictor.load(blended.path, blend=False).predict(table["smiles"].tolist())
    assert "predicted_model_alone" not in alone
    np.testing.assert_allclose(alone["predicted"], table["predicted"], rtol=1e-5)
    metrics = Predictor.load(blended.path, blend=True).evaluate_source(small_csv, bootstrap=0)
    rmse = float(np.sqrt(((table["predicted_blend"] - table["true"]) ** 2).mean()))
    assert metrics["rmse"]["value"] == pytest.approx(rmse, rel=1e-4)
    rmse = float(np.sqrt(((table["predicted"] - table["true"]) ** 2).mean()))
    assert metrics["model_alone"]["rmse"]["value"] == pytest.approx(rmse, rel=1e-4)
    mixed = Predictor.load(blended.path).predict(["CCO", "nonsense("])
    assert mixed["predicted"].isna().tolist() == [False, True]
    with pytest.raises(RunFolderError, match="has no blend"):
        Predictor.load(finished.path, blend=True)


def test_a_probe_takes_part(settings: RunSettings, tmp_path: Path) -> None:
    """Its features are the frozen encoder's, so it needs the checkpoint that the run began with."""
    members = ["ridge", "svr:embedding+rdkit"]
    run = finetune(make_config(settings(output=tmp_path / "run", **{"prediction.blend": members})))
    table = run.predictions
    column = table["predicted_svr:embedding+rdkit"]
    assert column.notna().all()
    assert column.nunique() > len(table) / 2
    again = Predictor.load(run.path).predict(table["smiles"].tolist())
    np.testing.assert_allclose(again["predicted"], table["predicted_blend"], rtol=1e-5)
    other = settings(output=tmp_path / "other")["model"]["name"]
    assert json.loads((run.path / "blend" / "probe-1" / "config.json").read_text())["base"]["model"] == other
    for name in ("svr:nothing", "tree:rdkit", "svr:"):
        with pytest.raises(ConfigError, match="is no probe"):
            finetune(make_config(settings(output=tmp_path / "bad", **{"prediction.blend": [name]})))


def test_stored_blend_holds_no_pickle_and_damage_is_explained(blended: Run, tmp_path: Path) -> None:
    files = [path for path in (blended.path / "blend").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".ubj"}
    assert not any(path.read_bytes().startswith(b"\x80") for path in files)
    with pytest.raises(RunFolderError, match="no readable blend"):
        Blend.load(tmp_path)
    (tmp_path / "blend.json").write_text(json.dumps({"weights": {"model": 1.0}, "baselines": ["../../evil"]}))
    with pytest.raises(RunFolderError, match="no stored kind"):
        Blend.load(tmp_path)
