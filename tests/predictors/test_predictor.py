"""The predictor: every row back in its place, the run's cleaning, and numbers that do not depend on company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import root_mean_squared_error
from tests.tiny import RunSettings

from moltune.errors import CheckpointError, DataError, RunFolderError
from moltune.predictors.predictor import PREDICTION_COLUMNS, Predictor
from moltune.predictors.several import Predictors
from moltune.run import Run
from moltune.tuning.finetune import finetune


@pytest.fixture(scope="module")
def predictor(finished: Run) -> Predictor:
    return Predictor.load(finished.path)


@pytest.fixture(scope="module")
def salts(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Of a run that strips salts, neutralises, and refuses unknown tokens."""
    changes = {
        "data.clean": {"largest_fragment": True, "neutralize": True},
        "model.unknown_tokens": "reject",
        "training.epochs": 1,
    }
    return Predictor.load(finetune(settings(output=tmp_path_factory.mktemp("salts") / "run", **changes)).path)


def test_rows_keep_their_places(predictor: Predictor) -> None:
    smiles = ["CCO", "xx", "c1ccccc1", "", "OCC", "C" * 300, "C[Og]C"]
    table = predictor.predict(smiles)
    assert [*table.columns[:4], table.columns[-1]] == PREDICTION_COLUMNS
    assert table["row"].tolist() == list(range(1, 8))
    assert table["input"].tolist() == smiles
    assert table["predicted"].isna().tolist() == [False, True, False, True, False, True, False]
    assert table["predicted"].dtype == np.float64
    assert table.loc[0, "predicted"] == pytest.approx(table.loc[4, "predicted"], abs=1e-6)
    notes = table["note"].tolist()
    assert notes[0] == notes[2] == notes[4] == ""
    assert "not a valid SMILES" in notes[1]
    assert "empty" in notes[3]
    assert "302 tokens" in notes[5]
    assert "[Og]" in notes[6]


def test_numbers_do_not_depend_on_the_batch(predictor: Predictor, small_table: pd.DataFrame) -> None:
    smiles = small_table["smiles"].tolist()
    together = predictor.predict(smiles)["predicted"].to_numpy()
    in_threes = predictor.predict(smiles, batch_size=3)["predicted"].to_numpy()
    backwards = predictor.predict(smiles[::-1])["predicted"].to_numpy()[::-1]
    alone = np.array([predictor.predict([one])["predicted"].iloc[0] for one in smiles[:10]])
    np.testing.assert_allclose(in_threes, together, atol=1e-5)
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    np.testing.assert_allclose(alone, together[:10], atol=1e-5)
    assert np.ptp(together) > 0.01
    np.testing.assert_array_equal(predictor.predict(smiles)["predicted"].to_numpy(), together)


def test_cleaning_of_the_run_is_applied(predictor: Predictor, salts: Predictor) -> None:
    smiles = ["CC(=O)[O-].[Na+]", "CC(=O)O"]
    stripped = salts.predict(smiles)
    assert stripped["smiles"].tolist() == ["CC(=O)O", "CC(=O)O"]
    assert stripped["predicted"].nunique() == 1
    assert stripped["note"].tolist() == ["predicted as CC(=O)O", ""]
    as_given = predictor.predict(smiles)
    assert as_given.loc[0, "smiles"] != as_given.loc[1, "smiles"]
    assert as_given["predicted"].nunique() == 2


def test_policy_of_the_run_is_applied(salts: Predictor) -> None:
    table = salts.predict(["C[Og]C", "CC"])
    assert table["predicted"].isna().tolist() == [True, False]
    assert "[Og]" in table.loc[0, "note"]


def test_truncation(settings: RunSettings, tmp_path: Path) -> None:
    run = finetune(settings(output=tmp_path / "run", **{"model.too_long": "truncate", "training.epochs": 1}))
    table = Predictor.load(run.path).predict(["C" * 300, "C" * 250])
    assert table["predicted"].notna().all()
    assert table.loc[0, "predicted"] == pytest.approx(table.loc[1, "predicted"], abs=1e-6)
    assert "302 tokens" in table.loc[0, "note"]


def test_sources(predictor: Predictor, small_csv: Path, small_table: pd.DataFrame) -> None:
    """The table that went in comes out; a column of the property's name is not written over."""
    expected = predictor.predict(small_table["smiles"].tolist())["predicted"].tolist()
    predictors = Predictors.of([replace(predictor, confidence=None, known=None)])
    from_file = predictors.predict_source(small_csv)
    assert list(from_file) == [*small_table, "hydration_free_energy_predicted", "note"]
    assert from_file["hydration_free_energy"].astype(float).tolist() == small_table["hydration_free_energy"].tolist()
    assert from_file["hydration_free_energy_predicted"].tolist() == expected
    from_frame = predictors.predict_source(small_table[["smiles"]])
    assert list(from_frame) == ["smiles", "hydration_free_energy", "note"]
    assert from_frame["hydration_free_energy"].tolist() == expected
    renamed = small_table[["id", "smiles"]].rename(columns={"smiles": "structure"})
    assert predictors.predict_source(renamed, smiles="structure")["hydration_free_energy"].tolist() == expected


