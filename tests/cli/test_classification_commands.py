"""Two classes on the command line: finetune, predict, evaluate."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import Result

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
