import os

import numpy as np
import pandas as pd
import pytest

from moltune.data.reading.read import read_table
from moltune.data.reading.write import write_table
from moltune.errors import DataError

FRAME = pd.DataFrame({"smiles": ["CCO", 'C"C'], "y": [1e-20, 0.1 + 0.2], "note": ["a,b;c\td", "é\nx"]})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.gz", "A.PARQUET"])
def test_round_trip_is_exact_and_repeatable(tmp_path, name):
    path = write_table(FRAME, tmp_path / name)
    raw = read_table(path)
    assert raw.frame["smiles"].tolist() == FRAME["smiles"].tolist()
    assert raw.frame["note"].tolist() == FRAME["note"].tolist()
    assert [float(value) for value in raw.frame["y"]] == FRAME["y"].tolist()
    content = path.read_bytes()
    assert write_table(FRAME, path).read_bytes() == content
    assert os.listdir(tmp_path) == [name]


def test_gaps_lists_and_surrogates_are_written(tmp_path):
    cells = {"rows": [[1, 2], [np.int64(3)]], "y": [np.nan, np.inf], "t": ["\ud800", None]}
    frame = pd.DataFrame(cells, dtype=object)
    lines = write_table(frame, tmp_path / "a.jsonl").read_text().splitlines()
    assert lines == ['{"rows": [1, 2], "y": null, "t": "\\ud800"}', '{"rows": [3], "y": null, "t": null}']
    assert "\\ud800" in write_table(frame, tmp_path / "a.csv").read_text()


def test_unknown_extensions_and_folders_are_errors(tmp_path):
    for name in ("a.xlsx", "a", "a.parquet.gz"):
        with pytest.raises(DataError, match="Cannot tell the format"):
            write_table(FRAME, tmp_path / name)
    with pytest.raises(DataError, match="Cannot write"):
        write_table(FRAME, tmp_path / "missing" / "a.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_table(FRAME, tmp_path / "a.csv")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match="No space left"):
        write_table(FRAME.iloc[:1], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.csv"]
