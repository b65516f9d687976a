"""What is added to a training part: in which unit it comes, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rdkit.Chem import Descriptors, MolFromSmiles
from tests.tiny import RunSettings

from moltune.config import make_config
from moltune.errors import DataError
from moltune.tuning.prepare import Prepared, prepare

RUN = [("C" * n, float(n)) for n in range(1, 21)]
ADDED = ["CCN", "CCCN", "CCCCN", "CCCCCN"]
NANOMOLAR = {"nM": 1.0, "uM": 1e3, "mM": 1e6, "M": 1e9, "umol/L": 1e3, "pM": 1e-3}


def prepared(model: Path, folder: Path, unit: str, values: list[float], **changes: str) -> Prepared:
    """A run in nM with molecules added whose target's header names ``unit``, where there is one."""
    run, add = folder / "run.csv", folder / "add.csv"
    pd.DataFrame(RUN, columns=["smiles", "IC50 (nM)"]).to_csv(run, index=False)
    header = f"IC50 ({unit})" if unit else "IC50"
    pd.DataFrame({"smiles": ADDED, header: values}).to_csv(add, index=False)
    return prepare(make_config(RunSettings(model, run)(**{"data.add": str(add), **changes})))


def targets(found: Prepared) -> np.ndarray:
    return found.molecules.target[found.molecules.table["added"].to_numpy(dtype=bool)]


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    unit=st.sampled_from(sorted(NANOMOLAR)),
    values=st.lists(st.floats(0.01, 1e4), min_size=4, max_size=4, unique=True),
)
def test_the_unit_of_added_measurements_makes_no_difference(
    tiny_model: Path, tmp_path: Path, unit: str, values: list[float]
) -> None:
    found = prepared(tiny_model, tmp_path, unit, [value / NANOMOLAR[unit] for value in values])
    np.testing.assert_allclose(targets(found), values, rtol=1e-9)
    assert found.unit == "nM"


def test_added_masses_go_through_the_molecular_weight(tiny_model: Path, tmp_path: Path) -> None:
    found = prepared(tiny_model, tmp_path, "ng/mL", [1.0, 2.0, 3.0, 4.0])
    weights = [Descriptors.MolWt(MolFromSmiles(smiles)) for smiles in ADDED]
    np.testing.assert_allclose(targets(found), np.array([1.0, 2.0, 3.0, 4.0]) * 1000 / weights, rtol=1e-9)
    assert any("4 rows converted from ng/mL to nM through the molecular weight" in note for note in found.notes)


def test_a_transform_follows_the_conversion(tiny_model: Path, tmp_path: Path) -> None:
    for transform, expected in (("log10", [3.0, 4.0, 5.0, 6.0]), ("neg-log10-molar", [6.0, 5.0, 4.0, 3.0])):
        found = prepared(tiny_model, tmp_path, "uM", [1.0, 10.0, 100.0, 1000.0], **{"data.clean.transform": transform})
        np.testing.assert_allclose(targets(found), expected, atol=1e-9)


def test_added_numbers_without_a_unit_are_in_that_of_the_run_and_it_is_said(tiny_model: Path, tmp_path: Path) -> None:
    found = prepared(tiny_model, tmp_path, "", [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(targets(found), [1.0, 2.0, 3.0, 4.0])
    assert any("4 rows have no unit; their values are taken to be in nM" in note for note in found.notes)


def test_a_unit_that_cannot_be_converted_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the unit cannot be converted to nM"):
        prepared(tiny_model, tmp_path, "kcal/mol", [1.0, 2.0, 3.0, 4.0])
