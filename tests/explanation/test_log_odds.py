"""Explanations of classifiers are of log-odds, and say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from scipy.special import expit

from moltune.config import CleanSettings, ModelSettings
from moltune.explanation.explain import explain, log_odds
from moltune.models.coverage import Issue
from moltune.predictors.base import Progress, TunedModel
from moltune.predictors.predictor import Predictor
from moltune.run import Run

VALUES = {"C": 0.2, "N": -1.5, "O": -0.8, "F": 0.7, "Cl": 1.1}
SMILES = "OCCCN(C)CC(F)(F)CCCl"


class SumOfAtoms(TunedModel):
    """Log-odds of the positive class are a sum over atoms, and 3 for all molecules."""

    @property
    def target_name(self) -> str:
        return "activity"

    @property
    def class_names(self) -> tuple[str, str]:
        return ("inactive", "active")

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        return {}

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        atoms = [[atom.GetSymbol() for atom in Chem.MolFromSmiles(one).GetAtoms()] for one in smiles]
        return expit(3 + np.array([sum(VALUES.get(symbol, -0.3) for symbol in one) for one in atoms]))

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError


def test_a_sum_over_atoms_in_log_odds_is_recovered() -> None:
    known = pd.DataFrame({"smiles": ["OCCCN(C)CC", "CCCCl"], "value": [0.0, 1.0]})
    found = explain(Predictor(SumOfAtoms(), CleanSettings(), ModelSettings()), SMILES, known=known, neighbours=2)
    true = np.array([VALUES[symbol] for symbol in found.symbols])
    assert found.contributions.fidelity > 0.95
    assert np.corrcoef(found.contributions.values, true)[0, 1] > 0.97
    assert found.prediction == pytest.approx(expit(3 + true.sum()))
    assert found.rest == pytest.approx(3, abs=0.8)
    assert found.contributions.values.sum() + found.rest == pytest.approx(log_odds(np.array([found.prediction]))[0])
    assert {one.smiles: found.measured(one) for one in found.neighbours} == {
        "OCCCN(C)CC": "inactive",
        "CCCCl": "active",
    }
    facts = found.to_dict()
    assert facts["classes"] == ["inactive", "active"]
    assert facts["contributions_to"] == "log-odds of active"
    assert {one["class"] for one in facts["neighbours"]} == {"inactive", "active"}


def test_a_run_on_classes_is_explained_in_words(finished_classes: Run) -> None:
    predictor = Predictor.load(finished_classes.path)
    found = explain(predictor, "CCCCO", edits=40)
    predicted = predictor.predict(["CCCCO"])["predicted"].iloc[0]
    assert found.prediction == pytest.approx(predicted, abs=1e-5)
    text = found.summary()
    assert text.startswith(f"Predicted solvation: probability of soluble {predicted:.3g}. The contributions of the")
    assert "to the log-odds of soluble (" in text
    assert {found.measured(one) for one in found.neighbours} <= {"soluble", "insoluble"}
    page = found.page()
    assert "Contributions to the log-odds of soluble" in page
    assert "contribution to log-odds of soluble" in found.drawing()
