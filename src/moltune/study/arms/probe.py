"""Arms that fit a probe: a head on frozen features, which are computed once per study."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from moltune.config import ModelSettings, ProbeSettings
from moltune.data.splitting.split import Split, parts_of
from moltune.errors import ConfigError
from moltune.evaluation.classification import calibration_error, log_loss
from moltune.features.registry import EMBEDDING, FeatureTable, find_feature
from moltune.study.arms import steps
from moltune.study.arms.base import ArmKind, Outcome, Step, Workbench, predict_parts
from moltune.study.arms.registry import find_kind
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe

if TYPE_CHECKING:
    from moltune.predictors.probe import Probe


class ProbeOptions(ProbeSettings):
    """A probe's settings, and the language model behind the embedding."""

    model: ModelSettings | None = Field(None, description="unset: the recipe's model")


class ProbeKind(ArmKind):
    """Ridge, SVR or Gaussian process on any features that a probe can read."""

    name = "probe"
    description = "a head fitted on frozen features"
    Options = ProbeOptions
    libraries = ("numpy", "scipy", "rdkit", "scikit-learn")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError for unknown features, ArmUnavailable where a package or the model is missing."""
        options = self.options(arm)
        for feature in options.features:
            steps.check_feature(feature)
        if EMBEDDING in options.features:
            model = options.model or recipe.model
            if model.weights == "random":
                raise ConfigError(f"arm {arm.name!r}: a probe embeds with the weights of a checkpoint, not random ones")
            steps.check_model(model)
        elif options.model is not None:
            raise ConfigError(f"arm {arm.name!r}: a model without the feature `embedding` has no effect; leave it out")

    def controls(self, recipe: Recipe) -> list[ArmSpec]:
        """Where a language model is tuned, the same model, frozen, under a kernel head: it takes seconds."""
        has_probe = any(arm.kind == self.name for arm in recipe.arms)
        tunes = any(find_kind(arm.kind).tunes_model for arm in recipe.arms)
        if has_probe or recipe.model.weights == "random" or not tunes:
            return []
        values = {
            "name": "probe",
            "kind": self.name,
            "label": "Probe: Gaussian process on embeddings, descriptors and ionisation",
            "optional": True,
            "control": "what the frozen model gives without any tuning; an arm that does not beat it was not worth its "
            "time",
        }
        return [ArmSpec.model_validate(values)]

    def uses_seed(self, arm: ArmSpec, recipe: Recipe) -> bool:
        """A Gaussian process draws the molecules that choose its kernel; the others have one solution."""
        return bool(self.options(arm).head == "gp")

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """Head and features; with embeddings, the weights behind them."""
        options = self.options(arm)
        values: dict[str, Any] = {"probe": options.model_dump(mode="json", exclude={"model"})}
        if EMBEDDING in options.features:
            values["embedding"] = steps.embedding_settings(options.model or recipe.model)
        if options.head == "gp" and any(find_feature(name).apart for name in options.features):
            values["version"] = 2  # in version 1 every feature was one block
        return values

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """One step per feature."""
        options = self.options(arm)
        model = options.model or recipe.model
        return [
            steps.embedding_step(steps.embedding_settings(model))
            if feature == EMBEDDING
            else steps.feature_step(feature)
            for feature in options.features
        ]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fit on the training part and predict; the validation part makes probabilities of classes."""
        return fit_probe(ProbeSettings.model_validate(specification["probe"]), split, seed, bench)


def fit_probe(settings: ProbeSettings, split: Split, seed: int, bench: Workbench) -> Outcome:
    """Fit a probe on the training part, with classes calibrate it on the validation part, and predict."""
    from moltune.predictors.probe import Probe

    features = FeatureTable(steps.shared_features(bench), remember=False)
    parts = parts_of(bench.molecules, split)
    started = time.monotonic()
    probe = Probe(settings, features, class_names=bench.molecules.classes)
    probe.fit(parts["train"], parts.get("validation"), seed=seed)
    arrays = {**probe.scaler.arrays, **probe.head.arrays}
    facts: dict[str, Any] = {
        "trainable_parameters": probe.head.fitted,
        "training_seconds": round(time.monotonic() - started, 3),
        "weights_bytes": sum(array.nbytes for array in arrays.values()),
    }
    if probe.classes:
        facts["calibration"] = _judged(probe, *parts["test"])
    return Outcome(predict_parts(split, bench.molecules, probe.predict), facts)


def _judged(probe: Probe, smiles: Sequence[str], true: np.ndarray) -> dict[str, Any]:
    """Log loss and calibration error of the head's own answer, cut at 0 and 1, and of the probabilities made of it."""
    before, after = np.clip(probe.answers(smiles), 0.0, 1.0), probe.predict(smiles)
    return {
        name: {"log_loss": float(log_loss(true, values)), "calibration_error": calibration_error(true, values)}
        for name, values in (("before", before), ("after", after))
    }
