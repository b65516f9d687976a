"""Contributions of atoms to a prediction: a model of atoms and groups, fitted to how the predictor answers edits.

A Free-Wilson model (Free and Wilson 1964, J. Med. Chem. 7, 395) of one molecule and its neighbourhood, in the manner
of LIME (Ribeiro et al. 2016, arXiv:1602.04938). The predictor f is asked for the molecule x and some hundred edits x'
of it (:mod:`moltune.explanation.edits`). Each edit takes atoms away and may put others in their place::

    f(x) - f(x') = sum of (μ of its kind + δ of its own) over the atoms that went
                   + sum of γ over the groups that lost an atom
                   - sum of μ of their kinds over the atoms that came
                   + noise, whose variance grows with the number of atoms that went

Groups are bonds, functional groups and rings: a carboxylic acid is none any more when one of its three atoms is
another. An atom's contribution is its μ + δ and an equal share of the γ of each of its groups, which is the Shapley
value of the fitted model (γ are its dividends; Harsanyi 1963, Int. Econ. Rev. 4, 194). Atoms and groups that the
molecule's symmetry exchanges share one parameter. The priors are normal; how wide they are is what maximises the
marginal likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from rdkit import Chem

from moltune.data.chemistry import parse_smiles
from moltune.errors import NumericsError
from moltune.explanation.edits import Variant, kind, variants

Predict = Callable[[Sequence[str]], np.ndarray]
"""n SMILES -> predictions, float64, shape (n,); NaN where a molecule cannot be predicted."""

EDITS = 200
_NOISE = np.logspace(-4, 3, 29)
# Widths of the priors of γ and of μ, as variances; that of δ is 1.
_GROUPS, _KINDS = (0.0, 0.25, 1.0, 4.0, 16.0), (0.25, 1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Contributions:
    """What each atom adds to a prediction.

    Attributes:
        values: in the property's unit, float64, shape (n,).
        errors: standard errors, shape (n,): what edits that disagree, or that are too few, leave open.
        fidelity: share of the (weighted, squared) changes under edits that the model foretells when it was fitted to
            the other edits: 1 where it describes the predictor, 0 or less where it says nothing. NaN without edits.
        edits: how many edited molecules were predicted.
    """

    values: np.ndarray
    errors: np.ndarray
    fidelity: float
    edits: int


def contributions(predict: Predict, smiles: str, edits: int = EDITS, seed: int = 0) -> Contributions:
    """Contributions of the n atoms of a molecule.

    Args:
        predict: any predictor.
        smiles: as the predictor gets it; atoms have the order of RDKit's parsing.
        edits: how many edited molecules to predict at most.
        seed: of what is random about edits.

    Raises:
        DataError: RDKit cannot read the SMILES.
        NumericsError: there is no prediction of the molecule itself.
    """
    mol = parse_smiles(smiles)
    listed = variants(mol, edits, seed)
    value, *others = predict([smiles, *(one.smiles for one in listed)]).tolist()
    if not np.isfinite(value):
        raise NumericsError(f"the prediction of {smiles} is {value}, so that nothing can be explained")
    kept = [at for at, other in enumerate(others) if np.isfinite(other)]
    changes = value - np.array([others[at] for at in kept])
    return fit_contributions(mol, [listed[at] for at in kept], changes)


def fit_contributions(mol: Chem.Mol, edited: Sequence[Variant], changes: np.ndarray) -> Contributions:
    """Fit the model of atoms and groups.

    Args:
        mol: the molecule, n atoms.
        edited: m edits of it.
        changes: prediction of the molecule minus that of each edit, shape (m,).
    """
    atoms = mol.GetNumAtoms()
    if not len(changes) or not np.any(changes):
        fidelity = 1.0 if len(changes) else float("nan")
        return Contributions(np.zeros(atoms), np.zeros(atoms), fidelity, len(changes))
    went = np.zeros((len(edited), atoms))
    for row, one in zip(went, edited, strict=True):
        row[list(one.gone)] = 1.0
    ranks = np.array(Chem.CanonicalRankAtoms(mol, breakTies=False))
    groups = _groups(mol)
    members = np.array([[at in group for group in groups] for at in range(atoms)], dtype=float).reshape(
        atoms, len(groups)
    )
    alike = _one_hot([tuple(sorted(ranks[list(group)].tolist())) for group in groups])
    kinds = sorted({*(kind(atom) for atom in mol.GetAtoms()), *(new for one in edited for new in one.new)})
    own_kind = np.array([[kind(atom) == one for one in kinds] for atom in mol.GetAtoms()], dtype=float)
    came = np.array([[one.new.count(name) for name in kinds] for one in edited], dtype=float)
    own = _one_hot(ranks.tolist())
    # Columns: δ, γ, μ.
    design = np.hstack([went @ own, (went @ members > 0) @ alike, went @ own_kind - came])
    shares = np.hstack([own, members / np.maximum(members.sum(axis=0), 1) @ alike, own_kind])
    blocks = np.repeat([0, 1, 2], [own.shape[1], alike.shape[1], len(kinds)])
    weights = 1 / np.sqrt(went.sum(axis=1))
    mean, covariance, fidelity = _regress(design * weights[:, None], changes * weights, blocks)
    errors = np.sqrt(np.einsum("ij,jk,ik->i", shares, covariance, shares).clip(0))
    return Contributions(shares @ mean, errors, fidelity, len(edited))


def _one_hot(labels: Sequence[object]) -> np.ndarray:
    """One column for each different label, shape (labels, different ones)."""
    different = list(dict.fromkeys(labels))
    found = np.zeros((len(labels), len(different)))
    found[np.arange(len(labels)), [different.index(one) for one in labels]] = 1.0
    return found


def _groups(mol: Chem.Mol) -> list[tuple[int, ...]]:
    """Bonds, rings, and functional groups: connected hetero atoms and atoms with multiple bonds.

    The last are Ertl's (2017, J. Cheminform. 9, 36), but for their acetal carbons and small rings.
    """
    found = {tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))) for bond in mol.GetBonds()}
    found.update(tuple(sorted(ring)) for ring in mol.GetRingInfo().AtomRings())
    marked = {atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 6}
    for bond in mol.GetBonds():
        if bond.GetBondType() in (Chem.BondType.DOUBLE, Chem.BondType.TRIPLE):
            marked |= {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    while marked:
        group, waiting = set[int](), [min(marked)]
        while waiting:
            at = waiting.pop()
            group.add(at)
            waiting += {one.GetIdx() for one in mol.GetAtomWithIdx(at).GetNeighbors()} & marked - group
        marked -= group
        if len(group) > 1:
            found.add(tuple(sorted(group)))
    return sorted(found)


def _regress(design: np.ndarray, target: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Bayesian linear regression whose ratios of variances maximise the marginal likelihood.

    Args:
        design: shape (m, p).
        target: shape (m,), not all 0.
        blocks: of each parameter, 0 (δ), 1 (γ) or 2 (μ), shape (p,).

    Returns:
        Mean, shape (p,), and covariance, (p, p), of the parameters, and the fidelity by leaving out each row.
    """
    m, best, chosen = len(target), -np.inf, (np.ones(len(blocks)), 1.0)
    for of_groups, of_kinds in product(_GROUPS, _KINDS):
        widths = np.array([1.0, of_groups, of_kinds])[blocks]
        left, singular, _ = np.linalg.svd(design * np.sqrt(widths), full_matrices=False)
        inside = (left.T @ target) ** 2
        outside = max(float(target @ target - inside.sum()), 0.0)
        variances = singular[:, None] ** 2 + _NOISE
        scales = ((inside[:, None] / variances).sum(axis=0) + outside / _NOISE) / m
        determinants = np.log(variances).sum(axis=0) + (m - len(singular)) * np.log(_NOISE)
        evidence = -(m * np.log(scales) + determinants) / 2
        at = int(evidence.argmax())
        if evidence[at] > best:
            best, chosen = float(evidence[at]), (widths, float(_NOISE[at]))
    widths, noise = chosen
    inverse = np.linalg.inv((design * widths) @ design.T + noise * np.eye(m))
    solved = inverse @ target
    gain = widths[:, None] * design.T
    covariance = float(target @ solved) / m * (np.diag(widths) - gain @ inverse @ gain.T)
    left_out = solved / np.diag(inverse)
    return gain @ solved, covariance, 1 - float(left_out @ left_out) / float(target @ target)
