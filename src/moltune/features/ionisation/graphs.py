"""The graph that the network sees for each ionisable site: atoms by their type and their distance from the site."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rdkit import Chem
from scipy.sparse import csr_array

from moltune.features.ionisation.molecules import HYDROGEN, AtomType, Kind, Prepared

FEATURES = 29
DEGREE, DISTANCE, IS_SITE = 10, 27, 28
_ELEMENTS = {6: 0, 1: 1, 8: 2, 7: 3, 16: 4, 17: 5, 9: 6, 35: 7, 15: 8, 53: 9}
_OTHER_ELEMENT = 9


class Graphs(NamedTuple):
    """Site graphs of one molecule, all with as many nodes and bonds; a node stands for ``copies`` equal atoms.

    Attributes:
        type: number of the atom type, shape (sites, nodes).
        distance: atoms on the shortest path to the site, both ends counted; 0 at the site; shape (sites, nodes).
        copies: atoms that the node stands for, shape (sites, nodes).
        ends: the node that bonds lead from and the one that they lead to, shape (2, sites, bonds).
        bonds: how many bonds each atom of the first node has to atoms of the second, shape (sites, bonds).
    """

    type: np.ndarray
    distance: np.ndarray
    copies: np.ndarray
    ends: np.ndarray
    bonds: np.ndarray


class Nodes(NamedTuple):
    """Many site graphs as one.

    Attributes:
        type: as in :class:`Graphs`, shape (nodes,).
        distance: as in :class:`Graphs`, shape (nodes,).
        copies: as in :class:`Graphs`, shape (nodes,).
        bonds: how many bonds each atom of one node has to atoms of another, uint64, shape (nodes, nodes).
        starts: first node of each graph, and the number of nodes, shape (graphs + 1,).
    """

    type: np.ndarray
    distance: np.ndarray
    copies: np.ndarray
    bonds: csr_array
    starts: np.ndarray


class AtomTypes:
    """Numbers for the atom types met so far, and their feature rows."""

    def __init__(self) -> None:
        self._number: dict[AtomType, int] = {}
        self._rows: list[np.ndarray] = []
        self._table = np.zeros((0, FEATURES), np.float32)
        self.number(HYDROGEN)

    def number(self, kind: AtomType) -> int:
        """The number of a type, the next one if it is new."""
        found = self._number.get(kind)
        if found is None:
            row = np.zeros(FEATURES, np.float32)
            row[_ELEMENTS.get(kind.element, _OTHER_ELEMENT)] = 1
            row[DEGREE] = kind.degree
            row[11 + kind.hybridisation] = 1
            row[17] = kind.aromatic
            # MolGpKa was trained with columns 16, 24 and 25 at zero.
            row[18:24] = [kind.rings >> size & 1 for size in range(3, 9)]
            row[26] = kind.charge
            self._rows.append(row)
            found = self._number[kind] = len(self._rows) - 1
        return found

    def rows(self) -> np.ndarray:
        """Features by number, shape (types, 29); distance and site are zero here."""
        if len(self._table) != len(self._rows):
            self._table = np.stack(self._rows)
        return self._table


TYPES = AtomTypes()


def site_graphs(molecule: Prepared, kind: Kind) -> Graphs | None:
    """The graphs of all sites of one kind; None if there are none."""
    sites = molecule.acids if kind == "acid" else [(atom, atom) for atom in molecule.bases]
    if not sites:
        return None
    # One node for each atom, one for the hydrogens of each atom, one for the proton that leaves.
    atoms, carrying = len(molecule.types), np.flatnonzero(molecule.hydrogens)
    group = atoms + np.arange(len(carrying))
    proton = atoms + len(carrying)
    many, size = len(sites), proton + any(node is None for _, node in sites)
    types = np.zeros((many, size), np.int64)
    types[:, :atoms] = [TYPES.number(one) for one in molecule.types]
    distance, copies = np.zeros((many, size), np.int64), np.ones((many, size), np.int64)
    copies[:, group] = molecule.hydrogens[carrying]
    paths = Chem.GetDistanceMatrix(molecule.mol)
    fixed = molecule.bonds.shape[1]
    out, back = slice(fixed, fixed + len(carrying)), slice(fixed + len(carrying), -2)
    ends = np.zeros((2, many, fixed + 2 * len(carrying) + 2), np.int64)
    ends[:, :, :fixed] = molecule.bonds[:, None]
    ends[0, :, out] = ends[1, :, back] = carrying
    ends[1, :, out] = ends[0, :, back] = group
    bonds = np.ones(ends.shape[1:], np.uint64)
    bonds[:, out] = molecule.hydrogens[carrying]
    bonds[:, -2:] = 0
    for row, (atom, node) in enumerate(sites):
        distance[row, :atoms] = paths[atom if node is None else node] + (1 if node is not None else 2)
        distance[row, group] = distance[row, carrying] + 1
        if node is not None:
            distance[row, node] = 0
            copies[row, proton:] = 0
            continue
        # The proton that leaves becomes a node of its own, apart from the other hydrogens of its atom.
        distance[row, proton] = 0
        ends[:, row, -2:] = [[atom, proton], [proton, atom]]
        bonds[row, -2:] = 1
        place = int(np.searchsorted(carrying, atom))
        copies[row, group[place]] -= 1
        bonds[row, out][place] -= 1
        if molecule.hydrogens[atom] == 1:
            # No atom is left in the group: cut it off, so that it costs nothing.
            bonds[row, back][place] = distance[row, group[place]] = 0
    return Graphs(types, distance, copies, ends, bonds)


def join(parts: list[Graphs]) -> Nodes:
    """All graphs as one."""
    sizes = np.concatenate([np.full(len(part.type), part.type.shape[1]) for part in parts])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    first = np.split(starts[:-1], np.cumsum([len(part.type) for part in parts])[:-1])
    ends = np.concatenate(
        [(part.ends + start[:, None]).reshape(2, -1) for part, start in zip(parts, first, strict=True)], axis=1
    )
    type_, distance, copies, counts = (
        np.concatenate([getattr(part, name).ravel() for part in parts])
        for name in ("type", "distance", "copies", "bonds")
    )
    there = counts > 0
    bonds = csr_array((counts[there], ends[:, there]), shape=(len(type_), len(type_)))
    return Nodes(type_, distance, copies, bonds, starts)
