"""Names and digits of the columns of predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moltune.data.reading.units import split_header
from moltune.predictors.names import property_names, rounded


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
    names = property_names(target, unit, {"": True}, [])
    assert names == {"": expected, "note": "note"}
    if unit not in ("", "log units", "-log10 M"):
        assert split_header(expected)[1] == unit


def test_suffixes_stand_before_the_unit() -> None:
    names = property_names("IC50 (nM)", "nM", {"": True, "_low": True, "_domain": False}, [])
    assert names == {"": "IC50 (nM)", "_low": "IC50_low (nM)", "_domain": "IC50_domain", "note": "note"}


def test_no_name_is_taken_twice() -> None:
    suffixes = {"": True, "_low": True}
    names = property_names("y", "", suffixes, ["Y_LOW", "Note"])
    assert names == {"": "y_predicted", "_low": "y_predicted_low", "note": "note_predicted"}
    names = property_names("y", "", suffixes, ["y", "y_predicted"])
    assert names[""] == "y_predicted_2"
    assert property_names("note", "", {"": True}, []) == {"": "note", "note": "note_predicted"}


def test_digits() -> None:
    values = np.array([1.23456, -123.456, math.nan, -0.0001])
    np.testing.assert_array_equal(rounded(values, 0.6), [1.23, -123.46, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, 1.2), [1.2, -123.5, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, 140.0), [0.0, -120.0, math.nan, 0.0])
    np.testing.assert_array_equal(rounded(values, None), [1.235, -123.5, math.nan, -0.0001])
    assert not np.signbit(rounded(values, 0.6)[3])
