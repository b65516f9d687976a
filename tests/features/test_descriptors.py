import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors

from moltune.data.splitting.similarity import morgan_bits
from moltune.errors import DataError
from moltune.features.descriptors import morgan_counts, rdkit_descriptors

SMILES = ["CCO", "c1ccccc1C(=O)[O-]", "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "C" * 60]


def test_descriptors_are_those_of_rdkit():
    table = rdkit_descriptors(SMILES)
    assert table.shape == (5, len(Descriptors.descList))
    assert list(table.columns) == [name for name, _ in Descriptors.descList]
    assert (table.dtypes == np.float64).all()
    assert table.index.tolist() == list(range(5))
    for position, text in enumerate(SMILES):
        mol = Chem.MolFromSmiles(text)
        assert table["MolLogP"][position] == pytest.approx(Crippen.MolLogP(mol))
        assert table["MolWt"][position] == pytest.approx(Descriptors.MolWt(mol))


def test_descriptors_fit_float32_and_keep_gaps(capfd):
    table = rdkit_descriptors([*SMILES, "[He]", "[Fe+2]", "CC" * 200])
    values = table.to_numpy()
    assert not np.isinf(values).any()
    with np.errstate(over="raise"):
        as_float32 = values.astype(np.float32)
    assert np.array_equal(np.isnan(values), np.isnan(as_float32))
    assert np.isnan(values).any()
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_workers_do_not_change_a_value():
    smiles = [text for n in range(1, 36) for text in ("C" * n + "O", "N" + "C" * n, "C" * n + "c1ccccc1")]
    assert rdkit_descriptors(smiles, n_jobs=2).equals(rdkit_descriptors(smiles))


def test_fast_descriptors_are_some_of_them():
    fast, every = rdkit_descriptors(SMILES, fast=True), rdkit_descriptors(SMILES)
    assert fast.equals(every[list(fast)])
    assert 10 <= every.shape[1] - fast.shape[1] <= 15
    assert not {"qed", "BertzCT", "Ipc"} & set(fast)


def test_no_molecules_and_bad_ones():
    assert rdkit_descriptors([]).shape == (0, len(Descriptors.descList))
    with pytest.raises(DataError, match=r"molecule 70 \('bad'\)"):
        rdkit_descriptors(["C"] * 70 + ["bad"])
    with pytest.raises(DataError, match="molecule 1"):
        morgan_counts(["C", "bad"])


def test_counts_and_bits_agree():
    counts = morgan_counts(SMILES)
    assert counts.shape == (5, 2048)
    assert counts.dtype == np.uint8
    for row, bits in zip(counts, morgan_bits(SMILES), strict=True):
        assert set(np.flatnonzero(row).tolist()) == set(bits.GetOnBits())
    assert counts[4].max() > 50
    assert morgan_counts(["C" * 600], size=64).max() == 255
