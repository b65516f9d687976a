from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors

from moltune import datasets
from moltune.errors import DataError
from moltune.features import physchem as module
from moltune.features.physchem import DESCRIPTORS, DescriptorScaler, physchem

SMILES = datasets.load("lipophilicity")["smiles"].tolist()[::40]
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_columns_have_their_names() -> None:
    values = dict(zip(DESCRIPTORS, physchem([ASPIRIN])[0].tolist(), strict=True))
    mol = Chem.MolFromSmiles(ASPIRIN)
    assert len(DESCRIPTORS) == len(set(DESCRIPTORS)) >= 80
    assert values["MolWt"] == pytest.approx(180.159, abs=1e-3)
    assert values["CrippenLogP"] == pytest.approx(Crippen.MolLogP(mol), abs=1e-4)
    assert values["CrippenMR"] == pytest.approx(Crippen.MolMR(mol), abs=1e-3)
    assert values["TPSA"] == pytest.approx(63.6, abs=1e-3)
    assert values["HBondDonors"] == 1
    assert values["Rings"] == values["AromaticRings"] == 1
    assert values["FormalCharge"] == 0
    assert values["MQN1"] == 9  # carbon atoms
    for name, function in (("SlogP_VSA2", Descriptors.SlogP_VSA2), ("PEOE_VSA14", Descriptors.PEOE_VSA14)):
        assert values[name] == pytest.approx(function(mol), rel=1e-5)
    assert values["SMR_VSA10"] == pytest.approx(Descriptors.SMR_VSA10(mol), rel=1e-5)
    assert values["Kappa3"] == pytest.approx(Descriptors.Kappa3(mol), rel=1e-5)
    assert values["Chi3v"] == pytest.approx(Descriptors.Chi3v(mol), rel=1e-5)


def test_unreadable_molecule_is_a_row_of_nan() -> None:
    values = physchem([ASPIRIN, "nonsense(", ""])
    assert values.shape == (3, len(DESCRIPTORS))
    assert values.dtype == np.float32
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1:]).all()
    assert physchem([]).shape == (0, len(DESCRIPTORS))


def test_spelling_does_not_matter() -> None:
    np.testing.assert_allclose(*physchem(["OC(=O)c1ccccc1OC(C)=O", ASPIRIN]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_processes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 40)
    np.testing.assert_array_equal(physchem(SMILES, n_jobs=2), physchem(SMILES))


def test_scaler_standardises_and_clips() -> None:
    values = physchem(SMILES)
    scaler = DescriptorScaler.fit(values)
    scaled = scaler.transform(values)
    assert scaled.dtype == np.float32
    assert scaled.shape == (len(SMILES), len(scaler.names))
    assert np.abs(scaled).max() <= 5
    logp = scaled[:, scaler.names.index("CrippenLogP")]
    assert logp.mean() == pytest.approx(0, abs=1e-2)
    assert logp.std() == pytest.approx(1, abs=2e-2)
    assert set(scaler.names) | set(scaler.dropped) == set(DESCRIPTORS)
    assert set(scaler.dropped.values()) == {"constant"}
    huge = np.full((1, len(DESCRIPTORS)), 1e9)
    assert (scaler.transform(huge) == 5).all()


def test_scaler_drops_and_repairs() -> None:
    names = ("good", "constant", "mostly bad", "rarely bad")
    values = np.random.default_rng(0).normal(size=(400, 4))
    values[:, 1] = 0.1
    values[::2, 2] = np.nan
    values[7, 3] = np.inf
    scaler = DescriptorScaler.fit(values, names)
    assert scaler.names == ("good", "rarely bad")
    assert scaler.dropped == {"constant": "constant", "mostly bad": "not finite"}
    scaled = scaler.transform(values, names)
    assert scaled[7, 1] == 0
    assert np.isfinite(scaled).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (20, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_scaler_survives_json(values: np.ndarray) -> None:
    names = ("a", "b", "c")
    try:
        scaler = DescriptorScaler.fit(values, names)
    except DataError:
        assert (np.ptp(values, axis=0) < 1).all()
        return
    again = DescriptorScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert again.names == scaler.names
    np.testing.assert_array_equal(again.transform(values, names), scaler.transform(values, names))


def test_scaler_errors() -> None:
    values = physchem(SMILES[:20])
    scaler = DescriptorScaler.fit(values)
    with pytest.raises(DataError, match="shape"):
        DescriptorScaler.fit(values[:, :3])
    with pytest.raises(DataError, match="does not compute"):
        scaler.transform(values[:, :2], DESCRIPTORS[:2])
    with pytest.raises(DataError, match="no molecule"):
        DescriptorScaler.fit(np.full((3, len(DESCRIPTORS)), np.nan))
    with pytest.raises(DataError, match="constant"):
        DescriptorScaler.fit(np.ones((3, len(DESCRIPTORS))))
    with pytest.raises(DataError, match="damaged"):
        DescriptorScaler.from_dict({"names": ["a"]})
    with pytest.raises(DataError, match="differ in length"):
        DescriptorScaler.from_dict({**scaler.to_dict(), "mean": [1.0]})
