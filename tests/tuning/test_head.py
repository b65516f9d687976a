"""The head in closed form: where it starts, and the kernel machine that takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from tests.tiny import RunSettings

from moltune.config import FinetuneConfig, ProbeSettings, make_config
from moltune.errors import CheckpointError
from moltune.features.registry import FeatureTable
from moltune.models.checkpoints import load_regression, load_tokenizer, make_regression
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.regression import RegressionModel
from moltune.predictors.language import LanguageModel
from moltune.predictors.load import load_model
from moltune.predictors.predictor import Predictor
from moltune.predictors.probe import Probe
from moltune.predictors.probe_heads import Scaler
from moltune.reports.summary import refit_words
from moltune.tuning.finetune import finetune
from moltune.tuning.head import cross_validate, refit_head, start_head
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


def tuned(tiny_model: Path, target: np.ndarray) -> LanguageModel:
    return LanguageModel(fresh(tiny_model, target), load_tokenizer(tiny_model))


NAMES = ["rdkit", "ionisation"]
EVERYTHING = "gp:embedding+rdkit+ionisation"


def test_the_validation_part_chooses_what_a_head_reads(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    model = tuned(tiny_model, train[1])
    chosen, alone, found = refit_head(model, train, other, NAMES, FeatureTable(threads=1), 0)
    assert set(found.validation) == {"trained", "gp:embedding", EVERYTHING}
    assert found.cross_validation == {}
    assert rmse(chosen.predict(other[0]), other[1]) == pytest.approx(min(found.validation.values()), abs=1e-6)
    assert alone.head is None or alone.head.settings.features == ["embedding"]
    own = min(found.validation["trained"], found.validation["gp:embedding"])
    assert rmse(alone.predict(other[0]), other[1]) == pytest.approx(own, abs=1e-6)
    # The machine is the probe of that name on the embeddings of the tuned network.
    table = FeatureTable({"embedding": model.embed}, threads=1)
    settings = ProbeSettings(head="gp", features=["embedding", "rdkit", "ionisation"])
    same = Probe(settings, table).fit(train).predict(other[0])
    assert rmse(same, other[1]) == pytest.approx(found.validation[EVERYTHING], abs=1e-6)


def test_labels_that_the_trained_head_predicts_keep_it(tiny_model: Path, parts: tuple[Part, Part]) -> None:
    train, other = parts
    model = tuned(tiny_model, train[1])
    exact = (other[0], model.predict(other[0]))
    chosen, alone, found = refit_head(model, train, exact, NAMES, FeatureTable(threads=1), 0)
    assert (found.head, found.features, found.bytes) == ("linear", ["embedding"], 0)
    assert found.validation["trained"] == 0
    assert chosen is alone is model


@pytest.mark.parametrize("size", [0, 15])
def test_without_enough_validation_molecules_cross_validation_chooses(
    tiny_model: Path, parts: tuple[Part, Part], size: int
) -> None:
    train, other = parts
    few = (other[0][:size], other[1][:size])
    model = tuned(tiny_model, train[1])
    chosen, _, found = refit_head(model, train, few, NAMES, FeatureTable(threads=1), 0)
    assert (found.validation, found.validation_molecules) == ({}, size)
    assert set(found.cross_validation) == {"linear", "gp:embedding", EVERYTHING}
    best = min(found.cross_validation, key=lambda name: found.cross_validation[name])
    assert found.head == ("linear" if best == "linear" else "gp")
    if chosen.head is not None:
        assert len(chosen.head.head.arrays["points"]) == len(train[0])
    # The same folds with scikit-learn alone, on training and validation molecules together.
    smiles, y = [*train[0], *few[0]], np.concatenate([train[1], few[1]])
    pipeline = make_pipeline(Scaled(), RidgeCV(alphas=np.logspace(-3, 4, 29)))
    predicted = cross_val_predict(pipeline, model.embed(smiles), y, cv=KFold(5, shuffle=True, random_state=0))
    assert found.cross_validation["linear"] == pytest.approx(rmse(predicted, y), rel=1e-4)


class Scaled(TransformerMixin, BaseEstimator):
    def fit(self, X: np.ndarray, y: Any = None) -> Scaled:
        self.scaler_ = Scaler().fit(X)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return self.scaler_.transform(X)


def test_a_linear_relation_prefers_a_linear_head_and_a_curved_one_does_not() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(80, 3)).astype(np.float32)
    smiles = ["C" * (row + 1) for row in range(80)]
    table = FeatureTable({"embedding": lambda names: points[[len(name) - 1 for name in names]]})
    machines = {"gp:embedding": Probe(ProbeSettings(head="gp"), table)}
    straight = cross_validate(machines, (smiles, points @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=80)))
    curved = cross_validate(machines, (smiles, np.sin(2 * points[:, 0]) + points[:, 1] ** 2))
    assert min(straight, key=lambda name: straight[name]) == "linear"
    assert curved["gp:embedding"] < 0.8 * curved["linear"]
    assert cross_validate(machines, (smiles[:9], points[:9, 0])) == {}


def test_too_few_or_too_many_molecules_keep_the_trained_head(
    tiny_model: Path, parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train, other = parts
    model = tuned(tiny_model, train[1])
    few = (train[0][:9], train[1][:9])
    chosen, _, found = refit_head(model, few, None, [], FeatureTable(threads=1), 0)
    assert (chosen, found.head, found.cross_validation) == (model, "linear", {})
    monkeypatch.setattr("moltune.tuning.head.MOST_MOLECULES", 20)
    chosen, _, found = refit_head(model, train, other, [], FeatureTable(threads=1), 0)
    assert (chosen, found.head, found.validation) == (model, "linear", {})
    assert "too many for a kernel machine" in caplog.text


def config(settings: RunSettings, output: Path, **changes: object) -> FinetuneConfig:
    wanted = {"training.refit_head": "gp", "training.refit_features": ["ionisation"], "training.epochs": 1, **changes}
    return make_config(settings(output, **wanted))


@pytest.fixture
def machine_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a validation part take the kernel machine on all features."""
    monkeypatch.setattr("moltune.tuning.head.cross_validate", lambda *_: {"linear": 2.0, "gp:embedding+ionisation": 1})


