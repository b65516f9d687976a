from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from moltune import datasets
from moltune.config import AuditSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.overlap import disagreement, shared_molecules
from moltune.errors import DataError
from moltune.run import Run
from moltune.selection.audit import audit
from moltune.selection.audit_report import write_audit
from moltune.selection.findings import Audit
from moltune.selection.noise import label_noise

EXTERNAL = Path(__file__).parents[3] / "shared" / "data" / "external_lipophilicity.csv"


def test_three_levels_of_sameness() -> None:
    known = molecules_from_lists(["C[C@H](N)C(=O)O", "CCO", "O=c1cccc[nH]1"], [1.0, 2.0, 3.0])
    external = molecules_from_lists(["OCC", "C[C@@H](N)C(=O)O", "Oc1ccccn1", "CCCC"], [2.5, 0.0, 3.0, 9.0])
    pairs = shared_molecules(external, known)
    assert pairs[["level", "position", "known_position", "difference"]].to_numpy().tolist() == [
        ["smiles", 0, 1, 0.5],
        ["inchikey", 2, 2, 0.0],
        ["connectivity", 1, 0, -1.0],
    ]
    found = disagreement(pairs, "smiles")
    assert found == {"molecules": 1, "pairs": 1, "rmse": 0.5, "mean": 0.5, "largest": 0.5, "shifted": False}
    assert disagreement(pairs, "connectivity")["rmse"] == pytest.approx(np.sqrt(1.25 / 3))
    assert disagreement(pairs.iloc[:0], "smiles")["rmse"] is None


@pytest.mark.skipif(not EXTERNAL.is_file(), reason="the file of the founding studies is not here")
def test_the_founding_studies_file_shares_ten_molecules_with_lipophilicity() -> None:
    external = load_molecules(EXTERNAL)
    lipophilicity = datasets.load("lipophilicity")
    # Cleaning all 4,200 would take longer than the other tests together; those of other formulas cannot be shared.
    formulas = {rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(smiles)) for smiles in external.smiles}
    same = [
        rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(smiles)) in formulas for smiles in lipophilicity["smiles"]
    ]
    pairs = shared_molecules(external, load_molecules(lipophilicity[same]))
    facts = disagreement(pairs, "smiles")
    assert facts["molecules"] == 10
    assert facts["rmse"] == pytest.approx(1.053, abs=0.001)
    assert disagreement(pairs, "inchikey")["molecules"] == 11
    assert disagreement(pairs, "connectivity")["molecules"] == 27


def make_audit(tiny_model: Path, external: pd.DataFrame, against: object, **options: object) -> Audit:
    settings = AuditSettings.model_validate({"model": str(tiny_model), "permutations": 50, "folds": 3})
    return audit(external, against, settings=settings, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    table = datasets.load("freesolv")[["smiles", "hydration_free_energy"]]
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    known, external = shuffled.iloc[:200], shuffled.iloc[190:250].copy()
    # The ten shared molecules get labels that contradict; one row is no molecule.
    external.iloc[:10, 1] += 8.0
    broken = pd.DataFrame({"smiles": ["C1CC"], "hydration_free_energy": [0.0]})
    return known, pd.concat([external, broken], ignore_index=True)


@pytest.fixture(scope="module")
def found(tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> Audit:
    known, external = tables
    return make_audit(tiny_model, external, known)


def test_audit_finds_shared_molecules_bad_rows_and_contradiction(found: Audit) -> None:
    assert found.overlap["smiles"]["molecules"] == 10
    assert found.overlap["smiles"]["rmse"] == pytest.approx(8.0, abs=0.01)
    assert found.to_dict()["external"]["rejected"] == {"not a valid SMILES": 1}
    assert "contradict" in found.verdict
    bad = [one.text for one in found.findings if one.level == "bad"]
    assert any("10 of 60 molecules" in text for text in bad)
    assert found.findings[0].level == "bad"
    json.dumps(found.to_dict())


def test_audit_of_a_random_part_of_the_same_data_sees_no_shift(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    known, external = tables
    found = make_audit(tiny_model, external.iloc[10:60], known)
    assert found.embeddings.p > 0.05
    assert min(found.adjusted.values()) > 0.01
    assert found.target is not None
    assert found.target.p > 0.01
    assert found.noise is not None
    assert found.noise.excess < 0.5 * known["hydration_free_energy"].std()
    assert "contradict" not in found.verdict


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 1.0])
def test_the_headline_names_a_shift_of_the_shared_labels(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame], shift: float
) -> None:
    known, external = tables
    moved = pd.concat([known.iloc[:5], external.iloc[10:60]], ignore_index=True)
    moved.iloc[:5, 1] += shift
    found = make_audit(tiny_model, moved, known)
    if shift:
        assert f"shifted by +{shift:.3g} on average" in found.verdict
        assert "on the 5 molecules that both have" in found.verdict
        assert all(one.level != "good" for one in found.findings if one.text.startswith("The labels have mean"))
    else:
        assert found.verdict.startswith("The labels of the 5 molecules that both have are the same.")
    # What is grave depends on the spread of the target, 3.8 here.
    assert ("contradict" in found.verdict) == (shift > 0.25 * found.target_sd)


