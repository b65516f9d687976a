"""A study's recipe: data, protocol, arms and statistics in one YAML file."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, ValidationError, model_validator

from moltune.config import DataSettings, ModelSettings, Settings, explain
from moltune.errors import ConfigError
from moltune.evaluation.metrics import METRICS
from moltune.overrides import read_yaml
from moltune.study.arms.base import CONTROL_RULES, ArmSpec, ArmUnavailable, control_rule, find_kind
from moltune.study.recipe.protocol import Protocol, named_protocol

logger = logging.getLogger(__name__)

LOWER_IS_BETTER = ("rmse", "mse", "mae", "median_absolute_error")


class Budget(Settings):
    """How much a study may take; no new run begins once it is spent, and the report says what is missing."""

    hours: PositiveFloat | None = Field(None, description="wall-clock time of one call of `moltune study run`")


class Statistics(Settings):
    """How arms are compared."""

    metric: Literal["rmse", "mse", "mae", "median_absolute_error"] = "rmse"
    alpha: float = Field(0.05, gt=0, lt=0.5, description="error rate of the whole family of comparisons (Holm)")
    power: float = Field(0.8, gt=0.5, lt=1, description="behind the smallest detectable difference")
    margin: PositiveFloat | None = Field(
        None, description="differences below this do not matter; unset: half the reference's noise floor"
    )
    bootstrap: int = Field(10_000, ge=100, description="resamples behind the bootstrap intervals")


class Published(Settings):
    """A number from elsewhere: shown beside ours, marked as theirs, never tested against."""

    label: str
    source: str
    metrics: dict[str, float]
    note: str = ""

    @model_validator(mode="after")
    def _known_metrics(self) -> Self:
        unknown = sorted(self.metrics.keys() - METRICS.keys())
        if unknown:
            raise ValueError(f"there is no metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
        return self


class Claim(Settings):
    """What somebody else said of two arms of this study; the report puts our verdict beside it."""

    text: str = Field(description="the claim in one sentence")
    source: str
    arm: str
    against: str
    expect: Literal["better", "worse", "equivalent"] = Field("better", description="which verdict would confirm it")
    theirs: str = Field("", description="their numbers, as text")


class Recipe(Settings):
    """A study, complete: the same recipe on the same data gives the same runs."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    data: DataSettings
    external: DataSettings | None = Field(None, description="further labelled molecules that arms may draw on")
    model: ModelSettings = Field(ModelSettings(), description="language model of every arm that does not name its own")
    protocol: Annotated[Protocol, BeforeValidator(named_protocol)]
    arms: list[ArmSpec] = Field(min_length=1)
    reference: str | None = Field(None, description="arm that the others are compared with; unset: the first arm")
    comparisons: Literal["reference", "all"] | list[tuple[str, str]] = "reference"
    controls: list[str] | Literal["auto"] = Field("auto", description="auto: what the registered rules ask for")
    statistics: Statistics = Statistics()
    budget: Budget = Budget()
    published: list[Published] = Field(default_factory=list)
    claims: list[Claim] = Field(default_factory=list, description="each is one of the comparisons")
    shown: list[str] = Field(
        default_factory=list, description="arms in the figures of losses and predictions; unset: all, and the best six"
    )
    notes: list[str] = Field(default_factory=list, description="what the reader of the report must know")
    folder: Path | None = Field(None, exclude=True, description="where relative paths start; filled by load_recipe")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms are called {twice[0]!r}; names must differ")
        for arm in self.arms:
            if arm.grid and len(arm.grid) != 2:
                raise ValueError(f"arm {arm.name!r}: grid takes two coordinates, such as grid: {{rank: 4, alpha: 8}}")
        if self.data.source is None:
            raise ValueError("data.source is missing: name a file, a bundled set or a hub id")
        return self

    @property
    def reference_arm(self) -> ArmSpec:
        """The arm that the others are compared with."""
        own = [arm for arm in self.arms if not arm.control]
        return self.arm(self.reference) if self.reference is not None else (own or self.arms)[0]

    def arm(self, name: str) -> ArmSpec:
        """Find an arm.

        Raises:
            ConfigError: there is none of this name.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        close = difflib.get_close_matches(name, [arm.name for arm in self.arms], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"the recipe has no arm {name!r}; it has {', '.join(a.name for a in self.arms)}{hint}")

    def pairs(self) -> list[tuple[str, str]]:
        """Which arms are compared: (arm, the arm that it is compared with)."""
        if isinstance(self.comparisons, list):
            return [(self.arm(one).name, self.arm(other).name) for one, other in self.comparisons]
        names = [arm.name for arm in self.arms if not arm.grid]
        if self.comparisons == "all":
            return [(names[j], names[i]) for i in range(len(names)) for j in range(i + 1, len(names))]
        reference = self.reference_arm.name
        return [(name, reference) for name in names if name != reference]


def make_recipe(values: Mapping[str, Any], folder: Path | None = None) -> Recipe:
    """Validate a recipe's values, its arms included, and add the control arms that it needs.

    Args:
        values: as read from YAML.
        folder: where relative paths in it start.

    Raises:
        ConfigError: names each wrong setting.
    """
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"the recipe is wrong: {explain(error)}") from None
    recipe = recipe.model_copy(update={"folder": folder})
    recipe = with_controls(recipe)
    # An optional arm that is left out later may still be named, so all names are looked up first.
    pairs = recipe.pairs()
    for claim in recipe.claims:
        if (claim.arm, claim.against) not in pairs:
            raise ConfigError(f"the claim {claim.text!r} is about {claim.arm} and {claim.against}: compare them, too")
    for name in recipe.shown:
        recipe.arm(name)
    _ = recipe.reference_arm
    for arm in recipe.arms:
        find_kind(arm.kind).options(arm)
    return recipe


def with_controls(recipe: Recipe) -> Recipe:
    """Add the control arms that the registered rules ask for, unless the recipe has them or lists its own."""
    import moltune.study.arms  # noqa: F401 - the kinds bring their rules

    arms = list(recipe.arms)
    for rule in CONTROL_RULES:
        for control in rule(recipe.model_copy(update={"arms": arms})):
            wanted = recipe.controls == "auto" or control.name in recipe.controls
            if wanted and not any(_same_arm(control, arm) for arm in arms):
                arms.append(control)
    return recipe.model_copy(update={"arms": arms})


def _same_arm(one: ArmSpec, other: ArmSpec) -> bool:
    return one.name == other.name or (one.kind == other.kind and one.options == other.options)


@control_rule
def training_mean(recipe: Recipe) -> list[ArmSpec]:
    """Every study has the training mean: an arm that does not beat it has learned nothing."""
    reason = "what predicting the mean of the training part would give; an arm that does not beat it learned nothing"
    values = {"name": "mean", "label": "Training mean", "kind": "baseline", "baseline": "mean", "control": reason}
    return [ArmSpec.model_validate(values)]


def check_arms(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Let every arm's kind look for what is wrong; leave out optional arms that cannot run here.

    Returns:
        The recipe with the arms that can run, and one sentence per arm that was left out.

    Raises:
        ConfigError: a setting is wrong, or nothing is left.
        ArmUnavailable: an arm that is not optional cannot run.
    """
    if recipe.external is not None and not any(find_kind(arm.kind).uses_external for arm in recipe.arms):
        raise ConfigError("the recipe names external data, but no arm of it draws on them; leave external out")
    kept, notes = [], []
    for arm in recipe.arms:
        try:
            find_kind(arm.kind).check(arm, recipe)
            kept.append(arm)
        except ArmUnavailable as error:
            if not arm.optional:
                raise ArmUnavailable(f"arm {arm.name!r} cannot run here: {error}") from None
            notes.append(f"The arm {arm.title!r} was left out: {error}")
    for arm in list(kept):
        missing = set(find_kind(arm.kind).uses_arms(arm)) - {one.name for one in kept}
        if missing and not arm.optional:
            raise ArmUnavailable(f"arm {arm.name!r} cannot run here: it needs {', '.join(sorted(missing))}")
        if missing:
            kept.remove(arm)
            notes.append(f"The arm {arm.title!r} was left out: it needs {', '.join(sorted(missing))}")
    names = {arm.name for arm in kept}
    comparisons: Any = recipe.comparisons
    if isinstance(comparisons, list):
        comparisons = [pair for pair in comparisons if names.issuperset(pair)]
    claims = [claim for claim in recipe.claims if names.issuperset((claim.arm, claim.against))]
    if recipe.reference is not None and recipe.reference not in names:
        raise ArmUnavailable(f"the reference arm {recipe.reference!r} cannot run here; choose another reference")
    return recipe.model_copy(update={"arms": kept, "comparisons": comparisons, "claims": claims}), notes


