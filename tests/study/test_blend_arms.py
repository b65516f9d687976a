"""Arms that average other arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moltune.errors import ConfigError
from moltune.predictors.blend import blend_weights
from moltune.study.arms.base import ArmUnavailable
from moltune.study.engine.run import run_study
from moltune.study.engine.store import Store
from moltune.study.engine.workers import InlineExecutor
from moltune.study.load import check_arms, make_recipe


@pytest.fixture
def blended(values: dict[str, Any]) -> dict[str, Any]:
    # The blend stands first: the engine has to put its members before it.
    values["arms"] = [
        {"name": "both", "kind": "blend", "arms": ["ridge", "xgboost"]},
        {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
        {"name": "xgboost", "kind": "baseline", "baseline": "xgboost"},
    ]
    values["reference"] = "ridge"
    return values


def test_weights_come_from_the_validation_part_of_each_block(blended: dict[str, Any], tmp_path: Path) -> None:
    ran = run_study(make_recipe(blended), tmp_path / "s", executor=InlineExecutor(tmp_path / "s"))
    assert ran.failed == {}
    assert ran.missing == []
    store = Store(tmp_path / "s")
    molecules = ran.plan.molecules
    target = pd.Series(molecules.target, index=molecules.table["row"].to_numpy())
    index = ran.plan.index
    checked = 0
    for block, lines in index.groupby("block"):
        found = {line.arm: store.result(line.hash) for line in lines.itertuples()}
        tables = {name: result.predictions.set_index(["part", "row"])["predicted"] for name, result in found.items()}
        members = np.column_stack([tables[name].loc["validation"] for name in ("ridge", "xgboost")])
        true = target.loc[tables["ridge"].loc["validation"].index].to_numpy()
        weights = blend_weights(true, members)
        assert list(found["both"].facts["facts"]["blend_weights"].values()) == pytest.approx(weights.tolist()), block
        expected = weights[0] * tables["ridge"].loc["test"] + weights[1] * tables["xgboost"].loc["test"]
        pd.testing.assert_series_equal(tables["both"].loc["test"].sort_index(), expected.sort_index())
        checked += 1
    assert checked == len(ran.plan.recipe.protocol.blocks())
    # Ridge has no seed but XGBoost has, so the blend has one run per block.
    assert index.loc[index["arm"] == "both", "hash"].nunique() == checked
    again = run_study(make_recipe(blended), tmp_path / "s", executor=InlineExecutor(tmp_path / "s"))
    assert again.computed == 0


def test_another_member_is_another_run(blended: dict[str, Any], tmp_path: Path) -> None:
    first = run_study(make_recipe(blended), tmp_path / "s", executor=InlineExecutor(tmp_path / "s"))
    blended["arms"][2]["baseline"] = "random-forest"
    second = run_study(make_recipe(blended), tmp_path / "s", executor=InlineExecutor(tmp_path / "s"))
    blends = [{task.hash for task in ran.plan.runs if task.arm == "both"} for ran in (first, second)]
    assert not blends[0] & blends[1]


def test_members_must_be_there(blended: dict[str, Any]) -> None:
    def with_members(names: list[str], **more: Any) -> dict[str, Any]:
        arms = [{"name": "both", "kind": "blend", "arms": names, **more}, *blended["arms"][1:]]
        return {**blended, "arms": arms}

    with pytest.raises(ConfigError, match="did you mean 'ridge'"):
        check_arms(make_recipe(with_members(["ridg", "xgboost"])))
    with pytest.raises(ConfigError, match="twice"):
        check_arms(make_recipe(with_members(["ridge", "ridge"])))
    with pytest.raises(ConfigError, match="arms"):
        make_recipe(with_members(["ridge"]))
    nested = with_members(["ridge", "xgboost"])
    nested["arms"].append({"name": "more", "kind": "blend", "arms": ["both", "ridge"]})
    with pytest.raises(ConfigError, match="is a blend itself"):
        check_arms(make_recipe(nested))


def test_a_blend_goes_where_an_optional_member_is_missing(blended: dict[str, Any]) -> None:
    missing = {"name": "theirs", "kind": "finetune", "settings": {"model.name": "no/such-model"}, "optional": True}
    blended["arms"][0]["arms"] = ["ridge", "theirs"]
    blended["arms"].append(missing)
    with pytest.raises(ArmUnavailable, match="it needs theirs"):
        check_arms(make_recipe(blended))
    blended["arms"][0]["optional"] = True
    recipe, notes = check_arms(make_recipe(blended))
    assert [arm.name for arm in recipe.arms if not arm.control] == ["ridge", "xgboost"]
    assert any("it needs theirs" in note for note in notes)