def test_labels_in_another_unit_are_converted_or_named(
    tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    known = tables[0].set_axis(["smiles", "energy (kcal/mol)"], axis=1)
    same = known.iloc[:60].set_axis(["smiles", "energy (kJ/mol)"], axis=1)
    same["energy (kJ/mol)"] *= 4.184
    assert "are the same" in make_audit(tiny_model, same, known).verdict
    other = known.iloc[:60].set_axis(["smiles", "energy (h)"], axis=1)
    found = make_audit(tiny_model, other, known)
    assert found.verdict.startswith("The labels are in h, those of the training data in kcal/mol.")
    assert found.findings[0].level == "bad"


def test_audit_of_other_chemistry_sees_the_shift(tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    known, _ = tables
    other = datasets.load("lipophilicity").iloc[:40][["smiles", "logD"]]
    found = make_audit(tiny_model, other, known)
    assert found.embeddings.p <= 0.02
    assert found.adjusted["MolWt"] < 1e-6
    assert found.descriptors["MolWt"].means[0] > found.descriptors["MolWt"].means[1]
    assert np.median(found.similarity) < np.median(found.reference_similarity)


def test_audit_against_a_run_names_parts(tiny_model: Path, finished: Run, small_table: pd.DataFrame) -> None:
    external = small_table[["smiles", "hydration_free_energy"]].iloc[:30]
    found = make_audit(tiny_model, external, finished.path)
    assert set(found.shared["part"]) == {"train", "validation", "test"}
    assert any("would leak" in one.text for one in found.findings)


def test_unlabelled_molecules_can_be_audited(tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    known, external = tables
    found = make_audit(tiny_model, external[["smiles"]], known)
    assert found.target is None
    assert found.noise is None
    assert found.overlap["smiles"]["molecules"] == 10


def test_too_few_molecules_are_refused(tiny_model: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match="five or more"):
        make_audit(tiny_model, tables[1].head(3), tables[0])


def test_page_and_files(found: Audit, tmp_path: Path) -> None:
    page = write_audit(found, tmp_path).read_text()
    assert found.verdict in page
    assert len(pd.read_csv(tmp_path / "shared.csv")) == len(found.shared)
    assert json.loads((tmp_path / "audit.json").read_text())["shared"]["smiles"]["molecules"] == 10
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5


def test_noise_estimate_recovers_planted_noise() -> None:
    rng = np.random.default_rng(0)
    smiles = datasets.load("freesolv")["smiles"].tolist()[:360]
    x = rng.uniform(-2, 2, size=(360, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    clean = label_noise((x[300:], y[300:], smiles[300:]), (x[:300], y[:300], smiles[:300]), folds=3)
    noisy_y = y[300:] + rng.normal(scale=1.5, size=60)
    noisy = label_noise((x[300:], noisy_y, smiles[300:]), (x[:300], y[:300], smiles[:300]), folds=3)
    assert clean.excess < 0.3
    assert noisy.excess_lower < 1.5 < noisy.excess_upper
    assert abs(noisy.excess - 1.5) < 0.45