def test_rows_that_cannot_be_read_stay_in_their_place(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,smiles,n\n1,CCO,5\n2,CC\n3,xx,6\n4,,7\n5,CCN,8\n")
    table = Predictors.of([predictor]).predict_source(tmp_path / "a.csv")
    assert table["id"].tolist() == ["1", None, "3", "4", "5"]
    assert table["n"].tolist() == ["5", None, "6", "7", "8"]
    assert table["hydration_free_energy"].notna().tolist() == [True, False, False, False, True]
    assert table["note"].tolist()[1] == "the row has 2 fields, the header has 3: '2,CC'"
    assert "not a valid SMILES" in table["note"].tolist()[2]


def test_whatever_the_model_says_gets_a_column(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def estimate(self: Predictor, smiles: list[str], *_: object) -> dict[str, np.ndarray]:
        values = np.arange(len(smiles), dtype=float)
        return {"": values, "_low": values - 1, "_domain": np.array(["in"] * len(smiles), dtype=object)}

    monkeypatch.setattr(Predictor, "estimate", estimate)
    in_joules = Predictors.of([replace(predictor, unit="kJ/mol", known=None)])
    table = in_joules.predict_source(pd.DataFrame({"smiles": ["CC", "xx", "C"]}))
    name = "hydration_free_energy"
    assert list(table) == ["smiles", f"{name} (kJ/mol)", f"{name}_low (kJ/mol)", f"{name}_domain", "note"]
    assert table[f"{name}_low (kJ/mol)"].isna().tolist() == [False, True, False]
    assert table[f"{name}_domain"].tolist() == ["in", "", "in"]


def test_progress_counts_every_molecule(predictor: Predictor) -> None:
    done: list[int] = []
    predictor.predict(["CCO", "xx", "CC", "C"], batch_size=2, progress=done.append)
    assert done == [2, 1]


def test_agrees_with_the_run(predictor: Predictor, finished: Run) -> None:
    table = finished.predictions
    predicted = predictor.predict(table["smiles"].tolist())["predicted"]
    np.testing.assert_allclose(predicted, table["predicted"], atol=1e-5)
    assert predictor.target_name == "hydration_free_energy"


def test_unit_travels_with_a_bundled_set(settings: RunSettings, tmp_path: Path) -> None:
    changes = {"data.source": "freesolv", "method.name": "head", "training.epochs": 1}
    run = finetune(settings(output=tmp_path / "run", **changes))
    assert Predictor.load(run.path).unit == "kcal/mol"
    assert Predictor.load(run.model_path).unit == ""


def test_evaluate_source(predictor: Predictor, finished: Run, tmp_path: Path) -> None:
    table = finished.predictions
    rows = table[["smiles", "true"]].iloc[:30].copy()
    extra = pd.DataFrame({"smiles": ["xx", "C" * 300, rows["smiles"].iloc[0]], "true": [1.0, 2.0, 3.5]})
    given = pd.concat([rows, extra], ignore_index=True)
    metrics = predictor.evaluate_source(given, bootstrap=20)
    assert metrics["rows"] == {"in": 33, "evaluated": 30, "left_out": 3}
    assert metrics["n"] == 30
    true = rows["true"].to_numpy().copy()
    true[0] = (true[0] + 3.5) / 2
    expected = root_mean_squared_error(true, table["predicted"].iloc[:30])
    assert metrics["rmse"]["value"] == pytest.approx(expected, rel=1e-5)
    assert metrics["rmse"]["lower"] < metrics["rmse"]["value"] < metrics["rmse"]["upper"]
    seen = table["split"].iloc[:30].isin(["train", "validation"])
    assert sum(metrics["seen"].values()) == seen.sum() > 0
    assert metrics["seen"]["train"] == (table["split"].iloc[:30] == "train").sum()
    expected = root_mean_squared_error(true[~seen], table["predicted"].iloc[:30][~seen])
    assert metrics["unseen"]["rmse"]["value"] == pytest.approx(expected, rel=1e-5)
    assert metrics["unseen"]["n"] == (~seen).sum()
    without_run = Predictor.load(finished.model_path).evaluate_source(given, bootstrap=0)
    assert without_run["seen"] is None
    assert "unseen" not in without_run


def test_nothing_to_predict(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="no molecules"):
        predictor.predict([])
    table = predictor.predict(["xx"])
    assert table["predicted"].isna().all()


def test_what_cannot_be_loaded(tiny_model: Path, finished: Run, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a tuned regression model"):
        Predictor.load(tiny_model)
    (tmp_path / "config.yaml").write_bytes((finished.path / "config.yaml").read_bytes())
    with pytest.raises(RunFolderError, match="unfinished"):
        Predictor.load(tmp_path)
