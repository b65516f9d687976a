"""Contributions of atoms: recovered where they are known, and sound where they are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors

from moltune import datasets
from moltune.errors import DataError, NumericsError
from moltune.explanation.contributions import contributions
from moltune.explanation.edits import MOST_REMOVED, variants

MOLECULES = datasets.load("lipophilicity")["smiles"].iloc[::350].tolist()
VALUES = {"C": 0.3, "c": 0.2, "N": -1.1, "n": -0.6, "O": -0.8, "o": -0.1, "F": 0.4, "Cl": 0.9, "S": 0.1, "s": 0.6}
MACROLIDE = (
    "CC[C@H]1OC(=O)[C@H](C)[C@@H](O[C@H]2C[C@@](C)(OC)[C@@H](O)[C@H](C)O2)[C@H](C)[C@@H](O[C@@H]2O[C@H](C)C[C@@H]"
    "([C@H]2O)N(C)C)[C@](C)(O)C[C@@H](C)C(=O)[C@H](C)[C@@H](O)[C@]1(C)O"
)


def atom_value(atom: Chem.Atom) -> float:
    symbol = atom.GetSymbol()
    return VALUES.get(symbol.lower() if atom.GetIsAromatic() else symbol, -0.3)


def sum_over_atoms(smiles: Sequence[str]) -> np.ndarray:
    return np.array([sum(map(atom_value, Chem.MolFromSmiles(one).GetAtoms())) for one in smiles])


def log_p(smiles: Sequence[str]) -> np.ndarray:
    return np.array([Crippen.MolLogP(Chem.MolFromSmiles(one)) for one in smiles])


def crippen(mol: Chem.Mol) -> np.ndarray:
    """Contributions to Crippen's logP, hydrogens with their atom."""
    whole = Chem.AddHs(mol)
    values = np.array(rdMolDescriptors._CalcCrippenContribs(whole))[:, 0]
    found = values[: mol.GetNumAtoms()].copy()
    for atom in list(whole.GetAtoms())[mol.GetNumAtoms() :]:
        found[atom.GetNeighbors()[0].GetIdx()] += values[atom.GetIdx()]
    return found


def test_a_sum_over_atoms_is_recovered() -> None:
    found, true = [], []
    for smiles in MOLECULES:
        one = contributions(sum_over_atoms, smiles, edits=150)
        assert one.fidelity > 0.95
        found.append(one.values)
        true.append([atom_value(atom) for atom in Chem.MolFromSmiles(smiles).GetAtoms()])
    assert np.corrcoef(np.concatenate(found), np.concatenate(true))[0, 1] > 0.97


def test_crippens_contributions_are_recovered() -> None:
    """Only together with their neighbours: how an effect is divided between bonded atoms is not in the sum."""
    found, true, alone = [], [], []
    for smiles in MOLECULES:
        mol = Chem.MolFromSmiles(smiles)
        around = Chem.GetAdjacencyMatrix(mol) + np.eye(mol.GetNumAtoms())
        values, known = contributions(log_p, smiles, edits=150).values, crippen(mol)
        found.append(around @ values)
        true.append(around @ known)
        alone.append(np.corrcoef(values, known)[0, 1])
        assert values.sum() == pytest.approx(known.sum(), abs=1.5)
    assert np.corrcoef(np.concatenate(found), np.concatenate(true))[0, 1] > 0.85
    assert np.median(alone) > 0.6


def test_the_atoms_of_a_group_share_what_needs_all_of_them() -> None:
    acid = Chem.MolFromSmarts("[CX3](=O)[OX2H1]")

    def has_acid(smiles: Sequence[str]) -> np.ndarray:
        return np.array([-3.0 * Chem.MolFromSmiles(one).HasSubstructMatch(acid) for one in smiles])

    smiles = "Cc1ccc(CCC(=O)O)cc1"
    one = contributions(has_acid, smiles)
    group = list(Chem.MolFromSmiles(smiles).GetSubstructMatch(acid))
    assert (one.values[group] < -0.4).all()
    assert one.values[group].sum() == pytest.approx(-3, abs=0.6)
    assert np.abs(np.delete(one.values, group)).max() < 0.3


def test_atoms_that_symmetry_exchanges_contribute_alike() -> None:
    values = contributions(log_p, "FC(F)(F)c1ccccc1").values
    assert values[0] == values[2] == values[3]
    assert values[5] == values[9]


def test_a_constant_predictor_has_contributions_of_zero() -> None:
    one = contributions(lambda smiles: np.full(len(smiles), 2.5), "CCOC(=O)c1ccccc1")
    assert not one.values.any()
    assert not one.errors.any()


def test_the_same_seed_gives_the_same_numbers_and_another_one_close_numbers() -> None:
    smiles = MOLECULES[1]
    first, again, other = (contributions(log_p, smiles, edits=150, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.errors, again.errors)
    assert np.corrcoef(first.values, other.values)[0, 1] > 0.9


def test_edits_that_cannot_be_predicted_are_left_out() -> None:
    def no_fluorine(smiles: Sequence[str]) -> np.ndarray:
        return np.where(["F" in one for one in smiles], np.nan, sum_over_atoms(smiles))

    one = contributions(no_fluorine, "CCOC(=O)c1ccccc1")
    assert np.isfinite(one.values).all()
    assert one.edits < contributions(sum_over_atoms, "CCOC(=O)c1ccccc1").edits


def test_what_cannot_be_predicted_or_read_is_an_error() -> None:
    with pytest.raises(NumericsError, match="CCO"):
        contributions(lambda smiles: np.full(len(smiles), np.nan), "CCO")
    with pytest.raises(DataError, match="not a valid SMILES"):
        contributions(log_p, "C(")


def test_a_molecule_without_edits_has_no_contributions_and_no_fidelity() -> None:
    one = contributions(sum_over_atoms, "[NH4+]")
    assert one.values.tolist() == [0]
    assert np.isnan(one.fidelity)
    assert contributions(sum_over_atoms, "[Na+].[Cl-]", edits=10).values.shape == (2,)


@pytest.mark.parametrize("smiles", ["C", "CCO", "CC(=O)Oc1ccccc1C(=O)O", "[Na+].CC(=O)[O-]", MACROLIDE])
def test_edits_are_valid_different_and_say_what_they_changed(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    found = variants(mol, 120)
    assert len({one.smiles for one in found}) == len(found)
    for one in found:
        other = Chem.MolFromSmiles(one.smiles)
        assert Chem.MolToSmiles(other) == one.smiles
        assert other.GetNumAtoms() == mol.GetNumAtoms() - len(one.gone) + len(one.new)
        assert len(one.gone) - len(one.new) <= MOST_REMOVED * mol.GetNumAtoms()
        assert len(Chem.GetMolFrags(other)) <= len(Chem.GetMolFrags(mol))


@given(st.sampled_from(datasets.load("esol")["smiles"].tolist()), st.integers(0, 5))
@settings(max_examples=25)
def test_any_molecule_gets_finite_contributions(smiles: str, seed: int) -> None:
    mol = Chem.MolFromSmiles(smiles)
    one = contributions(log_p, Chem.MolToSmiles(mol), edits=40, seed=seed)
    assert one.values.shape == one.errors.shape == (mol.GetNumAtoms(),)
    assert np.isfinite(one.values).all()
    assert (one.errors >= 0).all()
