"""The kernel head: the same function as scikit-learn's, chosen on validation data, saved strictly, and taken off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.svm import SVR
from tests.tiny import RunSettings

from moltune.config import FinetuneConfig, make_config
from moltune.errors import CheckpointError
from moltune.models.checkpoints import load_regression, load_tokenizer, make_regression
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.kernel import KERNEL_FILE, KernelHead
from moltune.models.methods.adapters import ADAPTER_WEIGHTS
from moltune.models.regression import RegressionModel
from moltune.predictors.language import LanguageModel
from moltune.predictors.probe_heads import Scaler
from moltune.predictors.predictor import Predictor
from moltune.reports.summary import refit_words
from moltune.tuning.finetune import finetune
from moltune.tuning.head_refit import PRICES, USUAL_PRICE, refit_head
from moltune.uncertainty.estimate import MonteCarloDropout

Part = tuple[list[str], np.ndarray]


@pytest.fixture(scope="module")
def parts(small_table: pd.DataFrame) -> tuple[Part, Part]:
    smiles = small_table["smiles"].tolist()
    target = small_table["hydration_free_energy"].to_numpy(dtype=np.float64)
    cut = len(smiles) * 2 // 3
    return (smiles[:cut], target[:cut]), (smiles[cut:], target[cut:])


def fresh(tiny_model: Path, target: np.ndarray) -> RegressionModel:
    torch.manual_seed(0)
    return make_regression(tiny_model, target_mean=float(target.mean()), target_std=float(target.std())).eval()


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_the_kernel_head_predicts_what_scikit_learns_machine_does(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    model, tokenizer = fresh(tiny_model, train[1]), load_tokenizer(tiny_model)
    found = refit_head(model, tokenizer, train, None)
    assert (found.head, found.C, found.validation) == ("svr", USUAL_PRICE, {})
    model.kernel, kernel = None, model.kernel
    embedded = embed_smiles(model, tokenizer, train[0])
    scaler = Scaler().fit(embedded)
    standardised = (train[1] - train[1].mean()) / train[1].std()
    machine = SVR(C=USUAL_PRICE, epsilon=0.1).fit(scaler.transform(embedded), standardised)
    wanted = machine.predict(scaler.transform(embed_smiles(model, tokenizer, other[0])))
    predicted = predict_smiles(model.set_kernel(kernel), tokenizer, other[0])
    np.testing.assert_allclose(predicted, wanted * train[1].std() + train[1].mean(), atol=1e-4)
    assert found.points == len(machine.support_) == model.config.kernel_points


def test_the_validation_part_chooses_and_can_keep_the_trained_head(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    tokenizer = load_tokenizer(tiny_model)
    model = fresh(tiny_model, train[1])
    found = refit_head(model, tokenizer, train, other)
    assert set(found.validation) == {"trained", *(f"C={C:g}" for C in PRICES)}
    assert rmse(predict_smiles(model, tokenizer, other[0]), other[1]) == pytest.approx(
        min(found.validation.values()), abs=1e-4
    )
    # Labels that the trained head predicts without error leave nothing to gain.
    kept = fresh(tiny_model, train[1])
    exact = (other[0], predict_smiles(kept, tokenizer, other[0]))
    found = refit_head(kept, tokenizer, train, exact)
    assert (found.head, found.C, kept.kernel) == ("linear", None, None)
    assert found.validation["trained"] == 0


def test_a_small_validation_part_chooses_nothing(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    model = fresh(tiny_model, train[1])
    found = refit_head(model, load_tokenizer(tiny_model), train, (other[0][:19], other[1][:19]))
    assert (found.head, found.C) == ("svr", USUAL_PRICE)


def config(settings: RunSettings, output: Path, **changes: object) -> FinetuneConfig:
    return make_config(settings(output, **{"training.refit_head": "svr", "training.epochs": 1, **changes}))


@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_a_run_saves_loads_and_reports_it(
    tmp_path: Path, settings: RunSettings, parts: tuple[Part, Part], method: str
) -> None:
    # Without a validation part the kernel head is always taken.
    changes = {"split.ratios": "80/0/20", "method.name": method}
    run = finetune(config(settings, tmp_path / "run", **changes))
    refit = run.metrics["refit"]
    assert refit["head"] == "svr"
    assert refit["points"] > 10
    table = pd.read_csv(run.path / "predictions.csv")
    again = Predictor.load(run.path).predict(table["smiles"].tolist())["predicted"]
    np.testing.assert_allclose(again, table["predicted"], atol=1e-9)
    model = load_regression(run.path)
    assert isinstance(model.kernel, KernelHead)
    trained = predict_smiles(model.set_kernel(None), load_tokenizer(run.path), table["smiles"].tolist())
    assert np.abs(trained - table["predicted"]).max() > 1e-3
    if method != "full":
        assert not [name for name in load_file(run.model_path / ADAPTER_WEIGHTS) if "kernel" in name]


def test_a_damaged_kernel_head_of_an_adapter_is_refused(tmp_path: Path, settings: RunSettings) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "80/0/20", "method.name": "lora"}))
    path = run.model_path / KERNEL_FILE
    tensors = load_file(path)
    save_file({**tensors, "points": tensors["points"][:-1], "dual": tensors["dual"][:-1]}, path)
    with pytest.raises(CheckpointError, match="points of shape"):
        load_regression(run.path)
    save_file({name: value for name, value in tensors.items() if name != "dual"}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_regression(run.path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_regression(run.path)


def test_dropout_speaks_of_the_trained_head_and_leaves_the_kernel_head_on(
    tmp_path: Path, settings: RunSettings
) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "80/0/20"}))
    smiles = pd.read_csv(run.path / "predictions.csv")["smiles"].tolist()[:30]
    predictor = Predictor.load(run.path)
    assert isinstance(predictor.model, LanguageModel)
    before = predictor.predict(smiles)["predicted"].to_numpy()
    mean = MonteCarloDropout(predictor, passes=300, seed=1).samples(smiles).mean(axis=0)
    np.testing.assert_array_equal(predictor.predict(smiles)["predicted"], before)
    trained = predict_smiles(predictor.model.network.set_kernel(None), load_tokenizer(run.path), smiles)
    assert np.abs(mean - trained).mean() < np.abs(mean - before).mean()


def test_words_say_which_head_predicts_and_by_how_much() -> None:
    errors = {"trained": 0.61, "C=1": 0.57, "C=2": 0.58}
    kept = refit_words({"head": "linear", "validation": {**errors, "trained": 0.5}}, unit="logD")
    assert kept == (
        "head: as trained; a support vector machine on the tuned embeddings was no better "
        "(validation RMSE 0.570 against 0.500 logD of the trained one)"
    )
    assert "0.570 against 0.610" in refit_words({"head": "svr", "validation": errors})
    assert "no validation part" in refit_words({"head": "svr", "validation": {}})
