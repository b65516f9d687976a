"""Targets with units, relations, types and transforms: the right value, or a reason."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from moltune.config import DataSettings, make_config
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.reading.companions import Companions, find_companions
from moltune.data.reading.measurements import Reading
from moltune.data.reading.units import known_unit, split_header
from moltune.data.reading.write import write_table
from moltune.errors import DataError

ETHANOL, PROPANE = 46.069, 44.097


def chembl(rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    names = ["Smiles", "Standard Type", "Standard Relation", "Standard Value", "Standard Units"]
    return pd.DataFrame(rows, columns=names).assign(**{"Molecule ChEMBL ID": [f"CHEMBL{i}" for i in range(len(rows))]})


ROWS = [
    ("CCO", "IC50", "'='", "37.0", "ug.mL-1"),
    ("CCN", "IC50", "'='", "74.0", "nM"),
    ("CCC", "IC50", "'='", "0.5", "uM"),
    ("CCCC", "IC50", "'>'", "10000", "nM"),
    ("CCCN", "IC50", "'<='", "2", "uM"),
    ("CCCO", "IC50", "'~'", "90", "nM"),
    ("CCCF", "IC50", "'='", "12", "mg/kg"),
    ("CCCCl", "IC50", None, "80", "nM"),
]


def load(frame: pd.DataFrame, target: str | None = None, **settings: object) -> Molecules:
    data = DataSettings.model_validate({"target": target, **settings})
    return load_molecules(frame, data)


def values(molecules: Molecules) -> dict[str, float]:
    return dict(zip(molecules.smiles, molecules.target.tolist(), strict=True))


def notes(molecules: Molecules) -> str:
    reading = Reading.from_provenance(molecules.provenance)
    assert reading is not None
    return " ".join([reading.words, *reading.notes])


def test_an_export_of_chembl_comes_in_one_unit_without_its_bounds() -> None:
    molecules = load(chembl(ROWS), "Standard Value")
    found = values(molecules)
    assert found.pop("CCO") == pytest.approx(37e-3 / ETHANOL * 1e9)
    assert found == {"CCN": 74.0, "CCC": 500.0, "CCCCl": 80.0}
    reasons = molecules.rejected.set_index("input")["reason"].to_dict()
    assert reasons["CCCC"] == "the target is a bound, not a number: '> 10000'"
    assert reasons["CCCF"] == "the unit cannot be converted to nM: 'mg/kg'"
    assert len(reasons) == 4
    bounds = molecules.bounds.set_index("input")[["relation", "value"]]
    assert bounds.to_numpy().tolist() == [[">", 10000.0], ["<=", 2000.0]]
    said = notes(molecules)
    assert "target 'Standard Value' (IC50), in nM" in said
    assert "1 rows converted from ug/mL to nM through the molecular weight" in said
    assert "1 rows left out: the unit cannot be converted to nM: 'mg/kg'" in said
    assert "1 rows have nothing in 'Standard Relation'" in said
    assert molecules.table.loc[0, "Standard Units"] == "nM"
    assert molecules.table.loc[0, "Molecule ChEMBL ID"] == "CHEMBL0"
    assert molecules.rejected.loc[0, "Molecule ChEMBL ID"] == "CHEMBL3"


def test_the_export_as_it_came(tmp_path: Path) -> None:
    source = Path("../shared/data/inputs/chembl_export.csv")
    if not source.is_file():
        pytest.skip("the file is not here")
    molecules = load_molecules(source, DataSettings(target="Standard Value"))
    assert values(molecules)["CCN"] == 74.0
    assert len(molecules) == 24
    assert (molecules.bounds["relation"] == ">").sum() == len(molecules.rejected) == 6
    assert "'pChEMBL Value'" in notes(molecules)
    with pytest.raises(DataError, match="'pChEMBL Value' is in one unit and on one scale"):
        load_molecules(source)
    proposed = load_molecules(source, DataSettings(target="pChEMBL Value"))
    assert proposed.target[:2].tolist() == [6.95, 6.90]
    # It is a pIC50 already, whatever the transform says.
    again = load_molecules(source, DataSettings(target="pChEMBL Value", clean={"transform": "neg-log10-molar"}))
    assert again.target.tolist() == proposed.target.tolist()


def test_several_types_are_an_error_that_names_them() -> None:
    table = chembl([*ROWS[1:3], ("CCCCC", "Ki", "'='", "3", "nM"), ("CCCCO", "Ki", "'='", "4", "nM")])
    with pytest.raises(DataError, match=r"several types of measurement \('Standard Type'\): IC50 \(2 rows\), Ki"):
        load(table, "Standard Value")
    molecules = load(table, "Standard Value", type="ki")
    assert values(molecules) == {"CCCCC": 3.0, "CCCCO": 4.0}
    assert molecules.rejected["reason"].tolist() == ["another type of measurement: IC50"] * 2
    with pytest.raises(DataError, match=r"no measurement of type 'EC50': 'Standard Type' names IC50"):
        load(table, "Standard Value", type="EC50")


@pytest.mark.parametrize(
    ("target", "columns", "expected"),
    [
        ("Standard Value", ["Standard Type", "Standard Relation", "Standard Units"], (1, 2, 0)),
        ("standard_value", ["standard_units", "standard_relation", "standard_type", "relation"], (1, 0, 2)),
        ("Activity_Value", ["Activity_Qualifier", "Activity_Type"], (0, None, 1)),
        ("acvalue", ["acqualifier", "acname"], (0, None, 1)),
        ("IC50", ["IC50_units", "IC50 qualifier"], (1, 0, None)),
        ("IC50 (nM)", ["name", "type"], (None, None, None)),
    ],
)
def test_columns_beside_a_target(target: str, columns: list[str], expected: tuple[int | None, ...]) -> None:
    frame = pd.DataFrame({"smiles": ["C"], target: ["1"], **{name: ["="] for name in columns}})
    found = find_companions(frame, target, "smiles")
    relation, unit, kind = (None if place is None else columns[place] for place in expected)
    assert found == Companions(relation, unit, kind)


def test_a_pic50_is_no_concentration() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC", "CCC"], "pIC50": [6.5, 7.0, 8.0]})
    assert (load(table).target.tolist(), load(table).unit) == ([6.5, 7.0, 8.0], "-log10 M")
    with pytest.raises(DataError, match=r"None of the 3 rows.*cannot be converted to nM"):
        load(table, clean={"unit": "nM"})
    with pytest.raises(DataError, match=r"cannot be converted to -log10 M"):
        load(table.rename(columns={"pIC50": "IC50 (nM)"}), clean={"unit": "-log10 M"})


def test_bindingdb_writes_bounds_into_its_cells() -> None:
    table = pd.DataFrame({"Ligand SMILES": ["C", "CC", "CCC"], "Ki (nM)": [" 5.3", ">10000", "12"]})
    molecules = load(table)
    assert molecules.target.tolist() == [5.3, 12.0]
    assert molecules.bounds[["relation", "value"]].to_numpy().tolist() == [[">", 10000.0]]
    assert molecules.unit == "nM"


def test_units_in_cells_become_one() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC", "CCC", "CCCC"], "IC50": ["4.69 uM", "12 µM", "500 nM", "7"]})
    molecules = load(table)
    assert molecules.target.tolist() == [4.69, 12.0, 0.5]
    assert (molecules.unit, molecules.provenance["target_column"]) == ("uM", "IC50 (uM)")
    assert molecules.rejected["reason"].tolist() == ["the unit is missing, while other rows have one"]
    nanomolar = load(table, clean={"unit": "nM"})
    assert nanomolar.target.tolist() == [4690.0, 12000.0, 500.0, 7.0]
    assert "1 rows have no unit; their values are taken to be in nM" in notes(nanomolar)


def test_a_unit_in_the_header() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC"], "IC50 (nM)": ["500", "12.5"]})
    assert (load(table).target.tolist(), load(table).unit) == ([500.0, 12.5], "nM")
    micro = load(table, "IC50", clean={"unit": "uM"})
    assert micro.target.tolist() == [0.5, 0.0125]
    assert micro.provenance["target_column"] == "IC50 (uM)"
    conflict = load(pd.DataFrame({"smiles": ["C", "CC", "CCC"], "IC50 (nM)": ["500", "12.5 uM", "3"]}))
    assert conflict.rejected["reason"].tolist() == ["two units that differ: 'uM' in the cell, 'nM' in its column"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("IC50 (nM)", ("IC50", "nM")),
        ("IC50 [µM]", ("IC50", "uM")),
        ("IC50_nM", ("IC50", "nM")),
        ("MIC, ug/mL", ("MIC", "ug/mL")),
        ("dG kcal/mol", ("dG", "kcal/mol")),
        ("mp (°C)", ("mp", "°C")),
        ("logS (mol/L)", ("logS", "log mol/L")),
        ("-log10 IC50 (M)", ("-log10 IC50", "-log10 M")),
        ("measured log(solubility:mol/L)", ("measured log(solubility:mol/L)", "")),
        ("hydration_free_energy", ("hydration_free_energy", "")),
        ("activity (mean)", ("activity (mean)", "")),
        ("IC50 (nm)", ("IC50 (nm)", "")),
    ],
)
def test_headers(header: str, expected: tuple[str, str]) -> None:
    assert split_header(header) == expected


@pytest.mark.parametrize(("text", "same"), [("ug.mL-1", "µg/mL"), ("nmol/L", "nmol.L-1"), ("micromolar", "uM")])
def test_ways_to_write_a_unit(text: str, same: str) -> None:
    assert known_unit(text) == known_unit(same) is not None


def test_temperatures_and_energies() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC"], "T": ["25 °C", "300 K"]})
    assert load(table, "T", clean={"unit": "K"}).target.tolist() == pytest.approx([298.15, 300.0])
    table = pd.DataFrame({"smiles": ["C", "CC"], "dG (kJ/mol)": ["4.1840", "-8.3680"]})
    assert load(table, clean={"unit": "kcal/mol"}).target.tolist() == pytest.approx([1.0, -2.0])


def test_transforms_are_taken_once_and_stay_with_the_table(tmp_path: Path) -> None:
    settings = {"clean": {"transform": "neg-log10-molar"}}
    molecules = load(chembl(ROWS), "Standard Value", **settings)
    found = values(molecules)
    assert found["CCC"] == pytest.approx(6.301029995663981)
    assert found["CCN"] == pytest.approx(-math.log10(74e-9))
    assert found["CCO"] == pytest.approx(-math.log10(37e-3 / ETHANOL))
    assert (molecules.unit, molecules.provenance["target_column"]) == ("-log10 M", "-log10 Standard Value (M)")
    # "Less potent than" turns round with the sign.
    assert molecules.bounds["relation"].tolist() == ["<", ">="]
    assert molecules.bounds["value"].tolist() == pytest.approx([5.0, -math.log10(2e-6)])
    # Its own tables are read as they are, under the label of scores as under the name of the target.
    write_table(molecules.named(), tmp_path / "clean.csv")
    again = load_molecules(tmp_path / "clean.csv", DataSettings(target="-log10 Standard Value (M)", **settings))
    assert again.target.tolist() == molecules.target.tolist()
    scores = pd.DataFrame({"smiles": molecules.smiles, **molecules.labels()})
    assert load(scores, "label", **settings).target.tolist() == molecules.target.tolist()
    assert "none is taken again" in notes(load(scores, "label", **settings))


def test_a_logarithm_needs_positive_numbers_and_a_concentration() -> None:
    table = pd.DataFrame({"smiles": ["C", "CC", "CCC"], "y": [100.0, -1.0, 10.0]})
    molecules = load(table, clean={"transform": "log10"})
    assert molecules.target.tolist() == [2.0, 1.0]
    assert molecules.rejected["reason"].tolist() == ["the target has no logarithm: -1"]
    with pytest.raises(DataError, match=r"needs concentrations.*not known; name it with --unit"):
        load(table, clean={"transform": "neg-log10-molar"})
    named = load(table, clean={"transform": "neg-log10-molar", "unit": "uM"})
    assert named.target.tolist() == pytest.approx([4.0, 5.0])
    with pytest.raises(DataError, match=r"needs concentrations.*its unit is 'K'"):
        load(table.rename(columns={"y": "T (K)"}), clean={"transform": "neg-log10-molar"})


def test_settings_are_stored_with_a_run_and_change_nothing_at_their_default() -> None:
    config = make_config({"data": {"clean": {"transform": "log10", "unit": "nM"}, "decimal": "comma"}})
    again = make_config(config.model_dump(mode="json"))
    assert (again.data.clean.transform, again.data.clean.unit, again.data.decimal) == ("log10", "nM", "comma")
    assert not {"sheet", "header", "decimal", "type"} & set(make_config({}).model_dump()["data"])
    assert not {"unit", "transform"} & set(make_config({}).model_dump()["data"]["clean"])
