"""Which column holds the SMILES, and which one the target."""

from __future__ import annotations

import csv
import difflib
import math
import re
import shlex
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pandas as pd
from rdkit import Chem

from moltune.data.chemistry import rdkit_log
from moltune.data.reading.numbers import split_cell, to_number
from moltune.data.reading.units import split_header
from moltune.errors import DataError, TargetNotFoundError

_OTHER_SMILES_NAMES = {"drug", "mol", "romol", "rdmol", "molecule", "structure", "compound", "ligand"}
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
    """Names of the column of structures and of the target column.

    A name that is given must exist (upper and lower case are the same where that is unambiguous). One that is None is
    found when it is obvious. SMILES: a column called ``smiles``, else the only one whose name has "smiles" in it, else
    the only one with another usual name (drug, mol, structure ...). Target: the only numeric column with a usual name
    (y, label, target, exp, logD, measured ...), else the only numeric column that is no identifier. A column is
    numeric when at least half of its non-empty cells are numbers; only where none is, a decimal comma, a bound or a
    unit may stand in them, too. Without a SMILES column, one of InChI or of RDKit molecules is taken.

    Returns:
        ``(smiles, target)``; ``target`` is None only when it is neither given nor needed.

    Raises:
        DataError: a name does not exist, or a column is not obvious; the message lists the candidates.
        TargetNotFoundError: that column is the target.
    """
    smiles_column = match_name(frame.columns, smiles, "SMILES column") if smiles is not None else _find_smiles(frame)
    if target is not None:
        target_column, *others = target_columns(frame.columns, target)
        if others:
            raise DataError(
                f"One target column is wanted here, and {target!r} names {_listed([target_column, *others])}: choose "
                f"one, such as --target {shlex.quote(target_column)}. Several at once are for `moltune finetune`, "
                "in Python moltune.finetune_several."
            )
        if target_column == smiles_column:
            raise DataError(f"Column {target!r} cannot be both the SMILES and the target.")
        return smiles_column, target_column
    return smiles_column, _find_target(frame, smiles_column) if need_target else None


def match_name(columns: Iterable[Any], name: str, role: str) -> str:
    """The column of that name; exact first, then without regard to case, then without a unit behind it.

    Raises:
        DataError: there is none; the message lists the columns and suggests the closest.
    """
    names = [str(column) for column in columns]
    if name in names:
        return name
    same = [column for column in names if column.casefold() == name.strip().casefold()]
    same = same or [column for column in names if split_header(column)[0].casefold() == name.strip().casefold()]
    if len(same) == 1:
        return same[0]
    lowered = {column.casefold(): column for column in names}
    close = difflib.get_close_matches(name.casefold(), lowered, n=1)
    hint = f" Did you mean {lowered[close[0]]!r}?" if close else ""
    raise DataError(f"There is no {role} {name!r}; the columns are {_listed(names)}.{hint}")


def target_columns(columns: Iterable[Any], target: str) -> list[str]:
    """The columns that a text such as ``logD,logS`` names; that of the whole text, where there is one.

    A name with a comma of its own is one of several in quotation marks: ``logS,"IC50, human"``.

    Raises:
        DataError: there is no such column, or it is named twice.
    """
    names = [str(column) for column in columns]
    parts = [part.strip() for part in next(csv.reader([target], skipinitialspace=True), []) if part.strip()]
    try:
        return [match_name(names, target, "target column")]
    except DataError:
        if "," not in target or not parts:
            raise
    found = [match_name(names, part, "target column") for part in parts]
    if len(set(found)) < len(found):
        raise DataError(f"{target!r} names a target column twice; leave one of the two out.")
    return found


def numeric_columns(frame: pd.DataFrame, *, without: Collection[str]) -> list[str]:
    """Columns of which at least half of the non-empty cells are finite numbers; see :func:`find_columns`."""
    names = [str(name) for name in frame.columns if str(name) not in without]
    return [name for name in names if _is_numeric(frame[name], to_number)] or [
        name for name in names if _is_numeric(frame[name], _any_number)
    ]


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or blanks."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def looks_like_structure(text: Any) -> bool:
    """Whether a cell is an RDKit molecule, an InChI, or text that parses as SMILES (an element symbol does, too)."""
    if isinstance(text, Chem.Mol):
        return True
    if not isinstance(text, str) or len(text.split()) != 1:
        return False
    if text.strip().startswith("InChI="):
        return True
    try:
        return Chem.MolFromSmiles(text.strip(), sanitize=False) is not None
    except (RuntimeError, ValueError):
        return False


