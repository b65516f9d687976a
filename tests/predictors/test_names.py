"""Names and digits of the columns of predictions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from moltune.data.reading.units import split_header
from moltune.predictors.names import Property, column_names, joined, rounded


@pytest.mark.parametrize(
    ("target", "unit", "expected"),
    [
        ("lipophilicity", "", "lipophilicity"),
        ("logD", "log units", "logD"),
        ("logS", "log mol/L", "logS (mol/L)"),
        ("energy", "kcal/mol", "energy (kcal/mol)"),
        ("energy (kcal/mol)", "kcal/mol", "energy (kcal/mol)"),
        ("IC50_nM", "nM", "IC50_nM"),
        ("-log10 IC50 (M)", "-log10 M", "-log10 IC50 (M)"),
        ("pIC50", "-log10 M", "pIC50"),
    ],
)
def test_the_unit_stands_in_the_name(target: str, unit: str, expected: str) -> None:
    names = column_names([(Property(target, unit, None), [""])], [])
    assert (names.of, names.note) == ([{"": expected}], "note")
    if unit not in ("", "log units", "-log10 M"):
        assert split_header(expected)[1] == unit


def test_suffixes_stand_before_the_unit() -> None:
    names = column_names([(Property("IC50 (nM)", "nM", None), ["", "_low", "_domain"])], [])
    assert names.of == [{"": "IC50 (nM)", "_low": "IC50_low (nM)", "_domain": "IC50_domain"}]


def test_no_name_is_taken_twice() -> None:
    y = Property("y", "", None)
    names = column_names([(y, ["", "_low"])], ["Y_LOW", "Note"])
    assert (names.of, names.note) == ([{"": "y_predicted", "_low": "y_predicted_low"}], "note_predicted")
    names = column_names([(y, ["", "_low"])], ["y", "y_predicted"])
    assert names.of[0][""] == "y_predicted_2"
    names = column_names([(Property("note", "", None), [""])], [])
    assert (names.of, names.note) == ([{"": "note"}], "note_predicted")
    names = column_names([(y, [""]), (y, [""])], [])
    assert [own[""] for own in names.of] == ["y", "y_predicted"]


def test_properties_side_by_side() -> None:
    """Each has digits of its own; a note that all share stands once, another one with the property's name."""
    rows = pd.DataFrame({"id": ["a", "b", "c"]}, index=[1, 2, 3])
    one = pd.DataFrame({"": [1.2345, np.nan, 2.0], "note": ["", "empty", "as CC"]}, index=rows.index)
    other = one.assign(note=["", "empty", ""], _similarity=[0.123456, np.nan, 1.0])
    properties = [Property("y", "", 0.5), Property("z", "kcal/mol", 5.0)]
    names = column_names([(properties[0], [""]), (properties[1], ["", "_similarity"])], list(rows))
    table = joined(rows, [one, other], properties, names, full=False)
    assert list(table) == ["id", "y", "z (kcal/mol)", "z_similarity", "note"]
    assert table["y"].tolist()[0] == 1.23
    assert table["z (kcal/mol)"].tolist()[0] == 1.2
    assert table["z_similarity"].tolist()[0] == 0.12
    assert table["note"].tolist() == ["", "empty", "y: as CC"]


def test_digits() -> None:
    values = np.array([1.23456, -123.456, math.nan, -0.0001])
    np.testing.assert_array_equal(rounded(values, 0.6), [1.23, -123.46, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, 1.2), [1.2, -123.5, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, 140.0), [0.0, -120.0, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, None), [1.235, -123.5, math.nan, -0.0001])
    assert not np.signbit(rounded(values, 0.6)[3])
