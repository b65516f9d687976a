from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from moltune import datasets
from moltune.data import randomize as module
from moltune.data.randomize import random_smiles, randomizer

SMILES = [smiles for name in ("lipophilicity", "esol", "freesolv") for smiles in datasets.load(name)["smiles"].tolist()]
STEREO = ["C/C=C/C(=O)O", "N[C@@H](C)C(=O)O", "C[S@](=O)c1ccccc1", "C1C[C@H]2CC[C@@H]1O2", "[Na+].CC(=O)[O-]"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SMILES + STEREO), st.integers(0, 2**32 - 1))
def test_same_molecule(smiles: str, seed: int) -> None:
    mol = Chem.MolFromSmiles(smiles)
    for other in random_smiles(smiles, seed, 3):
        again = Chem.MolFromSmiles(other)
        assert Chem.MolToSmiles(again) == Chem.MolToSmiles(mol)
        assert Chem.MolToInchiKey(again) == Chem.MolToInchiKey(mol)


def test_seed_decides() -> None:
    smiles = "CC(=O)Nc1ccc(O)cc1C1CCNCC1"
    assert random_smiles(smiles, 1, 10) == random_smiles(smiles, 1, 10)
    assert random_smiles(smiles, 1, 10) != random_smiles(smiles, 2, 10)
    rng = np.random.default_rng(1)
    assert [random_smiles(smiles, rng)[0] for _ in range(10)] == random_smiles(smiles, 1, 10)
    again = randomizer(1)
    assert [again(smiles) for _ in range(10)] == random_smiles(smiles, 1, 10)


def test_spellings_really_differ() -> None:
    assert len(set(random_smiles("CC(=O)Nc1ccc(O)cc1C1CCNCC1", 0, 50))) > 30
    starts = {spelling[0] for spelling in random_smiles("OCCN", 0, 60)}
    assert starts == {"O", "C", "N"}


@pytest.mark.parametrize("smiles", ["nonsense(", ""])
def test_unreadable_input_comes_back(smiles: str) -> None:
    assert random_smiles(smiles, 0, 3) == [smiles] * 3
    assert random_smiles("CCO", 0, 0) == []


def test_wrong_spelling_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = "N[C@@H](C)C(=O)O"
    flat = Chem.MolFromSmiles("NC(C)C(=O)O")
    monkeypatch.setattr(module.Chem, "RenumberAtoms", lambda mol, order: flat)
    assert random_smiles(smiles, 0, 2) == [smiles] * 2
