"""Deep ensembles: the mean of members that differ, saved and loaded, and taken up again after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import RunSettings

from moltune.config import FinetuneConfig
from moltune.errors import CheckpointError
from moltune.predictors.ensemble import Ensemble
from moltune.predictors.load import load_model
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.tuning import finetune as module
from moltune.tuning.finetune import finetune


@pytest.fixture(scope="module")
def run(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"training.ensemble": 3, "training.epochs": 1}
    return finetune(settings(output=tmp_path_factory.mktemp("ensemble") / "run", **changes))


def test_the_mean_of_members_that_differ(run: Run) -> None:
    model = load_model(run.path)
    assert isinstance(model, Ensemble)
    table = run.predictions
    smiles = table["smiles"].tolist()
    each = np.array([member.predict(smiles) for member in model.members])
    assert np.ptp(each, axis=0).min() > 0
    mean, spread = model.predict_with_spread(smiles)
    np.testing.assert_allclose(mean, each.mean(axis=0))
    np.testing.assert_allclose(spread, each.std(axis=0, ddof=1))
    np.testing.assert_allclose(table["predicted"], mean, atol=1e-5)
    np.testing.assert_allclose(Predictor.load(run.path).predict(smiles)["predicted"], mean, atol=1e-5)


def test_one_model_has_no_spread(finished: Run) -> None:
    assert load_model(finished.path).predict_with_spread(["CCO"])[1] is None


def test_goes_on_after_a_kill(run: Run, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the training: the members are read from their checkpoints, and the run is the same."""
    config = settings(output=tmp_path / "run", **{"training.ensemble": 3, "training.epochs": 1})

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    again = finetune(config, resume=True)
    np.testing.assert_array_equal(again.predictions["predicted"], run.predictions["predicted"])


def test_settings_of_single_models_stay_as_they_were() -> None:
    assert "ensemble" not in FinetuneConfig().model_dump()["training"]


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moltune-ensemble"}))
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)
