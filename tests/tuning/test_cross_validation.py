"""A probe on every molecule: its error comes from folds, its intervals hold, and it becomes a whole model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moltune import datasets
from moltune.errors import CheckpointError
from moltune.predictors.predictor import Predictor
from moltune.predictors.several import Predictors
from moltune.ready import catalogue
from moltune.run import Run
from moltune.tuning.finetune import finetune


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A ridge on descriptors of molecules of FreeSolv, all in the training part."""
    folder = tmp_path_factory.mktemp("all")
    datasets.load("freesolv").iloc[:240].to_csv(folder / "data.csv", index=False)
    probe = {"head": "ridge", "features": ["rdkit-fast"]}
    return finetune(
        {
            "data": {"source": str(folder / "data.csv"), "target": "hydration_free_energy"},
            "split": {"ratios": "100/0/0"},
            "method": {"name": "probe", "probe": probe},
            "evaluation": {"baselines": [], "bootstrap": 0},
            "output": folder / "run",
        }
    )


def test_the_error_is_that_of_folds(everything: Run) -> None:
    table, metrics = everything.predictions, everything.metrics
    assert set(table["split"]) == {"train"}
    rmse = np.sqrt(((table["predicted_out_of_fold"] - table["true"]) ** 2).mean())
    assert metrics["cross_validation"]["rmse"]["value"] == pytest.approx(rmse)
    assert rmse > 1.05 * metrics["train"]["rmse"]["value"]
    intervals = metrics["intervals"]["model"]
    assert intervals["molecules"] == 240
    assert 0.84 < intervals["coverage"] < 0.96
    assert "cross-validated RMSE" in (everything.path / "report.html").read_text()


def test_it_predicts_with_intervals(everything: Run) -> None:
    predictor = Predictor.load(everything.path)
    assert predictor.error == everything.metrics["cross_validation"]["rmse"]["value"]
    new = datasets.load("freesolv").iloc[240:]
    table = predictor.predict(new["smiles"].tolist())
    true = new["hydration_free_energy"].to_numpy()
    held = ((table["predicted_low"] <= true) & (true <= table["predicted_high"])).mean()
    assert 0.8 < held < 0.97
    known = predictor.predict([everything.splits["smiles"][3], "CCCCCCCCCCCCCCO"])
    assert known["predicted_measured"].tolist()[0] == everything.predictions["true"][3]
    assert np.isnan(known["predicted_measured"].tolist()[1])


def test_two_properties_in_one_table(everything: Run, finished: Run) -> None:
    predictors = Predictors.load([everything.path, finished.path])
    table = predictors.predict_source(pd.DataFrame({"smiles": ["CCO", "xx", "CC"]}))
    one, other = "hydration_free_energy", "hydration_free_energy_predicted"
    assert table[[one, other]].isna().all(axis=1).tolist() == [False, True, False]
    alone = Predictor.load(finished.path).predict(["CCO", "CC"])["predicted"]
    np.testing.assert_allclose(table[other].dropna(), alone, rtol=1e-6)
    assert table["note"].tolist()[1].count("not a valid SMILES") == 1
    assert all(not own._rows for own in predictors.tables)


def test_ready_made_models_are_found_by_name(everything: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dry").symlink_to(everything.path)
    card = {
        **{"name": "dry", "predicts": "x", "target": "y", "unit": "", "features": [], "data": {}, "molecules": 240},
        **{"date": "2026-11-28", "error": {}, "intervals": {}, "caveats": [], "made_with": {}},
    }
    (everything.path / catalogue.CARD).write_text(json.dumps(card))
    monkeypatch.setattr(catalogue, "_package", lambda: tmp_path)
    catalogue.cards.cache_clear()
    assert catalogue.names() == ["dry"]
    assert catalogue.names(fast=True) == []
    assert Predictor.load("dry").target_name == "hydration_free_energy"
    (everything.path / catalogue.CARD).write_text("{}")
    catalogue.cards.cache_clear()
    with pytest.raises(CheckpointError, match="install moltune again"):
        catalogue.cards()
    monkeypatch.undo()
    catalogue.cards.cache_clear()
