"""Arms that average the predictions of other arms of the study; nothing is fitted but the weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import pandas as pd
from pydantic import Field

from moltune.config import Settings
from moltune.data.splitting.split import Split
from moltune.errors import ConfigError, DataError
from moltune.study.arms.base import ArmKind, Outcome, Workbench
from moltune.study.arms.registry import find_kind
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe


class BlendOptions(Settings):
    """Which arms are averaged."""

    arms: list[str] = Field(min_length=2, description="names of arms of the recipe")


class BlendKind(ArmKind):
    """The average of other arms' predictions, block by block, with weights from the validation part.

    Weights are those of :func:`moltune.predictors.blend.blend_weights`, as in ``moltune finetune``.
    """

    name = "blend"
    description = "an average of other arms, weights from the validation part"
    Options = BlendOptions
    libraries = ("numpy", "scipy")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError where a member is missing, named twice, or a blend itself."""
        names = self.options(arm).arms
        if len(set(names)) < len(names):
            raise ConfigError(f"arm {arm.name!r} names a member twice")
        for name in names:
            if recipe.arm(name).kind == self.name:
                raise ConfigError(f"arm {arm.name!r}: {name!r} is a blend itself; name its members")

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """Where one of the members does."""
        members = [recipe.arm(name) for name in self.options(arm).arms]
        return any(find_kind(member.kind).uses_seed(member, recipe) for member in members)

    def uses_arms(self, arm: ArmSpec) -> list[str]:
        """The members."""
        return list(self.options(arm).arms)

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """Which members; the runs themselves are named among the needs."""
        return {"arms": self.options(arm).arms}

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Choose the weights on the validation part, and average both parts.

        Raises:
            DataError: the members have no validation predictions in common.
        """
        from moltune.predictors.blend import blend_weights

        names = list(specification["arms"])
        tables = [bench.predictions(name).rename(columns={"predicted": name}) for name in names]
        table = reduce(lambda one, other: one.merge(other, on=["row", "part"]), tables)
        chosen = table[table["part"] == "validation"]
        if not len(chosen):
            raise DataError(f"{' and '.join(names)} have no validation predictions in common to choose weights on")
        target = pd.Series(bench.molecules.target, index=bench.molecules.table["row"].to_numpy())
        weights = blend_weights(target.loc[chosen["row"]].to_numpy(), chosen[names].to_numpy(dtype=float))
        predicted = table[["row", "part"]].assign(predicted=table[names].to_numpy(dtype=float) @ weights)
        return Outcome(predicted, {"blend_weights": dict(zip(names, weights.tolist(), strict=True))})