def plain_name(name: str) -> str:
    """A column's name in small letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _find_smiles(frame: pd.DataFrame) -> str:
    names = [str(name) for name in frame.columns]
    if "smiles" in names:
        return "smiles"
    exact = [name for name in names if plain_name(name) == "smiles"]
    containing = [name for name in names if "smiles" in plain_name(name)]
    other = [name for name in names if plain_name(name) in _OTHER_SMILES_NAMES and _looks_like_structures(frame[name])]
    inchi = [name for name in names if re.search(r"inchi(?!key)", plain_name(name)) and _is_inchi(frame[name])]
    if found := _only_one(exact, containing, other, inchi, role="hold the SMILES"):
        return found
    candidates = [name for name in names if _looks_like_structures(frame[name])]
    if any(not math.isnan(to_number(name)) for name in names):
        hint = "The first line looks like data; add a header line such as smiles,target."
    elif candidates:
        hint = f"{_listed(candidates)} {'looks' if len(candidates) == 1 else 'look'} like SMILES; name the column."
    else:
        hint = "No column looks like SMILES."
    raise DataError(f"No SMILES column was found by name; the columns are {_listed(names)}. {hint}")


def _find_target(frame: pd.DataFrame, smiles: str) -> str:
    names = [str(name) for name in frame.columns if str(name) != smiles]
    plain = [name for name in names if _is_numeric(frame[name], to_number)]
    usual = [name for name in names if _is_usual(name) and (name in plain or _is_numeric(frame[name], _any_number))]
    others = [name for name in plain if not _is_identifier(name)]
    if found := _only_one(usual, others, role="be the target", error=TargetNotFoundError):
        return found
    loose = [name for name in names if not _is_identifier(name) and _is_numeric(frame[name], _any_number)]
    if found := _only_one(loose, role="be the target", error=TargetNotFoundError):
        return found
    if not names:
        raise TargetNotFoundError(f"There is no target: the only column is {smiles!r}.")
    hint = f" Numeric, but it looks like an identifier: {_listed(plain)}; name it if it is meant." if plain else ""
    raise TargetNotFoundError(f"No target column was found: none of {_listed(names)} holds numbers.{hint}")


def _is_usual(name: str) -> bool:
    plain = plain_name(split_header(name)[0])
    return plain in _TARGET_NAMES or plain.startswith("measured")


def _only_one(*choices: list[str], role: str, error: type[DataError] = DataError) -> str | None:
    """The member of the first choice that is not empty; None where all are."""
    found = next(filter(None, choices), [])
    if len(found) > 1:
        better = next((name for name in found if plain_name(name) == "pchemblvalue"), None)
        hint = f" {better!r} is in one unit and on one scale; it is the usual choice." if better else ""
        raise error(f"Several columns may {role}: {_listed(found)}; name one.{hint}")
    return found[0] if found else None


def _is_numeric(column: pd.Series, number: Callable[[Any], float]) -> bool:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    values = [value for value in column if not is_empty(value)]
    good = sum(math.isfinite(number(value)) for value in values)
    return bool(values) and good >= _NUMERIC_SHARE * len(values)


def _any_number(value: Any) -> float:
    """A finite number where a cell holds one in any way of writing, NaN elsewhere."""
    cell = split_cell(value)
    if cell is None:
        return math.nan
    point = cell.value("point")
    return cell.value("comma") if math.isnan(point) else point


def _is_identifier(name: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(words) and (words[0] in {"unnamed", "column"} or words[-1] in _IDENTIFIER_WORDS)


def _looks_like_structures(column: pd.Series) -> bool:
    cells = [value for value in column if not is_empty(value)][:_SAMPLE]
    texts = [value.strip() for value in cells if isinstance(value, str)]
    # Plain words and numbers (an element symbol, "CNS", "1") parse as SMILES; a molecule has a bond or a ring to show.
    if len(texts) == len(cells) and not any(re.search(r"[=#()\[\]@0-9]|CC", text) for text in texts):
        return False
    with rdkit_log():
        return sum(map(looks_like_structure, cells)) > len(cells) / 2


def _is_inchi(column: pd.Series) -> bool:
    cells = [value for value in column if not is_empty(value)][:_SAMPLE]
    return sum(str(value).strip().startswith("InChI=") for value in cells) > len(cells) / 2


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:30])
    return shown + (f" and {len(names) - 30} more" if len(names) > 30 else "")
