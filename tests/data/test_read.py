import gzip
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from moltune.data.molecules import REJECT_COLUMNS
from moltune.data.reading.read import read_table
from moltune.errors import DataError

CSV = "smiles,y\nCCO,1.5\nCCN,2.5\n"


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sdf_record(structure, name="", **properties):
    mol = Chem.MolFromSmiles(structure)
    lines = [f">  <{key}>\n{value}\n\n" for key, value in properties.items()]
    return name + Chem.MolToMolBlock(mol).rstrip("\n") + "\n" + "".join(lines) + "$$$$\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("cr.csv", CSV.replace("\n", "\r")),
        ("semicolon.csv", CSV.replace(",", ";")),
        ("quoted.csv", 'smiles,"y"\n"CCO","1.5"\n"CCN",2.5'),
        ("blank.csv", "\n" + CSV.replace("CCN", "\n\nCCN") + "\n\n"),
        ("a.tsv", CSV.replace(",", "\t")),
        ("utf16.csv", CSV.encode("utf-16")),
        ("unknown.dat", CSV),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("gzip_without_gz.csv", gzip.compress(CSV.encode(), mtime=0)),
        ("plain.csv.gz", CSV),
        ("a.jsonl", '{"smiles": "CCO", "y": "1.5"}\n\n{"smiles": "CCN", "y": "2.5"}\n'),
        ("array.json", '[{"smiles": "CCO", "y": "1.5"}, {"smiles": "CCN", "y": "2.5"}]'),
    ],
)
def test_formats_give_the_same_table(tmp_path, name, content):
    raw = read_table(write(tmp_path, name, content))
    assert raw.frame.to_dict("list") == {"smiles": ["CCO", "CCN"], "y": ["1.5", "2.5"]}
    assert raw.rows.tolist() == [1, 2]
    assert len(raw.bad_rows) == 0
    assert list(raw.bad_rows.columns) == REJECT_COLUMNS
    assert len(raw.provenance["sha256"]) == 64


def test_parquet_under_its_own_or_a_wrong_name(tmp_path):
    frame = pd.DataFrame({"smiles": ["CCO", "CCN"], "y": [1.5, np.nan]})
    for name in ("a.parquet", "really_parquet.csv"):
        frame.to_parquet(tmp_path / name)
        raw = read_table(str(tmp_path / name))
        assert raw.frame["smiles"].tolist() == ["CCO", "CCN"]
        assert raw.frame["y"].tolist()[0] == 1.5
        assert raw.provenance["format"] == "parquet"


def test_smi_with_header_names_and_extensions(tmp_path):
    raw = read_table(write(tmp_path, "a.smi", "SMILES Name\nCCO ethyl alcohol\n\nC\tmethane\nCC |c:1| x\nCCC\n"))
    assert raw.frame["smiles"].tolist() == ["CCO", "C", "CC |c:1|", "CCC"]
    assert raw.frame["name"].tolist() == ["ethyl alcohol", "methane", "x", None]


def test_sdf_keeps_stereo_names_and_properties_and_lists_bad_records(tmp_path):
    text = sdf_record("C[C@H](N)C(=O)O", "ala", logD="-2.9") + "junk\nx\ny\nz\n$$$$\n" + sdf_record("CCO", smiles="no")
    raw = read_table(write(tmp_path, "a.sdf", text))
    assert raw.frame["smiles"].tolist() == ["C[C@H](N)C(=O)O", "CCO"]
    assert raw.frame["logD"].tolist() == ["-2.9", None]
    assert raw.frame["smiles (property)"].tolist() == [None, "no"]
    assert raw.frame["name"].tolist() == ["ala", None]
    assert raw.rows.tolist() == [1, 3]
    assert raw.bad_rows["row"].tolist() == [2]
    assert "cannot be read" in raw.bad_rows["reason"][0]
    assert raw.rows_in == 3


def test_ragged_and_misquoted_rows_are_bad_rows_with_their_number(tmp_path):
    raw = read_table(write(tmp_path, "a.csv", 'smiles,y\nCCO,1\nCCN\nCCC,2,3\n\n"CC"x,4\nCCCC,5\n'))
    assert raw.rows.tolist() == [1, 5]
    assert raw.bad_rows["row"].tolist() == [2, 3, 4]
    assert raw.bad_rows["input"].tolist() == ["CCN", "CCC,2,3", '"CC"x,4']
    assert "1 fields, the header has 2" in raw.bad_rows["reason"][0]
    assert "not valid CSV" in raw.bad_rows["reason"][2]


def test_broken_json_lines_are_bad_rows(tmp_path):
    raw = read_table(write(tmp_path, "a.jsonl", '{"smiles": "C"}\n[1]\n{"smiles": \n{"y": 1, "smiles": "N"}\n'))
    assert raw.rows.tolist() == [1, 4]
    assert raw.bad_rows["row"].tolist() == [2, 3]
    assert raw.frame["y"].tolist() == [None, 1]


