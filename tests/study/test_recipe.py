from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from moltune.errors import ConfigError
from moltune.study.arms import registry
from moltune.study.arms.base import ArmKind, ArmUnavailable
from moltune.study.arms.registry import KINDS, find_kind, kind_names, register_kind
from moltune.study.load import bundled_recipes, check_arms, load_recipe, make_recipe
from moltune.study.recipe.recipe import ArmSpec, Recipe, change_recipe


def test_bundled_recipes_are_valid() -> None:
    assert {"quick", "baselines"} <= bundled_recipes().keys()
    for name, path in bundled_recipes().items():
        recipe = load_recipe(name)
        assert recipe.name == path.stem == name
        if any(find_kind(arm.kind).uses_external for arm in recipe.arms):
            with pytest.raises(ConfigError, match="--external FILE"):
                check_arms(recipe)
            recipe = change_recipe(recipe, external="esol")
        check_arms(recipe)


def test_quick_says_that_it_is_underpowered() -> None:
    assert "only large differences" in load_recipe("quick").protocol.note


def test_the_mean_is_added_and_said(values: dict[str, Any]) -> None:
    recipe = make_recipe(values)
    added = [arm for arm in recipe.arms if arm.control]
    assert [arm.name for arm in added] == ["mean"]
    assert "learned nothing" in added[0].control


def test_whoever_tunes_a_model_sees_it_frozen(values: dict[str, Any]) -> None:
    tuned = {"name": "full", "kind": "finetune"}
    frozen = {"name": "frozen", "kind": "probe", "features": ["embedding"]}
    added = {**values, "arms": [*values["arms"], tuned]}
    assert "not worth its time" in make_recipe(added).arm("probe").control
    assert "probe" not in [arm.name for arm in make_recipe(values).arms]
    assert "probe" not in [arm.name for arm in make_recipe({**added, "controls": ["mean"]}).arms]
    for change in ({"model": {"weights": "random"}}, {"arms": [tuned, frozen]}):
        assert "probe" not in [arm.name for arm in make_recipe({**added, **change}).arms]
    for name in ("adaptation", "selection", "founding-study", "quick"):
        assert load_recipe(name).arm("probe").optional


def test_a_control_that_is_there_is_not_added_again(values: dict[str, Any]) -> None:
    values["arms"].append({"name": "guess", "kind": "baseline", "baseline": "mean"})
    assert [arm.name for arm in make_recipe(values).arms] == ["ridge", "forest", "guess"]


def test_a_kind_brings_its_controls(values: dict[str, Any]) -> None:
    class Opposite(ArmKind):
        name = "opposite"

        def controls(self, recipe: Recipe) -> list[ArmSpec]:
            if not any(arm.options.get("baseline") == "random-forest" for arm in recipe.arms):
                return []
            spec = {"name": "boosted", "kind": "baseline", "baseline": "xgboost", "control": "a forest needs boosting"}
            return [ArmSpec.model_validate(spec)]

        def run(self, *args: Any) -> Any:
            raise NotImplementedError

    register_kind(Opposite)
    try:
        assert make_recipe(values).arm("boosted").control
        assert [arm.name for arm in make_recipe({**values, "controls": ["mean"]}).arms] == ["ridge", "forest", "mean"]
        values["arms"] = values["arms"][:1]
        assert "boosted" not in [arm.name for arm in make_recipe(values).arms]
    finally:
        KINDS.pop(Opposite.name)


