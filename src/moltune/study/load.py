"""Recipes from YAML, checked against the kinds of their arms, with the control arms that those ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moltune.config import explain
from moltune.errors import ConfigError
from moltune.overrides import read_yaml
from moltune.study.arms.base import ArmUnavailable
from moltune.study.arms.registry import find_kind, kind_names
from moltune.study.recipe.recipe import ArmSpec, Recipe


def bundled_recipes() -> dict[str, Path]:
    """Recipes inside the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Load a bundled recipe by name, or a YAML file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    path, bundled = Path(name), bundled_recipes()
    if path.is_file():
        return make_recipe(read_yaml(path), path.resolve().parent)
    if str(name) not in bundled:
        raise ConfigError(f"there is no recipe {str(name)!r}: no such file, and bundled are {', '.join(bundled)}")
    # Files that a bundled recipe names lie where the user works, not in the installed package.
    return make_recipe(read_yaml(bundled[str(name)]), Path.cwd())


def make_recipe(values: Mapping[str, Any], folder: Path | None = None) -> Recipe:
    """Validate a recipe and the settings of its arms, and add the control arms that it needs.

    Args:
        values: as read from YAML.
        folder: where relative paths in it start.

    Raises:
        ConfigError: names each wrong setting.
    """
    try:
        recipe = Recipe.model_validate({**values, "folder": folder})
    except ValidationError as error:
        raise ConfigError(f"the recipe is wrong: {explain(error)}") from None
    recipe = _with_controls(recipe)
    # An optional arm that is left out later may still be named, so all names are looked up first.
    pairs = recipe.pairs()
    for claim in recipe.claims:
        if (claim.arm, claim.against) not in pairs:
            raise ConfigError(
                f"the claim {claim.text!r} is about {claim.arm} and {claim.against}; add [{claim.arm}, "
                f"{claim.against}] to the comparisons"
            )
    for name in (*recipe.shown, recipe.reference_arm.name):
        recipe.arm(name)
    for arm in recipe.arms:
        find_kind(arm.kind).options(arm)
    return recipe


def _with_controls(recipe: Recipe) -> Recipe:
    """Add the control arms that the kinds ask for, unless the recipe has them or lists its own."""
    for name in kind_names():
        for control in find_kind(name).controls(recipe):
            wanted = recipe.controls == "auto" or control.name in recipe.controls
            if wanted and not any(_same_arm(control, arm) for arm in recipe.arms):
                recipe = recipe.model_copy(update={"arms": [*recipe.arms, control]})
    return recipe


def _same_arm(one: ArmSpec, other: ArmSpec) -> bool:
    return one.name == other.name or (one.kind == other.kind and one.options == other.options)


def check_arms(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Let the kind of every arm check it; leave out optional arms that cannot run here.

    Where ``recipe.classes`` are known, that is also whether an arm can learn classes, and claims and published numbers
    about errors of numbers are left out.

    Returns:
        The recipe with the arms that can run, and one sentence per arm that was left out.

    Raises:
        ConfigError: a setting is wrong.
        ArmUnavailable: the reference, or an arm that is not optional, cannot run.
    """
    if recipe.metric not in recipe.task.all_metrics:
        what = "holds two classes" if recipe.classes else "is a number"
        raise ConfigError(
            f"statistics.metric is {recipe.metric}, and the target {what}: choose one of "
            f"{', '.join(recipe.task.metrics)}, or leave it out"
        )
    if recipe.external is not None and not any(find_kind(arm.kind).uses_external for arm in recipe.arms):
        raise ConfigError("the recipe names external data, but none of its arms uses them; remove `external`")
    kept: dict[str, ArmSpec] = {}
    notes = []
    # An arm that uses others can be judged only after them.
    for arm in sorted(recipe.arms, key=lambda arm: bool(find_kind(arm.kind).uses_arms(arm))):
        kind = find_kind(arm.kind)
        try:
            kind.check(arm, recipe)
            missing = [name for name in kind.uses_arms(arm) if name not in kept]
            if missing:
                raise ArmUnavailable(f"it needs {', '.join(missing)}")
            kept[arm.name] = arm
        except ArmUnavailable as error:
            if not arm.optional:
                raise ArmUnavailable(f"arm {arm.name!r} cannot run here: {error}") from None
            notes.append(f"The arm {arm.title!r} was left out: {error}")
    if recipe.reference is not None and recipe.reference not in kept:
        raise ArmUnavailable(f"the reference arm {recipe.reference!r} cannot run here; choose another reference")
    claims = [claim for claim in recipe.claims if claim.metric in recipe.task.all_metrics]
    if len(claims) < len(recipe.claims):
        count = len(recipe.claims) - len(claims)
        notes.append(f"Claims that were left out, since they are about another kind of target: {count}.")
    changes: dict[str, Any] = {
        "arms": [arm for arm in recipe.arms if arm.name in kept],
        "claims": [claim for claim in claims if kept.keys() >= {claim.arm, claim.against}],
        "published": [item for item in recipe.published if item.metrics.keys() & recipe.task.metrics.keys()],
    }
    if isinstance(recipe.comparisons, list):
        changes["comparisons"] = [pair for pair in recipe.comparisons if kept.keys() >= set(pair)]
    return recipe.model_copy(update=changes), notes
