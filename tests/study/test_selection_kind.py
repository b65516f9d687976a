from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moltune import datasets
from moltune.errors import ConfigError
from moltune.study.arms.probe import ProbeOptions
from moltune.study.arms.registry import find_kind
from moltune.study.arms.selection import external_digest
from moltune.study.engine.plan import make_plan
from moltune.study.engine.run import run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import bundled_recipes, check_arms, load_recipe, make_recipe
from moltune.study.recipe.recipe import change_recipe
from moltune.study.report.page import write_study

SETTINGS = {"training": {"epochs": 2, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("selection")
    table = datasets.load("freesolv")[["smiles", "hydration_free_energy"]]
    paths = {"data": folder / "data.csv", "external": folder / "external.csv"}
    table.iloc[:100].to_csv(paths["data"], index=False)
    # Twenty of the forty are in the data too, so some are held out on every split.
    table.iloc[80:120].to_csv(paths["external"], index=False)
    return paths


def recipe_of(files: dict[str, Path], model: Path, **changes: Any) -> Any:
    arm = {"kind": "selection", "settings": SETTINGS, "percentile": 50, "influence": {"solver": "exact"}, "passes": 4}
    values = {
        "name": "selection-test",
        "data": {"source": str(files["data"])},
        "external": {"source": str(files["external"])},
        "protocol": {"splits": 2, "seeds": 1},
        "model": {"name": str(model)},
        "arms": [
            {"name": "influence", "strategy": "influence", **arm},
            {"name": "uncertainty", "strategy": "uncertainty", **arm},
        ],
    }
    return make_recipe({**values, **changes})


def test_controls_come_by_themselves(files: dict[str, Path], tiny_model: Path) -> None:
    recipe = recipe_of(files, tiny_model)
    controls = {arm.name: arm for arm in recipe.arms if arm.control}
    assert set(controls) == {"mean", "probe", "add-random", "add-influence-reversed", "add-all", "add-none"}
    assert controls["add-random"].options["percentile"] == 50
    assert "percentile" not in controls["add-all"].options
    options = ProbeOptions.model_validate(controls["probe"].options)
    assert options.features == ["embedding", "rdkit-fast", "ionisation"]
    check_arms(recipe)


def test_the_command_adds_the_controls_too(files: dict[str, Path]) -> None:
    """In a process of its own, where nobody has imported the kinds of arms before the recipe is read."""
    command = ["study", "validate", "selection", "--external", str(files["external"]), "--json"]
    ran = subprocess.run([sys.executable, "-m", "moltune", *command], capture_output=True, text=True, check=True)
    assert set(json.loads(ran.stdout)["controls_added"]) >= {"add-random", "add-influence-reversed", "add-all"}


def test_wrong_arms_are_explained(files: dict[str, Path], tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="--external"):
        check_arms(recipe_of(files, tiny_model, external=None))
    for wrong in ({"strategy": "luck", "count": 3}, {"strategy": "influence"}, {"strategy": "all", "count": 2}):
        with pytest.raises(ConfigError):
            check_arms(recipe_of(files, tiny_model, arms=[{"name": "x", "kind": "selection", **wrong}]))


@pytest.mark.slow
def test_a_study_of_selection_runs_and_shares_the_scores(
    files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(files, tiny_model, protocol={"splits": 1, "seeds": 1})
    plan = make_plan(recipe, Store(tmp_path / "plan"))
    # One base model serves influence, its reverse and uncertainty.
    assert sum(task.kind == "step" for task in plan.tasks if "scores" in task.title) == 1
    folder = tmp_path / "study"
    summary = run_study(recipe, folder, executor=InlineExecutor(folder))
    frame = results(folder)
    assert not summary.failed
    added = frame.set_index("arm")["added"]
    assert added["add-none"] == 0
    candidates = int(frame["candidates"].dropna().iloc[0])
    assert candidates < 40, "molecules of the validation and test part are no candidates"
    assert added["add-all"] == candidates
    assert added["influence"] == added["uncertainty"] == added["add-random"] == int(candidates / 2 + 0.5)


@pytest.mark.slow
def test_one_set_of_scores_serves_other_methods_and_the_other_convention(
    files: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    arms = [
        {"name": "a", "strategy": "influence", "count": 7, "influence": {"solver": "exact"}},
        {"name": "b", "strategy": "influence", "count": 7, "convention": "positive-helps", "scored_by": "a"},
        {"name": "worst", "strategy": "influence-reversed", "count": 7, "scored_by": "a"},
        {"name": "lora", "strategy": "uncertainty", "count": 4, "scored_by": "a", "settings": {"method": "lora"}},
    ]
    common = {"kind": "selection", "passes": 4}
    arms = [{**common, **arm, "settings": {**SETTINGS, **arm.get("settings", {})}} for arm in arms]
    recipe = recipe_of(files, tiny_model, arms=arms, controls=[], protocol={"splits": 1, "seeds": 1})
    folder = tmp_path / "study"
    ran = run_study(recipe, folder, executor=InlineExecutor(folder))
    assert not ran.failed
    assert sum(task.kind == "step" for task in ran.plan.tasks if "scores" in task.title) == 1
    store = Store(folder)
    tables = {
        task.arm: pd.read_csv(store.place(task) / "selection" / "selection.csv").set_index("row")
        for task in ran.plan.runs
    }
    chosen = {name: set(table.index[table["selected"]]) for name, table in tables.items()}
    assert chosen["a"] == chosen["b"]
    assert not chosen["a"] & chosen["worst"]
    assert tables["a"]["score"].nsmallest(7).index.isin(chosen["a"]).all()
    pd.testing.assert_series_equal(tables["b"]["score"], -tables["a"]["score"])
    assert tables["lora"]["variance"].nlargest(4).index.isin(chosen["lora"]).all()
    pd.testing.assert_series_equal(tables["lora"]["variance"], tables["a"]["variance"])

    write_study(folder)
    drawn = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"influence_scores", "influence_against_residual", "sorted_uncertainty"} <= drawn
    assert "agreement" not in drawn, "there is one block"
    page = (folder / "report.html").read_text()
    assert "Influence scores on the first block" in page
    # External molecules are somebody's property: the report shows none of them.
    assert not [smiles for smiles in pd.read_csv(files["external"])["smiles"] if f">{smiles}<" in page]


def test_scores_of_two_blocks_are_compared(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    arms = [
        {"name": "a", "kind": "selection", "strategy": "influence", "count": 7},
        {"name": "b", "kind": "selection", "strategy": "similarity", "count": 7},
    ]
    recipe = recipe_of(files, tiny_model, arms=arms, protocol={"splits": 2, "seeds": 1})
    runs: dict[str, dict[str, Path]] = {"a": {}, "b": {}}
    for arm, block in [("a", "split0-seed0"), ("a", "split1-seed0"), ("b", "split0-seed0")]:
        place = runs[arm][block] = tmp_path / arm / block
        (place / "selection").mkdir(parents=True)
        table = pd.DataFrame({"row": range(1, 21), "selected": [row < 7 for row in range(20)]})
        if arm == "a":
            table = table.assign(score=range(-10, 10), residual=0.5, variance=range(20))
        table.to_csv(place / "selection" / "selection.csv", index=False)
    drawn = find_kind("selection").draw(runs, recipe, tmp_path / "figures")
    # The residuals are all equal, and one seed shares its dropout.
    [words] = [caption for caption in drawn if "repeat" in caption]
    assert words.endswith("influence, another split 1.00.")
    assert drawn[words].name == "agreement.svg"


def test_who_scores_must_be_a_selection_of_its_own(files: dict[str, Path], tiny_model: Path) -> None:
    own = {"name": "a", "kind": "selection", "strategy": "influence", "count": 3}
    for wrong in ({"scored_by": "plain"}, {"scored_by": "c"}, {"influence": {"convention": "positive-helps"}}):
        arms = [
            own,
            {"name": "plain", "kind": "finetune"},
            {**own, "name": "c", "scored_by": "a"},
            {**own, "name": "b", **wrong},
        ]
        with pytest.raises(ConfigError, match=r"scored_by|convention"):
            check_arms(recipe_of(files, tiny_model, arms=arms, controls=[]))


def results(folder: Path) -> pd.DataFrame:
    import json

    lines = []
    for path in sorted((folder / "runs").glob("*/result.json")):
        found = json.loads(path.read_text())
        lines.append({"arm": found["arm"], **{k: found["facts"].get(k) for k in ("added", "candidates", "excluded")}})
    return pd.DataFrame(lines)


def test_external_file_is_part_of_what_a_run_is(files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(files, tiny_model)
    other = tmp_path / "other.csv"
    pd.read_csv(files["external"]).head(30).to_csv(other, index=False)
    changed = change_recipe(recipe, external=str(other))
    assert changed.external is not None
    digests = {external_digest(r.external.model_dump(mode="json")) for r in (recipe, changed)}
    assert len(digests) == 2


def test_the_bundled_recipe_is_sound(files: dict[str, Path]) -> None:
    assert "selection" in bundled_recipes()
    recipe = change_recipe(load_recipe("selection"), external=str(files["external"]))
    kept, notes = check_arms(recipe)
    names = {arm.options.get("strategy") for arm in kept.arms}
    assert {"influence", "influence-reversed", "random", "all"} <= names
    assert kept.arm("none").kind == "finetune"
    assert not notes