def test_another_package_brings_kinds_through_entry_points(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    group = "moltune.arm_kinds"
    points = [
        metadata.EntryPoint("kriging", "moltune.study.arms.svr:SvrKind", group),
        metadata.EntryPoint("broken", "moltune.study.arms.svr:NoSuchKind", group),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: points if wanted == {"group": group} else [])
    registry._installed.cache_clear()
    request.addfinalizer(registry._installed.cache_clear)
    assert find_kind("kriging").description == "support vector regression on fixed features"
    assert kind_names()[-2:] == ["kriging", "broken"]
    with pytest.raises(ConfigError, match=r"'broken' cannot be loaded from moltune.study.arms.svr:NoSuchKind"):
        find_kind("broken")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": [{"name": "a", "kind": "bayes"}]}, "no kind of arm 'bayes'"),
        ({"arms": [{"name": "a", "kind": "baseline", "baseline": "ridge", "depth": 3}]}, "arm 'a'.*depth"),
        ({"arms": [{"name": "a", "kind": "baseline"}]}, "arm 'a'.*baseline: Field required"),
        ({"arms": [{"name": "a", "kind": "svr"}, {"name": "a", "kind": "svr"}]}, "two arms are called 'a'"),
        ({"arms": []}, "arms"),
        ({"protocol": "Q"}, "no protocol 'Q'; choose P, P5, ash5x5"),
        ({"protocol": {"splits": [0, 0]}}, "names a number twice"),
        ({"protocol": {"folds": 5}}, "cross-validation"),
        ({"protocol": {"split": {"seed": 3}}}, "leave it out"),
        ({"reference": "ridg"}, "no arm 'ridg'.*did you mean 'ridge'"),
        ({"comparisons": [["ridge", "tree"]]}, "no arm 'tree'"),
        ({"data": {}}, "data.source is missing"),
        ({"colour": "red"}, "colour: there is no such setting"),
        ({"published": [{"label": "x", "source": "y", "metrics": {"auc": 1}}]}, "no metric 'auc'"),
        ({"statistics": {"alpha": 2}}, "statistics.alpha"),
    ],
)
def test_wrong_recipes_are_explained(values: dict[str, Any], change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_recipe({**values, **change})


def test_a_recipe_is_read_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from moltune.study.load import load_recipe; load_recipe('founding-study')\n"
        "print({'torch', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_missing_recipe_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError, match=r"baselines, .*quick"):
        load_recipe("nothing")


def test_a_recipe_survives_yaml_and_json(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.folder == tmp_path
    assert Recipe.model_validate(recipe.model_dump(mode="json")).model_dump() == recipe.model_dump()


def test_named_protocols_are_what_the_bars_say(values: dict[str, Any]) -> None:
    counts = {name: len(make_recipe({**values, "protocol": name}).protocol.blocks()) for name in ("P", "P5", "ash5x5")}
    assert counts == {"P": 15, "P5": 5, "ash5x5": 25}
    protocol = make_recipe({**values, "protocol": "P"}).protocol
    assert protocol.split.method == "stratified"
    assert protocol.split.ratios == (0.7, 0.1, 0.2)
    assert {(block.split, block.seed) for block in protocol.blocks()} == {(s, r) for s in range(5) for r in range(3)}


def test_optional_arms_that_cannot_run_are_left_out_and_said(values: dict[str, Any]) -> None:
    arm = {"name": "elsewhere", "kind": "external", "files": "split{split}.csv", "seeded": False}
    values["comparisons"] = [["forest", "ridge"], ["elsewhere", "ridge"]]
    values["arms"].append({**arm, "optional": True})
    recipe, notes = check_arms(make_recipe(values))
    assert "elsewhere" not in [item.name for item in recipe.arms]
    assert recipe.pairs() == [("forest", "ridge")]
    assert len(notes) == 1
    assert "left out" in notes[0]
    values["arms"][-1] = arm
    with pytest.raises(ArmUnavailable, match="'elsewhere' cannot run here"):
        check_arms(make_recipe(values))


def test_external_data_that_no_arm_uses_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="none of its arms uses them"):
        check_arms(make_recipe({**values, "external": {"source": "esol"}}))


def test_all_pairs(values: dict[str, Any]) -> None:
    recipe = make_recipe({**values, "comparisons": "all"})
    assert recipe.pairs() == [("forest", "ridge"), ("mean", "ridge"), ("mean", "forest")]


def test_more_or_fewer_blocks_of_the_same_splits() -> None:
    recipe = load_recipe("checkpoint")
    fewer = change_recipe(recipe, splits=3, seeds=2)
    assert [block.name for block in fewer.protocol.blocks()] == [
        f"split{i}-seed{j}" for i in range(3) for j in range(2)
    ]
    assert fewer.protocol.split == recipe.protocol.split
    assert fewer.protocol.name == "P, changed"
    assert change_recipe(recipe).protocol == recipe.protocol


def test_other_data_forget_published_numbers() -> None:
    recipe = change_recipe(load_recipe("baselines"), data="esol", model="some/model")
    assert (recipe.data.source, recipe.model.name, recipe.published) == ("esol", "some/model", [])


@pytest.mark.parametrize("group", ["data", "split", "seed", "output", "evaluation"])
def test_a_finetune_arm_may_not_change_what_is_the_studys(values: dict[str, Any], group: str) -> None:
    values["arms"].append({"name": "full", "kind": "finetune", "settings": {group: {"x": 1}}})
    with pytest.raises(ConfigError, match=f"{group} is the same for all arms"):
        check_arms(make_recipe(values))


def test_a_finetune_arm_with_a_wrong_setting_is_named(values: dict[str, Any]) -> None:
    values["arms"].append({"name": "full", "kind": "finetune", "settings": {"training.epoch": 1}})
    with pytest.raises(ConfigError, match=r"arm 'full': training.epoch: there is no such setting"):
        check_arms(make_recipe(values))
