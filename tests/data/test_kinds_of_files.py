"""Files without a header, workbooks, InChI, RDKit molecules: one test per kind and trap, with the right value."""

from __future__ import annotations

import io
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import Workbook
from rdkit import Chem

from moltune.config import DataSettings, TableSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.reading.read import read_table
from moltune.errors import DataError
from moltune.estimator import checked

SHARED = Path("../shared/data/inputs")
ODS = """<?xml version="1.0" encoding="UTF-8"?><office:document-content office:version="1.2"
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"><office:body><office:spreadsheet>
 <table:table table:name="assay">{rows}</table:table></office:spreadsheet></office:body></office:document-content>"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    book = Workbook()
    assert book.active is not None
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def ods(path: Path, rows: list[list[object]]) -> Path:
    def cell(value: object) -> str:
        kind = f'"float" office:value="{value}"' if isinstance(value, float) else '"string"'
        return f"<table:table-cell office:value-type={kind}><text:p>{value}</text:p></table:table-cell>"

    lines = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
    manifest = (
        '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        '<manifest:file-entry manifest:full-path="/" manifest:media-type="x"/></manifest:manifest>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", ODS.format(rows=lines))
        archive.writestr("META-INF/manifest.xml", manifest)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".smi"])
@pytest.mark.parametrize("first", ["CCO", "C", "c1ccccc1O"])
def test_one_smiles_a_line_keeps_the_first(tmp_path: Path, suffix: str, first: str) -> None:
    path = written(tmp_path / f"a{suffix}", f"{first}\nCCN\nCCCl\n")
    molecules = load_molecules(path, need_target=False)
    assert molecules.table["input"].tolist() == [first, "CCN", "CCCl"]
    assert molecules.table["row"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "separator"),
    [("a.txt", "\t"), ("a.txt", " "), ("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.smi", " ")],
)
@pytest.mark.parametrize("identifier", ["10{}", "mol-{}", "C{}"])
def test_identifier_and_smiles_without_a_header(tmp_path: Path, name: str, separator: str, identifier: str) -> None:
    lines = [f"{identifier.format(i)}{separator}{smiles}\n" for i, smiles in enumerate(["CCO", "c1ccccc1", "CC(=O)O"])]
    molecules = load_molecules(written(tmp_path / name, "".join(lines)), need_target=False)
    assert molecules.table["input"].tolist() == ["CCO", "c1ccccc1", "CC(=O)O"]
    assert molecules.table["id"].tolist() == [identifier.format(i) for i in range(3)]


def test_a_table_without_a_header_is_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "a.csv", "CCO,1.5\nCCN,2.5\nCCC\n")
    with caplog.at_level("INFO", logger="moltune"):
        molecules = load_molecules(path, DataSettings(target="column 2"))
    assert molecules.target.tolist() == [1.5, 2.5]
    assert (
        "The first line is data, since it holds a molecule; the columns are called 'smiles', 'column 2'" in caplog.text
    )
    assert molecules.rejected["reason"].tolist() == ["the row has 1 fields, the first has 2"]
    with pytest.raises(DataError, match="first line looks like data"):
        load_molecules(path, DataSettings(header=True))
    with pytest.raises(DataError, match="No target column"):
        load_molecules(path)


@pytest.mark.parametrize("header", ["smiles,CCO", "Drug,N", "structure,CN", "name,SMILES"])
def test_headers_that_hold_letters_of_elements_stay_headers(tmp_path: Path, header: str) -> None:
    path = written(tmp_path / "a.csv", f"{header}\nCCO,1\nCCN,2\n")
    assert list(read_table(path).frame.columns) == header.split(",")
    forced = read_table(path, TableSettings(header=False))
    assert forced.rows_in == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files are not here")
def test_the_files_that_were_handed_over() -> None:
    for name, count in (("headerless_smiles.txt", 10), ("headerless_id_smiles.tsv", 10)):
        molecules = load_molecules(SHARED / name, need_target=False)
        assert molecules.rows_in == count
        assert molecules.table["input"][0] == "CCO"
    minus = load_molecules(SHARED / "unicode_minus.csv", DataSettings(clean={"duplicates": "first"}))
    assert minus.target[:3].tolist() == [0.0, -0.33, -0.67]
    assert len(minus) + len(minus.rejected) == 20
    assert load_molecules(SHARED / "inchi.csv").smiles == ["CCO", "CO"]


def test_an_excel_workbook_by_sheet(tmp_path: Path) -> None:
    assay: list[list[object]] = [
        ["compound", "SMILES", "logD"],
        ["A-1", "CCO", 0.5],
        ["A-2", "CCN", 2],
        [],
        ["A-3", "CCC", "1,75"],
        ["A-4", "CCCl", date(2026, 5, 1)],
        ["A-5", "CCF", None],
    ]
    path = workbook(tmp_path / "a.xlsx", {"notes": [], "assay": assay})
    molecules = load_molecules(path)
    assert molecules.target.tolist() == [0.5, 2.0, 1.75]
    assert molecules.table["compound"].tolist() == ["A-1", "A-2", "A-3"]
    assert molecules.table["row"].tolist() == [1, 2, 3]
    reasons = molecules.rejected["reason"].tolist()
    assert reasons[0].startswith("the target is not a number: '2026-05-01")
    assert reasons[1] == "the target is empty"
    assert molecules.provenance["sheet"] == "assay"
    two = workbook(tmp_path / "b.xlsx", {"first": assay, "second": [["smiles", "y"], ["C", 1], ["CC", 2.5]]})
    with pytest.raises(DataError, match="several sheets: 'first', 'second'; name one with --sheet"):
        load_molecules(two)
    assert load_molecules(two, DataSettings(sheet="Second")).target.tolist() == [1.0, 2.5]
    with pytest.raises(DataError, match="no sheet 'third'; the sheets are 'first', 'second'"):
        load_molecules(two, DataSettings(sheet="third"))


def test_whole_numbers_of_a_workbook_stay_whole(tmp_path: Path) -> None:
    raw = read_table(workbook(tmp_path / "a.xlsx", {"s": [["id", "smiles", "y"], [100, "C", 3.0], [2, "CC", 0.1]]}))
    assert [repr(value) for value in raw.frame["id"]] == ["100", "2"]
    assert raw.frame["y"].tolist() == [3, 0.1]


def test_a_workbook_without_a_header_and_under_another_name(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", {"s": [["X1", "CCO"], ["X2", "CCN"], ["X3", "CC(C)C"]]})
    assert read_table(path).frame.to_dict("list") == {"id": ["X1", "X2", "X3"], "smiles": ["CCO", "CCN", "CC(C)C"]}
    path.rename(tmp_path / "a.csv")
    assert read_table(tmp_path / "a.csv").rows_in == 3


def test_an_opendocument_sheet_with_decimal_commas(tmp_path: Path) -> None:
    rows: list[list[object]] = [["smiles", "IC50 (nM)"], ["CCO", "1.234,5"], ["CCN", "0,5"], ["CCC", 7.25]]
    molecules = load_molecules(ods(tmp_path / "a.ods", rows))
    assert molecules.target.tolist() == [1234.5, 0.5, 7.25]
    assert molecules.unit == "nM"
    assert molecules.provenance["reading"]["decimal"] == "comma"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "not a readable Excel"),
        (b"\xd0\xcf\x11\xe0rest", "not a readable Excel"),
        (b"a,b", "no sheets"),
    ],
)
def test_what_is_no_workbook(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.xlsx")


def test_an_empty_workbook_and_a_zip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sheet has a row"):
        read_table(workbook(tmp_path / "a.xlsx", {"s": []}))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", "smiles,y\nC,1\n")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="not a readable Excel"):
        read_table(tmp_path / "a.zip")


def test_inchi_is_a_structure(tmp_path: Path) -> None:
    text = 'ID,Standard InChI Key,InChI,logD\nA,K,"InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3",0.1\nB,K,InChI=1S/broken,1\n'
    molecules = load_molecules(written(tmp_path / "a.csv", text + 'C,K,"InChI=1S/CH4O/c1-2/h2H,1H3",0.2\n'))
    assert molecules.smiles == ["CCO", "CO"]
    assert molecules.target.tolist() == [0.1, 0.2]
    assert molecules.table["input"][0].startswith("InChI=1S/C2H6O")
    assert molecules.rejected["reason"][0].startswith("not a valid InChI")
    assert molecules.rejected["ID"].tolist() == ["B"]


def test_rdkit_molecules_in_lists_and_frames() -> None:
    mols = [Chem.MolFromSmiles(smiles) for smiles in ("OCC", "c1ccccc1", "C[C@H](N)C(=O)O")]
    assert molecules_from_lists(mols, [1.0, 2.0, 3.0]).smiles == ["CCO", "c1ccccc1", "C[C@H](N)C(=O)O"]
    assert checked(mols).smiles == checked(np.array(mols, dtype=object)[:, None]).smiles
    frame = pd.DataFrame({"ROMol": mols, "y": [1.0, 2.0, 3.0]})
    assert load_molecules(frame).target.tolist() == [1.0, 2.0, 3.0]
    # The molecule in hand is not touched.
    assert Chem.MolToSmiles(mols[0], canonical=False) == "OCC"


def test_words_for_classes_are_refused_as_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "SMILES,activity\nCCO,inactive\nCCN,active\n")
    with pytest.raises(DataError, match="none of 'activity' holds numbers"):
        load_molecules(path)
