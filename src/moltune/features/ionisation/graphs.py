"""The graph that the network sees for each ionisable site: atoms by their type and their distance from the site."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rdkit import Chem

from moltune.features.ionisation.molecules import HYDROGEN, AtomType, Kind, Prepared

FEATURES = 29
DEGREE, DISTANCE, IS_SITE = 10, 27, 28
_ELEMENTS = {6: 0, 1: 1, 8: 2, 7: 3, 16: 4, 17: 5, 9: 6, 35: 7, 15: 8, 53: 9}
_OTHER_ELEMENT = 9


class Nodes(NamedTuple):
    """Nodes of one or more site graphs; a node stands for ``copies`` equal atoms.

    Attributes:
        type: number of the atom type, shape (nodes,).
        distance: atoms on the shortest path to the site, both ends counted; 0 at the site.
        copies: atoms that the node stands for.
        neighbours: own index, then those of the bonded nodes, filled up with the own index, shape (nodes, slots).
        bonds: number of bonds to each of them; 1 for the own index, 0 where filled up.
    """

    type: np.ndarray
    distance: np.ndarray
    copies: np.ndarray
    neighbours: np.ndarray
    bonds: np.ndarray


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


def site_graphs(molecule: Prepared, kind: Kind) -> Nodes | None:
    """The graphs of all sites of one kind, one after the other, each with the same number of nodes."""
    atoms = len(molecule.types)
    sites = molecule.acids if kind == "acid" else [(atom, atom) for atom in molecule.bases]
    if not sites:
        return None
    carrying = np.flatnonzero(molecule.hydrogens)
    spare = any(node is None for _, node in sites)
    size = atoms + len(carrying) + spare
    group = np.full(atoms, -1)
    group[carrying] = atoms + np.arange(len(carrying))
    widest = 2 + spare + max(map(len, molecule.neighbours))
    neighbours = np.repeat(np.arange(size)[:, None], widest, axis=1)
    bonds = np.zeros((size, widest), np.int64)
    bonds[:, 0] = 1
    for atom, around in enumerate(molecule.neighbours):
        neighbours[atom, 1 : 1 + len(around)] = around
        bonds[atom, 1 : 1 + len(around)] = 1
    last = widest - 1 - spare
    neighbours[carrying, last] = group[carrying]
    bonds[carrying, last] = molecule.hydrogens[carrying]
    neighbours[group[carrying], 1] = carrying
    bonds[group[carrying], 1] = 1
    types = np.zeros(size, np.int64)
    types[:atoms] = [TYPES.number(one) for one in molecule.types]
    copies = np.ones(size, np.int64)
    copies[group[carrying]] = molecule.hydrogens[carrying]
    paths = Chem.GetDistanceMatrix(molecule.mol).astype(np.int64) + 1
    many = len(sites)
    result = Nodes(
        np.tile(types, (many, 1)),
        np.zeros((many, size), np.int64),
        np.tile(copies, (many, 1)),
        np.tile(neighbours, (many, 1, 1)),
        np.tile(bonds, (many, 1, 1)),
    )
    for row, (atom, node) in enumerate(sites):
        distance = result.distance[row]
        distance[:atoms] = paths[atom if node is None else node] + (node is None)
        distance[group[carrying]] = distance[carrying] + 1
        if node is not None:
            distance[node] = 0
        if spare:
            distance[-1] = 0
            result.copies[row, -1] = 0
        if node is None:
            # The proton that leaves becomes a node of its own, apart from the other hydrogens of its atom.
            result.copies[row, -1] = 1
            result.copies[row, group[atom]] -= 1
            result.bonds[row, atom, last] -= 1
            result.neighbours[row, atom, -1] = size - 1
            result.bonds[row, atom, -1] = 1
            result.neighbours[row, -1, 1] = atom
            result.bonds[row, -1, 1] = 1
            if molecule.hydrogens[atom] == 1:
                # No atom is left in the group: cut it off, so that it costs nothing.
                result.bonds[row, group[atom], 1] = distance[group[atom]] = 0
    return result


def join(parts: list[Nodes]) -> tuple[Nodes, np.ndarray]:
    """All graphs as one, and the first node of each."""
    slots = max(part.bonds.shape[2] for part in parts)
    sizes = np.concatenate([np.full(len(part.type), part.type.shape[1]) for part in parts])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    total = int(sizes.sum())
    neighbours = np.repeat(np.arange(total)[:, None], slots, axis=1)
    bonds = np.zeros((total, slots), np.int64)
    begin, graph = 0, 0
    for part in parts:
        many, size, width = part.neighbours.shape
        offset = starts[graph : graph + many, None, None]
        neighbours[begin : begin + many * size, :width] = (part.neighbours + offset).reshape(-1, width)
        bonds[begin : begin + many * size, :width] = part.bonds.reshape(-1, width)
        begin, graph = begin + many * size, graph + many
    flat = [np.concatenate([getattr(part, name).ravel() for part in parts]) for name in ("type", "distance", "copies")]
    return Nodes(flat[0], flat[1], flat[2], neighbours, bonds), starts
