from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import RunSettings

from moltune import datasets
from moltune.config import DataSettings, SelectSettings, make_config, make_settings
from moltune.errors import ConfigError, DataError
from moltune.run import Run
from moltune.selection.select import select
from moltune.selection.strategies import STRATEGIES, Candidates, choose
from moltune.tuning.finetune import finetune

SMILES = datasets.load("freesolv")["smiles"].tolist()[:40]
RNG = np.random.default_rng(0)
CANDIDATES = Candidates(
    SMILES,
    {name: RNG.normal(size=40) for name in ("score", "residual")}
    | {name: RNG.random(40) for name in ("variance", "entropy", "mutual_information")},
    reference=datasets.load("freesolv")["smiles"].tolist()[40:60],
    embeddings=RNG.normal(size=(40, 4)),
    reference_embeddings=RNG.normal(size=(20, 4)),
)


def take(strategy: str, candidates: Candidates = CANDIDATES, **amount: object) -> list[int]:
    return choose(candidates, make_settings(SelectSettings, {"strategy": strategy, **amount})).tolist()


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"all", "none"}))
@pytest.mark.parametrize("space", ["fingerprint", "embedding"])
def test_every_strategy_gives_distinct_positions_and_a_larger_amount_keeps_the_smaller_one(
    strategy: str, space: str
) -> None:
    few, many, everything = (take(strategy, count=count, space=space) for count in (7, 20, 999))
    assert few == many[:7]
    assert sorted(everything) == list(range(40))
    assert few == take(strategy, count=7, space=space)
    assert len(take(strategy, percentile=25, space=space)) == 10
    assert take(strategy, count=0, space=space) == []


def test_orders_are_what_the_names_say() -> None:
    score, variance, residual = (CANDIDATES.columns[name] for name in ("score", "variance", "residual"))
    assert take("influence", count=40) == np.argsort(score).tolist()
    assert take("influence", count=40, convention="positive-helps") == np.argsort(-score).tolist()
    assert take("influence-reversed", count=40) == take("influence", count=40)[::-1]
    assert take("uncertainty", count=40) == np.argsort(-variance).tolist()
    for strategy, column in (("entropy", "entropy"), ("bald", "mutual_information")):
        assert take(strategy, count=40) == np.argsort(-CANDIDATES.columns[column]).tolist()
    assert take("residual", count=40) == np.argsort(np.abs(residual)).tolist()
    assert take("all") == list(range(40))
    assert take("none") == []
    assert take("random", count=5, seed=1) != take("random", count=5, seed=2)


def test_thresholds_are_in_the_strategy_s_own_numbers() -> None:
    score, variance, residual = (CANDIDATES.columns[name] for name in ("score", "variance", "residual"))
    assert set(take("influence", threshold=-0.5)) == set(np.flatnonzero(score <= -0.5))
    assert set(take("influence", threshold=0.5, convention="positive-helps")) == set(np.flatnonzero(score >= 0.5))
    assert set(take("influence-reversed", threshold=0.5)) == set(np.flatnonzero(score >= 0.5))
    assert set(take("uncertainty", threshold=0.7)) == set(np.flatnonzero(variance >= 0.7))
    assert set(take("residual", threshold=0.3)) == set(np.flatnonzero(np.abs(residual) <= 0.3))
    with pytest.raises(ConfigError, match="no scores"):
        take("random", threshold=0.1)


def test_similarity_and_diversity_mean_it() -> None:
    same = Candidates(["CCO", "c1ccccc1C(=O)O", "CCN"], reference=["OC(=O)c1ccccc1"])
    assert take("similarity", same, count=1) == [1]
    twins = Candidates(["CCCCCCCCO", "CCCCCCCCCO", "c1ccc2ccccc2c1", "CCCCCCCCCCO"])
    assert 2 in take("diversity", twins, count=2)
    first_of_each = take("cluster", twins, count=2, clusters=2)
    assert 2 in first_of_each


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 100))
def test_a_percentile_takes_the_best_scores(scores: list[float], percentile: float) -> None:
    values = np.array(scores)
    chosen = take("influence", Candidates(["C"] * len(values), {"score": values}), percentile=percentile)
    assert abs(len(chosen) - percentile / 100 * len(values)) <= 0.5 + 1e-9
    left = np.delete(values, chosen)
    if len(chosen) and len(left):
        assert values[chosen].max() <= left.min()


