"""Studies of two classes: metric and its direction, arms that learn classes, what is refused, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.study.test_analysis import RATIO, frame_of, recipe_of
from typer.testing import CliRunner

from moltune.cli.app import app
from moltune.errors import ConfigError, DataError
from moltune.evaluation.classification import calibration_error
from moltune.study.analysis.compare import compare_studies
from moltune.study.analysis.verdicts import Comparison, analyse, compare, rank
from moltune.study.engine.plan import for_classes, make_plan, write_splits
from moltune.study.engine.run import Ran, run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import check_arms, load_recipe, make_recipe
from moltune.study.report import figures
from moltune.study.report.page import write_study
from moltune.study.report.text import arms_table, claims_table, sentence

CLASSES = ("dry", "wet")
CLAIM = {"text": "They say so", "source": "a paper", "arm": "svr", "against": "probe"}


@pytest.fixture(scope="module")
def wet_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Acids and amines are wet, halides dry, with one label in twenty wrong; words, not numbers."""
    rng = np.random.default_rng(0)
    smiles = [f"{'C' * n}{end}" for n in range(1, 31) for end in ("N", "C(=O)O", "Cl", "F")]
    wet = np.array([text.endswith(("N", "O")) for text in smiles]) ^ (rng.random(len(smiles)) < 0.05)
    path = tmp_path_factory.mktemp("wet") / "wet.csv"
    pd.DataFrame({"smiles": smiles, "state": np.where(wet, "wet", "dry")}).to_csv(path, index=False)
    return path


@pytest.fixture
def wet(wet_csv: Path) -> dict[str, Any]:
    return {
        "name": "wet",
        "data": {"source": str(wet_csv), "target": "state"},
        "protocol": {"splits": 3, "seeds": 1, "split": {"ratios": "50/25/25"}},
        "arms": [{"name": "probe", "kind": "probe", "head": "ridge", "features": ["rdkit-fast"]}],
    }


def run(values: dict[str, Any], folder: Path, where: Path | None = None) -> Ran:
    return run_study(make_recipe(values, where), folder, executor=InlineExecutor(folder))


