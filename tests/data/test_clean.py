import contextlib
import logging

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from moltune import datasets
from moltune.config import CleanSettings, DataSettings
from moltune.data.cleaning.clean import clean, clean_smiles
from moltune.data.load import load_molecules, molecules_from_lists, reason_counts
from moltune.data.molecules import KEPT_COLUMNS, REJECT_COLUMNS
from moltune.data.reading.read import read_table
from moltune.errors import DataError


def cleaned(smiles, y, *, need_target=True, columns=None, **settings):
    frame = pd.DataFrame({"smiles": smiles, "y": y, **(columns or {})}, dtype=object)
    molecules = clean(read_table(frame), CleanSettings(**settings), target="y", need_target=need_target)
    assert molecules.rows_in == len(frame) == len(molecules) + len(molecules.rejected)
    assert list(molecules.table.columns[:5]) == KEPT_COLUMNS
    assert list(molecules.rejected.columns[:4]) == REJECT_COLUMNS
    assert sorted([*molecules.table["row"], *molecules.rejected["row"]]) == list(range(1, len(frame) + 1))
    return molecules


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        (None, "is empty"),
        (7, "is not text"),
        ("C(", "syntax error"),
        ("c1ccc", "unclosed ring"),
        ("C(C)(C)(C)(C)C", "Explicit valence for atom # 0 C, 5, is greater than permitted"),
        ("c1cccc1", "Can't kekulize"),
        ("CCO ethanol", "blank inside"),
        ("CC\tO", "blank inside"),
        ("CC>>CO", "syntax error"),
        ("*CC", "wildcard"),
        ("C" * 1100, "too large"),
        ("\ud800", "not a valid SMILES"),
        ("C\x00C", "not a valid SMILES"),
    ],
)
def test_bad_smiles_carry_the_reason(smiles, reason, capfd):
    with pytest.raises(DataError, match=reason):
        clean_smiles(smiles)
    assert capfd.readouterr().err == ""


def test_rdkit_logging_is_left_as_it_was(capfd):
    before = rdBase.LogStatus()
    with pytest.raises(DataError):
        clean_smiles("C(")
    assert rdBase.LogStatus() == before
    Chem.MolFromSmiles("C(")
    assert "syntax error" in capfd.readouterr().err


