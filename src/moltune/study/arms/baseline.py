"""Arms that are the classical baselines of :mod:`moltune.baselines.classical`, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from moltune.baselines.classical import MeanBaseline, RidgeBaseline, make_baseline
from moltune.config import Settings
from moltune.data.splitting.split import Split, parts_of
from moltune.features.registry import FeatureTable
from moltune.study.arms.base import ArmKind, Outcome, Step, Workbench, predict_parts
from moltune.study.arms.steps import feature_step, shared_features
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe

_MEAN = MeanBaseline.name


class BaselineOptions(Settings):
    """Which baseline."""

    baseline: str = Field(description="mean, ridge, random-forest, xgboost")


class BaselineKind(ArmKind):
    """A classical model on RDKit descriptors, Morgan counts and ionisation, or the training mean."""

    name = "baseline"
    description = "a classical model on descriptors and fingerprints"
    Options = BaselineOptions
    libraries = ("numpy", "rdkit", "scikit-learn", "xgboost")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError where there is no such baseline."""
        make_baseline(self.options(arm).baseline)

    def controls(self, recipe: Recipe) -> list[ArmSpec]:
        """Every study has the training mean: an arm that does not beat it has learned nothing."""
        reason = (
            "what predicting the mean of the training part would give; an arm that does not beat it learned nothing"
        )
        options: dict[str, Any] = {"baseline": _MEAN}
        return [ArmSpec(name="mean", label="Training mean", kind=self.name, control=reason, **options)]

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """The mean and ridge regression do not."""
        return self.options(arm).baseline not in (_MEAN, RidgeBaseline.name)

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """What the baseline reads."""
        columns = make_baseline(self.options(arm).baseline).columns
        return [feature_step(name) for name in columns.split("+") if name]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit and predict."""
        parts = parts_of(bench.molecules, split)
        baseline = make_baseline(specification["baseline"], FeatureTable(shared_features(bench), remember=False))
        baseline.classes = bench.molecules.classes is not None
        baseline.fit(parts["train"], parts.get("validation"), seed)
        return Outcome(predict_parts(split, bench.molecules, baseline.predict))
