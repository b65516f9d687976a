import dataclasses
import gzip
import hashlib

import pytest

from moltune import datasets
from moltune.config import DataSettings
from moltune.data.classes import find_classes
from moltune.data.reading.read import read_table
from moltune.datasets import bundled
from moltune.errors import DataError


@pytest.mark.parametrize(
    ("name", "n", "target", "mean"),
    [
        ("lipophilicity", 4200, "logD", 2.186336),
        ("esol", 1128, "logS", -3.050102),
        ("freesolv", 642, "hydration_free_energy", -3.803006),
        ("b3db", 7805, "bbb", 4956 / 7805),
    ],
)
def test_tables_have_the_published_size_and_mean(name, n, target, mean):
    frame = datasets.load(name)
    entry = datasets.info(name)
    assert len(frame) == n == entry.n
    assert list(frame.columns) == ["id", "smiles", target]
    assert entry.target == target
    assert frame[target].mean() == pytest.approx(mean, abs=1e-6)
    assert frame["id"].is_unique
    assert (frame["smiles"].str.strip() == frame["smiles"]).all()
    assert (frame["smiles"].str.len() > 0).all()


def test_values_are_those_of_the_source():
    frame = datasets.load("Lipophilicity").set_index("id")
    assert frame.loc["CHEMBL596271", "logD"] == 3.54
    assert frame.loc["CHEMBL1951080", "smiles"] == "COc1cc(OC)c(cc1NC(=O)CSCC(=O)O)S(=O)(=O)N2C(C)CCc3ccccc23"
    barrier = datasets.load("b3db").set_index("id")
    assert barrier.loc["1", "smiles"] == "O=C(O)c1cc(N=Nc2ccc(S(=O)(=O)Nc3ccccn3)cc2)ccc1O"
    assert (barrier.loc["1", "bbb"], barrier.loc["1500", "bbb"]) == (0.0, 1.0)
    assert datasets.load("freesolv").set_index("id").loc["methanesulfonyl chloride", "hydration_free_energy"] == -4.87


def test_the_barrier_is_a_target_of_two_classes_by_itself():
    settings = DataSettings(source="b3db")
    found = find_classes(read_table("b3db", settings), settings).provenance
    assert found["classes"] == ["0", "1"]
    assert found["licence"] == "CC0-1.0"
    assert any("'0' (2849 rows) and '1' (4956)" in note for note in found["notes"])


def test_names_and_info_are_frozen_and_complete():
    assert datasets.names() == ["lipophilicity", "esol", "freesolv", "b3db"]
    for name in datasets.names():
        entry = datasets.info(name)
        assert all(getattr(entry, field.name) for field in dataclasses.fields(entry) if field.name != "unit")
        assert bool(entry.unit) == (name != "b3db")
        assert hashlib.sha256(entry.file.read_bytes()).hexdigest() == entry.sha256
        with pytest.raises(dataclasses.FrozenInstanceError):
            entry.name = "other"


def test_unknown_name_lists_the_names_and_suggests_one():
    with pytest.raises(DataError, match=r"lipophilicity, esol, freesolv, b3db.*Did you mean 'freesolv'"):
        datasets.load("freesolve")


def test_a_damaged_file_is_refused(monkeypatch, tmp_path):
    original = bundled.info("esol").file.read_bytes()
    (tmp_path / "index.json").write_bytes((bundled._folder() / "index.json").read_bytes())
    (tmp_path / "esol.csv.gz").write_bytes(gzip.compress(gzip.decompress(original).replace(b"-0.77", b"-0.78", 1)))
    monkeypatch.setattr(bundled, "_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"esol\.csv\.gz is damaged"):
        datasets.load("esol")
    with pytest.raises(DataError, match=r"freesolv\.csv\.gz is missing"):
        datasets.load("freesolv")
