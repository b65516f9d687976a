"""Ionisation: pKa as MolGpKa's own code has it, invariances, and the laws of charges at a pH."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Crippen

from moltune import datasets
from moltune.errors import DataError
from moltune.features.ionisation import (
    IONISATION_NAMES,
    Site,
    draw_svg,
    ionisation,
    ionisation_block,
    predict_pka,
)
from moltune.features.ionisation import network as network_module
from moltune.features.ionisation import sites as sites_module
from moltune.features.ionisation.molecules import neutral_parent, prepare

RECORDED = json.loads((Path(__file__).parent / "molgpka_values.json").read_text(encoding="utf-8"))
LIPOPHILICITY = datasets.load("lipophilicity")
SMILES = LIPOPHILICITY["smiles"].tolist()[::140]
GLYCINE, BETAINE, ASPIRIN = "NCC(=O)O", "C[N+](C)(C)CC(=O)[O-]", "CC(=O)Oc1ccccc1C(=O)O"
COLUMN = {name: position for position, name in enumerate(IONISATION_NAMES)}


def sites_of(smiles: str) -> list[Site]:
    (sites,) = predict_pka([smiles])
    assert sites is not None
    return sites


def row_of(smiles: str, ph: float = 7.4) -> dict[str, float]:
    return dict(zip(IONISATION_NAMES, ionisation_block([smiles], ph=ph)[0].tolist(), strict=True))


def same_sites(first: list[Site] | None, second: list[Site] | None, tolerance: float = 2e-5) -> bool:
    assert first is not None
    assert second is not None
    return [(one.atom, one.kind) for one in first] == [(one.atom, one.kind) for one in second] and np.allclose(
        [one.pka for one in first], [one.pka for one in second], atol=tolerance
    )


# --- pKa ---------------------------------------------------------------------------------------------------------


def test_values_of_the_package() -> None:
    """Recorded by recipes/ionisation/record.py: the package's code, once with its weights, once with ours."""
    found = predict_pka(list(RECORDED))
    deviations = []
    for (smiles, expected), sites in zip(RECORDED.items(), found, strict=True):
        assert sites is not None
        assert [(site.kind, site.atom) for site in sites] == [(kind, atom) for kind, atom, _, _ in expected], smiles
        assert [site.pka for site in sites] == pytest.approx([half for *_, half in expected], abs=1e-5), smiles
        deviations += [abs(site.pka - full) for site, (_, _, full, _) in zip(sites, expected, strict=True)]
    assert len(deviations) >= 100
    # What half precision costs.
    assert max(deviations) < 0.03
    assert np.mean(deviations) < 0.005


def test_order_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    together = predict_pka(SMILES)
    backwards = predict_pka(SMILES[::-1])[::-1]
    monkeypatch.setattr(network_module, "_NODES_AT_ONCE", 1)
    monkeypatch.setattr(network_module, "_NODES_POOLED_AT_ONCE", 1)
    monkeypatch.setattr(sites_module, "_BATCH", 7)
    apart = predict_pka(SMILES)
    for one, other, third in zip(together, backwards, apart, strict=True):
        assert same_sites(one, other)
        assert same_sites(one, third)


def test_atom_order_does_not_matter() -> None:
    for smiles in SMILES[:10]:
        mol = Chem.MolFromSmiles(smiles)
        order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
        shuffled = Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)
        one, other = sites_of(smiles), sites_of(shuffled)
        assert sorted(site.pka for site in one) == pytest.approx(sorted(site.pka for site in other), abs=2e-5)


