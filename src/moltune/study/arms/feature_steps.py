"""Features of the study's molecules, each computed once per study folder as a shared step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moltune.features import registry as features
from moltune.features.registry import FEATURES
from moltune.run import library_versions
from moltune.study.arms.base import ArmUnavailable, Step, Workbench


def check_feature(name: str) -> None:
    """See whether a feature exists and can be computed here.

    Raises:
        ConfigError: there is no such feature.
        ArmUnavailable: its package is missing.
    """
    try:
        features.check_feature(name)
    except features.FeatureUnavailable as error:
        raise ArmUnavailable(str(error)) from None


def feature_step(name: str) -> Step:
    """The shared step that computes a feature of all molecules."""
    feature = FEATURES[name]
    specification = {"feature": name, "version": feature.version, "libraries": library_versions(feature.libraries)}
    return Step(f"features {name}", specification, "moltune.study.arms.feature_steps:compute_feature")


def compute_feature(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`feature_step` describes: ``{"values": float32, shape (number of molecules, d)}``."""
    values = FEATURES[specification["feature"]].compute(bench.molecules.smiles, bench.threads)
    return {"values": np.asarray(values, dtype=np.float32)}


def embedding_step(settings: dict[str, Any]) -> Step:
    """The shared step that embeds all molecules with a frozen encoder.

    Args:
        settings: ``model``, ``revision``, ``pooling``, ``truncate`` as :func:`moltune.predictors.probe.frozen_encoder`
            takes them, and ``weights``, the digest of the checkpoint.
    """
    libraries = library_versions(("torch", "transformers"))
    specification = {**settings, "version": 1, "libraries": libraries}
    return Step(f"features {features.EMBEDDING}", specification, "moltune.study.arms.feature_steps:compute_embedding")


def compute_embedding(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`embedding_step` describes: ``{"values": float32, shape (number of molecules, width)}``."""
    import torch

    from moltune.config import ModelSettings
    from moltune.predictors.probe import frozen_encoder

    torch.set_num_threads(bench.threads)
    model = ModelSettings(name=specification["model"], revision=specification["revision"])
    encoder = frozen_encoder(model, pooling=specification["pooling"], truncate=specification["truncate"])
    return {"values": encoder(bench.molecules.smiles)}


def row_lookup(bench: Workbench, name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A featuriser that reads the finished step instead of computing."""
    values = bench.array(f"features {name}")
    position = {smiles: at for at, smiles in enumerate(bench.molecules.smiles)}
    return lambda smiles: np.asarray(values[[position[text] for text in smiles]])


def smiles_digest(smiles: Sequence[str]) -> str:
    """SHA-256 of the SMILES in their order."""
    return hashlib.sha256("\n".join(smiles).encode()).hexdigest()
