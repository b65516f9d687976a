"""Physicochemical descriptors that RDKit computes fast: targets of multi-task regression (MTR) and cheap features.

A language model that predicts such numbers while it is pretrained or adapted learns chemistry that SMILES alone do not
spell out (Ahmad et al. 2022, ChemBERTa-2; Sultan et al. 2025, arXiv 2503.03360). Only descriptors with a C++
implementation are here, so that a corpus of several hundred thousand molecules takes minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors as rd

from moltune.errors import DataError
from moltune.features.processes import of_parts

logger = logging.getLogger(__name__)

_SINGLE: dict[str, Any] = {
    "MolWt": rd._CalcMolWt,
    "HeavyAtoms": rd.CalcNumHeavyAtoms,
    "Heteroatoms": rd.CalcNumHeteroatoms,
    "FormalCharge": Chem.GetFormalCharge,
    "TPSA": rd.CalcTPSA,
    "LabuteASA": rd.CalcLabuteASA,
    "FractionCSP3": rd.CalcFractionCSP3,
    "HBondDonors": rd.CalcNumHBD,
    "HBondAcceptors": rd.CalcNumHBA,
    "NHOHCount": rd.CalcNumLipinskiHBD,
    "NOCount": rd.CalcNumLipinskiHBA,
    "RotatableBonds": rd.CalcNumRotatableBonds,
    "AmideBonds": rd.CalcNumAmideBonds,
    "StereoCenters": rd.CalcNumAtomStereoCenters,
    "Rings": rd.CalcNumRings,
    "AromaticRings": rd.CalcNumAromaticRings,
    "AliphaticRings": rd.CalcNumAliphaticRings,
    "SaturatedRings": rd.CalcNumSaturatedRings,
    "Heterocycles": rd.CalcNumHeterocycles,
    "AromaticHeterocycles": rd.CalcNumAromaticHeterocycles,
    "AromaticCarbocycles": rd.CalcNumAromaticCarbocycles,
    "AliphaticHeterocycles": rd.CalcNumAliphaticHeterocycles,
    "SaturatedHeterocycles": rd.CalcNumSaturatedHeterocycles,
    "SpiroAtoms": rd.CalcNumSpiroAtoms,
    "BridgeheadAtoms": rd.CalcNumBridgeheadAtoms,
    "HallKierAlpha": rd.CalcHallKierAlpha,
    "Kappa1": rd.CalcKappa1,
    "Kappa2": rd.CalcKappa2,
    "Kappa3": rd.CalcKappa3,
    "Chi0v": rd.CalcChi0v,
    "Chi1v": rd.CalcChi1v,
    "Chi2v": rd.CalcChi2v,
    "Chi3v": rd.CalcChi3v,
    "Chi0n": rd.CalcChi0n,
    "Chi1n": rd.CalcChi1n,
    "Chi2n": rd.CalcChi2n,
    "Chi3n": rd.CalcChi3n,
}
DESCRIPTORS: tuple[str, ...] = (
    *(f"MQN{i}" for i in range(1, 43)),
    *(f"SlogP_VSA{i}" for i in range(1, 13)),
    *(f"SMR_VSA{i}" for i in range(1, 11)),
    *(f"PEOE_VSA{i}" for i in range(1, 15)),
    "CrippenLogP",
    "CrippenMR",
    *_SINGLE,
)
"""Names of the columns of :func:`physchem`, in order."""

_CHUNK = 2000
_MAX_NON_FINITE = 0.01


def physchem(smiles: Sequence[str], *, n_jobs: int = 1) -> np.ndarray:
    """Descriptors of molecules, float32, shape (n, len(DESCRIPTORS)).

    Molecular quantum numbers (Nguyen et al. 2009), the surface-area sums of Labute (2000) by logP, refractivity and
    charge (Å2), Wildman-Crippen logP and molar refractivity (1999), TPSA (Å2), the shape and connectivity indices of
    Hall and Kier, molecular weight (g/mol), and counts. The row of a molecule that RDKit cannot read is NaN; a value
    that is not finite stays as it is. The result does not depend on ``n_jobs`` (processes).
    """
    texts = list(smiles)
    parts = [(texts[start : start + _CHUNK],) for start in range(0, len(texts), _CHUNK)]
    blocks = of_parts(_compute, parts, n_jobs)
    return np.concatenate([np.empty((0, len(DESCRIPTORS)), dtype=np.float32), *blocks])


def _compute(chunk: list[str]) -> np.ndarray:
    result = np.full((len(chunk), len(DESCRIPTORS)), np.nan, dtype=np.float32)
    with rdBase.BlockLogs(), np.errstate(over="ignore"):
        for row, smiles in enumerate(chunk):
            mol = Chem.MolFromSmiles(smiles)
            if mol is not None and mol.GetNumAtoms():
                result[row] = _descriptors(mol)
    return result


def _descriptors(mol: Chem.Mol) -> list[float]:
    return [
        *rd.MQNs_(mol),
        *rd.SlogP_VSA_(mol),
        *rd.SMR_VSA_(mol),
        *rd.PEOE_VSA_(mol),
        *rd.CalcCrippenDescriptors(mol),
        *(function(mol) for function in _SINGLE.values()),
    ]


@dataclass(frozen=True)
class DescriptorScaler:
    """Standardises descriptors: ``(x - mean) / sd``, clipped to ±``clip`` standard deviations.

    Clipping keeps a rare extreme (a cage with forty ring bonds, say) from ruling the loss. A value that is not finite
    becomes 0, which is the mean.

    Attributes:
        names: the k columns that are kept.
        mean: of the sample, float64, shape (k,).
        sd: population standard deviation of the sample, float64, shape (k,).
        dropped: column → why it was left out ("constant", or "not finite" in over 1 % of the sample).
        clip: in standard deviations.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    dropped: dict[str, str] = field(default_factory=dict)
    clip: float = 5.0

    @classmethod
    def fit(cls, values: np.ndarray, names: Sequence[str] = DESCRIPTORS) -> DescriptorScaler:
        """Learn mean and standard deviation from a sample of shape (n, d).

        Raises:
            DataError: the shape does not fit the names, or no column is usable.
        """
        _check_shape(values, names)
        sample = np.asarray(values, dtype=np.float64)
        sample = np.where(np.isfinite(sample), sample, np.nan)
        sample = sample[~np.isnan(sample).all(axis=1)]
        if not len(sample):
            raise DataError("no molecule of the sample has descriptors; check its SMILES")
        kept: dict[str, tuple[float, float]] = {}
        dropped: dict[str, str] = {}
        for name, column in zip(names, sample.T, strict=True):
            finite = column[~np.isnan(column)]
            if len(finite) < (1 - _MAX_NON_FINITE) * len(column):
                dropped[name] = "not finite"
                continue
            centre, spread = float(finite.mean()), float(finite.std())
            # Rounding alone gives a constant column a standard deviation of about 1e-16 of its size.
            if spread <= 1e-9 * max(1.0, abs(centre)):
                dropped[name] = "constant"
            else:
                kept[name] = centre, spread
        if not kept:
            raise DataError("every descriptor is constant on this sample; fit the scaler on more molecules")
        if dropped:
            logger.info("descriptors left out: %s", ", ".join(f"{name} ({why})" for name, why in dropped.items()))
        mean, sd = np.array(list(kept.values())).T
        return cls(tuple(kept), mean, sd, dropped)

    def transform(self, values: np.ndarray, names: Sequence[str] = DESCRIPTORS) -> np.ndarray:
        """Standardise an array of shape (n, d) whose columns are ``names``; float32, shape (n, len(self.names)).

        Raises:
            DataError: a column that the scaler knows is missing, or the shape does not fit the names.
        """
        _check_shape(values, names)
        place = {name: number for number, name in enumerate(names)}
        missing = [name for name in self.names if name not in place]
        if missing:
            raise DataError(
                f"the scaler needs the descriptors {', '.join(missing)}, which this version does not compute"
            )
        chosen = values[:, [place[name] for name in self.names]].astype(np.float64)
        scaled = np.clip((chosen - self.mean) / self.sd, -self.clip, self.clip)
        return np.where(np.isfinite(chosen), scaled, 0.0).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; :meth:`from_dict` gives the same scaler back, to the last bit."""
        return asdict(self) | {"names": list(self.names), "mean": self.mean.tolist(), "sd": self.sd.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DescriptorScaler:
        """Inverse of :meth:`to_dict`.

        Raises:
            DataError: a field is missing, or the lengths disagree.
        """
        try:
            mean, sd = (np.array(values[name], dtype=np.float64) for name in ("mean", "sd"))
            scaler = cls(tuple(values["names"]), mean, sd, dict(values["dropped"]), float(values["clip"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the stored descriptor scaler is damaged: {error!r}") from None
        if not scaler.names or scaler.mean.shape != (len(scaler.names),) or scaler.sd.shape != scaler.mean.shape:
            raise DataError("the stored descriptor scaler is damaged: names, mean and sd differ in length")
        return scaler


def _check_shape(values: np.ndarray, names: Sequence[str]) -> None:
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DataError(f"the scaler needs {len(names)} columns, not an array of shape {values.shape}")
