"""Two classes on the command line: finetune, predict, evaluate."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import Result

from moltune import datasets
from moltune.run import Run

Invoke = Callable[..., Result]


def test_from_a_table_of_words_to_a_class(
    moltune: Invoke, quick: list[str], small_table: pd.DataFrame, tmp_path: Path
) -> None:
    table, run = tmp_path / "table.csv", tmp_path / "run"
    label = np.where(small_table["hydration_free_energy"] < -4.5, "soluble", "insoluble")
    small_table[["id", "smiles"]].assign(solvation=label).to_csv(table, index=False)
    options = ["--target", "solvation", "--ratios", "50/25/25", "--set", "prediction.blend=[]"]
    tuned = moltune("finetune", table, *quick, *options, "-o", run)
    assert tuned.exit_code == 0, tuned.stderr
    positive = int((label == "soluble").sum())
    assert f"holds the classes 'insoluble' ({120 - positive} rows) and 'soluble' ({positive})" in tuned.stderr
    assert "Classification was chosen" in tuned.stderr
    assert "ROC AUC (95% interval)" in tuned.stdout
    assert "Probabilities were calibrated on 30 validation molecules" in " ".join(tuned.stdout.split())
    assert "RMSE" not in tuned.stdout

    said = moltune("predict", run, "CCO")
    assert said.exit_code == 0, said.stderr
    [row] = pd.read_csv(io.StringIO(said.stdout)).to_dict("records")
    assert row["solvation_class"] == ("soluble" if row["solvation"] >= 0.5 else "insoluble")
    assert set(row["solvation_set"].split(" or ")) <= {"soluble", "insoluble"}

    moltune("predict", run, table, "-o", tmp_path / "out.csv", "-q")
    out = pd.read_csv(tmp_path / "out.csv")
    assert set(out["solvation_predicted_class"]) <= {"soluble", "insoluble"}
    assert out["solvation_predicted"].between(0, 1).all()
    # What was measured is named as in the table, of the molecule itself and of its nearest neighbour.
    assert (out["solvation_predicted_measured"] == out["solvation"]).mean() > 0.9
    assert set(out["solvation_predicted_nearest_measured"]) == {"soluble", "insoluble"}

    shown = moltune("evaluate", run, table, "--target", "solvation")
    assert "ROC AUC" in shown.stdout
    assert "RMSE" not in shown.stdout
    judged = json.loads(moltune("evaluate", run, table, "--target", "solvation", "--json").stdout)
    assert judged["n"] == 120
    assert judged["prevalence"]["value"] == positive / 120


def test_the_task_can_be_named(moltune: Invoke, quick: list[str], small_table: pd.DataFrame, tmp_path: Path) -> None:
    table, run = tmp_path / "table.csv", tmp_path / "run"
    label = (small_table["hydration_free_energy"] < -4.5).astype(int)
    small_table[["id", "smiles"]].assign(y=label).to_csv(table, index=False)
    tuned = moltune("finetune", table, *quick, "--task", "regression", "-o", run, "--set", "prediction.blend=[]")
    assert "RMSE" in tuned.stdout
    assert "classes" not in tuned.stderr
    refused = moltune("finetune", table, *quick, "--task", "ranking", "-o", tmp_path / "no")
    assert refused.exit_code == 2
    assert "data.task" in refused.stderr


def test_scores_selection_and_addition(
    moltune: Invoke, quick: list[str], finished_classes: Run, classes_csv: Path, tmp_path: Path
) -> None:
    table = datasets.load("freesolv").iloc[110:160]
    label = np.where(table["hydration_free_energy"] < -4.5, "Soluble", "Insoluble")
    external = tmp_path / "external.csv"
    pd.DataFrame({"smiles": table["smiles"], "mass": 1.5, "effect": label}).to_csv(external, index=False)
    run, scores, spread = finished_classes.path, tmp_path / "scores", tmp_path / "spread"
    done = moltune("influence", run, external, "-o", scores, "--solver", "exact", "--json", "-q")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == "log loss"
    done = moltune("uncertainty", run, external, "-o", spread, "--passes", 5, "-q")
    assert done.exit_code == 0, done.stderr
    assert "The entropy says" in " ".join(done.stdout.split())
    picked = {
        "influence": moltune("select", scores / "scores.csv", "-n", 8, "-o", tmp_path / "influence.csv", "-q"),
        "bald": moltune(
            "select", spread / "uncertainty.csv", "-n", 8, "--strategy", "bald", "-o", tmp_path / "bald.csv", "-q"
        ),
    }
    for name, result in picked.items():
        assert result.exit_code == 0, result.stderr
        assert set(pd.read_csv(tmp_path / f"{name}.csv")["label"]) <= {"soluble", "insoluble"}
    # A selection may well be of one class alone.
    selected = pd.read_csv(tmp_path / "influence.csv")
    selected[selected["label"] == selected["label"].iloc[0]].to_csv(tmp_path / "one.csv", index=False)
    options = ["--target", "solvation", "--ratios", "50/25/25", "--set", "prediction.blend=[]"]
    tuned = moltune("finetune", classes_csv, *quick, *options, "--add", tmp_path / "one.csv", "-o", tmp_path / "run")
    assert tuned.exit_code == 0, tuned.stderr
    assert Run.load(tmp_path / "run").splits["added"].any()


def test_tune_searches_classes_by_log_loss(
    moltune: Invoke, quick: list[str], classes_csv: Path, tmp_path: Path
) -> None:
    probe = ["--method", "probe", "--set", "method.probe.features=[rdkit-fast]", "--set", "method.probe.head=svr"]
    space = ["--space", "method.probe.C=1:10:log"]
    found = moltune(
        "tune", classes_csv, "--target", "solvation", *probe, *space, "--trials", 2, "-o", tmp_path / "tune"
    )
    assert found.exit_code == 0, found.stderr
    assert "best mean validation log loss 0." in found.stdout
    assert "settings as given" in found.stdout
    assert json.loads((tmp_path / "tune" / "summary.json").read_text())["best_validation_log_loss"] < 1
