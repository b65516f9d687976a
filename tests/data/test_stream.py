"""Piece by piece or at once: the same rows, the same numbers, the same reasons."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem

from moltune.config import TableSettings
from moltune.data.reading.read import read_table
from moltune.data.reading.stream import Source, open_source
from moltune.errors import DataError

SMILES = ["C" * (1 + number % 7) + "O" for number in range(57)]


def sdf() -> str:
    blocks = []
    for number, text in enumerate(SMILES):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles(text))
        name = "even" if number % 2 == 0 else "odd"
        blocks.append(f"{block}>  <{name}>\n{number}\n\n$$$$\n")
    blocks[5] = "broken\n\n\n  x\nM  END\n$$$$\n"
    return "".join(blocks)


FILES: dict[str, str] = {
    "plain.csv": "id,smiles\n" + "".join(f"{i},{one}\n" for i, one in enumerate(SMILES)),
    "no-end.csv": "id,smiles\n" + "\n".join(f"{i},{one}" for i, one in enumerate(SMILES)),
    "no-header.csv": "".join(f"{one},{i}\n" for i, one in enumerate(SMILES)),
    "semicolons.csv": "\n\nid;smiles;y\r\n" + "".join(f"{i};{one};1,5\r\n" for i, one in enumerate(SMILES)),
    "quotes.csv": "smiles,text\n" + "".join(f'{one},"a\n""b"", {i}"\n' for i, one in enumerate(SMILES)),
    "bad-rows.csv": "smiles,y\n" + "".join(f"{one}{',1' * (i % 3)}\n\n" for i, one in enumerate(SMILES)),
    "tabs.tsv": "id\tsmiles\n" + "".join(f'{i}"\t{one}\n' for i, one in enumerate(SMILES)),
    "names.smi": "".join(f"{one} name {i}\n" for i, one in enumerate(SMILES)),
    "header.smi": "SMILES name\n" + "".join(f"{one}\t{i}\n" for i, one in enumerate(SMILES)),
    "id-first.smi": "".join(f"A{i} {one}\n" for i, one in enumerate(SMILES)),
    "bare.txt": "".join(f"{one}\n" for one in SMILES),
    "lines.jsonl": "".join(
        "{bad\n" if i == 30 else json.dumps({"smiles": one, **({"y": i} if i > 40 else {})}) + "\n"
        for i, one in enumerate(SMILES)
    ),
    "records.sdf": sdf(),
}


def rows_of(source: Source) -> pd.DataFrame:
    pieces = list(source.pieces())
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    tables = [piece.table() for piece in pieces]
    assert [table.rows_in for table in tables] == [piece.rows for piece in pieces]
    assert source.rows == sum(piece.rows for piece in pieces)
    return pd.concat([table.all_rows for table in tables])


def assert_like_whole(path: Path, pieces: Source) -> None:
    whole = read_table(path)
    found = rows_of(pieces)[list(whole.frame)]
    expected = whole.all_rows
    assert found.index.tolist() == expected.index.tolist() == list(range(1, whole.rows_in + 1))
    found, expected = (one.astype(object).where(one.notna(), None) for one in (found, expected))
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_column_type=False)
    bad = pd.concat([piece.table().bad_rows for piece in pieces.pieces()], ignore_index=True)
    assert bad.values.tolist() == whole.bad_rows.values.tolist()
    assert pieces.digest == whole.provenance["sha256"]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FILES)
def test_pieces_are_like_the_whole(name: str, packed: bool, tmp_path: Path) -> None:
    content = FILES[name].encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    source = open_source(path, rows=10, whole=0)
    assert_like_whole(path, source)
    pieces = list(source.pieces())
    assert len(pieces) == 6
    assert not hasattr(pieces[1].content, "frame")


def test_tables_that_stay_in_memory(tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": SMILES, "n": range(57)})
    table.to_excel(tmp_path / "a.xlsx", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(table.to_dict(orient="records")))
    (tmp_path / "bad.csv").write_text(FILES["bad-rows.csv"])
    for name in ("a.xlsx", "a.parquet", "a.json", "bad.csv"):
        assert_like_whole(tmp_path / name, open_source(tmp_path / name, rows=10))
    assert len(rows_of(open_source(table, rows=10))) == 57
    assert len(rows_of(open_source("freesolv", rows=100))) == 642


def test_large_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": SMILES, "n": pd.array([*range(56), None], dtype="Int64")})
    table.to_parquet(tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet", rows=10, whole=0)
    found = rows_of(source)
    assert found["smiles"].tolist() == SMILES
    assert found["n"].tolist()[:56] == list(range(56))


def test_encodings(tmp_path: Path) -> None:
    text = FILES["plain.csv"].replace("id", "größe")
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        path = tmp_path / f"{encoding}.csv"
        path.write_text(text, encoding=encoding)
        assert_like_whole(path, open_source(path, rows=10, whole=0))
    (tmp_path / "control.csv").write_text(text + "1,\x07\n")
    with pytest.raises(DataError, match=r"control character '\\x07' in line 59"):
        open_source(tmp_path / "control.csv", whole=0)


def test_header_by_option(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,molecule\n" + FILES["plain.csv"].split("\n", 1)[1])
    source = open_source(path, TableSettings(header=False), rows=10, whole=0)
    assert source.rows == 58
    assert rows_of(source).iloc[0].tolist() == ["name", "molecule"]


def test_what_cannot_be_read_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(FILES["plain.csv"] + '99,"open\n')
    with pytest.raises(DataError, match="does not end properly"):
        open_source(path, rows=10, whole=0)
    path.write_text("<!doctype html><p>")
    with pytest.raises(DataError, match="web page"):
        open_source(path, whole=0)
    path.write_text("smiles,y\n")
    with pytest.raises(DataError, match="no data rows"):
        open_source(path, whole=0)


def test_records_of_an_sdf_file_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text(FILES["records.sdf"])
    pieces = open_source(tmp_path / "a.sdf", rows=10).pieces()
    records = [record for piece in pieces for record in piece.records or []]
    assert "$$$$\n".join([*records, ""]) == FILES["records.sdf"]
