"""Several properties on the command line: finetune, predict, and commands that take one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import Result

from moltune import datasets

Invoke = Callable[..., Result]


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_from_a_table_with_gaps_to_predictions_of_each(moltune: Invoke, quick: list[str], tmp_path: Path) -> None:
    table, runs = tmp_path / "table.csv", tmp_path / "multi"
    frame = datasets.load("freesolv").iloc[:90].reset_index(drop=True)
    frame["charge, total"] = np.where(frame.index % 3 == 0, np.nan, np.arange(90) % 7)
    frame["polar"] = frame["hydration_free_energy"].lt(-4).map({True: "yes", False: "no"})
    frame.loc[frame.index % 4 == 0, "hydration_free_energy"] = np.nan
    frame.to_csv(table, index=False)
    target = 'hydration_free_energy,"charge, total",polar'
    options = ["--target", target, "--ratios", "60/20/20", "--no-blend"]
    tuned = moltune("finetune", table, *quick, *options, "-o", runs)
    assert tuned.exit_code == 0, tuned.stderr
    said = one_line(tuned.stderr)
    assert "23 of 90 rows have no value of 'hydration_free_energy'" in said
    assert "30 of 90 rows have no value of 'charge, total'" in said
    shown = one_line(tuned.stdout)
    assert "One encoder was tuned on all of them" in shown
    assert "ROC AUC" in shown
    assert "RMSE" in shown
    folders = ["hydration_free_energy", "charge-total", "polar"]
    assert {path.name for path in runs.iterdir() if path.is_dir()} == set(folders)

    again = moltune("finetune", table, *quick, *options, "-o", runs, "--resume", "--json")
    assert list(json.loads(again.stdout)) == ["hydration_free_energy", "charge, total", "polar"]

    moltune("predict", runs, table, "-o", tmp_path / "out.csv", "-q")
    out = pd.read_csv(tmp_path / "out.csv")
    assert out["hydration_free_energy_predicted"].notna().all()
    assert out["charge, total_predicted"].notna().all()
    assert set(out["polar_predicted_class"]) <= {"yes", "no"}

    for command in (
        ["evaluate", runs, table],
        ["export", runs, "-o", tmp_path / "exported"],
        ["influence", runs, table, "-o", tmp_path / "scores"],
        ["uncertainty", runs, table, "-o", tmp_path / "spread"],
        ["audit", table, "--against", runs, "--target", "polar"],
        ["explain", runs, "CCO", "-o", tmp_path / "page.html"],
    ):
        refused = moltune(*command)
        assert refused.exit_code == 2, command
        words = one_line(refused.stderr)
        assert "one is wanted here: choose one, such as" in words, words
        assert "polar" in words
    evaluated = moltune("evaluate", runs / "polar", table, "--target", "polar", "--json")
    assert json.loads(evaluated.stdout)["n"] == 90

    for command in (
        ["tune", table, *quick, "--target", target, "-o", tmp_path / "search"],
        ["data", "describe", table, "--target", target],
    ):
        refused = moltune(*command)
        assert refused.exit_code == 2, command
        assert "choose one, such as --target hydration_free_energy" in one_line(refused.stderr)
