"""Measurements that give a bound: which of them join training, and that they are nowhere taken as exact values."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, truncnorm
from tests.tiny import RunSettings, same_weights, without_seconds

from moltune import MolRegressor
from moltune.attribution.influence import influence
from moltune.config import TrainingSettings, make_config
from moltune.data.load import load_molecules
from moltune.errors import ConfigError, DataError
from moltune.models.losses import censored_squared_error
from moltune.run import Run
from moltune.tuning.finetune import finetune
from moltune.tuning.head import beyond
from moltune.tuning.prepare import Prepared, prepare
from moltune.tuning.search.search import search

EXACT = [("C" * n, str(n)) for n in range(1, 31)]
Make = Callable[..., Prepared]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """Prepared molecules of 30 alkanes whose label is their length, and of further rows; the last 9 are held out."""

    def prepared(further: list[tuple[str, ...]], **changes: str) -> Prepared:
        part = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
        rows = [(*one, part[at]) for at, one in enumerate(EXACT)]
        rows += [(*one, "train")[:3] for one in further]
        path = tmp_path / "table.csv"
        pd.DataFrame(rows, columns=["smiles", "y", "part"]).to_csv(path, index=False)
        usual = {"data.bounds": "use", "data.target": "y", "split.method": "column", "split.column": "part"}
        return prepare(make_config(RunSettings(tiny_model, path)(**{**usual, **changes})))

    return prepared


# --- the loss ----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.sampled_from([-1, 0, 1])), min_size=1, max_size=8),
    st.floats(0.1, 2),
)
def test_the_loss_is_the_likelihood_of_tobits_model(rows: list[tuple[float, float, int]], noise: float) -> None:
    predicted, expected, side = (np.array(column) for column in zip(*rows, strict=True))
    found = censored_squared_error(*(torch.as_tensor(values) for values in (predicted, expected, side)), noise)
    # A measurement above y has the probability that the normal law around the prediction has there.
    terms = [
        norm.logpdf(y, p, noise) + np.log(noise * np.sqrt(2 * np.pi)) if s == 0 else norm.logsf(s * (y - p) / noise)
        for p, y, s in rows
    ]
    assert float(found) == pytest.approx(-2 * noise**2 * np.mean(terms), rel=1e-6, abs=1e-9)


def test_a_bound_that_is_met_costs_nothing_and_pulls_where_it_is_not() -> None:
    predicted = torch.tensor([5.0, -5.0, 5.0, -5.0], requires_grad=True)
    loss = censored_squared_error(predicted, torch.zeros(4), torch.tensor([1, 1, -1, -1]), 0.5)
    loss.backward()
    pull = predicted.grad
    assert pull is not None
    assert pull[[0, 3]].abs().max() < 1e-6
    assert pull[1] < -1
    assert pull[2] > 1


@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([-1, 1]), st.floats(0.2, 2))
def test_what_is_expected_beyond_a_bound_is_the_mean_of_a_truncated_normal_law(
    bound: float, predicted: float, side: int, noise: float
) -> None:
    [found] = beyond(np.array([bound]), np.array([side]), np.array([predicted]), noise)
    z = (bound - predicted) / noise
    ends = (z, np.inf) if side > 0 else (-np.inf, z)
    assert found == pytest.approx(truncnorm.mean(*ends, loc=predicted, scale=noise), rel=1e-5, abs=1e-5)
    assert side * (found - bound) > 0


# --- which bounds join --------------------------------------------------------------------------------------------


def test_bounds_join_training_unless_their_molecule_is_known(make: Make) -> None:
    found = make(
        [
            ("CCO", "> 7"),
            ("OCC", "> 9"),
            ("CCO", "< 20"),
            ("C" * 29, "> 3"),
            ("C" * 21, "> 3"),
            ("CCC", "> 1"),
            ("CCN", "> 4", "test"),
            ("CCF", "~ 4"),
            ("C(", "> 4"),
        ]
    )
    assert found.bounds is not None
    table = found.bounds.table
    assert table[["smiles", "relation", "value"]].to_numpy().tolist() == [["CCO", ">", 9.0], ["CCO", "<", 20.0]]
    assert found.bounds.side.tolist() == [1, -1]
    reasons = found.molecules.rejected.set_index("row")["reason"]
    assert reasons[31] == "the target is a bound wider than another one of the same molecule"
    assert reasons[34] == reasons[35] == "the target is a bound of a molecule in the validation or test part"
    assert reasons[36] == "the target is a bound of a molecule that is measured exactly"
    assert reasons[37] == "the target is a bound that the split keeps away from training"
    assert reasons[38].startswith("the target is a bound, not a number")
    assert len(found.molecules) + len(found.bounds) + len(found.molecules.rejected) == found.molecules.rows_in == 39
    assert found.provenance["bounds"]["used"] == 2
    assert any("2 bounds (1 'more than', 1 'less than') are in the training loss" in note for note in found.notes)


def test_targets_of_the_parts_are_exact(make: Make) -> None:
    without, found = (make([("CCO", "> 7")], **{"data.bounds": how}) for how in ("reject", "use"))
    for name, (smiles, target) in found.parts.items():
        assert smiles == without.parts[name][0]
        np.testing.assert_array_equal(target, without.parts[name][1])
    assert without.bounds is None
    assert without.molecules.rejected["row"].tolist() == [31]


def test_a_grouped_split_keeps_whole_groups_from_training(make: Make) -> None:
    """An acyclic bound has the scaffold of the acyclic molecules; a phenol has that of the held-out toluenes."""
    rings = [("C" * n + "c1ccccc1", str(n)) for n in range(1, 4)]
    rows = [*rings, ("Oc1ccccc1", "> 7"), ("CCO", "> 7"), ("OC1CC1", "> 7")]
    found = make(rows, **{"split.method": "scaffold", "split.ratios": "80/0/20"})
    assert found.bounds is not None
    assert found.split.test.tolist() == [30, 31, 32]
    assert found.bounds.smiles == ["CCO", "OC1CC1"]


def test_a_clustered_split_keeps_near_molecules_from_training(make: Make) -> None:
    rings = [("C" * n + "c1ccccc1", str(n)) for n in range(4, 10)]
    rows = [*rings, ("C" * 11 + "c1ccccc1", "> 7"), ("N#N", "> 7")]
    found = make(rows, **{"split.method": "cluster", "split.ratios": "80/0/20"})
    assert found.bounds is not None
    held_out = {found.molecules.smiles[at] for at in found.split.test}
    expected = ["N#N"] if any("1" in one for one in held_out) else ["C" * 11 + "c1ccccc1", "N#N"]
    assert found.bounds.smiles == expected


def test_bounds_of_an_index_file_go_where_it_says(make: Make, tmp_path: Path) -> None:
    index = tmp_path / "index.csv"
    parts = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5 + ["test"]
    pd.DataFrame({"row": range(1, 32), "split": parts}).to_csv(index, index=False)
    rows = [("CCO", "> 7"), ("CCN", "> 7")]
    found = make(rows, **{"split.method": "index", "split.index_file": str(index)})
    assert found.bounds is not None
    assert found.bounds.smiles == ["CCN"]


def test_further_columns_stay_with_a_bound(make: Make) -> None:
    molecules = make([("CCO", "> 7", "test")]).molecules
    assert molecules.bounds[["row", "part"]].to_numpy().tolist() == [[31, "test"]]


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_with_bounds_says_so_and_its_statistics_are_those_of_exact_values(
    settings: RunSettings, small_table: pd.DataFrame, tmp_path: Path
) -> None:
    """Far bounds move the predictions; whatever rests on exact values stays to the last bit."""
    path = tmp_path / "table.csv"
    table = small_table.drop(columns="id").astype({"hydration_free_energy": object})
    table.iloc[100:, 1] = "> 40"
    table.to_csv(path, index=False)
    runs: dict[str, Run] = {}
    for how in ("reject", "use"):
        changes = {"data.source": str(path), "data.bounds": how, "training.refit_head": "svr"}
        runs[how] = finetune(make_config(settings(output=tmp_path / how, **changes)))
    rejected, used = runs["reject"], runs["use"]
    assert not same_weights(rejected, used)
    assert without_seconds(used.metrics["baselines"]) == without_seconds(rejected.metrics["baselines"])
    assert used.splits.equals(rejected.splits)
    pd.testing.assert_series_equal(used.predictions["true"], rejected.predictions["true"])
    stored = [json.loads(run.model_path.joinpath("config.json").read_text()) for run in (used, rejected)]
    for statistic in ("target_mean", "target_std"):
        assert stored[0][statistic] == stored[1][statistic] != 0
    assert used.predictions["predicted"].mean() > rejected.predictions["predicted"].mean()
    bounds = pd.read_csv(used.path / "bounds.csv")
    assert len(bounds) == used.provenance["bounds"]["used"] == 20
    assert not (rejected.path / "bounds.csv").exists()
    assert "20 bounds" in (used.path / "report.html").read_text()
    with pytest.raises(ConfigError, match="trained on bounds"):
        influence(used, path)


def test_what_knows_no_bounds_refuses_them(settings: RunSettings, tmp_path: Path) -> None:
    use = {"data.bounds": "use"}
    with pytest.raises(ConfigError, match="a probe is fitted to exact measurements only"):
        finetune(make_config(settings(output=tmp_path / "probe", **use, **{"method.name": "probe"})))
    with pytest.raises(ConfigError, match="a search takes exact measurements only"):
        search(make_config(settings(**use)), output=tmp_path / "search")


def test_the_benchmark_bounds_a_share_above_the_median_and_never_a_held_out_molecule(
    tiny_model: Path, small_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("censored_likelihood")
    molecules = load_molecules(small_csv)
    train = np.arange(80)
    exact, bounds = benchmark.with_bounds(molecules, train, 0.3, seed=0, limit="drawn")
    assert (len(exact), len(bounds)) == (68, 12)
    of_smiles = dict(zip(molecules.smiles, molecules.target, strict=True))
    true = np.array([of_smiles[one] for one in bounds.smiles])
    median = np.median(molecules.target[train])
    assert ((median <= bounds.value) & (bounds.value < true)).all()
    assert set(bounds.smiles) == {molecules.smiles[at] for at in set(train) - set(exact.tolist())}
    assert (benchmark.with_bounds(molecules, train, 0.3, seed=0)[1].value == median).all()
    training = TrainingSettings(epochs=1, threads=1)
    rows = [benchmark.run_split(molecules, seed, 0.3, str(tiny_model), training) for seed in (0, 1)]
    found = benchmark.summarise(rows, ", linear head")
    expected = np.mean([row["censored, linear head"] - row["dropped, linear head"] for row in rows])
    assert found["mean"] == pytest.approx(expected, abs=1e-5) != 0
    assert found["lower"] < found["mean"] < found["upper"]


# --- the estimator ------------------------------------------------------------------------------------------------


def test_the_estimator_takes_relations(tiny_model: Path, small_table: pd.DataFrame) -> None:
    smiles, y = small_table["smiles"].tolist()[:60], small_table["hydration_free_energy"].to_numpy()[:60].copy()
    estimator = MolRegressor(str(tiny_model), epochs=3, seed=1, settings={"threads": 1, "refit_head": "none"})
    relation = ["="] * 40 + [">"] * 20
    y[40:] = 50.0
    exact = estimator.fit(smiles[:40], y[:40]).predict(smiles).mean()
    censored = estimator.fit(smiles, y, relation=relation)
    assert censored.model_.network.config.target_mean < 0
    assert censored.predict(smiles).mean() > exact
    with pytest.raises(DataError, match="relation holds one of"):
        estimator.fit(smiles, y, relation=["?"] * 60)
    with pytest.raises(DataError, match="not 3 for 60"):
        estimator.fit(smiles, y, relation=["="] * 3)


def test_default_settings_read_bounds_as_before(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("smiles,y\nCCO,> 3\nCCN,2\nCCC,1\n")
    molecules = load_molecules(path)
    assert len(molecules) == 2
    assert molecules.rejected["reason"].tolist() == ["the target is a bound, not a number: '> 3'"]
    assert "bounds" not in make_config({"data": {"source": "x"}}).model_dump()["data"]
