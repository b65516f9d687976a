"""Several target columns: which they are, what a gap is, and one split for all molecules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import table_with_gaps

from moltune.config import DataSettings, SplitSettings, make_settings
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.properties import load_properties, split_together
from moltune.data.reading.columns import target_columns
from moltune.data.splitting.split import make_split
from moltune.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return table_with_gaps()


@pytest.fixture
def path(table: pd.DataFrame, tmp_path: Path) -> Path:
    with_blank = pd.concat([table, pd.DataFrame({"smiles": ["CCCCCCCCCCCCO", "no molecule"]})], ignore_index=True)
    with_blank.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def settings_of(path: Path, target: object, **more: object) -> DataSettings:
    return make_settings(DataSettings, {"source": str(path), "target": target, **more})


def test_names_of_columns() -> None:
    columns = ["smiles", "a", "B", "a,b", "IC50, human (nM)"]
    assert target_columns(columns, "a,b") == ["a,b"]
    assert target_columns(columns, "a, b") == ["a", "B"]
    assert target_columns(columns, "a,,") == ["a"]
    assert target_columns(columns, "IC50, human") == ["IC50, human (nM)"]
    assert target_columns(columns, 'a,"IC50, human"') == ["a", "IC50, human (nM)"]
    with pytest.raises(DataError, match="There is no target column 'c'"):
        target_columns(columns, "a,c")
    with pytest.raises(DataError, match="names a target column twice"):
        target_columns(columns, "b,B")
    assert DataSettings(target=["a", "x, y"]).target == 'a,"x, y"'  # type: ignore[arg-type]


def test_a_gap_is_no_bad_row(path: Path, table: pd.DataFrame) -> None:
    found = load_properties(settings_of(path, "dG,logS,polar"))
    assert list(found) == ["dG", "logS", "polar"]
    for name, one in found.items():
        assert len(one) + len(one.rejected) == one.rows_in
        assert one.rows_in == table[name].notna().sum() + 2
        assert one.provenance["gaps"] == table[name].isna().sum()
        # Rows without any value are bad ones of each property.
        assert one.rejected["row"].tolist()[-2:] == [len(table) + 1, len(table) + 2]
        values = table[name].iloc[one.table["row"] - 1]
        if name == "polar":
            assert one.classes == ("no", "yes")
            assert (one.target == (values == "yes")).all()
        else:
            np.testing.assert_allclose(one.target, values.astype(float))


def test_one_property_is_loaded_and_split_as_ever(path: Path) -> None:
    (several,) = load_properties(settings_of(path, "dG")).values()
    alone = load_molecules(None, settings_of(path, "dG"))
    pd.testing.assert_frame_equal(several.table, alone.table)
    pd.testing.assert_frame_equal(several.rejected, alone.rejected)
    assert several.provenance == alone.provenance
    (one,), two = split_together([several], SplitSettings(), 3), make_split(alone, SplitSettings(), 3)
    assert one.settings == two.settings
    for name, positions in one.parts().items():
        assert (positions == two.parts()[name]).all()


@pytest.mark.parametrize("method", ["stratified", "random", "scaffold", "cluster"])
def test_a_molecule_lies_in_one_part_for_all_properties(path: Path, method: str) -> None:
    found = list(load_properties(settings_of(path, "dG,logS,polar")).values())
    splits = split_together(found, SplitSettings(method=method), 0)
    part_of: dict[str, str] = {}
    for one, split in zip(found, splits, strict=True):
        frame = split.to_frame(one)
        assert frame["split"].notna().all()
        for key, part in zip(frame["inchikey"], frame["split"], strict=True):
            assert part_of.setdefault(key, part) == part
        if method == "stratified":
            share = len(split.test) / len(one)
            assert share == pytest.approx(0.2, abs=0.04)
            everything, tested = one.target, one.target[split.test]
            assert abs(tested.mean() - everything.mean()) < 0.35 * everything.std()
    assert len(part_of) == splits[0].settings["together"]


def test_parts_from_a_column(path: Path) -> None:
    table = pd.read_csv(path).assign(part="")
    # One molecule measured in a row for each property.
    twice = table[table[["dG", "logS"]].notna().all(axis=1)].iloc[:9]
    table = pd.concat([table, twice.assign(dG=None)], ignore_index=True)
    table.loc[table.index[twice.index], "logS"] = None
    table.loc[::2, "part"], table.loc[1::2, "part"] = "train", "test"
    table.to_csv(path, index=False)
    found = list(load_properties(settings_of(path, "dG,logS")).values())
    splits = split_together(found, SplitSettings(method="column", column="part"), 0)
    first = pd.concat([one.table for one in found]).groupby("inchikey")["row"].min()
    assert any((one.table["inchikey"].map(first) != one.table["row"]).any() for one in found)
    for one, split in zip(found, splits, strict=True):
        rows = one.table["inchikey"].map(first)
        assert (rows.iloc[split.train] % 2 == 1).all()
        assert (rows.iloc[split.test] % 2 == 0).all()


def test_parts_from_a_file(path: Path, tmp_path: Path) -> None:
    found = list(load_properties(settings_of(path, "dG,logS")).values())
    wanted = split_together(found, SplitSettings(), 0)
    frames = [split.to_frame(one) for one, split in zip(found, wanted, strict=True)]
    pd.concat(frames)[["row", "split"]].drop_duplicates().to_csv(tmp_path / "parts.csv", index=False)
    again = split_together(found, SplitSettings(method="index", index_file=str(tmp_path / "parts.csv")), 0)
    for one, two in zip(wanted, again, strict=True):
        assert all((positions == two.parts()[name]).all() for name, positions in one.parts().items())


@given(st.lists(st.sampled_from([(1, 0), (0, 1), (1, 1)]), min_size=12, max_size=60), st.integers(0, 5))
@settings(max_examples=40)
def test_the_split_covers_each_property_whatever_the_gaps(pattern: list[tuple[int, int]], seed: int) -> None:
    def property_of(at: int) -> Molecules:
        rows = [row for row, has in enumerate(pattern) if has[at]]
        frame = pd.DataFrame({"row": rows, "input": "", "smiles": "", "inchikey": [f"K{row}" for row in rows]})
        empty = pd.DataFrame()
        return Molecules(frame.assign(target=[float((7 * row) % 11) for row in rows]), empty, empty, len(rows))

    found = [property_of(0), property_of(1)]
    splits = split_together(found, SplitSettings(), seed)
    union = {f"K{row}" for row in range(len(pattern))}
    test: set[str] = set()
    for one, split in zip(found, splits, strict=True):
        assert sorted(np.concatenate(list(split.parts().values())).tolist()) == list(range(len(one)))
        test |= set(one.table["inchikey"].iloc[split.test])
    assert len(test) == round(0.2 * len(union)) or abs(len(test) - 0.2 * len(union)) < 1


def test_one_property_is_asked_for_elsewhere(path: Path) -> None:
    with pytest.raises(DataError, match=r"'dG,logS' names 'dG', 'logS': choose one, such as --target dG"):
        load_molecules(None, settings_of(path, "dG,logS"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clean": {"unit": "nM"}}, "data.clean.unit is for one property"),
        ({"add": "more.csv"}, "data.add is for one property"),
        ({"bounds": "use"}, "tune the property that has bounds by itself"),
    ],
)
def test_what_belongs_to_one_property(path: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_properties(settings_of(path, ["dG", "logS"], **more))
