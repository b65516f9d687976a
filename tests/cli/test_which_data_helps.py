"""audit → influence → uncertainty → select → finetune --add, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from moltune import datasets
from moltune.run import Run

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("external") / "external.csv"
    table = datasets.load("freesolv").iloc[110:160][["smiles", "hydration_free_energy"]]
    table.rename(columns={"hydration_free_energy": "label"}).to_csv(path, index=False)
    return path


def test_audit(moltune: Invoke, external: Path, small_csv: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    result = moltune("audit", external, "--against", small_csv, "--model", tiny_model, "--json", "-q", "-o", folder)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["shared"]["smiles"]["molecules"] == 10
    assert json.loads((folder / "audit.json").read_text()) == found
    words = moltune("audit", external, "--against", small_csv, "--model", tiny_model, "-q")
    assert found["verdict"][:40] in " ".join(words.stdout.split())


def test_from_scores_to_a_run_with_additions(
    moltune: Invoke, external: Path, finished: Run, quick: list[str], small_csv: Path, tmp_path: Path
) -> None:
    scores = tmp_path / "scores"
    result = moltune(
        "influence", finished.path, external, "-o", scores, "--solver", "exact", "--convention", "positive-helps",
        "--json", "-q",
    )  # fmt: skip
    assert result.exit_code == 0
    assert json.loads(result.stdout)["convention"] == "positive-helps"
    selected = tmp_path / "selected.csv"
    result = moltune("select", scores / "scores.csv", "-o", selected, "-n", 12, "--run", finished.path, "--json", "-q")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    # The convention of the scores is read beside them.
    assert facts["settings"]["convention"] == "positive-helps"
    table = pd.read_csv(selected)
    everyone = pd.read_csv(scores / "scores.csv")
    assert len(table) == 12
    assert table["score"].is_monotonic_decreasing
    assert table["score"].iloc[0] >= everyone["score"].nlargest(11).iloc[-1]
    run = tmp_path / "run"
    result = moltune("finetune", small_csv, *quick, "--add", selected, "-o", run, "-q")
    assert result.exit_code == 0
    assert Run.load(run).splits["added"].sum() == 12
    assert Run.load(run).config.data.add == str(selected)


def test_target_names_a_part_or_a_column(moltune: Invoke, external: Path, finished: Run, tmp_path: Path) -> None:
    common = ("influence", finished.path, external, "--solver", "exact", "-q", "-o")
    assert moltune(*common, tmp_path / "test", "--target", "test").exit_code == 0
    assert moltune(*common, tmp_path / "part", "--target-part", "test", "--target", "label").exit_code == 0
    assert moltune(*common, tmp_path / "column", "--target", "label").exit_code == 0
    scores = {name: (tmp_path / name / "scores.csv").read_text() for name in ("test", "part", "column")}
    assert scores["test"] == scores["part"] != scores["column"]
    for name, is_biased in (("test", True), ("part", True), ("column", False)):
        assert ("biased: selected on test" in (tmp_path / name / "scores.json").read_text()) == is_biased
        assert ("biased: selected on test" in (tmp_path / name / "influence.html").read_text()) == is_biased


def test_uncertainty_and_the_strategies_on_it(moltune: Invoke, external: Path, finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "uncertainty"
    result = moltune("uncertainty", finished.path, external, "-o", folder, "--passes", 4, "--json", "-q")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["samples"] == 4
    selected = tmp_path / "unsure.csv"
    arguments = ("select", folder / "uncertainty.csv", "-o", selected, "--strategy", "uncertainty", "--percentile", 10)
    assert moltune(*arguments, "-q").exit_code == 0
    table = pd.read_csv(folder / "uncertainty.csv")
    assert set(pd.read_csv(selected)["smiles"]) == set(table.nlargest(5, "variance")["smiles"])


def test_an_unconverged_solver_exits_with_one_and_says_what_to_do(
    moltune: Invoke, external: Path, finished: Run, tmp_path: Path
) -> None:
    hasty = ["--set", "iterations=1", "--set", "tolerance=1e-6", "--damping", 1e-4]
    result = moltune("influence", finished.path, external, "-o", tmp_path / "no", *hasty)
    assert result.exit_code == 1
    assert "did not converge" in result.stderr
    assert not (tmp_path / "no").exists()
    result = moltune("influence", finished.path, external, "-o", tmp_path / "yes", *hasty, "--allow-unconverged")
    assert result.exit_code == 0
    assert "did not converge" in (tmp_path / "yes" / "influence.html").read_text()


@pytest.mark.parametrize("wrong", [["--scope", "tail"], ["--solver", "newton"], ["--set", "nonsense=1"]])
def test_wrong_options_exit_with_two(
    moltune: Invoke, external: Path, finished: Run, tmp_path: Path, wrong: list[str]
) -> None:
    result = moltune("influence", finished.path, external, "-o", tmp_path / "x", *wrong)
    assert result.exit_code == 2
    assert "error:" in result.stderr
