"""Support vector regression on fixed features, such as MiniMol fingerprints: a strong, cheap baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from moltune.config import ProbeSettings, Settings
from moltune.data.splitting.split import Split, parts_of
from moltune.errors import ConfigError
from moltune.features.registry import FeatureTable
from moltune.study.arms.base import ArmKind, Outcome, Step, Workbench, predict_parts
from moltune.study.arms.probe import fit_probe
from moltune.study.arms.steps import check_feature, feature_step, shared_features
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe


class SvrOptions(Settings):
    """Features and the three numbers of the regression."""

    features: list[str] = Field(default_factory=lambda: ["minimol"], min_length=1)
    C: PositiveFloat = 5.0
    epsilon: NonNegativeFloat = 0.1
    gamma: PositiveFloat | Literal["scale", "auto"] = "scale"


class SvrKind(ArmKind):
    """SVR with an RBF kernel (Drucker et al., NIPS 1996) on standardised features; with classes the probe of that head.

    Missing values become the training median; values further than five standard deviations out are clipped.
    """

    name = "svr"
    description = "support vector regression on fixed features"
    Options = SvrOptions
    libraries = ("numpy", "rdkit", "scikit-learn")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError for unknown features, ArmUnavailable where their package is missing."""
        options = self.options(arm)
        for feature in options.features:
            check_feature(feature)
        if recipe.classes is not None and options.gamma == "auto":
            raise ConfigError(f"arm {arm.name!r}: with two classes gamma is a number or scale")

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """The solution is unique."""
        return False

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """One step per feature."""
        return [feature_step(feature) for feature in self.options(arm).features]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit on the training part and predict; the validation part is not used, unless to make probabilities."""
        from moltune.predictors.probe_heads import Scaler, SvrHead

        if bench.molecules.classes is not None:
            return fit_probe(ProbeSettings.model_validate({"head": self.name, **specification}), split, seed, bench)

        table = FeatureTable(shared_features(bench), remember=False)

        def features(smiles: list[str]) -> np.ndarray:
            return table.get("+".join(specification["features"]), smiles).astype(np.float64)

        smiles, target = parts_of(bench.molecules, split)["train"]
        scaler = Scaler(np.float64).fit(features(smiles))
        model = SvrHead(specification["C"], specification["epsilon"], specification["gamma"])
        model.fit(scaler.transform(features(smiles)), target)
        return Outcome(
            predict_parts(split, bench.molecules, lambda smiles: model.predict(scaler.transform(features(smiles))))
        )
