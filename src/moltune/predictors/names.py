"""What the columns of predictions are called in somebody's table, and how many digits they get there."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moltune.data.reading.units import is_neg_log, split_header

NOTE = "note"
IONISATION = ("_acid_pka", "_base_pka", "_charge", "_main_form")
MEASURED = ("_measured", "_nearest_measured")
"""Suffixes of columns that hold a measurement."""
WITHOUT_UNIT = ("_class", "_set", "_domain", "_reason", "_nearest", "_similarity", *IONISATION)
"""Suffixes of columns that are not in the property's unit."""
_LOGD = re.compile(r"log\s*_?d\b|logd|lipophilicity|distribution", re.IGNORECASE)
_SAYS_NOTHING = {"", "log", "units", "log units"}
_SIGNIFICANT = 4
_OF_SHARES = 0.1


@dataclass(frozen=True)
class Property:
    """One property in a table of predictions.

    Attributes:
        target: its name; a unit may stand in it.
        unit: empty where it is not known.
        error: what digits are cut to, such as the RMSE on a test part; None: not known.
        classes: names of the negative and of the positive class; None: it is a number.
    """

    target: str
    unit: str
    error: float | None
    classes: tuple[str, str] | None = None


@dataclass(frozen=True)
class Names:
    """What the columns of predictions are called in one table.

    Attributes:
        of: for each property: suffix ("" for the prediction itself, ``_low`` and so on) → name of the column.
        note: name of the column of notes.
    """

    of: list[dict[str, str]]
    note: str


def column_names(properties: Sequence[tuple[Property, Collection[str]]], taken: Collection[str]) -> Names:
    """Name the columns of each property, of which the suffixes are given, and the one with notes.

    They are the property's name, the suffix, and the unit where there is one: ``IC50_low (nM)``. Where a table has one
    of them already (case does not count), all get ``_predicted``, or then ``_predicted_2`` and so on, behind the
    property; a note becomes ``note_predicted`` likewise.
    """
    used = {str(name).casefold() for name in taken}
    all_names = []
    for one, suffixes in properties:
        stem, tail = _parts(one.target, one.unit)
        for extra in _extras():
            names = {suffix: f"{stem}{extra}{suffix}{'' if suffix in WITHOUT_UNIT else tail}" for suffix in suffixes}
            if not used & {name.casefold() for name in names.values()}:
                break
        used |= {name.casefold() for name in names.values()}
        all_names.append(names)
    return Names(all_names, next(f"{NOTE}{extra}" for extra in _extras() if f"{NOTE}{extra}" not in used))


def _extras() -> list[str]:
    return ["", "_predicted", *(f"_predicted_{number}" for number in range(2, 1000))]


def _parts(target: str, unit: str) -> tuple[str, str]:
    """The name without its unit, and the unit as it stands behind it."""
    stem, own = split_header(target)
    if own:
        return stem, target[len(stem) :]
    bare = unit.removeprefix("log ") if "log" in target.lower() else unit
    return target, "" if bare.strip() in _SAYS_NOTHING or is_neg_log(target) else f" ({bare})"


def is_logd(target: str) -> bool:
    """Whether a property is a distribution coefficient, which depends on what is ionised, by its name."""
    return _LOGD.search(target) is not None


def rounded(values: np.ndarray, error: float | None) -> np.ndarray:
    """Values with no more digits than their error deserves: the last one is between a tenth and a hundredth of it.

    Args:
        values: float, shape (n,); NaN stays.
        error: such as the RMSE on a test part; None: not known, four significant digits are kept.
    """
    if error is not None and 0 < error < math.inf:
        return np.round(values, 1 - math.floor(math.log10(error))) + 0.0
    return np.array([float(f"{value:.{_SIGNIFICANT}g}") for value in values], dtype=np.float64)


def joined(
    table: pd.DataFrame,
    found: Sequence[pd.DataFrame],
    properties: Sequence[Property],
    names: Names,
    *,
    full: bool = True,
) -> pd.DataFrame:
    """A table with the columns of predictions behind its own.

    Args:
        table: any rows, indexed by their number.
        found: of each property: a column per suffix, and ``note``, with the same index.
        properties: as many.
        names: of their columns.
        full: leave the digits alone.
    """
    columns = {}
    for one, values, own in zip(properties, found, names.of, strict=True):
        for suffix, name in own.items():
            column = values[suffix] if suffix in values else pd.Series(np.nan, index=values.index)
            if one.classes is not None and suffix in MEASURED:
                column = column.map(dict(enumerate(one.classes))).fillna("")
            if not full and pd.api.types.is_float_dtype(column):
                deserved = _OF_SHARES if suffix in WITHOUT_UNIT else one.error
                column = pd.Series(rounded(column.to_numpy(dtype=np.float64), deserved), index=values.index)
            columns[name] = column
    notes = {one.target: values[NOTE] for one, values in zip(properties, found, strict=True)}
    columns[names.note] = joined_notes(notes)
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)


def joined_notes(notes: Mapping[str, pd.Series]) -> pd.Series:
    """One note for each row: what is said of all properties once, and what is said of one with its name."""
    if len(notes) == 1:
        return next(iter(notes.values()))
    rows = pd.DataFrame(notes).fillna("")

    def together(row: pd.Series) -> str:
        if row.nunique() == 1:
            return str(row.iloc[0])
        return "; ".join(f"{name}: {text}" for name, text in row.items() if text)

    return rows.apply(together, axis=1) if len(rows) else pd.Series(dtype=object)