def test_lone_surrogates_in_json_become_text(tmp_path):
    line = r'{"smiles": "\ud800C", "\udfff": ["\uD83D"], "ok": "\ud83d\ude00"}'
    raw = read_table(write(tmp_path, "a.jsonl", line + "\n"))
    assert raw.frame.to_dict("list") == {"smiles": [r"\ud800C"], r"\udfff": [[r"\ud83d"]], "ok": ["😀"]}


@pytest.mark.parametrize("content", ['smiles,y\nCC,"1\nCCC,2\nCCO,3\n', 'smiles,y\n"CC,1\nCCC,2\n"CCO,2\nC,1\n'])
def test_a_stray_quote_that_swallows_lines_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match="line 2"):
        read_table(write(tmp_path, "a.csv", content))


def test_quoted_line_breaks_are_one_row(tmp_path):
    raw = read_table(write(tmp_path, "a.csv", 'smiles,note\nCC,"two\nlines"\nCCC,x\n'))
    assert raw.frame["note"].tolist() == ["two\nlines", "x"]
    assert raw.rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "\n \n", "is empty"),
        ("a.csv", "smiles,y\n", "no data rows"),
        ("a.smi", "smiles\n", "is empty"),
        ("a.jsonl", "[1]\n", "no row that is a JSON object"),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-6], "damaged gzip"),
        ("a.csv", b"\x00\x01\x02smiles,y", "not a text file"),
        ("a.csv", b"smiles\nC\x81\x8d\xff", "not a text file"),
        ("a.csv", b"PK\x03\x04rest", "Excel"),
        ("a.csv", "<!DOCTYPE html><html>", "web page"),
        ("a.parquet", CSV, "not a Parquet file"),
        ("a.parquet", b"PAR1 and then nonsense PAR1", "not a readable Parquet"),
        ("a.sdf", CSV, "no SDF file"),
        ("a.csv", sdf_record("CCO"), "holds SDF"),
        ("a.csv", '{"smiles": "C"}\n', "holds JSON lines"),
    ],
)
def test_unusable_files_say_why(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, name, content))


def test_windows_1252_is_read_with_a_warning(tmp_path, caplog):
    raw = read_table(write(tmp_path, "a.csv", "smiles,name\nCCO,éthanol\n".encode("cp1252")))
    assert raw.frame["name"].tolist() == ["éthanol"]
    assert "Windows-1252" in caplog.text


def test_repeated_and_unnamed_columns_get_names(tmp_path, caplog):
    raw = read_table(write(tmp_path, "a.csv", "smiles,y,y,\nC,1,2,3\n"))
    assert list(raw.frame.columns) == ["smiles", "y", "y.1", "column 4"]
    assert "more than one column 'y'" in caplog.text


def test_a_frame_keeps_dtypes_and_a_named_index():
    frame = pd.DataFrame({"smiles": ["C", "N"], "y": [1, 2]}, index=pd.Index(["a", "b"], name="id"))
    raw = read_table(frame)
    assert raw.frame.to_dict("list") == {"id": ["a", "b"], "smiles": ["C", "N"], "y": [1, 2]}
    with pytest.raises(DataError, match="is empty"):
        read_table(frame.iloc[:0])


def test_bundled_names_come_before_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "esol", CSV)
    assert read_table("ESOL").rows_in == 1128
    assert read_table(tmp_path / "esol").rows_in == 2


@pytest.mark.parametrize("source", ["nothing.csv", "data/nothing.csv", "", "lipo", "a\x00b", "x" * 5000, "a/b/c"])
def test_unknown_sources_say_what_was_tried(source):
    with pytest.raises(DataError, match=r"no bundled dataset \(lipophilicity, esol, freesolv, b3db\) and no file"):
        read_table(source)


def test_folders_and_other_types_are_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="not a list"):
        read_table(["C"])


class FakeTable:
    _fingerprint = "f00d"

    def __init__(self, **columns):
        self.columns = columns

    def to_pandas(self):
        return pd.DataFrame(self.columns)


def fake_library(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_hub_id_uses_the_library_and_keeps_the_parts(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return {"train": FakeTable(smiles=["C", "N"], y=[1.0, 2.0]), "test": FakeTable(smiles=["O"], y=[3.0])}

    fake_library(monkeypatch, load)
    raw = read_table("someone/logd")
    assert asked == ["someone/logd"]
    assert raw.frame["split"].tolist() == ["train", "train", "test"]
    assert raw.rows_in == 3
    assert json.loads(json.dumps(raw.provenance))["fingerprints"] == {"train": "f00d", "test": "f00d"}


def test_hub_failures_are_data_errors(monkeypatch):
    def load(name):
        raise ConnectionError("no route")

    fake_library(monkeypatch, load)
    with pytest.raises(DataError, match="ConnectionError: no route"):
        read_table("someone/logd")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"moltune\[hub\]"):
        read_table("someone/logd")
