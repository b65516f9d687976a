"""Arms that fit a probe: a head on frozen features, which are computed once per study."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from moltune.config import ModelSettings, ProbeSettings, Settings
from moltune.data.splitting.split import Split
from moltune.errors import CheckpointError, ConfigError
from moltune.features.registry import EMBEDDING
from moltune.predictors.probe import fit_probe
from moltune.study.arms.base import (
    ArmKind,
    ArmSpec,
    ArmUnavailable,
    Outcome,
    Step,
    Workbench,
    control_rule,
    find_kind,
    parts_of,
    prediction_table,
    register_kind,
)
from moltune.study.arms.feature_steps import check_feature, embedding_step, feature_step, row_lookup
from moltune.study.arms.finetune import weights_digest
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import Recipe


class ProbeOptions(ProbeSettings):
    """A probe's settings, and the language model behind the embedding."""

    model: ModelSettings | None = Field(None, description="unset: the recipe's model")


@register_kind
class ProbeKind(ArmKind):
    """Ridge, SVR or Gaussian process on any of embedding, rdkit, morgan and minimol."""

    name = "probe"
    description = "a head fitted on frozen features"
    Options: ClassVar[type[Settings]] = ProbeOptions
    libraries = ("numpy", "scipy", "rdkit", "scikit-learn")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError for unknown features, ArmUnavailable where a package or the model is missing."""
        from moltune.models.checkpoints import load_config

        options = self.options(arm)
        for feature in options.features:
            check_feature(feature)
        if EMBEDDING in options.features:
            model = options.model or recipe.model
            if model.weights == "random":
                raise ConfigError(f"arm {arm.name!r}: a probe embeds with the weights of a checkpoint, not random ones")
            try:
                load_config(model.name, model.revision)
            except CheckpointError as error:
                raise ArmUnavailable(str(error)) from None
        elif options.model is not None:
            raise ConfigError(f"arm {arm.name!r}: a model without the feature `embedding` has no effect; leave it out")

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """A Gaussian process draws the molecules that choose its kernel; the others have one solution."""
        return bool(self.options(arm).head == "gp")

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """Head and features; with embeddings, the weights behind them."""
        options = self.options(arm)
        values: dict[str, Any] = {"probe": options.model_dump(mode="json", exclude={"model"})}
        if EMBEDDING in options.features:
            values["embedding"] = self._embedding(options, recipe)
        return values

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """One step per feature."""
        options = self.options(arm)
        return [
            embedding_step(self._embedding(options, recipe)) if feature == EMBEDDING else feature_step(feature)
            for feature in options.features
        ]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit on the training part and predict; the validation part is not used."""
        settings = ProbeSettings.model_validate(specification["probe"])
        lookups: dict[str, Callable[[Sequence[str]], np.ndarray]] = {
            feature: row_lookup(bench, feature) for feature in settings.features
        }

        def source(name: str, smiles: Sequence[str]) -> np.ndarray:
            return lookups[name](smiles)

        parts = parts_of(split, bench.molecules)
        started = time.monotonic()
        probe = fit_probe(parts["train"], settings, source, seed=seed)
        arrays = {**probe.scaler.arrays(), **probe.head.arrays()}
        facts = {
            "trainable_parameters": probe.head.fitted,
            "training_seconds": round(time.monotonic() - started, 3),
            "weights_bytes": sum(array.nbytes for array in arrays.values()),
        }
        predicted = {name: probe.predict(smiles) for name, (smiles, _) in parts.items() if name != "train"}
        return Outcome(prediction_table(split, bench.molecules, predicted), facts)

    def _embedding(self, options: ProbeOptions, recipe: Recipe) -> dict[str, Any]:
        model = options.model or recipe.model
        return {
            "model": model.name,
            "revision": model.revision,
            "pooling": model.head,
            "truncate": model.too_long == "truncate",
            "weights": weights_digest(model.name),
        }


@control_rule
def frozen_probe(recipe: Recipe) -> list[ArmSpec]:
    """Whoever tunes a language model sees what the same model gives in seconds, frozen, under a kernel head."""
    kinds = [find_kind(arm.kind) for arm in recipe.arms]
    has_probe = any(isinstance(kind, ProbeKind) for kind in kinds)
    if has_probe or recipe.model.weights == "random" or not any(kind.tunes_model for kind in kinds):
        return []
    reason = "what the frozen model gives without any tuning; an arm that does not beat it was not worth its time"
    values = {
        "name": "probe",
        "kind": ProbeKind.name,
        "label": "Probe: SVR on embeddings + descriptors",
        "head": "svr",
        "features": [EMBEDDING, "rdkit"],
        "optional": True,
        "control": reason,
    }
    return [ArmSpec.model_validate(values)]
