"""Ionisation as a block of 17 numbers for each molecule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rdkit.Chem import rdMolDescriptors

from moltune.config import PH
from moltune.features.ionisation.molecules import Prepared
from moltune.features.ionisation.sites import (
    Site,
    charged_shares,
    fixed_charges,
    prepared_sites,
    similar_together,
)
from moltune.features.processes import of_parts

IONISATION_NAMES = (
    "acid_pka_1",
    "acid_pka_2",
    "base_pka_1",
    "base_pka_2",
    "acid_correction",
    "base_correction",
    "correction",
    "positive_charge",
    "negative_charge",
    "net_charge",
    "zwitterion_share",
    "neutral_share",
    "logd",
    "acid_tanh",
    "base_tanh",
    "acids",
    "bases",
)
"""The columns of :func:`ionisation_block`."""

ACID_RANGE, BASE_RANGE = (0.0, 16.0), (-2.0, 14.0)
"""What pKa values are clipped to; a missing acid counts as 16, a missing base as -2: never charged in water."""

ION_PENALTY = 3.5
"""By how many log units the ion partitions less well than the neutral form; what keeps ``logd`` from falling further.

Three to four for most drugs; see Avdeef 2012, Absorption and Drug Development, 2nd edition, chapter 4.
"""


def ionisation_block(smiles: Sequence[str], *, ph: float = PH, n_jobs: int = 1) -> np.ndarray:
    """What protons do to a molecule at a pH, as 17 numbers.

    The columns, by :data:`IONISATION_NAMES`:

    - ``acid_pka_1``, ``acid_pka_2``, ``base_pka_1``, ``base_pka_2``: pKa of the two strongest acids and of the two
      strongest bases, acids clipped to 0 to 16 and bases to -2 to 14; a missing acid counts as 16, a missing base
      as -2.
    - ``acid_correction``, ``base_correction``, ``correction``: by how many log units the partition coefficient falls
      because only the neutral form goes into octanol: log10(1 + 10^(pH - pKa)) for the strongest acid,
      log10(1 + 10^(pKa - pH)) for the strongest base, and log10(1 + both powers).
    - ``positive_charge``, ``negative_charge``, ``net_charge``: charge expected at the pH, the sites taken as
      independent, with charges that no proton can remove (quaternary ammonium); the first two are not negative.
    - ``zwitterion_share``, ``neutral_share``: share of molecules with charges of both signs, and with no charge.
    - ``logd``: Crippen's logP of the neutral form less ``correction``, which here levels off at 3.5
      (:data:`ION_PENALTY`), because an ion goes into octanol too, with its counter-ion.
    - ``acid_tanh``, ``base_tanh``: tanh(pH - pKa) of the strongest acid, tanh(pKa - pH) of the strongest base: 1 where
      it is charged, -1 where it is neutral.
    - ``acids``, ``bases``: number of sites.

    Args:
        smiles: n SMILES.
        ph: pH of the water.
        n_jobs: processes; each loads the networks anew, which pays from some thousand molecules on.

    Returns:
        float32, shape (n, 17); a row of NaN where RDKit cannot read the SMILES or its fragments.

    Raises:
        ValueError: ``ph`` is not finite, or ``n_jobs`` is below 1.

    References:
        Pan et al. 2021, J. Chem. Inf. Model. 61, 3159, doi:10.1021/acs.jcim.1c00075 (pKa);
        Wildman and Crippen 1999, J. Chem. Inf. Comput. Sci. 39, 868, doi:10.1021/ci990307l (logP).
    """
    if not math.isfinite(ph):
        raise ValueError(f"ph must be a finite number, not {ph}")
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be at least 1, not {n_jobs}")
    batches = similar_together(smiles)
    parts = [([smiles[row] for row in rows], ph) for rows in batches]
    block = np.empty((len(smiles), len(IONISATION_NAMES)), np.float32)
    for rows, values in zip(batches, of_parts(_rows, parts, n_jobs), strict=True):
        block[rows] = values
    return block


def _rows(smiles: list[str], ph: float) -> np.ndarray:
    rows = np.full((len(smiles), len(IONISATION_NAMES)), np.nan, np.float32)
    for row, (molecule, sites) in zip(rows, prepared_sites(smiles), strict=True):
        if molecule is not None and sites is not None:
            row[:] = _row(molecule, sites, ph)
    return rows


def _row(molecule: Prepared, sites: list[Site], ph: float) -> tuple[float, ...]:
    acids = sorted(site.pka for site in sites if site.kind == "acid")
    bases = sorted((site.pka for site in sites if site.kind == "base"), reverse=True)
    acid_1, acid_2 = (_clip(pka, *ACID_RANGE) for pka in [*acids, *ACID_RANGE[1:] * 2][:2])
    base_1, base_2 = (_clip(pka, *BASE_RANGE) for pka in [*bases, *BASE_RANGE[:1] * 2][:2])
    from_acid, from_base = 10 ** (ph - acid_1), 10 ** (base_1 - ph)
    correction = math.log10(1 + from_acid + from_base)
    seen_in_octanol = correction - math.log10(1 + (from_acid + from_base) / 10**ION_PENALTY)
    fixed_positive, fixed_negative = fixed_charges(molecule)
    at_bases, at_acids = charged_shares(sites, "base", ph), charged_shares(sites, "acid", ph)
    no_positive = float(np.prod(1 - at_bases)) * (not fixed_positive)
    no_negative = float(np.prod(1 - at_acids)) * (not fixed_negative)
    positive, negative = fixed_positive + float(at_bases.sum()), fixed_negative + float(at_acids.sum())
    return (
        acid_1,
        acid_2,
        base_1,
        base_2,
        math.log10(1 + from_acid),
        math.log10(1 + from_base),
        correction,
        positive,
        negative,
        positive - negative,
        (1 - no_positive) * (1 - no_negative),
        no_positive * no_negative,
        rdMolDescriptors.CalcCrippenDescriptors(molecule.mol)[0] - seen_in_octanol,
        math.tanh(ph - acid_1),
        math.tanh(base_1 - ph),
        len(acids),
        len(bases),
    )


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