@pytest.mark.parametrize(
    ("drawn", "neutral", "shift"),
    [
        ("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", ASPIRIN, 0),
        ("[Na+].CC(=O)Oc1ccccc1C(=O)[O-]", ASPIRIN, 1),
        ("[NH3+]CC(=O)[O-]", GLYCINE, 0),
        ("Cl.c1ccncc1", "c1ccncc1", 1),
        ("c1cc[nH+]cc1", "c1ccncc1", 0),
        ("c1nn[n-]n1.[K+]", "c1nn[nH]n1", 0),
        ("CC(=O)[CH-]C(C)=O", "CC(=O)CC(C)=O", 0),
    ],
)
def test_salts_and_ions_have_the_sites_of_the_neutral_form(drawn: str, neutral: str, shift: int) -> None:
    moved = [Site(site.atom - shift, site.kind, site.pka) for site in sites_of(drawn)]
    assert moved
    assert same_sites(moved, sites_of(neutral))


@pytest.mark.parametrize(
    ("smiles", "neutral"),
    [
        (BETAINE, "C[N+](C)(C)CC(=O)O"),
        ("C[N+](C)(C)CC([O-])=O.[Na+].[Cl-]", "C[N+](C)(C)CC(=O)O"),
        ("[O-][n+]1ccccc1", "[O-][n+]1ccccc1"),
        ("O=[N+]([O-])c1ccc([O-])cc1", "O=[N+]([O-])c1ccc(O)cc1"),
        ("CN=[N+]=[N-]", "CN=[N+]=[N-]"),
        ("C[NH+](C)[O-]", "C[NH+](C)[O-]"),
        ("[CH2-][P+](C)(C)C.[Br-]", "[CH2-][P+](C)(C)C"),
        ("F[B-](F)(F)F.C[n+]1ccccc1", "C[n+]1ccccc1"),
        ("[O-]P([O-])(=O)OC", "COP(=O)(O)O"),
        ("C[S-].[Na+]", "CS"),
        ("NC(=[NH2+])N", "N=C(N)N"),
        ("[Na+].[Na+].[O-]S(=O)(=O)C", "CS(=O)(=O)O"),
    ],
)
def test_neutral_form(smiles: str, neutral: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    parent, source = neutral_parent(mol)
    assert Chem.MolToSmiles(parent) == Chem.CanonSmiles(neutral)
    for atom, index in zip(parent.GetAtoms(), source, strict=True):
        assert atom.GetAtomicNum() == mol.GetAtomWithIdx(index).GetAtomicNum()


def test_groups_point_at_protons() -> None:
    from moltune.features.ionisation.molecules import _groups

    groups = _groups().groups
    assert len(groups) == 143
    for group in groups:
        elements = {group.pattern.GetAtomWithIdx(position).GetAtomicNum() for position in group.positions}
        assert (elements == {1}) == (group.kind == "acid")


def test_screen_leaves_no_group_out() -> None:
    """Sites found after the screen by elements and bonds are those of every pattern tried in turn."""
    from moltune.features.ionisation.molecules import _groups

    for smiles in [*SMILES, *RECORDED]:
        molecule = prepare(smiles)
        assert molecule is not None
        full = Chem.AddHs(molecule.mol)
        found: dict[str, set[int]] = {"acid": set(), "base": set()}
        for group in _groups().groups:
            for match in full.GetSubstructMatches(group.pattern):
                atoms = [full.GetAtomWithIdx(match[position]) for position in group.positions]
                atoms = [atom.GetNeighbors()[0] if group.kind == "acid" else atom for atom in atoms]
                found[group.kind] |= {atom.GetIdx() for atom in atoms if not atom.GetFormalCharge()}
        assert {atom for atom, _ in molecule.acids} == found["acid"]
        assert set(molecule.bases) == found["base"]


@pytest.mark.parametrize("smiles", ["c1ccccc1", "C", "CCOCC", "[Na+].[Cl-]", "C[N+](C)(C)C"])
def test_molecules_without_sites(smiles: str) -> None:
    assert sites_of(smiles) == []
    assert row_of(smiles)["acids"] == row_of(smiles)["bases"] == 0


def test_unreadable_smiles() -> None:
    bad = ["xx", "", "C(C", "C(C)(C)(C)(C)C", "c1ccc1.c"]
    found = predict_pka([GLYCINE, *bad, "CCN"])
    assert found[1:-1] == [None] * len(bad)
    assert same_sites(found[0], sites_of(GLYCINE))
    block = ionisation_block([GLYCINE, *bad, "CCN"])
    assert np.isnan(block).all(axis=1).tolist() == [False] + [True] * len(bad) + [False]
    assert np.isfinite(block[[0, -1]]).all()
    with pytest.raises(DataError, match="xx"):
        ionisation("xx")
    with pytest.raises(DataError, match="xx"):
        draw_svg("xx")


# --- one molecule at a pH ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("smiles", "ph", "form", "charge"),
    [
        (GLYCINE, 7.4, "[NH3+]CC(=O)[O-]", 0),
        (GLYCINE, 0.5, "[NH3+]CC(=O)O", 1),
        (GLYCINE, 12, "NCC(=O)[O-]", -1),
        (BETAINE, 7.4, BETAINE, 0),
        (BETAINE, 0, "C[N+](C)(C)CC(=O)O", 1),
        ("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", 7.4, "CC(=O)Oc1ccccc1C(=O)[O-]", -1),
        ("c1ccncc1", 2, "c1cc[nH+]cc1", 1),
        ("c1nnn[nH]1", 7.4, "c1nnn[n-]1", -1),
        ("[2H]OC(C)=O", 7.4, "CC(=O)[O-]", -1),
        ("c1ccccc1", 7.4, "c1ccccc1", 0),
    ],
)
def test_main_form(smiles: str, ph: float, form: str, charge: int) -> None:
    found = ionisation(smiles, ph)
    assert found.main_form == Chem.CanonSmiles(form)
    assert found.main_charge == charge
    assert found.net == pytest.approx(charge, abs=0.1)
    assert list(found.sites) == sites_of(smiles)


