"""Arms that are the classical baselines of :mod:`moltune.baselines.baselines`, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from moltune.baselines.baselines import FeatureTable, MeanBaseline, RidgeBaseline, make_baseline
from moltune.config import Settings
from moltune.data.splitting.split import Split
from moltune.features.registry import DESCRIPTORS_AND_COUNTS
from moltune.study.arms.base import (
    ArmKind,
    ArmSpec,
    Outcome,
    Step,
    Workbench,
    parts_of,
    prediction_table,
    register_kind,
)
from moltune.study.arms.feature_steps import feature_step, row_lookup
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import Recipe

_FEATURES = DESCRIPTORS_AND_COUNTS
# The seed changes nothing in these, so one run on a split serves every seed.
_WITHOUT_SEED = {MeanBaseline.name, RidgeBaseline.name}
_WITHOUT_FEATURES = {MeanBaseline.name}


class BaselineOptions(Settings):
    """Which baseline."""

    baseline: str = Field(description="mean, ridge, random-forest, xgboost")


@register_kind
class BaselineKind(ArmKind):
    """A classical model on RDKit descriptors and Morgan counts, or the training mean."""

    name = "baseline"
    description = "a classical model on descriptors and fingerprints"
    Options: ClassVar[type[Settings]] = BaselineOptions
    libraries = ("numpy", "rdkit", "scikit-learn", "xgboost")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError where there is no such baseline."""
        make_baseline(self.options(arm).baseline)

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """The mean and ridge regression do not."""
        return self.options(arm).baseline not in _WITHOUT_SEED

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """Descriptors and counts, unless the baseline looks at no molecule."""
        return [] if self.options(arm).baseline in _WITHOUT_FEATURES else [feature_step(_FEATURES)]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit and predict."""
        parts = parts_of(split, bench.molecules)
        has_features = f"features {_FEATURES}" in bench.steps
        baseline = make_baseline(
            specification["baseline"], FeatureTable(row_lookup(bench, _FEATURES)) if has_features else None
        )
        validation: tuple[list[str], Any] = parts.get("validation", ([], None))
        baseline.fit(*parts["train"], validation[0], validation[1], seed)
        predicted = {name: baseline.predict(smiles) for name, (smiles, _) in parts.items() if name != "train"}
        return Outcome(prediction_table(split, bench.molecules, predicted))
