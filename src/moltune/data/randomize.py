"""Other spellings of a molecule: randomised SMILES for augmentation.

This is the restricted kind of Arús-Pous et al. (J. Cheminf. 11, 71, 2019): a random start and random branches, within
RDKit's rules of writing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from rdkit import Chem, rdBase

logger = logging.getLogger(__name__)


def random_smiles(smiles: str, rng: int | np.random.Generator, k: int = 1) -> list[str]:
    """``k`` random spellings of one molecule, repeats possible.

    The atoms are renumbered by ``rng`` and written in an order that follows the new numbers, so a seed gives the same
    spellings every time (RDKit's own ``doRandom`` has a global state). Each spelling is read back and compared by
    canonical SMILES; one that is not the same molecule, which happens with rare stereochemistry, is replaced by the
    input. The input also stands in when RDKit cannot read it.

    Args:
        smiles: one molecule.
        rng: a seed or a generator; a generator moves on.
        k: number of spellings.

    Returns:
        Exactly ``k`` SMILES of the same molecule.
    """
    rng = np.random.default_rng(rng)
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumAtoms():
            logger.debug("no other spelling of %r: RDKit cannot read it", smiles)
            return [smiles] * k
        canonical = _canonical(mol)
        return [_spelling(mol, smiles, canonical, rng) for _ in range(k)]


def randomizer(rng: int | np.random.Generator) -> Callable[[str], str]:
    """A function that gives another random spelling at each call; for data loaders."""
    generator = np.random.default_rng(rng)
    return lambda smiles: random_smiles(smiles, generator)[0]


def _spelling(mol: Chem.Mol, smiles: str, canonical: str, rng: np.random.Generator) -> str:
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    text = str(Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False))
    again = Chem.MolFromSmiles(text)
    return text if again is not None and _canonical(again) == canonical else smiles


def _canonical(mol: Chem.Mol) -> str:
    return str(Chem.MolToSmiles(mol))