def test_the_nitrogen_of_pyrrole_takes_no_proton() -> None:
    """MolGpKa lists the alkylated nitrogen of an imidazole as a base."""
    found = ionisation("Cn1ccnc1", -5)
    assert {site.atom for site in found.sites} == {1, 4}
    assert found.main_form == Chem.CanonSmiles("Cn1cc[nH+]c1")


@settings(max_examples=40)
@given(st.sampled_from(SMILES), st.floats(-2, 16), st.floats(0, 6))
def test_charge_falls_with_ph(smiles: str, ph: float, step: float) -> None:
    low, high = ionisation(smiles, ph), ionisation(smiles, ph + step)
    assert low.positive >= high.positive - 1e-12
    assert low.negative <= high.negative + 1e-12
    assert low.main_charge >= high.main_charge
    below, above = ionisation_block([smiles], ph=ph)[0], ionisation_block([smiles], ph=ph + step)[0]
    for name in ("acid_correction", "negative_charge", "acid_tanh"):
        assert below[COLUMN[name]] <= above[COLUMN[name]] + 1e-6
    for name in ("base_correction", "positive_charge", "base_tanh", "net_charge"):
        assert below[COLUMN[name]] >= above[COLUMN[name]] - 1e-6


@settings(max_examples=20)
@given(st.sampled_from(SMILES), st.floats(-2, 16))
def test_block_agrees_with_one_molecule(smiles: str, ph: float) -> None:
    row, found = row_of(smiles, ph), ionisation(smiles, ph)
    assert row["positive_charge"] == pytest.approx(found.positive, abs=1e-4)
    assert row["negative_charge"] == pytest.approx(found.negative, abs=1e-4)
    assert row["acids"] == sum(site.kind == "acid" for site in found.sites)
    assert row["bases"] == sum(site.kind == "base" for site in found.sites)
    assert 0 <= row["neutral_share"] <= 1
    assert 0 <= row["zwitterion_share"] <= 1 - row["neutral_share"] + 1e-6


# --- block -------------------------------------------------------------------------------------------------------