@pytest.mark.usefixtures("machine_wins")
@pytest.mark.parametrize("method", ["full", "lora", "bitfit"])
def test_a_run_saves_loads_and_reports_it(tmp_path: Path, settings: RunSettings, method: str) -> None:
    changes = {"split.ratios": "80/0/20", "method.name": method}
    run = finetune(config(settings, tmp_path / "run", **changes))
    refit = run.metrics["refit"]
    assert (refit["head"], refit["features"]) == ("gp", ["embedding", "ionisation"])
    assert refit["bytes"] > 1000
    table = pd.read_csv(run.path / "predictions.csv")
    model = load_model(run.path)
    assert isinstance(model, LanguageModel)
    np.testing.assert_allclose(model.predict(table["smiles"].tolist()), table["predicted"], atol=1e-9)
    trained = predict_smiles(load_regression(run.path), load_tokenizer(run.path), table["smiles"].tolist())
    assert np.abs(trained - table["predicted"]).max() > 1e-3
    test = (table["split"] == "test").to_numpy()
    alone = run.metrics["alone"]["test"]["rmse"]["value"]
    assert alone == pytest.approx(rmse(trained[test], table["true"][test].to_numpy()), rel=1e-6)
    page = (run.path / "report.html").read_text()
    assert "The language model alone" in page
    assert "Gaussian process on the tuned embedding and ionisation" in page


def test_a_run_with_a_small_validation_part_says_what_chose_its_head(tmp_path: Path, settings: RunSettings) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "70/12/18"}))
    refit = run.metrics["refit"]
    assert 10 <= refit["validation_molecules"] == run.metrics["validation"]["n"] < 20
    assert refit["validation"] == {}
    assert refit["cross_validation"].keys() == {"linear", "gp:embedding", "gp:embedding+ionisation"}
    page = (run.path / "report.html").read_text()
    assert f"the validation part of {refit['validation_molecules']} is too small to choose on" in page
    assert "no validation part" not in page


@pytest.mark.usefixtures("machine_wins")
def test_a_damaged_head_is_refused(tmp_path: Path, settings: RunSettings) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "80/0/20", "method.name": "lora"}))
    path = run.model_path / "head" / "probe.safetensors"
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if name != "head.dual"}, path)
    with pytest.raises(CheckpointError, match=r"no head\.dual"):
        load_model(run.path)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(run.path)


@pytest.mark.usefixtures("machine_wins")
def test_dropout_speaks_of_the_trained_head(tmp_path: Path, settings: RunSettings) -> None:
    run = finetune(config(settings, tmp_path / "run", **{"split.ratios": "80/0/20"}))
    smiles = pd.read_csv(run.path / "predictions.csv")["smiles"].tolist()[:30]
    predictor = Predictor.load(run.path)
    assert isinstance(predictor.model, LanguageModel)
    before = predictor.model.predict(smiles)
    mean = MonteCarloDropout(predictor, passes=300, seed=1).samples(smiles).mean(axis=0)
    np.testing.assert_array_equal(predictor.model.predict(smiles), before)
    trained = predict_smiles(predictor.model.network, load_tokenizer(run.path), smiles)
    assert np.abs(mean - trained).mean() < np.abs(mean - before).mean()


def test_words_say_which_head_predicts_and_on_what_evidence() -> None:
    errors = {"trained": 0.61, "gp:embedding": 0.58, EVERYTHING: 0.52}
    taken = {"head": "gp", "features": ["embedding", "rdkit", "ionisation"], "validation": errors}
    assert refit_words(taken, unit="logD") == (
        "head: a Gaussian process on the tuned embedding, descriptors and ionisation (validation RMSE in logD: trained "
        "head 0.610; with the tuned embedding 0.580; with the tuned embedding, descriptors and ionisation 0.520)"
    )
    assert refit_words({**taken, "head": "linear"}).startswith("head: as trained (validation RMSE: trained head 0.610;")
    folds = {"linear": 0.66, "gp:embedding": 0.63}
    few = refit_words({**taken, "validation": {}, "cross_validation": folds, "validation_molecules": 15})
    assert "(cross-validated RMSE: linear head 0.660; with the tuned embedding 0.630; over folds" in few
    assert "the validation part of 15 is too small to choose on" in few
    none = refit_words({"head": "linear", "validation": {}, "cross_validation": folds, "validation_molecules": 0})
    assert "there is no validation part to choose on" in none
    # Earlier versions had support vectors, and the first did not say why.
    assert "support vectors with C=1 0.570" in refit_words({"head": "svr", "validation": {"trained": 1, "C=1": 0.57}})
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
