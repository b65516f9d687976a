import math

import pandas as pd
import pytest

from moltune import datasets
from moltune.data.reading.columns import find_columns
from moltune.data.reading.numbers import to_number
from moltune.errors import DataError

S = ["CCO", "c1ccccc1"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"smiles": S, "y": ["1", "2"]}, ("smiles", "y")),
        ({"SMILES": S, "anything": [1.0, 2.0]}, ("SMILES", "anything")),
        ({"canonical_smiles": S, "id": [1, 2], "odd": ["1", "2"]}, ("canonical_smiles", "odd")),
        ({"Drug": S, "Drug_ID": [1, 2], "Y": [1.0, 2.0]}, ("Drug", "Y")),
        ({"smiles": S, "canonical_smiles": S, "y": [1, 2]}, ("smiles", "y")),
        ({"smiles": S, "mw": [1, 2], "logD": [1, 2]}, ("smiles", "logD")),
        ({"smiles": S, "target": ["COX-1", "COX-2"], "activity": [1, 2]}, ("smiles", "activity")),
        ({"mol": S, "measured thing": [1, 2], "predicted thing": [1, 2]}, ("mol", "measured thing")),
        ({"smiles": S, "y": ["1", "n/a"]}, ("smiles", "y")),
    ],
)
def test_obvious_columns_are_found(columns, expected):
    assert find_columns(pd.DataFrame(columns), None, None, need_target=True) == expected


@pytest.mark.parametrize("name", datasets.names())
def test_bundled_columns_are_found(name):
    assert find_columns(datasets.load(name), None, None, need_target=True) == ("smiles", datasets.info(name).target)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"smiles": S, "a": [1, 2], "b": [1, 2]}, "may be the target: 'a', 'b'"),
        ({"smiles": S, "y": [1, 2], "logD": [1, 2]}, "may be the target: 'y', 'logD'"),
        ({"smiles": S, "name": ["a", "b"]}, "none of 'name' holds numbers"),
        ({"smiles": S, "pubchem_cid": [1, 2]}, "looks like an identifier: 'pubchem_cid'"),
        ({"smiles": S}, "the only column is 'smiles'"),
        ({"can_smiles": S, "iso_smiles": S, "y": [1, 2]}, "may hold the SMILES: 'can_smiles', 'iso_smiles'"),
        ({"text": S, "y": [1, 2]}, "'text' looks like SMILES"),
        ({"CCO": S, "1.5": [1, 2]}, "first line looks like data"),
        ({"a": ["x", "y"], "y": [1, 2]}, "No column looks like SMILES"),
    ],
)
def test_what_is_not_obvious_lists_the_candidates(columns, message):
    with pytest.raises(DataError, match=message):
        find_columns(pd.DataFrame(columns), None, None, need_target=True)


def test_names_must_exist_and_close_ones_are_suggested():
    table = pd.DataFrame({"Smiles": S, "logD": [1, 2], "logS": [1, 2]})
    assert find_columns(table, "smiles", "LOGS", need_target=True) == ("Smiles", "logS")
    with pytest.raises(DataError, match=r"no target column 'lgD'.*'Smiles', 'logD', 'logS'.*Did you mean 'logD'"):
        find_columns(table, None, "lgD", need_target=True)
    with pytest.raises(DataError, match="no SMILES column 'structure'"):
        find_columns(table, "structure", "logD", need_target=True)
    with pytest.raises(DataError, match="both the SMILES and the target"):
        find_columns(table, "Smiles", "Smiles", need_target=True)


def test_without_need_no_target_is_searched():
    table = pd.DataFrame({"smiles": S, "logD": [1, 2]})
    assert find_columns(table, None, None, need_target=False) == ("smiles", None)
    assert find_columns(table, None, "logd", need_target=False) == ("smiles", "logD")


@pytest.mark.parametrize(
    ("cell", "value"),
    [(" 1.5 ", 1.5), ("-2e3", -2000.0), (".5", 0.5), (3, 3.0), ("inf", math.inf), (10**400, math.inf)],
)
def test_numbers(cell, value):
    assert to_number(cell) == value


@pytest.mark.parametrize("cell", ["", "1_000", "1,5", "٣", "nan", "> 5", "0x10", None, True, pd.NA, [1], "1.5 nM"])
def test_not_numbers(cell):
    assert math.isnan(to_number(cell))
