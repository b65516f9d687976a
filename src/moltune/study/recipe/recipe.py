"""A study's recipe as it stands in a YAML file: data, protocol, arms, statistics and claims.

Nothing here knows the kinds of arms; :mod:`moltune.study.load` checks a recipe against them.
"""

from __future__ import annotations

import difflib
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PositiveFloat, model_validator

from moltune.config import DataSettings, ModelSettings, Settings
from moltune.errors import ConfigError
from moltune.evaluation.metrics import TASKS, Task, task_of
from moltune.study.recipe.protocol import Protocol, named_protocol


class ArmSpec(Settings):
    """One arm of a recipe: a name, a kind, and beside them the settings of that kind."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[\w.+()@ -]+$", description="unique in the recipe")
    kind: str
    label: str = Field("", description="shown in reports; unset: the name")
    optional: bool = Field(False, description="leave the arm out, with a note, where it cannot run")
    control: str = Field("", description="why the engine added this control arm")
    seeds: int | None = Field(None, ge=1, description="run with this many seeds of each split only; unset: all")
    grid: dict[str, float] = Field(
        default_factory=dict,
        description="two coordinates in a grid of settings: such an arm runs on the first block only, is drawn as a "
        "point of a map, and is not compared with other arms",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the kind."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name


class Budget(Settings):
    """How long a study may take; afterwards no new run begins, and the report says what is missing."""

    hours: PositiveFloat | None = Field(None, description="wall-clock time of one call of `moltune study run`")


class Statistics(Settings):
    """How arms are compared."""

    metric: (
        Literal["rmse", "mse", "mae", "median_absolute_error"]
        | Literal["roc_auc", "pr_auc", "mcc", "balanced_accuracy", "brier", "log_loss"]
        | None
    ) = Field(None, description="of the test part; unset: rmse, or roc_auc where the target holds two classes")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="error rate of the whole family of comparisons (Holm)")
    power: float = Field(0.8, gt=0.5, lt=1, description="behind the smallest detectable difference")
    margin: PositiveFloat | None = Field(
        None, description="differences below this do not matter; unset: half the reference's noise floor"
    )
    bootstrap: int = Field(10_000, ge=100, description="resamples behind the bootstrap intervals")


class Published(Settings):
    """A number from the literature: shown beside ours, marked as published, never tested against."""

    label: str
    source: str
    metrics: dict[str, float]
    note: str = ""

    @model_validator(mode="after")
    def _known_metrics(self) -> Self:
        known = [name for task in TASKS for name in task.metrics]
        unknown = sorted(self.metrics.keys() - set(known))
        if unknown:
            raise ValueError(f"there is no metric {unknown[0]!r}; choose from {', '.join(known)}")
        return self


class Claim(Settings):
    """What others reported of two arms of this study; the report puts our verdict beside it."""

    text: str = Field(description="the claim in one sentence")
    source: str
    arm: str
    against: str
    expect: Literal["better", "worse", "equivalent"] = Field("better", description="which verdict would confirm it")
    theirs: str = Field("", description="their numbers, as text")
    metric: str = Field("rmse", description="that it is about; a claim about errors of numbers says nothing of classes")


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
    controls: list[str] | Literal["auto"] = Field(
        "auto", description="names of control arms; auto: all that the kinds add"
    )
    statistics: Statistics = Statistics()
    budget: Budget = Budget()
    published: list[Published] = Field(default_factory=list)
    claims: list[Claim] = Field(default_factory=list, description="each is one of the comparisons")
    shown: list[str] = Field(
        default_factory=list, description="arms in the figures of losses and predictions; unset: all, and the best six"
    )
    notes: list[str] = Field(default_factory=list, description="what the reader of the report must know")
    folder: Path | None = Field(None, exclude=True, description="where relative paths start; filled by load_recipe")
    classes: tuple[str, str] | None = Field(
        None, description="negative and positive class of the target; filled when the data are read"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        [(name, count)] = Counter(arm.name for arm in self.arms).most_common(1)
        if count > 1:
            raise ValueError(f"two arms are called {name!r}; names must differ")
        for arm in self.arms:
            if arm.grid and len(arm.grid) != 2:
                raise ValueError(f"arm {arm.name!r}: grid takes two coordinates, such as grid: {{rank: 4, alpha: 8}}")
        if self.data.source is None:
            raise ValueError("data.source is missing: name a file, a bundled set or a hub id")
        if "use" in (self.data.bounds, self.external and self.external.bounds):
            raise ValueError("data.bounds: a study takes exact measurements only; leave it at reject")
        return self

    @property
    def task(self) -> Task:
        """What the target is, once the data are read."""
        return task_of(self.classes)

    @property
    def metric(self) -> str:
        """What arms are compared by."""
        return self.statistics.metric or self.task.primary

    @property
    def sign(self) -> int:
        """1 where a lower value of the metric is better, -1 where a higher one is."""
        return self.task.sign_of(self.metric)

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
            return [(other, one) for one, other in combinations(names, 2)]
        reference = self.reference_arm.name
        return [(name, reference) for name in names if name != reference]


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

    ``model`` is that of every arm that does not name its own.
    """
    changes: dict[str, Any] = {}
    if data is not None:
        changes["data"] = recipe.data.model_copy(update={"source": data, "smiles": None, "target": None})
        # Published numbers belong to the data that they were measured on.
        changes["published"] = []
    if external is not None:
        changes["external"] = (recipe.external or DataSettings()).model_copy(update={"source": external})
    if model is not None:
        changes["model"] = recipe.model.model_copy(update={"name": model, "revision": None})
    counts = {"splits": splits, "seeds": seeds}
    wanted: dict[str, Any] = {name: list(range(count)) for name, count in counts.items() if count is not None}
    if wanted:
        # The name and the note of a protocol describe its own numbers of splits and seeds.
        wanted |= {"name": f"{recipe.protocol.name}, changed", "note": ""}
        changes["protocol"] = recipe.protocol.model_copy(update=wanted)
    return recipe.model_copy(update=changes)