@pytest.fixture(scope="module")
def study(wet_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of every arm that costs nothing."""
    folder = tmp_path_factory.mktemp("classes")
    values = {
        "name": "wet",
        "data": {"source": str(wet_csv), "target": "state"},
        "protocol": {"splits": 5, "seeds": 1, "split": {"ratios": "50/25/25"}},
        "arms": [
            {"name": "probe", "kind": "probe", "head": "ridge", "features": ["rdkit-fast"]},
            {"name": "svr", "kind": "svr", "features": ["rdkit-fast"], "C": 2},
            {"name": "trees", "kind": "baseline", "baseline": "xgboost", "label": "XGBoost"},
            {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
            {"name": "forest", "kind": "baseline", "baseline": "random-forest"},
            {"name": "both", "kind": "blend", "arms": ["probe", "trees"]},
            {"name": "theirs", "kind": "external", "files": "{split}.csv", "seeded": False},
        ],
        "claims": [{**CLAIM}, {**CLAIM, "metric": "roc_auc", "expect": "worse"}],
        "published": [{"label": "Errors", "source": "a paper", "metrics": {"rmse": 0.5}}],
    }
    for path in write_splits(make_recipe(values, folder), Store(folder / "study")):
        frame = pd.read_csv(path)
        frame["predicted"] = 0.1 + 0.8 * frame["target"]
        frame[["row", "predicted"]].to_csv(folder / f"{path.stem.removeprefix('split')}.csv", index=False)
    assert run(values, folder / "study", folder).failed == {}
    write_study(folder / "study")
    return folder / "study"


# --- what it computes and says ----------------------------------------------------------------------------------------


def test_metrics_are_those_of_probabilities_and_the_best_arm_is_the_highest(study: Path) -> None:
    store = Store(study)
    analysis = analyse(store)
    assert analysis.recipe.classes == CLASSES
    assert (analysis.metric, analysis.recipe.sign) == ("roc_auc", -1)
    molecules = store.molecules(store.study()["data"]["key"])
    assert molecules is not None
    target = molecules.table.set_index("row")["target"]
    assert set(target) == {0.0, 1.0}
    for _, entry in analysis.frame.iterrows():
        result = store.result(str(entry["hash"]))
        assert result is not None
        test = result.predictions[result.predictions["part"] == "test"]
        true, predicted = target.loc[test["row"]].to_numpy(), test["predicted"].to_numpy()
        assert ((predicted >= 0) & (predicted <= 1)).all()
        assert entry["roc_auc"] == pytest.approx(roc_auc_score(true, predicted))
        assert entry["pr_auc"] == pytest.approx(average_precision_score(true, predicted))
        assert entry["brier"] == pytest.approx(np.mean((true - predicted) ** 2))
        assert entry["calibration_error"] == pytest.approx(calibration_error(true, predicted))
    table = arms_table(analysis)
    # Theirs is right about every molecule, and the training mean knows nothing.
    assert table["Arm"].iloc[0] == "theirs"
    assert table["Arm"].iloc[-1] == "Training mean (control)"
    assert table["ROC AUC"].iloc[[0, -1]].tolist() == ["1.000 ± 0.000", "0.500 ± 0.000"]
    assert {"PR AUC", "MCC", "Brier score", "Log loss", "Calibration error", "ROC AUC, 95 % interval"} <= set(table)
    assert "RMSE" not in table
    uncalibrated = dict(zip(table["Arm"], table["Before calibration"], strict=True))
    assert uncalibrated["XGBoost"] == uncalibrated["theirs"] == "–"
    assert "±" in uncalibrated["probe"]
    assert "±" in uncalibrated["svr"]


def test_verdicts_sentences_and_ranks_know_that_higher_is_better(study: Path) -> None:
    analysis = analyse(Store(study))
    found = {item.arm: item for item in analysis.comparisons}
    assert found["mean"].difference is not None
    assert found["mean"].difference < -0.2
    assert found["mean"].word == "worse"
    words = sentence(found["mean"], analysis)
    assert words.startswith("Training mean is worse than probe: ROC AUC lower by 0.")
    assert "%," not in words.split("interval")[0], "a share of an ROC AUC would be taken for points"
    assert analysis.ranking is not None
    assert analysis.ranking.friedman is not None
    assert analysis.ranking.arms[int(np.argmin(analysis.ranking.friedman.average_ranks))] == "theirs"
    both = compare_studies(study, study)
    assert all(line.identical and line.words.startswith("ROC AUC ") for line in both)


def test_claims_and_published_numbers_about_errors_are_left_out(study: Path) -> None:
    analysis = analyse(Store(study))
    assert [claim.metric for claim in analysis.recipe.claims] == ["roc_auc"]
    assert "Δ ROC AUC" in claims_table(analysis)["Ours, 95 % interval"].iloc[0]
    assert analysis.recipe.published == []
    assert any("about another kind of target: 1" in note for note in analysis.notes)


def test_the_report_shows_curves_and_says_which_side_is_better(study: Path) -> None:
    text = (study / "report.html").read_text(encoding="utf-8")
    assert "above zero the arm is better" in text
    assert "Probabilities are those of" in text
    assert "unit of the target" not in text
    assert (study / "figures" / "curves.svg").stat().st_size > 1000
    assert not (study / "figures" / "predictions.svg").exists()
    content = json.loads((study / "results.json").read_text())
    assert (content["task"], content["metric"]) == ("classification", "roc_auc")
    shown = CliRunner().invoke(app, ["study", "show", str(study)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "ROC AUC" in shown.output


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), gap=st.floats(-0.05, 0.05))
def test_a_verdict_on_roc_auc_is_that_on_what_it_lacks(seed: int, gap: float) -> None:
    lacks = 0.1 + np.random.default_rng(seed).normal(0, 0.01, (2, 5, 3))
    lacks[1] += gap
    errors = frame_of({"b": lacks[0], "a": lacks[1]})
    areas = errors.assign(roc_auc=1 - errors["rmse"])
    recipe = recipe_of(["b", "a"])
    one = compare(errors, recipe, RATIO, plan=False)[0]
    other = compare(areas, for_classes(recipe, CLASSES), RATIO, plan=False)[0]
    assert one.word == other.word
    assert one.p == pytest.approx(other.p)
    assert one.difference == pytest.approx(-(other.difference or 0))
    ranks = [rank(f, r) for f, r in ((errors, recipe_of(["b", "a"])), (areas, for_classes(recipe, CLASSES)))]
    assert [ranks[0].sign, ranks[1].sign] == [1, -1]  # type: ignore[union-attr]


def test_figures_turn_with_the_metric(tmp_path: Path) -> None:
    titles = {name: name for name in ("a", "b", "c", "mean")}
    values = {"a": (0.90, 0.92), "b": (0.91, 0.93), "c": (0.92, 0.94), "mean": (0.5, 0.5)}
    rows = [
        {"arm": arm, "unit": f"split{at}", "hash": f"{arm}{at}", "roc_auc": value}
        for arm, pair in values.items()
        for at, value in enumerate(pair)
    ]
    figures.blocks_figure(pd.DataFrame(rows), "roc_auc", titles, tmp_path / "blocks", label="ROC AUC", sign=-1)
    text = (tmp_path / "blocks.svg").read_text(encoding="utf-8")
    assert ">0.500</text>" in text, "far behind is at the left edge, with its number"
    ticks = [float(part.split("<")[0]) for part in text.split(">0.")[1:] if part.split("<")[0].isdigit()]
    assert ticks
    items = [Comparison("b", "a", "better", difference=0.02, interval=(0.01, 0.03), margin=0.005)]
    figures.differences_figure(items, titles, tmp_path / "differences", label="Difference of ROC AUC", sign=-1)
    assert "right of zero: better" in (tmp_path / "differences.svg").read_text(encoding="utf-8")
    grid = pd.DataFrame([[0.8, 0.9], [0.7, 0.6]], index=pd.Index([1, 2], name="r"), columns=pd.Index([3, 4], name="s"))
    assert figures.grid_figure(grid, tmp_path / "grid", label="ROC AUC", sign=-1)


# --- other metrics, other splits, other tasks -------------------------------------------------------------------------


def test_log_loss_may_be_the_metric_and_lower_is_better(wet: dict[str, Any], tmp_path: Path) -> None:
    wet["statistics"] = {"metric": "log_loss"}
    ran = run(wet, tmp_path / "study")
    analysis = analyse(Store(ran.folder))
    assert (analysis.metric, analysis.recipe.sign) == ("log_loss", 1)
    [item] = analysis.comparisons
    assert item.difference is not None
    assert item.difference > 0
    assert "Log loss higher by" in sentence(item, analysis)
    assert arms_table(analysis)["Arm"].iloc[0] == "probe"


def test_folds_hold_the_same_share_of_each_class(wet: dict[str, Any], tmp_path: Path) -> None:
    wet["protocol"] = {"kind": "cross-validation", "splits": 1, "folds": 4}
    plan = make_plan(make_recipe(wet), Store(tmp_path / "study"))
    shares = []
    for block in plan.recipe.protocol.blocks():
        split = plan.recipe.protocol.make_split(plan.molecules, block)
        shares.append(plan.molecules.target[split.test].sum())
    assert max(shares) - min(shares) <= 1


def test_the_same_zeros_and_ones_as_numbers_are_other_runs(wet_csv: Path, wet: dict[str, Any], tmp_path: Path) -> None:
    frame = pd.read_csv(wet_csv)
    frame.assign(state=(frame["state"] == "wet").astype(int)).to_csv(tmp_path / "binary.csv", index=False)
    plans = {}
    for task in ("auto", "regression"):
        wet["data"] = {"source": str(tmp_path / "binary.csv"), "target": "state", "task": task}
        # The parts are the same.
        wet["protocol"]["split"]["method"] = "random"
        plans[task] = make_plan(make_recipe(wet), Store(tmp_path / task))
    assert plans["auto"].recipe.metric == "roc_auc"
    assert plans["regression"].recipe.metric == "rmse"
    assert plans["regression"].recipe.classes is None
    hashes = [set(plan.index["hash"]) for plan in plans.values()]
    assert not hashes[0] & hashes[1]


# --- what is refused, before anything runs ----------------------------------------------------------------------------


def test_arms_and_metrics_that_need_numbers_say_so(wet: dict[str, Any], values: dict[str, Any], tmp_path: Path) -> None:
    def plan(**changes: Any) -> None:
        make_plan(make_recipe({**wet, **changes}, tmp_path), Store(tmp_path / "study"))

    with pytest.raises(ConfigError, match=r"statistics\.metric is rmse, and the target holds two classes: .*roc_auc"):
        plan(statistics={"metric": "rmse"})
    with pytest.raises(ConfigError, match=r"statistics\.metric is roc_auc, and the target is a number"):
        make_plan(make_recipe({**values, "statistics": {"metric": "roc_auc"}}), Store(tmp_path / "numbers"))
    select = {"name": "bald", "kind": "selection", "strategy": "bald", "count": 2}
    bald = {**values, "arms": [select], "external": values["data"], "controls": []}
    with pytest.raises(ConfigError, match="bald is of two classes, and the target is a number"):
        make_plan(make_recipe(bald), Store(tmp_path / "bald"))
    with pytest.raises(ConfigError, match="with two classes gamma is a number or scale"):
        plan(arms=[{"name": "svr", "kind": "svr", "features": ["rdkit"], "gamma": "auto"}])
    alone = pd.DataFrame({"smiles": ["C" * n for n in range(1, 41)], "state": ["wet", "dry"] * 15 + ["wet"] * 10})
    alone.assign(part=["train"] * 30 + ["test"] * 10).to_csv(tmp_path / "alone.csv", index=False)
    given_parts = {"splits": 1, "seeds": 1, "split": {"method": "column", "column": "part"}}
    with pytest.raises(DataError, match="the test part of split0 holds one class alone"):
        plan(data={"source": str(tmp_path / "alone.csv"), "target": "state"}, protocol=given_parts)
    assert not (tmp_path / "study" / "runs").exists()


def test_predictions_of_others_must_be_probabilities(wet: dict[str, Any], tmp_path: Path) -> None:
    wet["arms"].append({"name": "theirs", "kind": "external", "files": "{split}.csv", "seeded": False})
    for path in write_splits(make_recipe(wet, tmp_path), Store(tmp_path / "study")):
        frame = pd.read_csv(path)[["row"]].assign(predicted=1.5)
        frame.to_csv(tmp_path / f"{path.stem.removeprefix('split')}.csv", index=False)
    errors = run(wet, tmp_path / "study", tmp_path).failed.values()
    assert len(errors) == 3
    assert all("the probability of 'wet' lies between 0 and 1" in error for error in errors)


def test_validate_names_task_and_metric(wet: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(wet), encoding="utf-8")
    shown = CliRunner().invoke(app, ["study", "validate", str(tmp_path / "recipe.yaml"), "--json"])
    facts = json.loads(shown.stdout)
    assert (facts["task"], facts["metric"]) == ("classification", "roc_auc")
    recipe = load_recipe("classification")
    kept, notes = check_arms(for_classes(recipe, ("0", "1")))
    assert [arm.name for arm in kept.arms] == ["full", "probe", "blend", "xgboost", "mean"]
    assert any("chemprop" in note for note in notes)


# --- arms that tune a language model ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_tuned_arms_learn_classes_and_take_external_molecules(
    wet: dict[str, Any], wet_csv: Path, tiny_model: Path, tmp_path: Path
) -> None:
    training = {"epochs": 3, "learning_rate": 1e-3}
    wet["model"] = {"name": str(tiny_model)}
    wet["protocol"] = {"splits": 2, "seeds": 1, "split": {"ratios": "50/25/25"}}
    # A file of wet molecules alone: the classes are those of the data.
    external = pd.DataFrame({"smiles": [f"{'C' * n}N(C)C" for n in range(2, 12)], "state": "Wet"})
    external.to_csv(tmp_path / "external.csv", index=False)
    wet["external"] = {"source": str(tmp_path / "external.csv"), "target": "state"}
    select = {"kind": "selection", "strategy": "random", "count": 4, "settings": {"training": training}}
    wet["arms"] = [
        {"name": "full", "kind": "finetune", "settings": {"training": training}},
        {"name": "lora", "kind": "finetune", "settings": {"training": training, "method": {"name": "lora"}}},
        {"name": "more", **select},
        {"name": "blend", "kind": "blend", "arms": ["full", "lora"]},
    ]
    chosen = {"kind": "selection", "settings": {"training": training}, "passes": 4, "influence": {"solver": "exact"}}
    wet["arms"] += [
        {"name": "influence", "strategy": "influence", "percentile": 50, **chosen},
        {"name": "bald", "strategy": "bald", "count": 4, "scored_by": "influence", **chosen},
    ]
    wet["controls"] = []
    ran = run(wet, tmp_path / "study")
    assert ran.failed == {}
    for task in ran.plan.runs:
        result = Store(ran.folder).result(task.hash)
        assert result is not None
        assert result.facts["test"]["roc_auc"] is not None
        assert result.predictions["predicted"].between(0, 1).all()
        if task.arm in ("full", "lora"):
            calibration = result.facts["facts"]["calibration"]
            assert calibration["before"]["calibration_error"] >= 0
            assert calibration["molecules"] == 30
        if task.arm in ("more", "bald"):
            assert result.facts["facts"]["added"] == 4
    uncalibrated = arms_table(write_study(ran.folder)).set_index("Arm")["Before calibration"]
    drawn = (ran.folder / "figures" / "influence_scores.svg").read_text(encoding="utf-8")
    assert "Predicted change of the validation log loss" in drawn
    assert "±" in uncalibrated["full"]
    assert uncalibrated["blend"] == "–"
