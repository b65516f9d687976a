"""Which column holds the SMILES, and which one the target."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem

from moltune.data.chemistry import rdkit_log
from moltune.errors import DataError

_OTHER_SMILES_NAMES = {"drug", "mol", "molecule", "structure", "compound", "ligand"}
_TARGET_NAMES = {
    *("y", "label", "labels", "target", "targets", "value", "exp", "expt", "experimental"),
    *("logd", "logd74", "logs", "logp", "logk", "pic50", "pki", "pka"),
}
_IDENTIFIER_WORDS = {"id", "ids", "index", "idx", "row", "cid", "no", "nr", "number", "unnamed", "column"}
_SAMPLE = 20
_NUMERIC_SHARE = 0.5


def find_columns(
    frame: pd.DataFrame, smiles: str | None, target: str | None, *, need_target: bool
) -> tuple[str, str | None]:
    """Names of the SMILES column and of the target column.

    A name that is given must exist (upper and lower case are the same where that is unambiguous). One that is None is
    found when it is obvious. SMILES: a column called ``smiles``, else the only one whose name has "smiles" in it, else
    the only one with another usual name (drug, mol, structure ...). Target: the only numeric column with a usual name
    (y, label, target, exp, logD, measured ...), else the only numeric column that is no identifier. A column is
    numeric when at least half of its non-empty cells are numbers.

    Returns:
        ``(smiles, target)``; ``target`` is None only when it is neither given nor needed.

    Raises:
        DataError: a name does not exist, or a column is not obvious; the message lists the candidates.
    """
    smiles_column = match_name(frame.columns, smiles, "SMILES column") if smiles is not None else _find_smiles(frame)
    if target is not None:
        target_column = match_name(frame.columns, target, "target column")
        if target_column == smiles_column:
            raise DataError(f"Column {target!r} cannot be both the SMILES and the target.")
        return smiles_column, target_column
    return smiles_column, _find_target(frame, smiles_column) if need_target else None


def match_name(columns: Iterable[Any], name: str, role: str) -> str:
    """The column of that name; exact first, then without regard to case.

    Raises:
        DataError: there is none; the message lists the columns and suggests the closest.
    """
    names = [str(column) for column in columns]
    if name in names:
        return name
    same = [column for column in names if column.casefold() == name.strip().casefold()]
    if len(same) == 1:
        return same[0]
    lowered = {column.casefold(): column for column in names}
    close = difflib.get_close_matches(name.casefold(), lowered, n=1)
    hint = f" Did you mean {lowered[close[0]]!r}?" if close else ""
    raise DataError(f"There is no {role} {name!r}; the columns are {_listed(names)}.{hint}")


def numeric_columns(frame: pd.DataFrame, *, without: Collection[str]) -> list[str]:
    """Columns of which at least half of the non-empty cells are finite numbers."""
    return [str(name) for name in frame.columns if str(name) not in without and _is_numeric(frame[name])]


def to_number(value: Any) -> float:
    """A cell as a float; NaN where it is no number. Underscores and digits of other scripts are no number."""
    if value is None or isinstance(value, bool | np.bool_):
        return math.nan
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf if isinstance(value, int) else math.nan


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or blanks."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def _find_smiles(frame: pd.DataFrame) -> str:
    names = [str(name) for name in frame.columns]
    if "smiles" in names:
        return "smiles"
    exact = [name for name in names if _plain(name) == "smiles"]
    containing = [name for name in names if "smiles" in _plain(name)]
    other = [name for name in names if _plain(name) in _OTHER_SMILES_NAMES and _looks_like_smiles(frame[name])]
    if found := _only_one(exact, containing, other, role="hold the SMILES"):
        return found
    candidates = [name for name in names if _looks_like_smiles(frame[name])]
    if any(not math.isnan(to_number(name)) for name in names):
        hint = "The first line looks like data; add a header line such as smiles,target."
    elif candidates:
        hint = f"{_listed(candidates)} {'looks' if len(candidates) == 1 else 'look'} like SMILES; name the column."
    else:
        hint = "No column looks like SMILES."
    raise DataError(f"No SMILES column was found by name; the columns are {_listed(names)}. {hint}")


def _find_target(frame: pd.DataFrame, smiles: str) -> str:
    numeric = numeric_columns(frame, without=[smiles])
    named = [name for name in numeric if _plain(name) in _TARGET_NAMES or _plain(name).startswith("measured")]
    others = [name for name in numeric if not _is_identifier(name)]
    if found := _only_one(named, others, role="be the target"):
        return found
    names = [str(name) for name in frame.columns if str(name) != smiles]
    if not names:
        raise DataError(f"There is no target: the only column is {smiles!r}.")
    hint = f" Numeric, but it looks like an identifier: {_listed(numeric)}; name it if it is meant." if numeric else ""
    raise DataError(f"No target column was found: none of {_listed(names)} holds numbers.{hint}")


def _only_one(*choices: list[str], role: str) -> str | None:
    """The member of the first choice that is not empty; None where all are."""
    found = next(filter(None, choices), [])
    if len(found) > 1:
        raise DataError(f"Several columns may {role}: {_listed(found)}; name one.")
    return found[0] if found else None


def _is_numeric(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    values = [value for value in column if not is_empty(value)]
    good = sum(math.isfinite(to_number(value)) for value in values)
    return bool(values) and good >= _NUMERIC_SHARE * len(values)


def _is_identifier(name: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(words) and (words[0] in {"unnamed", "column"} or words[-1] in _IDENTIFIER_WORDS)


def _looks_like_smiles(column: pd.Series) -> bool:
    texts = [value.strip() for value in column if isinstance(value, str) and value.strip()][:_SAMPLE]
    # Plain words and numbers (an element symbol, "CNS", "1") parse as SMILES; a molecule has a bond or a ring to show.
    if not texts or not any(re.search(r"[=#()\[\]@0-9]|CC", text) for text in texts):
        return False
    good = 0
    with rdkit_log():
        for text in texts:
            try:
                good += len(text.split()) == 1 and Chem.MolFromSmiles(text, sanitize=False) is not None
            except (RuntimeError, ValueError):
                continue
    return good > len(texts) / 2


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