def test_block_names_and_shape() -> None:
    assert len(IONISATION_NAMES) == len(set(IONISATION_NAMES)) == 17
    block = ionisation_block(SMILES)
    assert block.shape == (len(SMILES), 17)
    assert block.dtype == np.float32
    assert np.isfinite(block).all()
    assert ionisation_block([]).shape == (0, 17)


def test_block_values() -> None:
    acid, base = (site.pka for site in sites_of(GLYCINE))
    row = row_of(GLYCINE)
    assert row["acid_pka_1"] == pytest.approx(acid, abs=1e-5)
    assert row["base_pka_1"] == pytest.approx(base, abs=1e-5)
    assert (row["acid_pka_2"], row["base_pka_2"]) == (16, -2)
    assert row["acid_correction"] == pytest.approx(np.log10(1 + 10 ** (7.4 - acid)), abs=1e-5)
    assert row["base_correction"] == pytest.approx(np.log10(1 + 10 ** (base - 7.4)), abs=1e-5)
    assert row["correction"] == pytest.approx(np.log10(1 + 10 ** (7.4 - acid) + 10 ** (base - 7.4)), abs=1e-5)
    assert row["zwitterion_share"] == pytest.approx(row["positive_charge"] * row["negative_charge"], abs=1e-5)
    assert row["net_charge"] == pytest.approx(0, abs=0.01)
    # Crippen's logP of glycine is -0.97; the ion lies at most 3.5 below.
    assert row["logd"] == pytest.approx(-0.97 - 3.5, abs=0.02)
    assert row["acid_tanh"] == pytest.approx(np.tanh(7.4 - acid), abs=1e-5)
    assert row["base_tanh"] == pytest.approx(np.tanh(base - 7.4), abs=1e-5)
    betaine, benzene = row_of(BETAINE), row_of("c1ccccc1")
    assert betaine["positive_charge"] == 1
    assert betaine["neutral_share"] == 0
    assert betaine["zwitterion_share"] == pytest.approx(betaine["negative_charge"])
    assert benzene["neutral_share"] == 1
    assert benzene["correction"] == pytest.approx(0, abs=1e-7)
    assert benzene["logd"] == pytest.approx(1.6866, abs=1e-4)


def test_block_explains_logd() -> None:
    """What protons do to octanol and water is what Crippen's logP lacks."""
    part = LIPOPHILICITY.iloc[::14]
    block = ionisation_block(part["smiles"].tolist())
    measured = part["logD"].to_numpy()
    mols = [prepare(smiles) for smiles in part["smiles"]]
    logp = [Crippen.MolLogP(one.mol) for one in mols if one is not None]
    assert np.corrcoef(block[:, COLUMN["logd"]], measured)[0, 1] > np.corrcoef(logp, measured)[0, 1] + 0.2


def test_block_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites_module, "_BATCH", 5)
    smiles = [*SMILES[:12], "xx"]
    np.testing.assert_allclose(ionisation_block(smiles, n_jobs=2), ionisation_block(smiles), atol=2e-5)


@pytest.mark.parametrize(("arguments", "message"), [({"ph": float("nan")}, "ph"), ({"n_jobs": 0}, "n_jobs")])
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ionisation_block(["CCO"], **arguments)  # type: ignore[arg-type]


def test_the_block_needs_no_torch() -> None:
    code = """
import sys
from moltune.features.ionisation import ionisation_block
block = ionisation_block(["NCC(=O)O", "CCN", "xx"])
print(block.shape, sorted({"torch", "transformers", "pandas", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3, 17) []"


# --- drawing -----------------------------------------------------------------------------------------------------


def test_drawing_labels_the_sites() -> None:
    svg = draw_svg(GLYCINE, 7.4, size=(300, 200))
    root = ElementTree.fromstring(svg)
    assert root.get("width") == "300px"
    assert sum(element.tag.endswith("ellipse") for element in root.iter()) == 2
    classes = [element.get("class") or "" for element in root.iter()]
    assert any("note" in one for one in classes)
    assert draw_svg(GLYCINE, 1.0, size=(300, 200)) != svg
