"""The head in closed form: where it starts; the kernel head is scikit-learn's function, chosen, saved and taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
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
from moltune.predictors.predictor import Predictor
from moltune.predictors.probe_heads import Scaler
from moltune.reports.summary import refit_words
from moltune.tuning.finetune import finetune
from moltune.tuning.head import PRICES, cross_validate, refit_head, start_head
from moltune.uncertainty.estimate import MonteCarloDropout

Part = tuple[list[str], np.ndarray]


@pytest.fixture(scope="module")
def parts(small_table: pd.DataFrame) -> tuple[Part, Part]:
    smiles = small_table["smiles"].tolist()
    target = small_table["hydration_free_energy"].to_numpy(dtype=np.float64)
    cut = len(smiles) * 2 // 3
    return (smiles[:cut], target[:cut]), (smiles[cut:], target[cut:])


def fresh(tiny_model: Path, target: np.ndarray, head: str = "mean") -> RegressionModel:
    torch.manual_seed(0)
    unit = {"target_mean": float(target.mean()), "target_std": float(target.std())}
    return make_regression(tiny_model, head=head, **unit).eval()


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_the_kernel_head_predicts_what_scikit_learns_machine_does(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    model, tokenizer = fresh(tiny_model, train[1]), load_tokenizer(tiny_model)
    with torch.no_grad():
        model.head.out_proj.bias.fill_(100.0)  # a trained head that is far off
    found = refit_head(model, tokenizer, train, other)
    assert (found.head, found.cross_validation) == ("svr", {})
    assert found.C is not None
    model.kernel, kernel = None, model.kernel
    embedded = embed_smiles(model, tokenizer, train[0])
    scaler = Scaler().fit(embedded)
    standardised = (train[1] - train[1].mean()) / train[1].std()
    machine = SVR(C=found.C, epsilon=0.1).fit(scaler.transform(embedded), standardised)
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


@pytest.mark.parametrize("size", [0, 15])
def test_without_enough_validation_molecules_cross_validation_chooses(
    tiny_model: Path, parts: tuple[Part, Part], size: int
) -> None:
    train, other = parts
    tokenizer, few = load_tokenizer(tiny_model), (other[0][:size], other[1][:size])
    model = fresh(tiny_model, train[1])
    found = refit_head(model, tokenizer, train, few)
    assert (found.validation, found.validation_molecules) == ({}, size)
    assert set(found.cross_validation) == {"linear", *(f"C={C:g}" for C in PRICES)}
    best = min(found.cross_validation, key=lambda name: found.cross_validation[name])
    assert (found.head, found.C) == (("linear", None) if best == "linear" else ("svr", float(best[2:])))
    # The same folds with scikit-learn alone, on training and validation molecules together.
    smiles, y = [*train[0], *few[0]], np.concatenate([train[1], few[1]])
    embedded = embed_smiles(fresh(tiny_model, train[1]), tokenizer, smiles)
    standardised = (y - train[1].mean()) / train[1].std()
    pipeline = make_pipeline(Scaled(), SVR(C=2.0, epsilon=0.1))
    predicted = cross_val_predict(pipeline, embedded, standardised, cv=KFold(5, shuffle=True, random_state=0))
    expected = rmse(predicted, standardised) * train[1].std()
    assert found.cross_validation["C=2"] == pytest.approx(expected, rel=1e-4)


class Scaled(TransformerMixin, BaseEstimator):
    def fit(self, X: np.ndarray, y: Any = None) -> Scaled:
        self.scaler_ = Scaler().fit(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return self.scaler_.transform(X)


def test_a_linear_relation_keeps_the_trained_head_and_a_curved_one_does_not() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(80, 3))
    straight = cross_validate(points, points @ [1.0, -2.0, 0.5])
    curved = cross_validate(points, np.sin(2 * points[:, 0]) + points[:, 1] ** 2)
    assert min(straight, key=lambda name: straight[name]) == "linear"
    assert min(curved.values()) < 0.8 * curved["linear"]
    assert cross_validate(points[:9], points[:9, 0]) == {}


def test_below_ten_molecules_the_trained_head_stays(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, _ = parts
    model = fresh(tiny_model, train[1])
    found = refit_head(model, load_tokenizer(tiny_model), (train[0][:9], train[1][:9]), None)
    assert (found.head, found.cross_validation, model.kernel) == ("linear", {}, None)


def config(settings: RunSettings, output: Path, **changes: object) -> FinetuneConfig:
    return make_config(settings(output, **{"training.refit_head": "svr", "training.epochs": 1, **changes}))


@pytest.fixture
def kernel_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a validation part take the kernel head."""
    monkeypatch.setattr("moltune.tuning.head.cross_validate", lambda *_: {"linear": 2.0, "C=1": 1.0})


