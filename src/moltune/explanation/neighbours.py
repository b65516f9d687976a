"""The nearest measured molecules, and what a molecule has that they lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.Chem import rdFMCS

from moltune.data.chemistry import parse_all
from moltune.domain.nearest import nearest_by_tanimoto, packed_fingerprints
from moltune.errors import DataError

SECONDS = 1
"""Time for the search of each common substructure; what was found until then counts."""
_MATCHES = 64

# Substituents as SMILES with the attachment as *; canonical form is made below.
_NAMES = {
    "*C": "methyl",
    "*CC": "ethyl",
    "*CCC": "propyl",
    "*C(C)C": "isopropyl",
    "*C(C)(C)C": "tert-butyl",
    "*C1CC1": "cyclopropyl",
    "*F": "fluoro",
    "*Cl": "chloro",
    "*Br": "bromo",
    "*I": "iodo",
    "*O": "hydroxy",
    "*OC": "methoxy",
    "*OCC": "ethoxy",
    "*OC(F)(F)F": "trifluoromethoxy",
    "*C(F)(F)F": "trifluoromethyl",
    "*C(F)F": "difluoromethyl",
    "*N": "amino",
    "*NC": "methylamino",
    "*N(C)C": "dimethylamino",
    "*NC(C)=O": "acetamido",
    "*C#N": "cyano",
    "*[N+](=O)[O-]": "nitro",
    "*C(=O)O": "carboxy",
    "*C(=O)OC": "methoxycarbonyl",
    "*C(=O)OCC": "ethoxycarbonyl",
    "*C(N)=O": "carbamoyl",
    "*C(C)=O": "acetyl",
    "*OC(C)=O": "acetoxy",
    "*C=O": "formyl",
    "*=O": "oxo",
    "*S": "sulfanyl",
    "*SC": "methylsulfanyl",
    "*S(C)(=O)=O": "methylsulfonyl",
    "*S(N)(=O)=O": "sulfamoyl",
    "*NS(C)(=O)=O": "methanesulfonamido",
    "*CO": "hydroxymethyl",
    "*c1ccccc1": "phenyl",
    "*Cc1ccccc1": "benzyl",
    "*c1ccncc1": "4-pyridyl",
    "*c1cccnc1": "3-pyridyl",
    "*c1ccccn1": "2-pyridyl",
    "*N1CCOCC1": "morpholino",
    "*N1CCCCC1": "piperidino",
    "*N1CCCC1": "pyrrolidino",
    "*C*": "methylene linker",
    "*CC*": "ethylene linker",
    "*O*": "ether oxygen",
    "*N*": "amine nitrogen (NH)",
    "*S*": "thioether sulfur",
    "*C(*)=O": "carbonyl",
    "*NC(*)=O": "amide",
    "*OC(*)=O": "ester",
    "*S(*)(=O)=O": "sulfonyl",
    "*NS(*)(=O)=O": "sulfonamide",
}


@dataclass(frozen=True)
class Neighbour:
    """A measured molecule beside the one that is explained.

    Attributes:
        smiles: of the measured molecule.
        value: its measurement, in the property's unit.
        similarity: Tanimoto similarity of Morgan fingerprints.
        has: fragments of the explained molecule outside the common substructure, as SMILES with attachments as ``*``.
        lacks: fragments of the measured molecule outside it.
        core: the common substructure as SMARTS; empty where there is none.
        shared: how many atoms of the explained molecule are in the common substructure.
        own_atoms: the atoms of the explained molecule in ``has``.
        other_atoms: the atoms of the measured molecule in ``lacks``.
        in_time: whether the search of the common substructure came to its end.
    """

    smiles: str
    value: float
    similarity: float
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    core: str
    shared: int
    own_atoms: tuple[int, ...]
    other_atoms: tuple[int, ...]
    in_time: bool

    @property
    def difference(self) -> str:
        """What differs, in words that go on from "this molecule"; no list where little is shared."""
        if not self.has and not self.lacks:
            return "has the same atoms and bonds"
        if 2 * self.shared < min(len(self.own_atoms), len(self.other_atoms)):
            return f"shares only {self.shared} connected atoms with it"
        if Counter(self.has) == Counter(self.lacks):
            return f"has the same groups elsewhere: {_listed(self.has)}"
        parts = [f"has {_listed(self.has)}"] if self.has else []
        parts += [f"lacks {_listed(self.lacks)}"] if self.lacks else []
        return "; ".join(parts)


def nearest_measured(
    mol: Chem.Mol,
    known: pd.DataFrame,
    count: int = 3,
    seconds: int = SECONDS,
    fingerprints: np.ndarray | None = None,
) -> list[Neighbour]:
    """The most similar measured molecules, the most similar first.

    Args:
        mol: the molecule.
        known: columns ``smiles`` and ``value``; rows without a value are left out.
        count: how many, or as many as there are.
        seconds: for each common substructure.
        fingerprints: packed, of the rows, where they are known; otherwise every row is parsed.

    Raises:
        DataError: a column is missing, or RDKit cannot read a SMILES (the message names its position).
    """
    missing = {"smiles", "value"} - set(known.columns)
    if missing:
        raise DataError(f"the table of measured molecules has no column {min(missing)!r}")
    values = known["value"].to_numpy(dtype=np.float64)
    rows = np.flatnonzero(np.isfinite(values))
    if not len(rows) or count < 1:
        return []
    listed = known["smiles"].to_numpy(dtype=object)[rows].tolist()
    packed = packed_fingerprints(parse_all(listed)) if fingerprints is None else fingerprints[rows]
    (found,), (similarities,) = nearest_by_tanimoto(packed_fingerprints([mol]), packed, min(count, len(rows)))
    near = [listed[at] for at in found.tolist()]
    return [
        compare(mol, other, smiles, value, similarity, seconds)
        for other, smiles, value, similarity in zip(
            parse_all(near), near, values[rows[found]].tolist(), similarities.tolist(), strict=True
        )
    ]


def compare(
    mol: Chem.Mol, other: Chem.Mol, smiles: str, value: float, similarity: float, seconds: int = SECONDS
) -> Neighbour:
    """A measured molecule with what differs: what is outside the maximum common substructure.

    Atoms match by element, bonds by order, and rings are whole or not at all. Stereochemistry is not compared.
    """
    found = rdFMCS.FindMCS(
        [mol, other],
        timeout=seconds,
        ringMatchesRingOnly=True,
        completeRingsOnly=True,
        matchValences=False,
    )
    text = str(found.smartsString) if found.numAtoms else ""
    core = Chem.MolFromSmarts(text) if text else None
    own, its = _outside(mol, core), _outside(other, core)
    has, lacks = _pieces(mol, own), _pieces(other, its)
    shared = mol.GetNumAtoms() - len(own)
    return Neighbour(smiles, value, similarity, has, lacks, text, shared, own, its, in_time=not found.canceled)


def name_of(fragment: str) -> str:
    """A fragment as chemists call it, with its SMILES where there is a name for it."""
    name = _canonical_names().get(fragment)
    return f"{name} ({fragment})" if name else fragment


def _listed(fragments: Sequence[str]) -> str:
    counts = Counter(fragments)
    return ", ".join(f"{count} × {name_of(one)}" if count > 1 else name_of(one) for one, count in counts.items())


def _outside(mol: Chem.Mol, core: Chem.Mol | None) -> tuple[int, ...]:
    """Atoms outside a substructure, where it matches in several ways those that hang together best."""
    everything = set(range(mol.GetNumAtoms()))
    matches = [] if core is None else mol.GetSubstructMatches(core, maxMatches=_MATCHES)
    choices = [_with_whole_rings(mol, everything.difference(match)) for match in matches] or [tuple(sorted(everything))]
    return min(choices, key=lambda atoms: (len(atoms), len(_pieces(mol, atoms)), _pieces(mol, atoms)))


def _with_whole_rings(mol: Chem.Mol, atoms: set[int]) -> tuple[int, ...]:
    """Atoms with the rings that they belong to, but for what a ring without any of them shares."""
    rings = [set(ring) for ring in mol.GetRingInfo().AtomRings()]
    inside = set().union(*(ring for ring in rings if not ring & atoms))
    return tuple(sorted(atoms.union(*(ring - inside for ring in rings if ring & atoms))))


def _pieces(mol: Chem.Mol, atoms: Sequence[int]) -> tuple[str, ...]:
    """Connected groups of atoms as SMILES, each bond to the rest of the molecule as ``*``."""
    chosen = set(atoms)
    if not chosen:
        return ()
    if len(chosen) == mol.GetNumAtoms():
        return tuple(sorted(Chem.MolToSmiles(mol).split(".")))
    cut = [
        bond.GetIdx()
        for bond in mol.GetBonds()
        if (bond.GetBeginAtomIdx() in chosen) != (bond.GetEndAtomIdx() in chosen)
    ]
    # The dummies get no isotopes, so that equal groups have equal SMILES.
    parted = Chem.FragmentOnBonds(mol, cut, dummyLabels=[(0, 0)] * len(cut)) if cut else mol
    groups = [group for group in Chem.GetMolFrags(parted) if chosen & set(group)]
    return tuple(sorted(Chem.MolFragmentToSmiles(parted, group, isomericSmiles=False) for group in groups))


@cache
def _canonical_names() -> dict[str, str]:
    return {Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False): name for smiles, name in _NAMES.items()}
