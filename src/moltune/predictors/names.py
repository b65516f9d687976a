"""What the columns of predictions are called in somebody's table, and how many digits they get there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from moltune.data.reading.units import is_neg_log, split_header

NOTE = "note"
_SAYS_NOTHING = {"", "log", "units", "log units"}
_SIGNIFICANT = 4


def property_names(target: str, unit: str, suffixes: Mapping[str, bool], taken: Collection[str]) -> dict[str, str]:
    """Names of the columns of one property, and of the one with notes.

    They are the property's name, the suffix, and the unit where there is one: ``IC50_low (nM)``. Where a table has one
    of them already (case does not count), all get ``_predicted``, or then ``_predicted_2`` and so on, behind the
    property; a note becomes ``note_predicted`` likewise.

    Args:
        target: name of the property; a unit may stand in it.
        unit: of the property; empty where it is not known.
        suffixes: such as ``_low``, "" for the prediction itself; whether the column is in the property's unit.
        taken: names of the table's columns.

    Returns:
        suffix → name, with ``note`` → name of the column of notes as the last.
    """
    used = {str(name).casefold() for name in taken}
    stem, tail = _parts(target, unit)
    for extra in _extras():
        names = {suffix: f"{stem}{extra}{suffix}{tail if own else ''}" for suffix, own in suffixes.items()}
        if not used & {name.casefold() for name in names.values()}:
            break
    used |= {name.casefold() for name in names.values()}
    note = next(f"{NOTE}{extra}" for extra in _extras() if f"{NOTE}{extra}" not in used)
    return {**names, NOTE: note}


def _extras() -> list[str]:
    return ["", "_predicted", *(f"_predicted_{number}" for number in range(2, 1000))]


def _parts(target: str, unit: str) -> tuple[str, str]:
    """The name without its unit, and the unit as it stands behind it."""
    stem, own = split_header(target)
    if own:
        return stem, target[len(stem) :]
    bare = unit.removeprefix("log ") if "log" in target.lower() else unit
    return target, "" if bare.strip() in _SAYS_NOTHING or is_neg_log(target) else f" ({bare})"


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
    table: pd.DataFrame, found: pd.DataFrame, names: Mapping[str, str], error: float | None, full: bool = True
) -> pd.DataFrame:
    """A table with the columns of predictions behind its own.

    Args:
        table: any rows, indexed by their number.
        found: a column per suffix, and ``note``, with the same index.
        names: see :func:`property_names`.
        error: for :func:`rounded`.
        full: leave the digits alone.
    """
    columns = {}
    for suffix, name in names.items():
        column = found[suffix] if suffix in found else pd.Series(np.nan, index=found.index)
        if not full and pd.api.types.is_float_dtype(column):
            column = pd.Series(rounded(column.to_numpy(dtype=np.float64), error), index=found.index)
        columns[name] = column
    return pd.concat([table, pd.DataFrame(columns, index=found.index)], axis=1)
