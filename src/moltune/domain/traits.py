"""What a molecule has or has not, and how much of it: elements, charges, fragments, size, peptide chain."""

from __future__ import annotations

import re
from functools import cache

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors, rdqueries

FRAGMENTS, RADICAL = "more than one fragment", "unpaired electrons"
_ELEMENT, _CHARGE, _ION = "element ", "net charge ", "charged "
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_CHARGED = Chem.MolFromSmarts("[!+0]")
_UNPAIRED = rdqueries.NumRadicalElectronsGreaterQueryAtom(0)
_RESIDUE = Chem.MolFromSmarts("[#7][CX4]C(=O)[NX3]")
_METALS = [
    *(3, 4, 11, 12, 13, 19, 20),
    *range(21, 32),
    *range(37, 51),
    *range(55, 84),
    *range(87, 116),
]


def traits(mol: Chem.Mol) -> set[str]:
    """What the molecule contains: each element, its net charge, its charged atoms, several fragments, radicals.

    A charged atom counts where no neighbour has the opposite charge: those of a nitro group are a way of drawing.
    """
    found = {_ELEMENT + symbol for symbol in _SYMBOL.findall(rdMolDescriptors.CalcMolFormula(mol))}
    found.add(f"{_CHARGE}{Chem.GetFormalCharge(mol):+d}")
    if mol.HasSubstructMatch(_CHARGED):
        found.update(
            f"{_ION}{atom.GetSymbol()}{atom.GetFormalCharge():+d}"
            for atom in mol.GetAtoms()
            if atom.GetFormalCharge()
            and not any(atom.GetFormalCharge() * other.GetFormalCharge() < 0 for other in atom.GetNeighbors())
        )
    if len(Chem.GetMolFrags(mol)) > 1:
        found.add(FRAGMENTS)
    if len(mol.GetAtomsMatchingQuery(_UNPAIRED)):
        found.add(RADICAL)
    return found


def telling(trait: str) -> tuple[int, str]:
    """Key to sort traits by: what tells a reader most comes first."""
    order = (FRAGMENTS, _ELEMENT, _CHARGE, RADICAL, _ION)
    return next(rank for rank, kind in enumerate(order) if trait.startswith(kind)), trait


@cache
def describe(trait: str) -> str:
    """A trait in words, as what the molecule is or has."""
    if trait.startswith(_ELEMENT):
        symbol = trait.removeprefix(_ELEMENT)
        table = Chem.GetPeriodicTable()
        number = table.GetAtomicNumber(symbol)
        return f"contains {table.GetElementName(number).lower()}" + (", a metal" if number in _METALS else "")
    if trait.startswith(_CHARGE):
        return f"has the net charge {trait.removeprefix(_CHARGE).replace('-', '−')}"
    if trait.startswith(_ION):
        symbol = trait.removeprefix(_ION)
        return f"has the charged atom {symbol.replace('-', '−')}"
    return "is a salt or mixture" if trait == FRAGMENTS else f"has {trait}"


def amino_acids(mol: Chem.Mol) -> int:
    """How many α-amino acids are in the molecule as amides: a peptide of n has n − 1, or n with an amide at its end."""
    # Some large rings match in many ways; the count then stops.
    return len(mol.GetSubstructMatches(_RESIDUE, maxMatches=1000))
