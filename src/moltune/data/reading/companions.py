"""Columns beside a target that say what its numbers are: relation, unit and type of measurement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moltune.data.reading.columns import is_empty, plain_name
from moltune.data.reading.numbers import RELATIONS, plain
from moltune.data.reading.units import is_neg_log, known_unit, split_header

# As ChEMBL (Standard Relation, standard_units), PubChem (Activity Qualifier, acname) and others call them.
_WORDS = {
    "relation": ("relation", "relations", "qualifier", "operator", "modifier", "prefix"),
    "unit": ("unit", "units", "uom"),
    "type": ("type", "types"),
}
_PUBCHEM = {"acvalue": {"relation": "acqualifier", "type": "acname"}}


@dataclass(frozen=True)
class Companions:
    """Names of the columns beside a target; None where there is none."""

    relation: str | None = None
    unit: str | None = None
    type: str | None = None


def find_companions(frame: pd.DataFrame, target: str, structure: str) -> Companions:
    """The columns that belong to a target.

    ``Standard Value`` has ``Standard Relation``, ``Standard Units`` and ``Standard Type``; ``IC50`` may have
    ``IC50_qualifier`` or a plain ``Relation`` and ``Units`` that hold nothing else than relations and units.
    """
    columns = {plain_name(str(name)): str(name) for name in frame.columns if str(name) not in (target, structure)}
    own = plain_name(split_header(target)[0])
    stems = [own, re.sub(r"(value|values|result)$", "", own)]
    # ChEMBL computes pChEMBL values from the standard ones.
    if neg_log := is_neg_log(target):
        stems.append("standard")
    found: dict[str, str | None] = dict.fromkeys(_WORDS)
    for role, words in _WORDS.items():
        names = [f"{stem}{word}" for stem in stems for word in words]
        names += [name] if (name := _PUBCHEM.get(own, {}).get(role)) else []
        found[role] = next((columns[name] for name in names if name in columns), None)
        if found[role] is None and role != "type":
            bare = [columns[word] for word in words if word in columns and _holds(frame[columns[word]], role)]
            found[role] = bare[0] if bare else None
    return Companions(found["relation"], None if neg_log else found["unit"], found["type"])


def relation_of(cell: Any) -> str | None:
    """The relation in a cell, also in quotation marks; "" where it is empty, None where it is none that we know."""
    text = "" if is_empty(cell) else plain(str(cell)).strip("'\" ")
    return RELATIONS.get(text) if text else ""


def _holds(column: pd.Series, role: str) -> bool:
    cells = [cell for cell in column if not is_empty(cell)]
    if role == "relation":
        return bool(cells) and all(relation_of(cell) for cell in cells)
    return sum(known_unit(str(cell)) is not None for cell in cells) > len(cells) / 2