def test_canonical_smiles_and_inchikey():
    found = clean_smiles("  OCC ")
    assert (found.smiles, found.inchikey, found.steps) == ("CCO", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", ("canonical",))
    assert clean_smiles("CCO").steps == ()
    assert clean_smiles("OCC", CleanSettings(canonical=False)).smiles == "OCC"
    assert clean_smiles("OCC |c:0|", CleanSettings(canonical=False)).smiles == "OCC"
    assert clean_smiles("N[C@@H](C)C(=O)O").smiles == "C[C@H](N)C(=O)O"


def test_salts_and_charges_only_when_asked_for():
    salt = "[Na+].[O-]C(=O)c1ccccc1"
    assert "." in clean_smiles(salt).smiles
    found = clean_smiles(salt, CleanSettings(largest_fragment=True, neutralize=True, canonical=False))
    assert found.smiles == "O=C(O)c1ccccc1"
    assert found.steps == ("largest fragment", "neutralised")
    assert found.inchikey == clean_smiles("OC(=O)c1ccccc1").inchikey
    assert clean_smiles("C[N+](C)(C)C", CleanSettings(neutralize=True)).steps == ()


def test_targets_that_are_no_numbers_are_rejected_with_reasons():
    molecules = cleaned(
        ["C", "CC", "CCC", "CCCC", "CO", "CN", "CF", "CCl"],
        ["1.0", "2", "n/a", None, "inf", "> 5", "5.0 ± 0.2", "1e39"],
    )
    assert molecules.target.tolist() == [1.0, 2.0]
    reasons = molecules.rejected.set_index("row")["reason"]
    assert reasons[3] == "the target is not a number: 'n/a'"
    assert reasons[4] == "the target is empty"
    assert "not finite" in reasons[5]
    assert "a bound" in reasons[6]
    assert reasons[7] == "the target is not a number: '5.0 ± 0.2'"
    assert "not finite" in reasons[8]
    assert molecules.rejected.set_index("row")["value"][6] == "> 5"


def test_no_number_at_all_names_the_column_and_the_numeric_ones():
    frame = pd.DataFrame({"smiles": ["C", "N"], "name": ["a", "b"], "logD": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"'name' has no finite number in any row.*numeric columns are 'logD'"):
        clean(read_table(frame), CleanSettings(), target="name")


def test_all_bad_and_constant_targets_are_errors_of_their_own():
    with pytest.raises(DataError, match=r"None of the 2 rows.*2 times: not a valid SMILES.*row 1, has 'C\('"):
        cleaned(["C(", "N("], [1, 2])
    with pytest.raises(DataError, match=r"'y' has the same value \(1\) for all 2 kept molecules"):
        cleaned(["C", "N", "bad"], [1, 1, 2])


@pytest.mark.parametrize(
    ("policy", "values", "reason"),
    [
        ("mean", {1: 3.0, 2: 5.0}, "duplicate of row 1, merged by mean"),
        ("median", {1: 2.0, 2: 5.0}, "duplicate of row 1, merged by median"),
        ("first", {1: 1.0, 2: 5.0}, "duplicate of row 1, the first was kept"),
    ],
)
def test_duplicates_are_merged_and_listed(policy, values, reason):
    molecules = cleaned(["CCO", "C", "OCC", "C(C)O"], [1, 5, 2, 6], duplicates=policy, conflict_tolerance=10)
    assert dict(zip(molecules.table["row"], molecules.target, strict=True)) == values
    assert molecules.rejected["row"].tolist() == [3, 4]
    assert molecules.rejected["reason"].tolist() == [reason, reason]
    assert molecules.rejected["value"].tolist() == ["2.0", "6.0"]
    assert molecules.provenance["merged_rows"] == {3: 1, 4: 1}
    assert len(molecules.conflicts) == 0


def test_conflicts_are_listed_or_dropped():
    smiles, y = ["CCO", "C", "OCC", "CC", "CC"], [1.0, 5.0, 4.0, 2.0, 2.1]
    merged = cleaned(smiles, y, conflict_tolerance=0.5)
    conflict = merged.conflicts.iloc[0]
    assert (len(merged.conflicts), conflict["rows"], conflict["values"], conflict["spread"]) == (1, [1, 3], [1, 4], 3)
    dropped = cleaned(smiles, y, duplicates="drop-conflicting", conflict_tolerance=0.5)
    assert dropped.table["row"].tolist() == [2, 4]
    assert dropped.target.tolist() == [5.0, 2.05]
    reasons = dropped.rejected.set_index("row")["reason"]
    assert reasons[1] == "dropped: its label conflicts with that of the same molecule in row 3 (4)"
    assert reasons[5] == "duplicate of row 4, merged by mean"
    with pytest.raises(DataError, match="leaves none"):
        cleaned(["C", "C"], [1, 9], duplicates="drop-conflicting", conflict_tolerance=1)


def test_default_tolerance_is_half_a_standard_deviation():
    y = [0.0, 1.0, 2.0, 3.0]
    half = np.std(y, ddof=1) / 2
    assert len(cleaned(["C", "C", "CC", "CCC"], y).conflicts) == (half < 1.0)
    assert len(cleaned(["C", "CC", "C", "CCC"], y).conflicts) == 1
    assert len(cleaned(["C", "C", "CC", "CCC"], [0.0, 1.0, 2.0, 13.0]).conflicts) == 0


def test_duplicates_as_an_error_name_the_rows():
    with pytest.raises(DataError, match=r"1 molecules appear more than once.*rows 1 and 3"):
        cleaned(["CCO", "C", "OCC"], [1, 2, 3], duplicates="error")


def test_prediction_keeps_duplicates_and_lists_bad_rows():
    molecules = cleaned(["CCO", "bad", "OCC"], [None, 1, "x"], need_target=False)
    assert molecules.table["row"].tolist() == [1, 3]
    assert np.isnan(molecules.target).all()
    assert molecules.rejected["row"].tolist() == [2]
    assert len(cleaned(["bad"], [1], need_target=False)) == 0


def test_further_columns_stay_and_clashes_are_renamed():
    molecules = cleaned(
        ["C", "N"], [1, 2], columns={"row": ["a", "b"], "part": ["train", "test"], "target": ["p", "q"]}
    )
    assert molecules.table["source_row"].tolist() == ["a", "b"]
    assert molecules.table["source_target"].tolist() == ["p", "q"]
    assert molecules.table["part"].tolist() == ["train", "test"]
    assert molecules.target.tolist() == [1.0, 2.0]


def test_bad_rows_of_the_reader_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,y\nC,1\nCC\nCCC,3\nbad,4\n")
    molecules = load_molecules(path)
    assert molecules.rows_in == 4
    assert molecules.table["row"].tolist() == [1, 3]
    assert molecules.rejected["row"].tolist() == [2, 4]


def test_load_logs_one_line_with_the_counts(caplog):
    with caplog.at_level(logging.INFO, logger="moltune"):
        molecules = load_molecules("esol", DataSettings())
    assert "1128 rows, 1117 kept, 11 left out (11 duplicate, merged by mean)" in caplog.text
    assert reason_counts(molecules) == {"duplicate, merged by mean": 11}
    assert molecules.provenance["target_column"] == "logS"
    with pytest.raises(DataError, match="No source"):
        load_molecules(None)


def test_lists_are_not_merged_unless_settings_say_so():
    smiles, y = ["OCC", "C", "CCO", "bad"], [1.0, 5.0, 3.0, 4.0]
    plain = molecules_from_lists(smiles, y)
    assert plain.table["row"].tolist() == [1, 2, 3]
    assert plain.target.tolist() == [1.0, 5.0, 3.0]
    assert len(molecules_from_lists(smiles, y, CleanSettings())) == 2
    assert len(molecules_from_lists(smiles, None, CleanSettings())) == 3
    assert molecules_from_lists(np.array(smiles), np.array(y)).target.tolist() == [1.0, 5.0, 3.0]
    with pytest.raises(DataError, match="4 SMILES but 1 targets"):
        molecules_from_lists(smiles, [1.0])
    with pytest.raises(DataError, match="list of SMILES is empty"):
        molecules_from_lists([], [])


def test_inchikeys_are_left_out_where_they_cannot_be_those_that_are_looked_for():
    known = {rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(one)) for one in ("CC(=O)O", "[Na+].[Cl-]")}
    asked = ["OC=CO", "CC(=O)[O-]", "CCO", "C[Se]C", "[Na+].[Cl-]", "*CC", "C" * 501]
    found = {}
    for text in asked:
        with contextlib.suppress(DataError):
            found[text] = clean_smiles(text, formulas=known)
    assert [text for text in asked if text not in found] == ["*CC"]
    # An isomer of what is looked for, and what InChI may refuse, have theirs.
    assert [text for text, one in found.items() if not one.inchikey] == ["CC(=O)[O-]", "CCO"]
    assert all(one.inchikey in ("", clean_smiles(text).inchikey) for text, one in found.items())


def test_a_formula_follows_from_an_inchikey_and_ordinary_molecules_have_one():
    formulas: dict[str, set[str]] = {}
    texts = datasets.load("lipophilicity")["smiles"].sample(300, random_state=0).tolist()
    for text in [*texts, *(text.replace("N", "[NH+]", 1) for text in texts), *(f"[O-].{text}" for text in texts)]:
        mol = Chem.MolFromSmiles(text)
        if mol is not None and not clean_smiles(text, formulas=()).inchikey:
            formulas.setdefault(Chem.MolToInchiKey(mol), set()).add(rdMolDescriptors.CalcMolFormula(mol))
    assert len(formulas) > 600
    assert "" not in formulas
    assert all(len(one) == 1 for one in formulas.values())


@pytest.mark.parametrize("text", ["CCO", "OCC", "[2H]CO", "InChI=1S/CH4/h1H4", "OCC |c:0|", "C[N+](C)(C)C", "Cl.CCN"])
def test_a_molecule_is_kept_where_reading_its_smiles_gives_the_same(text):
    found = clean_smiles(text, CleanSettings(largest_fragment=True, neutralize=True))
    assert (found.mol is not None) == (text in ("CCO", "OCC", "C[N+](C)(C)C"))
    if found.mol is not None:
        assert Chem.MolToSmiles(found.mol) == Chem.MolToSmiles(Chem.MolFromSmiles(found.smiles))