def bundled_recipes() -> dict[str, Path]:
    """Recipes inside the package, by name."""
    root = Path(str(resources.files("moltune.study"))) / "recipes"
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def load_recipe(name: str | Path) -> Recipe:
    """Load a bundled recipe by name, or a YAML file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    bundled = bundled_recipes()
    path = Path(name)
    if not path.is_file() and str(name) in bundled:
        # Files that a bundled recipe names lie where the user works, not in the installed package.
        return make_recipe(read_yaml(bundled[str(name)]), Path.cwd())
    if not path.is_file():
        raise ConfigError(f"there is no recipe {str(name)!r}: no such file, and bundled are {', '.join(bundled)}")
    return make_recipe(read_yaml(path), path.resolve().parent)


def change_recipe(
    recipe: Recipe,
    *,
    data: str | None = None,
    model: str | None = None,
    external: str | None = None,
    splits: int | None = None,
    seeds: int | None = None,
) -> Recipe:
    """The same study on other data, with another language model, other external molecules, or more or fewer blocks.

    The language model is that of every arm that does not name its own.

    Raises:
        ConfigError: the recipe does not fit the change.
    """
    changes: dict[str, Any] = {}
    if data is not None:
        columns = {"smiles": None, "target": None}
        changes["data"] = recipe.data.model_copy(update={"source": data, **columns})
        # Numbers from elsewhere belong to the data that they were measured on.
        changes["published"] = []
    if external is not None:
        settings = recipe.external or DataSettings()
        changes["external"] = settings.model_copy(update={"source": external})
    if model is not None:
        changes["model"] = recipe.model.model_copy(update={"name": model, "revision": None})
    if splits is not None or seeds is not None:
        counts = {"splits": splits, "seeds": seeds}
        wanted = {name: list(range(count)) for name, count in counts.items() if count is not None}
        # A protocol's name and note speak of its own numbers.
        named = {"name": f"{recipe.protocol.name}, changed", "note": ""}
        changes["protocol"] = recipe.protocol.model_copy(update={**wanted, **named})
    return recipe.model_copy(update=changes)
