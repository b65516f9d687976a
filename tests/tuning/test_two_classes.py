"""Runs on two classes: what is learned, measured, calibrated, stored and predicted, and what refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny import RunSettings

from moltune.baselines.classical import XGBoostBaseline, load_baseline, save_baseline
from moltune.baselines.compare import run_baselines
from moltune.config import ProbeSettings, make_config
from moltune.errors import ConfigError
from moltune.evaluation.metrics import CLASSIFICATION
from moltune.features.registry import FeatureTable
from moltune.models.checkpoints import load_regression, load_tokenizer, make_regression
from moltune.models.losses import cross_entropy
from moltune.predictors.load import load_model
from moltune.predictors.predictor import Predictor
from moltune.predictors.probe import Probe
from moltune.run import Run
from moltune.tuning.classify import calibrate, class_weights
from moltune.tuning.finetune import finetune
from moltune.tuning.head import start_head


@pytest.fixture(scope="module")
def table(classes_table: pd.DataFrame) -> pd.DataFrame:
    return classes_table


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_run_measures_and_says_what_classes_need(finished_classes: Run) -> None:
    metrics, predictions = finished_classes.metrics, finished_classes.predictions
    assert metrics["classes"] == ["insoluble", "soluble"]
    assert set(predictions["true"]) == {0.0, 1.0}
    columns = [name for name in predictions if name.startswith("predicted")]
    assert predictions[columns].to_numpy().min() >= 0
    assert predictions[columns].to_numpy().max() <= 1
    shares = predictions.groupby("split")["true"].mean()
    assert shares.max() - shares.min() < 0.04
    test = predictions[predictions["split"] == "test"]
    pairs = test[test["true"] == 1]["predicted"].to_numpy()[:, None] - test[test["true"] == 0]["predicted"].to_numpy()
    expected = np.mean(pairs > 0) + np.mean(pairs == 0) / 2
    assert metrics["test"]["roc_auc"]["value"] == pytest.approx(expected)
    assert metrics["test"]["prevalence"]["value"] == pytest.approx(test["true"].mean())
    assert metrics["baselines"]["mean"]["test"]["roc_auc"]["value"] == 0.5
    assert metrics["baselines"]["xgboost"]["test"]["roc_auc"]["value"] > 0.8
    assert metrics["comparison"]["mean"]["difference"]["value"] == pytest.approx(expected - 0.5)
    assert np.sum(metrics["confusion"]["blend"]) == metrics["prediction_sets"]["blend"]["molecules"] == len(test)
    assert "refit" not in metrics
    page = (finished_classes.path / "report.html").read_text()
    for words in ("ROC AUC", "Prevalence", "Prediction sets of 90 %", "Probabilities were calibrated", "above zero"):
        assert words in page
    for figure in ("roc_curve", "precision_recall", "reliability", "confusion_matrix", "loss_curves"):
        assert (finished_classes.path / "figures" / f"{figure}.svg").is_file()
    assert "the target holds two classes, soluble" in page
    assert "RMSE" not in page


def test_predictions_name_class_probability_and_set(finished_classes: Run) -> None:
    stored = finished_classes.predictions
    found = Predictor.load(finished_classes.path).predict(stored["smiles"].tolist()[:30])
    np.testing.assert_allclose(found["predicted"], stored["predicted_blend"][:30], atol=1e-5)
    np.testing.assert_allclose(found["predicted_model_alone"], stored["predicted"][:30], atol=1e-5)
    said = np.where(found["predicted"] >= 0.5, "soluble", "insoluble")
    assert found["predicted_class"].tolist() == said.tolist()
    assert set(found["predicted_set"]) <= {"soluble", "insoluble", "soluble or insoluble", "none"}
    for text, label in zip(found["predicted_set"], said, strict=True):
        assert text == "none" or label in text.split(" or ") or " or " not in text
    assert "predicted_low" not in found


def test_a_file_of_other_labels_is_evaluated_with_the_classes_of_the_model(
    finished_classes: Run, table: pd.DataFrame, tmp_path: Path
) -> None:
    rows = table.iloc[:20].assign(solvation=table["solvation"].str.upper())
    rows.loc[0, "solvation"] = "unknown"
    path = tmp_path / "others.csv"
    rows.to_csv(path, index=False)
    found = Predictor.load(finished_classes.path).evaluate_source(path, target="solvation", bootstrap=0)
    assert found["n"] == 19
    assert found["rows"]["left_out"] == 1
    assert "roc_auc" in found


def test_weights_move_the_loss_and_are_taken_back_by_calibration(of_classes: RunSettings, tmp_path: Path) -> None:
    runs = {}
    for wanted in ("none", "balanced"):
        changes = {"training.class_weights": wanted, "evaluation.baselines": []}
        runs[wanted] = finetune(make_config(of_classes(tmp_path / wanted, **changes)))
    none, balanced = (json.loads((runs[name].model_path / "config.json").read_text()) for name in runs)
    assert none["calibration"][1] == 0 != balanced["calibration"][1]
    assert none["target_mean"] == 0
    assert none["target_std"] == 1
    share = runs["none"].predictions["true"].mean()
    for run in runs.values():
        assert run.predictions["predicted"].mean() == pytest.approx(share, abs=0.15)


def test_the_same_run_twice_is_the_same(of_classes: RunSettings, tmp_path: Path) -> None:
    changes = {"evaluation.baselines": ["xgboost"]}
    first, second = (finetune(make_config(of_classes(tmp_path / name, **changes))) for name in ("one", "two"))
    assert (first.path / "predictions.csv").read_bytes() == (second.path / "predictions.csv").read_bytes()


def test_an_ensemble_and_an_adapter_predict_probabilities(of_classes: RunSettings, tmp_path: Path) -> None:
    for name, changes in (("ensemble", {"training.ensemble": 2}), ("lora", {"method.name": "lora"})):
        run = finetune(make_config(of_classes(tmp_path / name, **changes, **{"evaluation.baselines": []})))
        smiles = run.predictions["smiles"].tolist()
        loaded = load_model(run.path)
        assert loaded.class_names == ("insoluble", "soluble")
        np.testing.assert_allclose(loaded.predict(smiles), run.predictions["predicted"], atol=1e-5)


# --- pieces -------------------------------------------------------------------------------------------------------


def test_the_loss_is_weighted_cross_entropy() -> None:
    logits, expected = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])
    p = torch.sigmoid(logits).double()
    by_hand = -(3 * p[0].log() + 3 * p[1].log() + 0.5 * (1 - p[2]).log()) / 3
    assert float(cross_entropy(logits, expected, (0.5, 3.0))) == pytest.approx(float(by_hand), rel=1e-6)
    assert class_weights(np.array([0, 0, 0, 1.0]), "balanced") == pytest.approx((2 / 3, 2.0))
    assert class_weights(np.array([0, 0, 0, 1.0]), "none") == (1.0, 1.0)


def test_training_starts_from_logistic_regression(tiny_model: Path, table: pd.DataFrame) -> None:
    labels = (table["solvation"] == "soluble").to_numpy(dtype=float)
    network = make_regression(tiny_model, classes=["insoluble", "soluble"], head_dropout=0.0)
    tokenizer = load_tokenizer(tiny_model)
    assert start_head(network, tokenizer, table["smiles"].tolist(), labels)
    batch = tokenizer(table["smiles"].tolist(), padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = network.eval()(**batch, labels=torch.as_tensor(labels))
    prevalence = labels.mean()
    guessing = -(prevalence * np.log(prevalence) + (1 - prevalence) * np.log(1 - prevalence))
    assert float(output.loss) < guessing
    assert 0 < float(output.logits.min()) < float(output.logits.max()) < 1


def test_calibration_lowers_the_log_loss_of_the_part_that_it_saw(finished_classes: Run) -> None:
    model, tokenizer = load_regression(finished_classes.path), load_tokenizer(finished_classes.path)
    frame = finished_classes.predictions
    part = frame[frame["split"] == "validation"]
    validation = (part["smiles"].tolist(), part["true"].to_numpy())
    model.config.calibration = (40.0, 0.0)
    found = calibrate(model, tokenizer, validation)
    assert found is not None
    stored = json.loads((finished_classes.model_path / "config.json").read_text())["calibration"]
    assert model.config.calibration == pytest.approx(stored, rel=1e-3)
    assert calibrate(model, tokenizer, (validation[0][:5], validation[1][:5])) is None
    judged = found.judge(validation[1], part["predicted"].to_numpy())
    assert judged["after"]["log_loss"] <= judged["before"]["log_loss"] + 1e-6


@pytest.mark.parametrize("head", ["ridge", "svr", "gp"])
@pytest.mark.parametrize("held_out", [40, 0])
def test_probes_learn_probabilities(table: pd.DataFrame, tmp_path: Path, head: str, held_out: int) -> None:
    smiles, labels = table["smiles"].tolist(), (table["solvation"] == "soluble").to_numpy(dtype=float)
    train, rest = (smiles[:80], labels[:80]), (smiles[80:], labels[80:])
    validation = (smiles[60:80], labels[60:80]) if held_out else None
    settings = ProbeSettings(head=head, features=["rdkit-fast"])
    probe = Probe(settings, FeatureTable(), "solvation", ("insoluble", "soluble")).fit(train, validation)
    predicted = probe.predict(rest[0])
    assert 0 < predicted.min() < predicted.max() < 1
    positive, negative = predicted[rest[1] == 1], predicted[rest[1] == 0]
    assert np.mean(positive[:, None] > negative) > 0.8
    probe.save(tmp_path / "probe")
    loaded = load_model(tmp_path / "probe")
    assert loaded.class_names == ("insoluble", "soluble")
    np.testing.assert_allclose(loaded.predict(rest[0]), predicted, atol=1e-6)


def test_a_run_of_a_probe(of_classes: RunSettings, tmp_path: Path) -> None:
    changes = {"method.name": "probe", "method.probe.features": "rdkit-fast", "method.probe.head": "svr"}
    run = finetune(make_config(of_classes(tmp_path / "probe", **changes)))
    assert run.metrics["test"]["roc_auc"]["value"] > 0.7
    assert "prediction_sets" in run.metrics


def test_classical_baselines_learn_probabilities(table: pd.DataFrame, tmp_path: Path) -> None:
    smiles, labels = table["smiles"].tolist(), (table["solvation"] == "soluble").to_numpy(dtype=float)
    parts = {"train": (smiles[:80], labels[:80]), "test": (smiles[80:], labels[80:])}
    calibrated = {**parts, "validation": (smiles[60:], labels[60:])}
    for given in (parts, calibrated):
        ridge = run_baselines(["ridge"], given, task=CLASSIFICATION, bootstrap=0)["ridge"]
        save_baseline(ridge.baseline, tmp_path / "ridge")
        loaded = load_baseline("ridge", tmp_path / "ridge").predict(smiles[80:])
        np.testing.assert_allclose(loaded, ridge.predictions["test"], rtol=1e-12)
        assert (loaded.min() == 0) == (given is parts), "cut at 0, where no part could calibrate it"
        assert ridge.metrics["test"]["roc_auc"]["value"] > 0.7
    found = run_baselines(["xgboost", "random-forest", "ridge"], parts, task=CLASSIFICATION, bootstrap=0)
    for result in found.values():
        assert 0 <= result.predictions["test"].min() < result.predictions["test"].max() <= 1
    found["xgboost"].baseline.save(tmp_path)
    again = XGBoostBaseline(FeatureTable())
    again.restore(tmp_path)
    np.testing.assert_allclose(again.predict(smiles[80:]), found["xgboost"].predictions["test"], rtol=1e-6)


def test_weights_of_classes_need_classes(settings: RunSettings, of_classes: RunSettings, tmp_path: Path) -> None:
    weights = {"training.class_weights": "balanced"}
    with pytest.raises(ConfigError, match="the target holds numbers"):
        finetune(make_config(settings(output=tmp_path / "numbers", **weights)))
    probe = {"method.name": "probe", "method.probe.features": "rdkit-fast"}
    with pytest.raises(ConfigError, match="a probe has none"):
        finetune(make_config(of_classes(tmp_path / "probe", **weights, **probe)))
