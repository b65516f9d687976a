"""Whole runs of every kind of method: saved alone, predicted from, resumed; staged and layer-wise training; cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import RunSettings, tiny_config

from moltune import MolRegressor, Predictor
from moltune.config import FinetuneConfig, TrainingSettings, make_config
from moltune.errors import CheckpointError, ConfigError, DataError
from moltune.models.regression import RegressionConfig, RegressionModel
from moltune.run import Run
from moltune.tuning.finetune import finetune
from moltune.tuning.schedule import layers_below_the_top, parameter_groups


@pytest.fixture
def run_of(settings: RunSettings, tmp_path: Path) -> Any:
    def make(name: str, folder: str = "run", **changes: Any) -> Run:
        quick = {"training.epochs": 2, **changes}
        return finetune(settings(output=tmp_path / folder, **{"method.name": name, **quick}))

    return make


# --- adapters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "refit"), [("lora", "none"), ("bitfit", "none"), ("lora", "svr")])
def test_an_adapter_run_holds_its_own_tensors_and_predicts(run_of: Any, name: str, refit: str) -> None:
    run = run_of(name, **{"training.refit_head": refit})
    kernel = {"kernel_head.safetensors"} if run.metrics.get("refit", {}).get("head") == "svr" else set()
    assert refit == "svr" or not kernel
    assert {path.name for path in run.model_path.iterdir()} == kernel | {
        "adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    stored = sum(tensor.numel() for tensor in load_file(run.model_path / "adapter_model.safetensors").values())
    assert stored == run.metrics["trainable_parameters"] < run.metrics["total_parameters"] / 10
    table = run.predictions
    again = Predictor.load(run.path).predict(table["smiles"].tolist())
    np.testing.assert_allclose(again["predicted"], table["predicted"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        MolRegressor.load(run.path).predict(table["smiles"]), table["predicted"], rtol=0, atol=1e-5
    )
    # It learned: half of LoRA's factors start at zero.
    tensors = load_file(run.model_path / "adapter_model.safetensors")
    assert all(tensor.abs().sum() > 0 for key, tensor in tensors.items() if "lora_B" in key)
    cost = run.metrics["cost"]
    files = ["adapter_model.safetensors", *kernel]
    assert cost["weights_bytes"] == sum((run.model_path / name).stat().st_size for name in files)
    assert cost["weights_bytes"] < cost["saved_bytes"]
    assert cost["molecules_per_second"] > 0
    assert cost["peak_memory_bytes"] > 50e6
    assert cost["memory_growth_bytes"] >= 0


def test_a_changed_base_is_refused_by_predict(run_of: Any, tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    run = run_of("lora", **{"model.name": str(base)})
    expected = run.predictions["predicted"].iloc[0]
    smiles = run.predictions["smiles"].iloc[:1].tolist()
    shutil.move(base, tmp_path / "moved")
    found = Predictor.load(run.path, base=tmp_path / "moved").predict(smiles)["predicted"][0]
    assert found == pytest.approx(expected, abs=1e-5)
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    weights["LayerNorm.bias"][0] += 0.01
    save_file(weights, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="trained on other weights"):
        Predictor.load(run.path, base=tmp_path / "moved")


def test_an_interrupted_adapter_run_ends_as_an_uninterrupted_one(
    run_of: Any, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moltune.tuning import loop

    more = {"training.epochs": 3, "training.freeze_encoder_epochs": 1}
    whole = run_of("lora", "whole", **more)
    original = loop.MoleculeTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (self.state.epoch or 0) >= 2:
            raise RuntimeError("the power went")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(loop.MoleculeTrainer, "training_step", step)
    with pytest.raises(RuntimeError, match="power"):
        run_of("lora", "cut", **more)
    checkpoint = next((tmp_path / "cut" / "checkpoints").glob("checkpoint-*"))
    assert len(load_file(checkpoint / "model.safetensors")) == 2 * 2 + 2, "factors of query and value, and the head"
    monkeypatch.undo()
    resumed = finetune(settings(output=tmp_path / "cut", **{"method.name": "lora", **more}), resume=True)
    assert (whole.path / "predictions.csv").read_bytes() == (resumed.path / "predictions.csv").read_bytes()
    assert (whole.path / "history.csv").read_bytes() == (resumed.path / "history.csv").read_bytes()


def test_an_adapter_run_is_a_model_to_start_from(run_of: Any) -> None:
    first = run_of("lora")
    second = run_of("full", "second", **{"model.name": str(first.path), "training.epochs": 1})
    assert "encoder.encoder.layer.0.attention.self.query.weight" in load_file(second.model_path / "model.safetensors")


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_method_brings_its_own_training_defaults() -> None:
    plain, lora = FinetuneConfig(), make_config({"method": "lora", "peft": {"r": 4}})
    assert plain.training.head_learning_rate is None
    assert lora.training.head_learning_rate is not None
    assert lora.training.head_learning_rate < lora.training.learning_rate
    assert lora.training.learning_rate > plain.training.learning_rate
    assert lora.method.peft == {"r": 4}
    assert make_config({"method": {"name": "lora"}, "training": {"learning_rate": 1e-5}}).training.learning_rate == 1e-5
    assert make_config(lora.model_dump(mode="json")) == lora
    lora.seed = 3
    assert lora.method.peft == {"r": 4}
    with pytest.raises(ConfigError, match="peft is a group"):
        make_config({"method": "lora", "peft": 4})


# --- staged and layer-wise -----------------------------------------------------------------------------------------


def test_the_encoder_waits_for_the_head(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moltune.tuning import loop

    original, seen = loop.MoleculeTrainer.training_step, []

    def step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, model, *args, **kwargs)
        body = torch.cat([p.detach().flatten() for p in model.encoder.parameters()])
        seen.append((int(self.state.epoch or 0), body.clone(), model.head.out_proj.weight.detach().clone()))
        return loss

    monkeypatch.setattr(loop.MoleculeTrainer, "training_step", step)
    values = {"training.epochs": 3, "training.freeze_encoder_epochs": 2}
    run = finetune(settings(output=tmp_path / "run", **values))
    frozen = [body for epoch, body, _ in seen if epoch < 2]
    assert all(torch.equal(body, frozen[0]) for body in frozen)
    heads = [head for epoch, _, head in seen if epoch < 2]
    assert not torch.equal(heads[0], heads[-1])
    assert not torch.equal(seen[-1][1], frozen[0])
    assert run.metrics["trainable_parameters"] == run.metrics["total_parameters"]
    with pytest.raises(ConfigError, match="leaves the encoder none of 2 epochs"):
        finetune(settings(output=tmp_path / "no", **{"training.epochs": 2, "training.freeze_encoder_epochs": 2}))


def test_layer_wise_rates() -> None:
    model = RegressionModel(RegressionConfig(encoder=tiny_config(num_hidden_layers=3)))
    settings = TrainingSettings(learning_rate=1.0, head_learning_rate=7.0, layer_decay=0.5, weight_decay=0.1)
    rates: dict[int, tuple[float, float]] = {}
    for group in parameter_groups(model, settings):
        rates |= {id(parameter): (group["lr"], group["weight_decay"]) for parameter in group["params"]}
    expected = {
        "head.out_proj.weight": (7.0, 0.1),
        "head.out_proj.bias": (7.0, 0.0),
        "encoder.LayerNorm.weight": (1.0, 0.0),
        "encoder.encoder.layer.2.output.dense.weight": (1.0, 0.1),
        "encoder.encoder.layer.1.output.dense.weight": (0.5, 0.1),
        "encoder.encoder.layer.0.output.dense.bias": (0.25, 0.0),
        "encoder.embeddings.word_embeddings.weight": (0.125, 0.1),
    }
    named = dict(model.named_parameters())
    assert rates.keys() == {id(parameter) for parameter in named.values()}
    for name, values in expected.items():
        assert rates[id(named[name])] == values, name
    assert {group["lr"] for group in parameter_groups(model, TrainingSettings(learning_rate=1.0))} == {1.0}
    below = layers_below_the_top(["embeddings.word.weight", "layers.0.w", "layers.11.w", "norm.weight"])
    assert below == {"embeddings.word.weight": 12, "layers.0.w": 11, "layers.11.w": 0, "norm.weight": 0}


# --- probes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "features"), [("ridge", "embedding"), ("svr", "rdkit,morgan"), ("gp", "embedding,rdkit")]
)
def test_a_probe_run_is_saved_as_arrays_and_predicts_the_same(run_of: Any, head: str, features: str) -> None:
    run = run_of("probe", **{"method.probe": {"head": head, "features": features}})
    assert {path.name for path in run.model_path.iterdir()} == {"config.json", "probe.safetensors"}
    table = run.predictions
    predictor = Predictor.load(run.path)
    again = predictor.predict(table["smiles"].tolist())
    np.testing.assert_allclose(again["predicted"], table["predicted"], rtol=0, atol=1e-9 if head != "gp" else 1e-6)
    assert predictor.target_name == "hydration_free_energy"
    test = run.metrics["test"]["rmse"]["value"]
    if "rdkit" in features:
        assert test < run.metrics["baselines"]["mean"]["test"]["rmse"]["value"] * 0.85
    assert run.metrics["trainable_parameters"] > 1
    assert run.metrics["epochs"] == run.metrics["best_epoch"] == 0
    assert (run.path / "report.html").is_file()


def test_a_probe_without_embeddings_needs_no_language_model(run_of: Any) -> None:
    run = run_of("probe", **{"method.probe.features": ["rdkit"], "model.name": "moltune/nowhere"})
    assert json.loads((run.model_path / "config.json").read_text())["base"] == {}
    made = Predictor.load(run.path).predict(["CCO", "[Xe]", "nonsense("])
    assert made["predicted"].notna().tolist() == [True, True, False]


def test_a_probe_is_refused_another_encoder(run_of: Any, tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    run = run_of("probe", **{"model.name": str(base)})
    weights = load_file(base / "model.safetensors")
    weights["LayerNorm.bias"][0] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="fitted on other weights"):
        Predictor.load(run.path)
    assert len(Predictor.load(run.path, base=tiny_model).predict(["CCO"])) == 1
    (run.model_path / "probe.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Predictor.load(run.path, base=tiny_model)


def test_the_estimator_takes_methods(tiny_model: Path, small_table: pd.DataFrame, tmp_path: Path) -> None:
    smiles, y = small_table["smiles"].tolist()[:60], small_table["hydration_free_energy"].to_numpy()[:60]
    probe = MolRegressor(
        str(tiny_model), "probe", method_settings={"probe": {"head": "svr", "features": ["rdkit"]}}
    ).fit(smiles, y)
    assert probe.score(smiles, y) > 0.9
    loaded = MolRegressor.load(probe.save(tmp_path / "probe"))
    # A loaded array may be aligned otherwise in memory, which changes the order of sums.
    np.testing.assert_allclose(loaded.predict(smiles), probe.predict(smiles), rtol=1e-12)
    assert loaded.get_params()["method_settings"]["probe"]["head"] == "svr"
    lora = MolRegressor(str(tiny_model), "lora", epochs=1, settings={"threads": 1}, method_settings={"peft": {"r": 2}})
    lora.fit(smiles, y)
    assert next(p for name, p in lora.model_.network.named_parameters() if "lora_A" in name).shape[0] == 2
    reloaded = MolRegressor.load(lora.save(tmp_path / "lora"))
    np.testing.assert_allclose(reloaded.predict(smiles), lora.predict(smiles), rtol=0, atol=1e-5)


def test_features_are_checked_before_anything_runs(run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"method\.probe\.features"):
        run_of("probe", **{"method.probe.features": ["smell"]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install moltune\[minimol\]"):
        run_of("probe", **{"method.probe.features": ["minimol"]})


def test_a_constant_target_is_refused(tmp_path: Path) -> None:
    from moltune.config import ProbeSettings
    from moltune.features.registry import FeatureTable
    from moltune.predictors.probe import Probe

    with pytest.raises(DataError, match="different targets"):
        Probe(ProbeSettings(features=["rdkit"]), FeatureTable()).fit((["C", "CC"], np.ones(2)))
