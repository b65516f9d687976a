"""Uncertainty of two classes: entropies, what they say about the error, and in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from tests.tiny import RunSettings

from moltune.config import UncertaintySettings, make_config
from moltune.data.load import molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import ConfigError, DataError
from moltune.evaluation.classification import roc_auc
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.tuning.finetune import finetune
from moltune.uncertainty.estimate import DeepEnsemble, uncertainty
from moltune.uncertainty.report import write_uncertainty
from moltune.uncertainty.summary import (
    CLASS_COLUMNS,
    entropy,
    expected_entropy,
    mutual_information,
    repeatability,
    summarise,
)

PROBABILITIES = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.floats(0, 1))


@given(PROBABILITIES)
def test_entropy_is_what_the_samples_leave_open_and_what_they_contradict(samples: np.ndarray) -> None:
    total, expected, mutual = entropy(samples), expected_entropy(samples), mutual_information(samples)
    assert (total >= -1e-12).all()
    assert (total <= np.log(2) + 1e-12).all()
    # Jensen: a mean of probabilities is at least as open as they are on average.
    assert (total >= expected - 1e-12).all()
    np.testing.assert_allclose(mutual, total - expected, atol=1e-12)
    np.testing.assert_allclose(mutual_information(samples[:1]), 0, atol=1e-12)


def test_entropies_by_hand() -> None:
    samples = np.array([[0.5, 1.0, 0.9], [0.5, 0.0, 0.9]])
    p = 0.9
    open_ = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(entropy(samples), [np.log(2), np.log(2), open_])
    np.testing.assert_allclose(expected_entropy(samples), [np.log(2), 0, open_])
    np.testing.assert_allclose(mutual_information(samples), [0, np.log(2), 0], atol=1e-12)


def labelled(labels: np.ndarray) -> Molecules:
    molecules = molecules_from_lists(["C" * length for length in range(1, len(labels) + 1)], None)
    return replace(
        molecules, table=molecules.table.assign(target=labels), provenance={"classes": ["inactive", "active"]}
    )


def test_words_say_whether_entropy_and_disagreement_find_what_is_misclassified() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 200)
    molecules = labelled((rng.random(200) < p).astype(float))
    # Passes that agree in the middle and contradict each other at random.
    samples = np.clip(p + rng.normal(0, 0.002, (12, 200)), 0.001, 0.999)
    table, facts = summarise(molecules, samples)
    wrong = ((table["mean"] >= 0.5) != (molecules.target > 0.5)).to_numpy()
    assert facts["misclassified"] == wrong.sum()
    assert facts["entropy_auroc"] == pytest.approx(float(roc_auc(wrong.astype(float), table["entropy"].to_numpy())))
    assert facts["entropy_p"] < 1e-3
    assert "The entropy says" in facts["verdict"]
    assert "The entropy says nothing" not in facts["verdict"]
    assert f"{wrong.sum()} of 200 labelled molecules are misclassified" in facts["verdict"]
    assert table["label"].tolist() == np.where(molecules.target > 0.5, "active", "inactive").tolist()
    assert table.sort_values("rank")["entropy"].is_monotonic_decreasing
    # Labels that have nothing to do with the probabilities.
    _, facts = summarise(labelled(rng.integers(0, 2, 200).astype(float)), samples)
    assert facts["entropy_p"] > 0.05
    assert facts["verdict"].startswith("The entropy says nothing about the error")
    assert "cannot be distinguished from half" in facts["verdict"]


def test_disagreement_tells_what_entropy_does_not() -> None:
    """All means are the same, and only where the passes contradict each other are labels wrong."""
    rng = np.random.default_rng(1)
    contradict = np.arange(80) < 20
    samples = np.where(contradict, np.where(np.arange(10)[:, None] < 6, 0.99, 0.015), 0.6) + rng.normal(
        0, 1e-3, (10, 80)
    )
    _, facts = summarise(labelled((~contradict).astype(float)), samples)
    assert facts["mutual_information_auroc"] > 0.99
    assert "mutual information (how far the samples disagree) says much about the error" in facts["verdict"]


def test_where_nothing_can_be_said_that_is_said() -> None:
    samples = np.full((5, 6), 0.9)
    _, facts = summarise(labelled(np.ones(6)), samples)
    assert "is not known" in facts["verdict"]
    assert "0 of 6 are misclassified" in facts["verdict"]
    unlabelled = replace(molecules_from_lists(["C", "CC", "CCC"], None), provenance={"classes": ["no", "yes"]})
    table, facts = summarise(unlabelled, samples[:, :3])
    assert "misclassified" not in facts
    assert table["label"].isna().all()


def test_repeatability_is_that_of_the_measure() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 300)

    def draw() -> np.ndarray:
        return np.clip(p + rng.normal(0, 0.05, (30, 300)), 0.01, 0.99)

    one, two = draw(), draw()
    for measure in (entropy, mutual_information):
        seen = spearmanr(measure(one), measure(two)).statistic
        assert repeatability(one, measure) == pytest.approx(seen, abs=0.12)


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(of_classes: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"evaluation.baselines": [], "split.seed": 0, "seed": 1}
    return finetune(make_config(of_classes(tmp_path_factory.mktemp("ensemble") / "other", **changes)))


def test_dropout_and_files(finished_classes: Run, classes_table: pd.DataFrame, tmp_path: Path) -> None:
    found = uncertainty(finished_classes.path, classes_table, UncertaintySettings(passes=8))
    table = found.table
    assert list(table.columns) == [*CLASS_COLUMNS, "id"]
    assert table["mean"].between(0, 1).all()
    assert (table["mutual_information"] > 0).any()
    assert set(table["label"]) == {"insoluble", "soluble"}
    assert found.facts["ranked_by"] == "entropy"
    assert 0 < found.facts["misclassified"] < 120
    write_uncertainty(found, tmp_path, percentile=75)
    facts = json.loads((tmp_path / "uncertainty.json").read_text())
    assert (pd.read_csv(tmp_path / "uncertainty.csv")["entropy"] > facts["threshold"]).sum() == 30
    assert "Entropy of the predicted class" in (tmp_path / "figures" / "sorted_scores.svg").read_text()
    bare = uncertainty(finished_classes.path, classes_table[["smiles"]].head(9), UncertaintySettings(passes=3))
    assert bare.table["label"].isna().all()
    assert "is not known" in bare.facts["verdict"]


def test_ensemble_is_its_members(finished_classes: Run, other: Run, classes_table: pd.DataFrame) -> None:
    settings = UncertaintySettings(method="ensemble")
    found = uncertainty(finished_classes.path, classes_table.iloc[:15], settings, members=[other.path]).table
    smiles = found["smiles"].tolist()
    both = np.stack([Predictor.load(run.path).predict(smiles)["predicted"] for run in (finished_classes, other)])
    np.testing.assert_allclose(found["mean"], both.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["mutual_information"], mutual_information(both), rtol=1e-3, atol=1e-7)


def test_members_of_other_classes_are_refused(finished_classes: Run) -> None:
    member, stranger = Predictor.load(finished_classes.path), Predictor.load(finished_classes.path)
    stranger.model.network.config.classes = ["dry", "wet"]
    with pytest.raises(ConfigError, match="same target"):
        DeepEnsemble([member, stranger])


def test_labels_of_other_classes_are_refused(finished_classes: Run, classes_table: pd.DataFrame) -> None:
    numbers = molecules_from_lists(classes_table["smiles"], np.arange(120.0))
    with pytest.raises(DataError, match="not 0 or 1"):
        uncertainty(finished_classes.path, numbers)
