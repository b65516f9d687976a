"""The nearest measured molecules and what differs."""

from __future__ import annotations

import pandas as pd
import pytest
from rdkit import Chem

from moltune.domain.nearest import packed_fingerprints
from moltune.errors import DataError
from moltune.explanation.neighbours import Neighbour, compare, nearest_measured

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def pair(smiles: str, other: str) -> Neighbour:
    return compare(Chem.MolFromSmiles(smiles), Chem.MolFromSmiles(other), other, 1.0, 0.5, seconds=10)


@pytest.mark.parametrize(
    ("smiles", "other", "words"),
    [
        (ASPIRIN, "OC(=O)c1ccccc1O", "has acetyl (*C(C)=O)"),
        ("Clc1ccccc1", "c1ccccc1", "has chloro (*Cl)"),
        ("c1ccccc1", "Clc1ccccc1", "lacks chloro (*Cl)"),
        ("Clc1ccccc1C", "Fc1ccccc1C", "has chloro (*Cl); lacks fluoro (*F)"),
        ("Cc1ccccc1Cl", "Cc1ccc(Cl)cc1", "has the same groups elsewhere: chloro (*Cl)"),
        ("FC(F)(F)c1ccc(cc1)C(F)(F)F", "c1ccccc1", "has 2 × trifluoromethyl (*C(F)(F)F)"),
        ("C[C@H](F)Cl", "C[C@@H](F)Cl", "has the same atoms and bonds"),
    ],
)
def test_what_differs_in_words(smiles: str, other: str, words: str) -> None:
    assert pair(smiles, other).difference == words


def test_a_ring_differs_as_a_whole() -> None:
    found = pair("O=C(Nc1ccccc1)c1cccnc1", "O=C(Nc1ccccc1)c1ccccc1")
    assert found.has == ("*c1cccnc1",)
    assert found.lacks == ("*c1ccccc1",)
    assert len(found.own_atoms) == len(found.other_atoms) == 6


def test_molecules_with_nothing_in_common() -> None:
    found = pair("CCCC", "[Na+].[Cl-]")
    assert found.has == ("CCCC",)
    assert set(found.lacks) == {"[Na+]", "[Cl-]"}
    assert found.difference == "shares only 0 connected atoms with it"


def test_the_nearest_come_first_and_those_without_value_never() -> None:
    known = pd.DataFrame(
        {
            "smiles": ["CCCCCC", "OC(=O)c1ccccc1O", ASPIRIN, "COC(=O)c1ccccc1OC(C)=O"],
            "value": [3.0, 2.2, float("nan"), 1.5],
        }
    )
    mol = Chem.MolFromSmiles(ASPIRIN)
    found = nearest_measured(mol, known, 3)
    assert [one.value for one in found] == [1.5, 2.2, 3.0]
    packed = packed_fingerprints([Chem.MolFromSmiles(one) for one in known["smiles"]])
    assert nearest_measured(mol, known, 3, fingerprints=packed) == found
    assert len(nearest_measured(mol, known, 10)) == 3
    assert nearest_measured(mol, known.iloc[2:3]) == []


def test_a_table_without_values_is_an_error() -> None:
    with pytest.raises(DataError, match="no column 'value'"):
        nearest_measured(Chem.MolFromSmiles("C"), pd.DataFrame({"smiles": ["C"]}))
