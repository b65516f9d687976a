"""Run folders and checkpoints that version 0.1 wrote load today, and predict what they predicted then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from moltune import MolRegressor, Predictor, Run
from moltune.models.checkpoints import load_encoder

FIXTURES = Path(__file__).parent / "fixtures" / "v0.1"
CHECKPOINT = FIXTURES / "checkpoint"
RUNS = ("full", "lora", "probe", "blend")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_opens_with_its_settings(name: str) -> None:
    run = Run.load(FIXTURES / name)
    assert run.config.model.name == "checkpoint"
    assert run.config.method.name == {"blend": "full"}.get(name, name)
    assert run.config.training.epochs == 2
    assert run.config.prediction.blend == (["xgboost", "ridge"] if name == "blend" else [])
    assert run.metrics["test"]["n"] == 12
    molecules, parts = run.molecules()
    assert len(molecules) == len(parts) == 60


@pytest.mark.parametrize("name", RUNS)
def test_a_run_predicts_what_it_predicted(name: str) -> None:
    """An adapter and a probe need the checkpoint that they were made on, which lies elsewhere now."""
    table = Run.load(FIXTURES / name).predictions
    found = Predictor.load(FIXTURES / name, base=CHECKPOINT).predict(table["smiles"].tolist())
    own = {"blend": ("predicted_model_alone", "predicted")}.get(name, ("predicted", "predicted"))
    np.testing.assert_allclose(found[own[0]], table[own[1]], rtol=1e-5)
    if name == "blend":
        np.testing.assert_allclose(found["predicted"], table["predicted_blend"], rtol=1e-5)
    assert found["predicted"].nunique() > 50


def test_members_of_a_blend_predict_what_they_predicted() -> None:
    """Weights may be zero; each member is looked at by itself."""
    table = Run.load(FIXTURES / "blend").predictions
    blend = Predictor.load(FIXTURES / "blend").blend
    assert blend is not None
    for name, member in blend.baselines.items():
        predicted = member.predict(table["smiles"].tolist())
        np.testing.assert_allclose(predicted, table[f"predicted_{name}"], rtol=1e-5)


def test_the_estimator_loads_a_run() -> None:
    table = Run.load(FIXTURES / "full").predictions
    predicted = MolRegressor.load(FIXTURES / "full").predict(table["smiles"])
    np.testing.assert_allclose(predicted, table["predicted"], rtol=1e-5)


@pytest.mark.parametrize("name", ["checkpoint", "adapted"])
def test_a_checkpoint_is_a_masked_language_model_without_gaps(name: str) -> None:
    model, info = AutoModelForMaskedLM.from_pretrained(FIXTURES / name, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    encoded = AutoTokenizer.from_pretrained(FIXTURES / name)(["CCO", "c1ccccc1"], return_tensors="pt", padding=True)
    assert torch.isfinite(model(**encoded).logits).all()
    stored = {
        key.rpartition("molformer.")[2]: value
        for key, value in load_file(FIXTURES / name / "model.safetensors").items()
    }
    for key, tensor in load_encoder(FIXTURES / name).state_dict().items():
        torch.testing.assert_close(tensor, stored[key])
