"""Two classes as a target: whether a column holds them, and which one is the positive one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import DataSettings
from moltune.data.molecules import Molecules
from moltune.data.reading.columns import find_columns, is_empty
from moltune.data.reading.numbers import to_number
from moltune.data.reading.table import RawTable
from moltune.errors import ConfigError, DataError, TargetNotFoundError

# A measurement that is no plain number, such as "1,234", "> 5" or "4.69 uM": no word, whatever else it is.
_MEASURED = re.compile(r"[<>=~≤≥≈]*\s*[-+−]?\s*[.,]?\d")
CLASSES = "classes"
"""Entry of a table's provenance: names of the negative and of the positive class."""
_POSITIVE = {"active", "yes", "true", "positive", "pos", "+", "toxic", "1", "y", "t", "hit", "binder", "p", "mutagen"}


def find_classes(raw: RawTable, settings: DataSettings, known: tuple[str, str] | None = None) -> RawTable:
    """Replace a target of two classes by 0 and 1, where the task is classification.

    With ``task: auto`` a target is taken for classes where it holds 0 and 1 and nothing else, or two words. Two other
    numbers stay numbers. The positive class is 1, the larger number, the one with a usual name (active, yes, true,
    positive, toxic, or the word without the "non-" of the other), or else the last in the alphabet; a note says which.

    Args:
        raw: the table as read.
        settings: columns and task.
        known: classes of a model that the labels are compared with; unset: those of the table.

    Returns:
        The table, with ``classes`` in its provenance where the target holds them; else as it was.

    Raises:
        DataError: classification was asked for, and the target does not hold two classes.
        ConfigError: classification was asked for together with what only numbers have.
    """
    wanted = settings.task == "classification" or known is not None
    if wanted and (settings.clean.transform != "none" or settings.bounds == "use"):
        raise ConfigError("classes have no logarithm and no bounds: leave --transform and --bounds out, or --task")
    if settings.task == "regression" or (not wanted and settings.clean.transform != "none"):
        return raw
    try:
        column = str(find_columns(raw.frame, settings.smiles, settings.target, need_target=True)[1])
    except TargetNotFoundError:
        return raw
    cells = raw.frame[column].tolist()
    keys = [None if is_empty(cell) else _key(cell) for cell in cells]
    names: dict[str, str] = {}
    for key, cell in zip(keys, cells, strict=True):
        if key is not None:
            names.setdefault(key, str(cell).strip() if math.isnan(to_number(key)) else key)
    number = all(not math.isnan(to_number(key)) for key in names)
    if known is not None:
        order = [_key(name) for name in known]
        if names and not set(order) & set(names):
            shown = ", ".join(list(names.values())[:3]) + (" ..." if len(names) > 3 else "")
            raise DataError(
                f"Column {column!r} holds {shown}, and the classes are {known[0]!r} and {known[1]!r}: write the labels "
                "as these, or name another column."
            )
    elif len(names) != 2:
        if settings.task == "auto":
            return raw
        shown = ", ".join(sorted(names.values())[:5])
        raise DataError(
            f"Classification needs a target with two classes, and column {column!r} has {len(names)} ({shown}"
            f"{' ...' if len(names) > 5 else ''}); name another one, leave rows out, or choose --task regression."
        )
    elif settings.task == "auto" and not number and any(_MEASURED.match(name) for name in names):
        return raw
    elif settings.task == "auto" and number and set(names) != {"0", "1"}:
        shown = " and ".join(names.values())
        note = f"Target {column!r} holds {shown} only, and is regressed; --task classification takes them for classes."
        return _with(raw, note)
    else:
        order = (
            sorted(names, key=to_number) if number else sorted(names, key=lambda key: (_is_positive(key, names), key))
        )
    place = {key: float(at) for at, key in enumerate(order)}
    labels = [
        None if key is None else place.get(key, f"{cell} is no class") for key, cell in zip(keys, cells, strict=True)
    ]
    classes = list(known) if known is not None else [names[key] for key in order]
    counts = [sum(label == at for label in labels) for at in (0.0, 1.0)]
    why = "was asked for" if wanted else "was chosen, since there are two of them"
    if number and not wanted:
        why += "; --task regression takes them as numbers"
    note = (
        f"Target {column!r} holds the classes {classes[0]!r} ({counts[0]} rows) and {classes[1]!r} ({counts[1]}). "
        f"Classification {why}. Probabilities are those of {classes[1]!r}."
    )
    frame = raw.frame.copy()
    frame[column] = pd.Series(labels, index=frame.index, dtype=object)
    return _with(dataclasses.replace(raw, frame=frame), note, {CLASSES: classes})


def column_of_classes(frame: pd.DataFrame, known: tuple[str, str]) -> str:
    """The column that holds classes of a model in at least half of its cells that are not empty.

    Raises:
        TargetNotFoundError: there is none, or more than one and none of them is called ``label``.
    """
    wanted = {_key(name) for name in known}
    found = []
    for name in map(str, frame.columns):
        keys = [_key(cell) for cell in frame[name].tolist() if not is_empty(cell)]
        if keys and 2 * sum(key in wanted for key in keys) >= len(keys):
            found.append(name)
    if len(found) == 1 or "label" in found:
        return "label" if "label" in found else found[0]
    what = f"Several columns may be the target: {', '.join(found)}" if found else "No column holds these classes"
    raise TargetNotFoundError(f"The classes are {known[0]!r} and {known[1]!r}. {what}; name the one that is meant.")


def with_classes(molecules: Molecules, known: tuple[str, str] | None) -> Molecules:
    """Labels of cleaned molecules as a model has them: 0 for the negative, 1 for the positive of its classes.

    Args:
        molecules: with classes of the same names, in whatever order, or with the numbers 0 and 1, which are taken for
            the negative and the positive class.
        known: classes of the model; None: it predicts a number.

    Raises:
        DataError: the labels are others.
    """
    own = molecules.classes
    if known is None:
        if own is not None:
            raise DataError(f"the labels are classes ({own[0]}, {own[1]}), and those of the model are numbers")
        return molecules
    keys = [_key(name) for name in known]
    target = molecules.target
    if own is None:
        wrong = target[np.isfinite(target) & (target != 0) & (target != 1)]
        if len(wrong):
            raise DataError(f"the classes are {known[0]} and {known[1]}, and a label is {wrong[0]:g}, not 0 or 1")
    elif sorted(map(_key, own)) != sorted(keys):
        raise DataError(f"the classes are {known[0]} and {known[1]}, and the labels are {own[0]} and {own[1]}")
    elif _key(own[0]) != keys[0]:
        target = 1 - target
    provenance = {**molecules.provenance, CLASSES: list(known)}
    return dataclasses.replace(molecules, table=molecules.table.assign(target=target), provenance=provenance)


def _with(raw: RawTable, note: str, more: dict[str, Any] | None = None) -> RawTable:
    notes = (*raw.provenance.get("notes", ()), note)
    return dataclasses.replace(raw, provenance={**raw.provenance, "notes": notes, **(more or {})})


def _key(cell: Any) -> str:
    """What cells of one class have in common: a number in its plain form, or the word in small letters."""
    text = str(cell).strip().casefold()
    number = to_number(text)
    return text if math.isnan(number) else f"{number:g}"


def _is_positive(key: str, both: Collection[str]) -> bool:
    """Whether a word is a usual name of the positive class, or the other one is "not" it: blocker and non-blocker."""
    return key in _POSITIVE or key.endswith("+") or any(other != key and other.endswith(key) for other in both)
