from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from tests.tiny import RunSettings

from moltune.config import UncertaintySettings, make_config
from moltune.data.load import molecules_from_lists
from moltune.errors import ConfigError
from moltune.predictors.predictor import Predictor
from moltune.run import Run
from moltune.tuning.finetune import finetune
from moltune.uncertainty.estimate import (
    DeepEnsemble,
    MonteCarloDropout,
    uncertainty,
)
from moltune.uncertainty.report import write_uncertainty
from moltune.uncertainty.summary import repeatability, summarise


@pytest.fixture(scope="module")
def other(settings: RunSettings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("ensemble") / "other"
    values = settings(output=output, seed=1, **{"split.seed": 0})
    return finetune(make_config(values))


def test_dropout_varies_repeats_with_the_seed_and_leaves_prediction_alone(
    finished: Run, small_table: pd.DataFrame
) -> None:
    smiles = small_table["smiles"].tolist()[:20]
    predictor = Predictor.load(finished.path)
    before = predictor.predict(smiles)["predicted"].to_numpy()
    first, second = (MonteCarloDropout(predictor, 60, seed=5).samples(smiles) for _ in range(2))
    assert first.shape == (60, 20)
    np.testing.assert_array_equal(first, second)
    assert (first.std(axis=0) > 0).all()
    assert not np.array_equal(first, MonteCarloDropout(predictor, 60, seed=6).samples(smiles))
    np.testing.assert_array_equal(predictor.predict(smiles)["predicted"].to_numpy(), before)


def test_dropout_before_a_linear_head_adds_noise_and_no_bias(finished: Run, small_table: pd.DataFrame) -> None:
    """Inside the encoder it may add both; in front of a linear layer the mean of many passes is the prediction."""
    smiles, passes = small_table["smiles"].tolist()[:20], 600
    predictor = Predictor.load(finished.path)
    predictor.model.network.set_kernel(None)
    for layer in predictor.model.network.encoder.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    table = predictor.predict(smiles)
    before = table["predicted"].to_numpy()
    samples = MonteCarloDropout(predictor, passes, seed=5).samples(table["smiles"].tolist())
    spread = samples.std(axis=0, ddof=1)
    assert (spread > 0).all()
    assert (np.abs(samples.mean(axis=0) - before) < 5 * spread / passes**0.5).all()


def test_without_dropout_there_is_nothing_to_vary(finished: Run) -> None:
    from moltune.uncertainty.estimate import _dropouts

    predictor = Predictor.load(finished.path)
    for layer in _dropouts(predictor.model.network):
        layer.p = 0.0
    with pytest.raises(ConfigError, match="no dropout"):
        MonteCarloDropout(predictor)


def test_ensemble_is_its_members(finished: Run, other: Run, small_table: pd.DataFrame) -> None:
    table = small_table[["smiles", "hydration_free_energy"]].iloc[:15]
    found = uncertainty(finished.path, table, UncertaintySettings(method="ensemble"), members=[other.path]).table
    one, two = (Predictor.load(run.path).predict(found["smiles"].tolist())["predicted"] for run in (finished, other))
    np.testing.assert_allclose(found["mean"], (one + two) / 2, rtol=1e-6)
    np.testing.assert_allclose(found["variance"], (one - two) ** 2 / 2, rtol=1e-4, atol=1e-10)
    assert found.sort_values("rank")["variance"].is_monotonic_decreasing


def test_ensembles_that_are_none_are_refused(finished: Run) -> None:
    member = Predictor.load(finished.path)
    with pytest.raises(ConfigError, match="two or more"):
        DeepEnsemble([member])
    stranger = Predictor.load(finished.path)
    stranger.model.network.config.target_name = "logD"
    with pytest.raises(ConfigError, match="same target"):
        DeepEnsemble([member, stranger])


def test_files(finished: Run, small_csv: Path, tmp_path: Path) -> None:
    found = uncertainty(finished.path, small_csv, UncertaintySettings(passes=5))
    write_uncertainty(found, tmp_path, percentile=75)
    facts = json.loads((tmp_path / "uncertainty.json").read_text())
    table = pd.read_csv(tmp_path / "uncertainty.csv")
    assert (table["variance"] > facts["threshold"]).sum() == 30
    assert -1 <= facts["spearman_sd_error"] <= 1
    assert (tmp_path / "figures" / "sorted_scores.png").is_file()
    unlabelled = uncertainty(finished.path, table[["smiles"]].head(9), UncertaintySettings(passes=3))
    assert unlabelled.table["label"].isna().all()
    assert "spearman_sd_error" not in unlabelled.facts


def test_repeatability_foretells_the_rank_correlation_with_new_samples() -> None:
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(0, 0.2, 400))
    for count in (10, 40, 160):
        foretold, seen = [], []
        for _ in range(10):
            one, two = (rng.normal(0, spread, (count, 400)) for _ in range(2))
            foretold.append(repeatability(one))
            seen.append(spearmanr(one.var(axis=0), two.var(axis=0)).statistic)
        assert np.mean(foretold) == pytest.approx(np.mean(seen), abs=0.08)
    assert repeatability(rng.normal(0, 1, (3, 50))) is None
    assert repeatability(np.ones((10, 50))) is None
    assert abs(repeatability(rng.normal(0, 1, (200, 2000))) or 1) < 0.1


def test_too_few_passes_are_a_warning_that_says_how_many(
    finished: Run, small_csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = uncertainty(finished.path, small_csv, UncertaintySettings(passes=6))
    assert found.facts["rank_repeatability"] < 0.8
    [said] = [
        record.getMessage()
        for record in caplog.records
        if "would rank the molecules differently" in record.getMessage()
    ]
    assert f"{found.facts['rank_repeatability']:.2f}" in said
    wanted = re.search(r"take about ([\d,]+)", said)
    assert wanted is None or int(wanted[1].replace(",", "")) > 6


def test_words_say_when_the_spread_says_nothing_about_the_error() -> None:
    rng = np.random.default_rng(0)
    molecules = molecules_from_lists(["C" * length for length in range(1, 61)], rng.normal(size=60).tolist())
    sd = np.linspace(0.1, 2, 60)
    aimless = molecules.target + rng.normal(size=(20, 60)) * sd
    _, facts = summarise(molecules, aimless - aimless.mean(axis=0) + rng.normal(size=60) + molecules.target)
    assert facts["spearman_p"] > 0.05
    assert facts["verdict"].startswith("The spread says nothing about the error: rank correlation")
    telling = molecules.target + sd * rng.choice([-1, 1], 60) + rng.normal(size=(20, 60)) * sd / 10
    _, facts = summarise(molecules, telling)
    assert facts["verdict"].startswith("The spread says much about the error")
    _, facts = summarise(molecules_from_lists(molecules.smiles, None), telling)
    assert "is not known" in facts["verdict"]