def test_amounts_and_missing_columns_are_explained() -> None:
    for wrong in (
        {"strategy": "influence"},
        {"strategy": "influence", "count": 3, "percentile": 10},
        {"strategy": "all", "count": 3},
        {"strategy": "luck", "count": 3},
    ):
        with pytest.raises(ConfigError):
            make_settings(SelectSettings, wrong)
    bare = Candidates(SMILES)
    for strategy in ("influence", "uncertainty", "entropy", "bald", "residual", "similarity"):
        with pytest.raises(DataError):
            take(strategy, bare, count=3)
    broken = Candidates(["CC", "CO"], {"score": np.array([1.0, np.nan])})
    with pytest.raises(DataError, match=r"molecule 2 \(CO\)"):
        take("influence", broken, count=1)


@pytest.fixture(scope="module")
def scored() -> pd.DataFrame:
    """Rows 100 to 149; the first twenty are in the run of 120 molecules."""
    table = datasets.load("freesolv").iloc[100:150]
    return pd.DataFrame(
        {
            "smiles": table["smiles"],
            "inchikey": "",
            "label": table["hydration_free_energy"],
            "score": np.arange(50.0),
            "rank": range(1, 51),
            "flags": "",
        }
    )


def test_selection_leaves_out_what_the_run_holds_out(finished: Run, scored: pd.DataFrame) -> None:
    settings = make_settings(SelectSettings, {"strategy": "influence", "count": 30})
    free = select(scored, settings)
    assert free.table["row"].tolist() == list(range(1, 31))
    assert free.table["score"].tolist() == list(np.arange(30.0))
    kept = select(scored, settings, run=finished.path)
    splits = finished.splits
    held = set(splits.loc[splits["split"] != "train", "inchikey"].str[:14])
    assert kept.facts["excluded"] > 0
    assert not held & set(kept.table["inchikey"].str[:14])
    assert set(splits["inchikey"]) & set(kept.table["inchikey"]), "molecules of the training part may be added"


def test_added_molecules_train_are_marked_and_never_leak(
    settings: RunSettings, finished: Run, scored: pd.DataFrame, tmp_path: Path
) -> None:
    add = tmp_path / "selected.csv"
    scored.to_csv(add, index=False)
    run = finetune(make_config(settings(output=tmp_path / "run", **{"data.add": str(add)})))
    splits, predictions, before = run.splits, run.predictions, finished.splits
    added = splits["added"].to_numpy()
    pd.testing.assert_frame_equal(splits[~added].drop(columns="added"), before)
    assert (splits.loc[added, "split"] == "train").all()
    held = before["split"] != "train"
    assert not set(before.loc[held, "inchikey"].str[:14]) & set(splits.loc[added, "inchikey"].str[:14])
    facts = run.provenance["added"]
    assert facts["added"] == added.sum() == 50 - facts["excluded"]
    assert facts["excluded"] + facts["in_training_already"] >= 20
    assert (predictions["added"].to_numpy() == added).all()
    np.testing.assert_allclose(predictions.loc[added, "true"].iloc[-1], scored["label"].iloc[-1])
    # More training molecules, another model; the same test molecules.
    assert run.metrics["train"]["n"] == finished.metrics["train"]["n"] + added.sum()
    assert run.metrics["test"]["n"] == finished.metrics["test"]["n"]
    assert run.metrics["test"]["rmse"]["value"] != finished.metrics["test"]["rmse"]["value"]
    assert "were added to the training part" in (run.path / "report.html").read_text()
    assert "added" not in finished.splits


def test_selection_for_a_run_on_classes(finished_classes: Run, classes_table: pd.DataFrame) -> None:
    scored = classes_table.assign(score=np.arange(120.0), other=1.5)
    settings = make_settings(SelectSettings, {"strategy": "influence", "count": 20})
    found = select(scored, settings, run=finished_classes.path)
    splits = finished_classes.splits
    assert found.facts["excluded"] == (splits["split"] != "train").sum()
    assert set(found.table["label"]) <= {"soluble", "insoluble"}
    by_id = classes_table.set_index("id")["solvation"]
    assert found.table["label"].tolist() == by_id[found.table["id"]].tolist()
    # Without a run the classes may be named, and then one of them alone will do.
    soluble = scored[scored["solvation"] == "soluble"]
    alone = select(soluble, settings, classes=("insoluble", "soluble"))
    assert set(alone.table["label"]) == {"soluble"}
    wrong = scored.assign(solvation="wet")
    with pytest.raises(DataError, match="the classes are 'insoluble' and 'soluble'"):
        select(wrong, settings, run=finished_classes.path, data=DataSettings(target="solvation"))
