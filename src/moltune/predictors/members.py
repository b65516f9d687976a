"""Members of a blend beside the tuned model: baselines by name, and probes written as ``svr:embedding+rdkit``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from moltune.baselines.baselines import Baseline, FeatureTable, Featurizer, make_baseline
from moltune.baselines.storage import load_baseline, save_baseline, storable
from moltune.config import FinetuneConfig, ModelSettings, ProbeSettings, make_settings
from moltune.errors import ConfigError, RunFolderError
from moltune.features.registry import EMBEDDING, ComputedFeatures, check_feature
from moltune.predictors.probe import Probe, base_of, fit_probe, frozen_encoder, load_probe
from moltune.reports.summary import is_probe_name
from moltune.tuning.fit import PROBE


def probe_settings(name: str) -> ProbeSettings:
    """Head and features of a member such as ``svr:embedding+rdkit``.

    Raises:
        ConfigError: there is no such head or feature.
    """
    head, _, features = name.partition(":")
    try:
        return make_settings(ProbeSettings, {"head": head, "features": features.split("+")})
    except ConfigError as error:
        raise ConfigError(f"{name!r} is no probe, such as svr:embedding+rdkit: {error}") from None


class ProbeMember(Baseline):
    """A probe as a baseline: a head on fixed features, those of the frozen encoder among them.

    Args:
        name: such as ``svr:embedding+rdkit``.
        model: whose embeddings those are.
        lookups: features by name that are computed elsewhere; the others are computed here.
    """

    description = "a head fitted on frozen features"

    def __init__(
        self, name: str, model: ModelSettings | None = None, lookups: Mapping[str, Featurizer] | None = None
    ) -> None:
        self.name, self.settings = name, probe_settings(name)
        self.model, self.lookups = model or ModelSettings(), lookups or {}
        self.probe_: Probe | None = None

    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit on the training part; the validation part is not used."""
        encoder = None
        if EMBEDDING in self.settings.features:
            truncate = self.model.too_long == "truncate"
            encoder = frozen_encoder(self.model, pooling=self.model.head, truncate=truncate)
        computed = ComputedFeatures(encoder, threads=os.cpu_count() or 1)

        def source(feature: str, smiles: Sequence[str]) -> np.ndarray:
            return self.lookups[feature](smiles) if feature in self.lookups else computed(feature, smiles)

        base = base_of(self.model, encoder)
        self.probe_ = fit_probe((train_smiles, train_y), self.settings, source, seed=seed, base=base, encoder=encoder)
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules, shape (n,)."""
        assert self.probe_ is not None
        return self.probe_.predict(smiles)


def check_baselines(names: Sequence[str]) -> None:
    """See whether a model can be compared with these here.

    Raises:
        ConfigError: there is no such baseline or probe, or one needs a package.
    """
    for name in names:
        if is_probe_name(name):
            _check_features(name)
        else:
            make_baseline(name)


def baselines_of(config: FinetuneConfig) -> list[str]:
    """The baselines that a run is compared with: those of its settings that are not the run's model over again.

    Random weights hold nothing that a frozen probe could show, and a probe need not be compared with itself.
    """
    own = config.method.probe if config.method.name == PROBE else None
    kept = []
    for name in config.evaluation.baselines:
        probe = probe_settings(name) if is_probe_name(name) else None
        untrained = probe is not None and EMBEDDING in probe.features and config.model.weights == "random"
        if not untrained and (probe is None or probe != own):
            kept.append(name)
    return kept


def check_members(names: Sequence[str]) -> None:
    """See whether a blend of these members can be made here and stored.

    Raises:
        ConfigError: a name is unknown, given twice, needs a package, or cannot be stored without pickle.
    """
    allowed = storable()
    for name in names:
        if is_probe_name(name):
            _check_features(name)
        elif name not in allowed:
            raise ConfigError(
                f"prediction.blend: {name!r} cannot be part of a blend, which must be stored without pickle; "
                f"choose from {', '.join(allowed)}, or a probe such as svr:embedding+rdkit"
            )
    if len(set(names)) < len(names):
        raise ConfigError("prediction.blend names a baseline twice")


def _check_features(name: str) -> None:
    for feature in probe_settings(name).features:
        check_feature(feature)


def make_member(
    name: str,
    table: FeatureTable | None = None,
    *,
    model: ModelSettings,
    lookups: Mapping[str, Featurizer] | None = None,
) -> Baseline:
    """Make a member by name, not fitted.

    Args:
        name: of a baseline or probe.
        table: features that baselines share.
        model: the language model that embeds for probes.
        lookups: features for probes that are computed elsewhere.
    """
    return ProbeMember(name, model, lookups) if is_probe_name(name) else make_baseline(name, table)


def save_member(member: Baseline, folder: Path) -> None:
    """Write a fitted member; no file holds anything that runs."""
    if isinstance(member, ProbeMember):
        assert member.probe_ is not None
        member.probe_.save(folder)
    else:
        save_baseline(member, folder)


def load_member(name: str, folder: Path, table: FeatureTable, base: str | Path | None = None) -> Baseline:
    """Read what :func:`save_member` wrote.

    Args:
        name: of the member.
        folder: it was saved to.
        table: features that baselines share.
        base: where the checkpoint is now that a probe embeds with; unset: where it was.

    Raises:
        RunFolderError: a file is missing or damaged, or there is no such member.
        CheckpointError: a probe's checkpoint is missing or another one.
    """
    if not is_probe_name(name):
        return load_baseline(name, folder, table)
    try:
        member = ProbeMember(name)
    except ConfigError as error:
        raise RunFolderError(f"{folder}: {error}") from None
    member.probe_ = load_probe(folder, base)
    return member


def member_folder(folder: Path, position: int, name: str) -> Path:
    """Where a member lies: baselines under their name, probes under their place, as not every disk takes a colon."""
    return folder / (f"probe-{position}" if is_probe_name(name) else name)


def read_members(folder: Path, file: str) -> tuple[dict[str, float], list[str]]:
    """Weights and names of a stored blend.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        values = json.loads((folder / file).read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in values["weights"].items()}
        return weights, [str(name) for name in values["baselines"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{folder} holds no readable blend: {file} is missing or damaged") from None
