"""Valid molecules near a molecule: branches cut off, linkers and rings taken out, atoms replaced, and several at once.

Every edit leaves one connected, neutral-as-before molecule whose free valences are filled with hydrogen, so that a
predictor sees molecules like those that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem, rdBase

ELEMENTS = {"C": 4, "N": 3, "O": 2, "F": 1}
"""Elements that take the place of others, with their valences."""
MOST_REMOVED = 2 / 3
"""Share of the atoms that one edit may remove."""
_SIDE_ATOMS = 4
_MOST_COMBINED = 3
_ORIGIN = "moltune_atom"
_NUMBERS = {symbol: Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in ELEMENTS}
_USUAL = frozenset((5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53))


@dataclass(frozen=True)
class Change:
    """What an edit does, in atoms of the molecule.

    Attributes:
        removed: atoms that go.
        joined: pairs of atoms that get a single bond.
        replaced: atom -> element that takes its place.
    """

    removed: frozenset[int] = frozenset()
    joined: frozenset[tuple[int, int]] = frozenset()
    replaced: dict[int, str] = field(default_factory=dict)

    def touched(self, mol: Chem.Mol) -> set[int]:
        """Atoms that change, and the neighbours of those that go."""
        around = {other.GetIdx() for atom in self.removed for other in mol.GetAtomWithIdx(atom).GetNeighbors()}
        return around | self.removed | self.replaced.keys()

    def __or__(self, other: Change) -> Change:
        """Both changes at once."""
        return Change(self.removed | other.removed, self.joined | other.joined, self.replaced | other.replaced)


@dataclass(frozen=True)
class Variant:
    """An edited molecule.

    Attributes:
        smiles: canonical.
        gone: atoms of the molecule that were removed or replaced, ascending.
        new: kinds of the atoms that came instead; see :func:`kind`.
    """

    smiles: str
    gone: tuple[int, ...]
    new: tuple[str, ...]


def kind(atom: Chem.Atom) -> str:
    """Element of an atom with its charge, in small letters where it is aromatic: ``C``, ``n``, ``O-``."""
    symbol, charge = atom.GetSymbol(), atom.GetFormalCharge()
    sign = "" if not charge else f"{charge:+d}".replace("1", "")
    return (symbol.lower() if atom.GetIsAromatic() else symbol) + sign


def variants(mol: Chem.Mol, most: int, seed: int = 0) -> list[Variant]:
    """Edits of a molecule: every single one, and random combinations of two or three until there are ``most``.

    Args:
        mol: as RDKit parses a SMILES, without hydrogens.
        most: how many; where there are more single edits, as many at random.
        seed: of what is random.

    Returns:
        Different molecules; fewer than ``most`` for a small molecule, none where nothing can be changed.
    """
    rng, editor = np.random.default_rng(seed), _Editor(mol)
    changes = list(_changes(mol))
    order = rng.permutation(len(changes)) if len(changes) > most else range(len(changes))
    found: dict[str, Variant] = {}
    valid = []
    for at in order:
        if len(found) >= most:
            break
        variant = editor.apply(changes[at])
        if variant is not None:
            valid.append(changes[at])
            found.setdefault(variant.smiles, variant)
    touched = [change.touched(mol) for change in valid]
    for _ in range(4 * most if len(valid) > 1 else 0):
        if len(found) >= most:
            break
        chosen, taken = Change(), set[int]()
        for at in rng.permutation(len(valid))[: rng.integers(2, _MOST_COMBINED + 1)].tolist():
            if not touched[at] & taken:
                chosen, taken = chosen | valid[at], taken | touched[at]
        if len(chosen.removed) <= MOST_REMOVED * mol.GetNumAtoms():
            variant = editor.apply(chosen)
            if variant is not None:
                found.setdefault(variant.smiles, variant)
    return list(found.values())


class _Editor:
    """Applies changes to one molecule."""

    def __init__(self, mol: Chem.Mol) -> None:
        self.smiles, self.pieces = Chem.MolToSmiles(mol), len(Chem.GetMolFrags(mol))
        self.aromatic = [atom.GetIsAromatic() for atom in mol.GetAtoms()]
        self.template = Chem.RWMol(mol)
        Chem.Kekulize(self.template, clearAromaticFlags=True)
        for atom in self.template.GetAtoms():
            atom.SetIntProp(_ORIGIN, atom.GetIdx())
            # Hydrogens then follow from the bonds, whatever is taken from the atom.
            if atom.GetAtomicNum() in _USUAL and not atom.GetNumRadicalElectrons():
                atom.SetNumExplicitHs(0)
                atom.SetNoImplicit(False)

    def apply(self, change: Change) -> Variant | None:
        """The edited molecule; None where there is none, or where an atom that stays would lose its aromaticity."""
        edited = Chem.RWMol(self.template)
        for atom, symbol in change.replaced.items():
            one = edited.GetAtomWithIdx(atom)
            one.SetAtomicNum(_NUMBERS[symbol])
            one.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        for atom in change.touched(edited) - change.removed:
            edited.GetAtomWithIdx(atom).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        for first, second in change.joined:
            if edited.GetBondBetweenAtoms(first, second) is not None:
                return None
            edited.AddBond(first, second, Chem.BondType.SINGLE)
        edited.BeginBatchEdit()
        for atom in change.removed:
            edited.RemoveAtom(atom)
        edited.CommitBatchEdit()
        with rdBase.BlockLogs():
            if not edited.GetNumAtoms() or Chem.SanitizeMol(edited, catchErrors=True):
                return None
            if len(Chem.GetMolFrags(edited)) > self.pieces:
                return None
            new = []
            for atom in edited.GetAtoms():
                origin = atom.GetIntProp(_ORIGIN)
                if origin in change.replaced:
                    new.append(kind(atom))
                elif atom.GetIsAromatic() != self.aromatic[origin]:
                    return None
            Chem.AssignStereochemistry(edited, cleanIt=True, force=True)
            again = Chem.MolFromSmiles(Chem.MolToSmiles(edited))
        smiles = "" if again is None else Chem.MolToSmiles(again)
        if smiles in ("", self.smiles):
            return None
        return Variant(smiles, tuple(sorted(change.removed | change.replaced.keys())), tuple(sorted(new)))


def _changes(mol: Chem.Mol) -> Iterator[Change]:
    """Every single edit that a chemist would try."""
    most = MOST_REMOVED * mol.GetNumAtoms()
    for change in (*_branches(mol), *_linkers(mol), *_rings(mol)):
        kept = change.touched(mol) - change.removed
        if change.removed and len(change.removed) <= most and all(_takes_hydrogen(mol, atom) for atom in kept):
            yield change
    yield from _elements(mol)


def _branches(mol: Chem.Mol) -> Iterator[Change]:
    """Either side of each bond outside rings, and whole fragments."""
    fragments = Chem.GetMolFrags(mol)
    if len(fragments) > 1:
        yield from (Change(frozenset(fragment)) for fragment in fragments)
    for bond in mol.GetBonds():
        if not bond.IsInRing():
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            for start, other in (ends, ends[::-1]):
                yield Change(frozenset(_side(mol, start, {other})))


def _linkers(mol: Chem.Mol) -> Iterator[Change]:
    """What stands between two larger parts, which are then joined: atoms of chains and of large rings, ring systems."""
    rings = mol.GetRingInfo()
    cores = [{atom.GetIdx()} for atom in mol.GetAtoms() if not atom.IsInRing()] + _ring_systems(mol)
    for core in cores:
        sides = sorted((_side(mol, end, core) for end in _around(mol, core)), key=len, reverse=True)
        yield from _joined(mol, core, sides)
    for atom in mol.GetAtoms():
        at = atom.GetIdx()
        if rings.NumAtomRings(at) == 1 and rings.MinAtomRingSize(at) >= 6 and not atom.GetIsAromatic():
            first, second = (one.GetOtherAtomIdx(at) for one in atom.GetBonds() if one.IsInRing())
            others = [_side(mol, one.GetOtherAtomIdx(at), {at}) for one in atom.GetBonds() if not one.IsInRing()]
            yield from _joined(mol, {at}, [{first}, {second}, *others])


def _joined(mol: Chem.Mol, core: set[int], sides: list[set[int]]) -> Iterator[Change]:
    """Take out a core and its small branches, and join the two largest sides."""
    if len(sides) < 2 or sum(map(len, sides[2:])) > _SIDE_ATOMS:
        return
    ends = [next(one for one in side if _around(mol, {one}) & core) for side in sides[:2]]
    bonds = [mol.GetBondBetweenAtoms(end, inner).GetBondType() for end in ends for inner in _around(mol, {end}) & core]
    carbons = sum(mol.GetAtomWithIdx(end).GetAtomicNum() == 6 for end in ends)
    # Two hetero atoms in a row, and a double bond that would become a single one, are another chemistry.
    if carbons and all(kind == Chem.BondType.SINGLE for kind in bonds):
        yield Change(frozenset(core.union(*sides[2:])), frozenset([(min(ends), max(ends))]))


def _rings(mol: Chem.Mol) -> Iterator[Change]:
    """A ring of a fused system, without the atoms that it shares, with what hangs on it."""
    rings = mol.GetRingInfo()
    for ring in rings.AtomRings():
        own = {atom for atom in ring if rings.NumAtomRings(atom) == 1}
        if len(own) < len(ring):
            outside = _around(mol, own) - set(ring)
            yield Change(frozenset(own.union(*(_side(mol, end, own) for end in outside))))


def _elements(mol: Chem.Mol) -> Iterator[Change]:
    """Another element in the place of an atom, where its bonds allow it and no new bond between hetero atoms arises."""
    for atom in mol.GetAtoms():
        hydrogens = atom.GetTotalNumHs()
        if atom.GetFormalCharge() or atom.GetNumRadicalElectrons() or atom.GetAtomicNum() == 1:
            continue
        bonds = atom.GetTotalValence() - hydrogens
        beside = [other for other in atom.GetNeighbors() if other.GetAtomicNum() != 6 and not other.GetIsAromatic()]
        for symbol, valence in ELEMENTS.items():
            if symbol != atom.GetSymbol() and bonds <= valence and (symbol == "C" or not beside):
                yield Change(replaced={atom.GetIdx(): symbol})


def _takes_hydrogen(mol: Chem.Mol, at: int) -> bool:
    """Whether an atom may get a hydrogen in the place of a neighbour: not where it is charged, nor in S=O or P=O."""
    atom = mol.GetAtomWithIdx(at)
    return not atom.GetFormalCharge() and (atom.GetAtomicNum() < 14 or atom.GetTotalValence() <= 2)


def _around(mol: Chem.Mol, atoms: set[int]) -> set[int]:
    """Neighbours of a set of atoms, outside it."""
    return {other.GetIdx() for atom in atoms for other in mol.GetAtomWithIdx(atom).GetNeighbors()} - atoms


def _side(mol: Chem.Mol, start: int, without: set[int]) -> set[int]:
    """Atoms that can be reached from one without passing others."""
    found, waiting = {start}, [start]
    while waiting:
        new = _around(mol, {waiting.pop()}) - found - without
        found |= new
        waiting += new
    return found


def _ring_systems(mol: Chem.Mol) -> list[set[int]]:
    """Rings, those that share an atom as one."""
    systems: list[set[int]] = []
    for ring in mol.GetRingInfo().AtomRings():
        whole = set(ring).union(*(one for one in systems if one & set(ring)))
        systems = [one for one in systems if not one & whole] + [whole]
    return systems