@pytest.mark.usefixtures("kernel_wins")
@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_a_run_saves_loads_and_reports_it(tmp_path: Path, settings: RunSettings, method: str) -> None:
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


def test_a_run_with_a_small_validation_part_says_what_chose_its_head(tmp_path: Path, settings: RunSettings) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "70/12/18"}))
    refit = run.metrics["refit"]
    assert 10 <= refit["validation_molecules"] == run.metrics["validation"]["n"] < 20
    assert refit["validation"] == {}
    assert refit["cross_validation"].keys() == {"linear", *(f"C={C:g}" for C in PRICES)}
    page = (run.path / "report.html").read_text()
    assert f"the validation part of {refit['validation_molecules']} is too small to choose on" in page
    assert "no validation part" not in page


@pytest.mark.usefixtures("kernel_wins")
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


@pytest.mark.usefixtures("kernel_wins")
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
        "(validation RMSE 0.570 against 0.500 logD of the trained head)"
    )
    assert "0.570 against 0.610" in refit_words({"head": "svr", "validation": errors})
    folds = {"linear": 0.66, "C=1": 0.63, "C=2": 0.65}
    few = refit_words({"head": "svr", "validation": {}, "cross_validation": folds, "validation_molecules": 15})
    assert "cross-validated RMSE 0.630 against 0.660 of a linear head" in few
    assert "the validation part of 15 is too small to choose on" in few
    assert "no validation part" not in few
    none = refit_words({"head": "linear", "validation": {}, "cross_validation": folds, "validation_molecules": 0})
    assert "there is no validation part to choose on" in none
    assert "as trained" in none
    # Runs of version 0.1 did not say why.
    assert "support vector machine" in refit_words({"head": "svr", "validation": {}})


# --- where the head starts --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def molecules(small_table: pd.DataFrame) -> Part:
    return small_table["smiles"].tolist(), small_table["hydration_free_energy"].to_numpy(dtype=np.float64)


@pytest.mark.parametrize("head", ["mean", "cls"])
def test_a_fitted_head_starts_below_the_variance_in_the_targets_unit(
    tiny_model: Path, molecules: Part, head: str
) -> None:
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target, head), load_tokenizer(tiny_model)
    before = np.mean((predict_smiles(model, tokenizer, smiles) - target) ** 2)
    assert start_head(model, tokenizer, smiles, target)
    after = np.mean((predict_smiles(model, tokenizer, smiles) - target) ** 2)
    assert after < before
    assert after <= target.var() * 1.001


def test_the_head_is_fitted_for_noisy_embeddings(tiny_model: Path, molecules: Part) -> None:
    """With dropout on, as in training, the loss must not exceed the variance: that is what the noise is there for."""
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target), load_tokenizer(tiny_model)
    start_head(model, tokenizer, smiles, target)
    noisy = torch.as_tensor(embed_smiles(model, tokenizer, smiles, noisy=True), dtype=torch.float32)
    with torch.no_grad():
        standardised = model.head.out_proj(noisy).squeeze(-1).numpy()
    expected = (target - model.config.target_mean) / model.config.target_std
    assert np.mean((standardised - expected) ** 2) < 1.05


def test_only_the_head_changes_and_a_seed_gives_it_twice(tiny_model: Path, molecules: Part) -> None:
    smiles, target = molecules
    tokenizer = load_tokenizer(tiny_model)
    weights = []
    for _ in range(2):
        model = fresh(tiny_model, target)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        start_head(model, tokenizer, smiles, target)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"head.out_proj.weight", "head.out_proj.bias"}
        weights.append(model.head.out_proj.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_head_that_is_not_one_linear_layer_stays(tiny_model: Path, molecules: Part) -> None:
    smiles, target = molecules
    model = fresh(tiny_model, target, "molformer")
    before = model.head.out_proj.weight.detach().clone()
    assert not start_head(model, load_tokenizer(tiny_model), smiles, target)
    assert torch.equal(model.head.out_proj.weight, before)


def test_noisy_embeddings_differ_and_clean_ones_do_not(tiny_model: Path, molecules: Part) -> None:
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target).eval(), load_tokenizer(tiny_model)
    clean = [embed_smiles(model, tokenizer, smiles[:5]) for _ in range(2)]
    noisy = [embed_smiles(model, tokenizer, smiles[:5], noisy=True) for _ in range(2)]
    assert np.array_equal(*clean)
    assert not np.allclose(*noisy)
    assert not model.training
