"""A molecule made ready for the pKa network: largest fragment, neutral form, ionisable groups, and its graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from rdkit import Chem

Kind = Literal["acid", "base"]

_HYBRIDISATION = {
    Chem.HybridizationType.SP: 0,
    Chem.HybridizationType.SP2: 1,
    Chem.HybridizationType.SP3: 2,
    Chem.HybridizationType.SP3D: 3,
}
_OTHER_HYBRIDISATION = 4
_CLASSES = {name: position for position, name in enumerate([*"CNOSPcnosp", "#1"])}
_CLASS_OF = {(6, False): 0, (7, False): 1, (8, False): 2, (16, False): 3, (15, False): 4}
_CLASS_OF |= {(number, True): position + 5 for (number, _), position in _CLASS_OF.items()}
_HYDROGEN_CLASS = _CLASS_OF[1, False] = _CLASSES["#1"]
_OTHER_CLASS = len(_CLASSES)
_ORDERS = {"-": 2, ":": 3, "=": 4, "#": 6}
_PLAIN_ATOM = re.compile(r"\[?(#1|[CNOSPcnosp])(?![a-z\d])")
_CAN_LOSE = frozenset({7, 8, 15, 16, 34})
_CAN_GAIN = frozenset({6, 7, 8, 16, 34})


class AtomType(NamedTuple):
    """What the network knows about an atom beside its distance from the site.

    Attributes:
        element: atomic number.
        degree: bonded atoms, hydrogens counted.
        hybridisation: 0 to 4 for sp, sp2, sp3, sp3d, anything else.
        aromatic: whether it is aromatic.
        rings: bit ``s`` is set if the atom is in a ring of ``s`` atoms.
        charge: formal charge.
    """

    element: int
    degree: int
    hybridisation: int
    aromatic: bool
    rings: int
    charge: int


HYDROGEN = AtomType(1, 1, _OTHER_HYBRIDISATION, False, 0, 0)


@dataclass(slots=True)
class Prepared:
    """The neutral parent of a molecule, with what the network needs.

    Attributes:
        mol: neutral form of the largest fragment, hydrogens implicit.
        source: for each atom of ``mol`` its index in the molecule as given.
        types: one :class:`AtomType` for each atom.
        hydrogens: number of implicit hydrogens of each atom, shape (atoms,).
        bonds: the two atoms of each bond, once in either order, shape (2, 2 * bonds).
        acids: acidic atoms, each with the graph node of its proton: the atom's index in ``mol`` if the proton is
            an explicit atom there, otherwise None.
        bases: basic atoms.
    """

    mol: Chem.Mol
    source: tuple[int, ...]
    types: list[AtomType]
    hydrogens: np.ndarray
    bonds: np.ndarray
    acids: list[tuple[int, int | None]]
    bases: list[int]


class _Group(NamedTuple):
    pattern: Chem.Mol
    positions: tuple[int, ...]
    kind: Kind


class _Groups(NamedTuple):
    """The table of ionisable groups; group i needs trait ``traits[j]`` at least ``needed[i, j]`` times to match."""

    groups: list[_Group]
    traits: np.ndarray
    needed: np.ndarray


@cache
def _groups() -> _Groups:
    text = (resources.files(__package__) / "weights" / "groups.tsv").read_text(encoding="utf-8")
    groups, counts = [], []
    for line in text.splitlines()[1:]:
        smarts, positions, kind = line.split("\t")
        pattern: Any = Chem.MolFromSmarts(smarts)
        groups.append(_Group(pattern, tuple(map(int, positions.split(","))), "acid" if kind == "acid" else "base"))
        classes, bonds = [], []
        for atom in pattern.GetAtoms():
            query = atom.GetSmarts()
            plain = None if re.search(r"[,!$]", query) else _PLAIN_ATOM.match(query)
            classes.append(_CLASSES[plain[1]] if plain else _OTHER_CLASS)
        for bond in pattern.GetBonds():
            bonds.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), _ORDERS.get(bond.GetSmarts(), 0)))
        counts.append(_count_traits(np.array(classes), np.array(bonds).T))
    needed = np.array(counts)
    traits = np.flatnonzero(needed.any(axis=0))
    return _Groups(groups, traits, needed[:, traits])


def _count_traits(classes: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """How many atoms of each class there are, and how many bonds of each order between each two classes.

    Atoms of another class, or that a pattern leaves open, are not counted, nor are their bonds.

    Args:
        classes: class of each atom.
        bonds: two atoms and twice the order of each bond, shape (3, bonds).
    """
    atoms = np.bincount(classes, minlength=_OTHER_CLASS + 1)[:_OTHER_CLASS]
    if not bonds.size:
        return np.concatenate([atoms, np.zeros(_OTHER_CLASS**2 * 8, np.int64)])
    begin, end, order = classes[bonds[0]], classes[bonds[1]], bonds[2]
    known = (begin < _OTHER_CLASS) & (end < _OTHER_CLASS) & (order > 0) & (order < 8)
    pairs = np.minimum(begin, end) * _OTHER_CLASS + np.maximum(begin, end)
    return np.concatenate([atoms, np.bincount((pairs * 8 + order)[known], minlength=_OTHER_CLASS**2 * 8)])


def neutral_parent(mol: Chem.Mol) -> tuple[Chem.Mol, tuple[int, ...]]:
    """Largest fragment of ``mol`` in its neutral form, and for each of its atoms the index in ``mol``.

    Fragments with carbon go before those without, then the number of heavy atoms counts. A charged atom loses or gains
    protons until it is neutral, unless it has none to lose (quaternary ammonium) or the neighbour has the opposite
    charge (nitro, N-oxide, azide, ylide). Each charge is judged by itself, so that a betaine becomes the acid with its
    ammonium; a zwitterion becomes neutral.
    """
    source = tuple(range(mol.GetNumAtoms()))
    pieces = Chem.GetMolFrags(mol)
    if len(pieces) > 1:
        mapping: list[tuple[int, ...]] = []
        fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=True, fragsMolAtomMapping=mapping)
        best = max(range(len(fragments)), key=lambda position: _size(fragments[position]))
        mol, source = fragments[best], tuple(mapping[best])
    charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    if not any(charges):
        return mol, source
    neutral = Chem.RWMol(mol)
    for atom in neutral.GetAtoms():
        charge = charges[atom.GetIdx()]
        around = [charges[other.GetIdx()] for other in atom.GetNeighbors()]
        if charge > 0 and atom.GetAtomicNum() in _CAN_LOSE and not any(other < 0 for other in around):
            change = -min(charge, atom.GetTotalNumHs())
        elif charge < 0 and atom.GetAtomicNum() in _CAN_GAIN and not any(other > 0 for other in around):
            change = 0 if atom.GetAtomicNum() == 6 and atom.GetIsAromatic() else -charge
        else:
            continue
        if change:
            move_proton(atom, change)
    return (mol if Chem.SanitizeMol(neutral, catchErrors=True) else neutral.GetMol()), source


def move_proton(atom: Chem.Atom, change: int) -> None:
    """Add ``change`` protons to an atom (take away when negative); the molecule must be sanitised afterwards."""
    hydrogens = atom.GetTotalNumHs() + change
    atom.SetFormalCharge(atom.GetFormalCharge() + change)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(max(hydrogens, 0))


def prepare(smiles: str) -> Prepared | None:
    """Parse a SMILES, neutralise it, find its ionisable groups; None if RDKit cannot read it."""
    try:
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumAtoms():
            return None
        if "." in smiles or "+" in smiles or "-" in smiles:
            return prepare_mol(*neutral_parent(mol))
        return prepare_mol(mol, tuple(range(mol.GetNumAtoms())))
    except (RuntimeError, ValueError, TypeError, UnicodeError):
        return None


def prepare_mol(mol: Chem.Mol, source: tuple[int, ...]) -> Prepared:
    """Find the ionisable groups of a molecule as it is drawn, and its graph."""
    size = mol.GetNumAtoms()
    rings = [0] * size
    for ring in mol.GetRingInfo().AtomRings():
        for index in ring:
            rings[index] |= 1 << len(ring)
    # A matrix of bond orders would lose bonds of order zero.
    bonded = np.array(np.nonzero(Chem.GetAdjacencyMatrix(mol)))
    bonded_to = np.bincount(bonded[0], minlength=size).tolist()
    types, hydrogens, classes = [], [], []
    for index in range(size):
        atom = mol.GetAtomWithIdx(index)
        element, aromatic, protons = atom.GetAtomicNum(), atom.GetIsAromatic(), atom.GetTotalNumHs()
        hybridisation = _HYBRIDISATION.get(atom.GetHybridization(), _OTHER_HYBRIDISATION)
        degree = bonded_to[index] + protons
        types.append(AtomType(element, degree, hybridisation, aromatic, rings[index], atom.GetFormalCharge()))
        hydrogens.append(protons)
        classes.append(_CLASS_OF.get((element, aromatic), _OTHER_CLASS))
    orders = Chem.GetAdjacencyMatrix(mol, useBO=True, prefix="orders")
    begins, ends = bonded[:, bonded[0] < bonded[1]]
    carrying = np.repeat(np.arange(size), hydrogens)
    bonds = np.zeros((3, len(begins) + len(carrying)), np.int64)
    bonds[:, : len(begins)] = begins, ends, 2 * orders[begins, ends]
    bonds[:, len(begins) :] = carrying, size + np.arange(len(carrying)), np.full(len(carrying), _ORDERS["-"])
    classes += [_HYDROGEN_CLASS] * len(carrying)
    acids, bases = _find_sites(mol, _count_traits(np.array(classes), bonds))
    return Prepared(
        mol,
        source,
        types,
        np.array(hydrogens),
        bonded,
        sorted((atom, proton) for atom, proton in acids.items() if not types[atom].charge),
        sorted(atom for atom in bases if not types[atom].charge),
    )


def _find_sites(mol: Chem.Mol, traits: np.ndarray) -> tuple[dict[int, int | None], set[int]]:
    """Acidic atoms, each with its proton as :class:`Prepared` has it, and basic atoms."""
    acids: dict[int, int | None] = {}
    bases: set[int] = set()
    table = _groups()
    possible = (table.needed <= traits[table.traits]).all(axis=1)
    size = mol.GetNumAtoms()
    with_hydrogens = Chem.AddHs(mol)
    for position in np.flatnonzero(possible).tolist():
        pattern, positions, kind = table.groups[position]
        for match in with_hydrogens.GetSubstructMatches(pattern):
            sites = [match[index] for index in positions]
            if kind == "base":
                bases.update(sites)
                continue
            for proton in sites:
                heavy = with_hydrogens.GetAtomWithIdx(proton).GetNeighbors()[0].GetIdx()
                acids[heavy] = proton if proton < size else None
    return acids, bases


def _size(fragment: Chem.Mol) -> tuple[bool, int, int, str]:
    carbon = any(atom.GetAtomicNum() == 6 for atom in fragment.GetAtoms())
    heavy = fragment.GetNumHeavyAtoms()
    return carbon, heavy, sum(atom.GetAtomicNum() for atom in fragment.GetAtoms()), Chem.MolToSmiles(fragment)
