"""Random SMILES in training and prediction, through whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from tests.tiny import RunSettings, assert_same_run

from moltune.config import make_config
from moltune.data.randomize import random_smiles
from moltune.errors import ConfigError
from moltune.models.checkpoints import load_regression, load_tokenizer
from moltune.models.inference import predict_smiles
from moltune.predictors.predictor import Predictor
from moltune.predictors.spellings import predict_spellings, spellings
from moltune.run import Run
from moltune.tuning import loop
from moltune.tuning.finetune import finetune

SMILES = ["CC(=O)Nc1ccc(O)cc1", "OCC1CCCO1", "CCN(CC)CC", "C"]


class Stopped(Exception):
    """Stands for a kill."""


def test_spellings_are_of_the_molecule_and_depend_on_it_alone() -> None:
    for smiles in SMILES:
        found = spellings(smiles, 8)
        assert found[0] == smiles
        assert len(found) == 8
        assert {Chem.CanonSmiles(text) for text in found} == {Chem.CanonSmiles(smiles)}
        assert found == spellings(smiles, 8)
        assert found[:4] == spellings(smiles, 4)
    assert len(set(spellings(SMILES[0], 8))) > 4
    assert spellings(SMILES[0], 1) == [SMILES[0]]


def test_mean_and_spread_over_spellings(finished: Run) -> None:
    model, tokenizer = load_regression(finished.path), load_tokenizer(finished.path)
    averaged = predict_spellings(model, tokenizer, SMILES, 6, batch_size=3)
    assert averaged.spread is not None
    for at, smiles in enumerate(SMILES):
        each = predict_smiles(model, tokenizer, spellings(smiles, 6))
        assert averaged.mean[at] == pytest.approx(each.mean(), rel=1e-5)
        assert averaged.spread[at] == pytest.approx(each.std(ddof=1), rel=1e-3, abs=1e-6)
    assert averaged.spread[0] > 0
    assert averaged.spread[3] == 0
    alone = predict_spellings(model, tokenizer, SMILES[1:2], 6)
    assert alone.mean[0] == pytest.approx(averaged.mean[1], rel=1e-5)
    plain = predict_spellings(model, tokenizer, SMILES)
    assert plain.spread is None
    np.testing.assert_array_equal(plain.mean, predict_smiles(model, tokenizer, SMILES))
    with pytest.raises(ConfigError, match="at least one SMILES"):
        predict_spellings(model, tokenizer, SMILES, 0)


def test_run_with_tta_and_its_predictor(settings: RunSettings, tmp_path: Path) -> None:
    run = finetune(make_config(settings(output=tmp_path / "tta", **{"prediction.tta": 4, "training.epochs": 1})))
    table = run.predictions
    assert list(table.columns) == ["smiles", "split", "true", "predicted", "spread", "predicted_mean"]
    assert (table["spread"] >= 0).all()
    assert (table["spread"] > 0).mean() > 0.5
    test = table[table["split"] == "test"]
    rmse = float(np.sqrt(((test["predicted"] - test["true"]) ** 2).mean()))
    assert run.metrics["test"]["rmse"]["value"] == pytest.approx(rmse)
    again = Predictor.load(run.path).predict(test["smiles"].tolist())
    assert list(again.columns) == ["row", "input", "smiles", "predicted", "spread", "note"]
    np.testing.assert_allclose(again["predicted"], test["predicted"], rtol=1e-5)
    np.testing.assert_allclose(again["spread"], test["spread"], rtol=1e-3, atol=1e-6)
    single = Predictor.load(run.path, tta=1).predict([*test["smiles"][:3], "nonsense("])
    assert "spread" not in single
    assert np.isnan(single["predicted"][3])
    several = Predictor.load(run.path, tta=3).predict(["nonsense(", "CCO"])
    assert several["spread"].isna().tolist() == [True, False]
    with pytest.raises(ConfigError, match="tta"):
        Predictor.load(run.path, tta=0)


def test_augmented_training_differs_repeats_and_resumes(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"training.augment": 2, "training.epochs": 3, "training.patience": None}
    whole = finetune(make_config(settings(output=tmp_path / "whole", **changes)))
    plain = finetune(make_config(settings(output=tmp_path / "plain", **{**changes, "training.augment": 0})))
    assert not np.allclose(whole.predictions["predicted"], plain.predictions["predicted"])
    original = loop.MoleculeTrainer.evaluate

    def stop(self: loop.MoleculeTrainer, *args: object, **kwargs: object) -> dict[str, float]:
        if round(self.state.epoch or 0) == 2:
            raise Stopped
        return original(self, *args, **kwargs)

    config = make_config(settings(output=tmp_path / "killed", **changes))
    with monkeypatch.context() as patch:
        patch.setattr(loop.MoleculeTrainer, "evaluate", stop)
        with pytest.raises(Stopped):
            finetune(config)
    assert_same_run(finetune(config, resume=True).path, whole.path)


def test_training_sees_other_spellings_of_the_training_part_only(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Run
) -> None:
    seen: list[str] = []

    def spy(smiles: str, *args: object) -> list[str]:
        seen.append(smiles)
        return random_smiles(smiles, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("moltune.data.augment.random_smiles", spy)
    finetune(make_config(settings(output=tmp_path / "run", **{"training.augment": 1, "training.epochs": 2})))
    splits: pd.DataFrame = finished.splits
    assert set(seen) == set(splits.loc[splits["split"] == "train", "smiles"])
