"""From a target column to numbers in one unit, and the description of how it was read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import CleanSettings, TableSettings
from moltune.data.reading.columns import is_empty, plain_name
from moltune.data.reading.companions import Companions, find_companions, relation_of
from moltune.data.reading.numbers import Decimal, decimal_mark, has_thousands, plain, split_cell
from moltune.data.reading.units import (
    MASS,
    MOLAR,
    NEG_LOG,
    Unit,
    as_unit,
    can_convert,
    convert,
    is_neg_log,
    split_header,
)
from moltune.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)
_FLIPPED = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
_NEG_LOG10_MOLAR, _LOG = "neg-log10-molar", "log"
Weights = Callable[[Sequence[int]], np.ndarray]
"""Molecular weights in g/mol of the structures at some positions; NaN where a structure cannot be read."""


@dataclass(frozen=True)
class Reading:
    """How a table was read: shared by log lines, provenance, configuration and everything that writes the table again.

    Attributes:
        structure: column of the structure.
        target: column of the target; None where there is none.
        name: of the target as it is now; the column's, with another unit or a transform in it where there is one.
        unit: of the target as it is now; empty where it is not known.
        relation_column, unit_column, type_column: beside the target; None where there is none.
        type: of measurement, where a column names it.
        decimal: mark of the target's numbers, where they were text.
        transform: ``none``, ``log10`` or ``neg-log10-molar``.
        changed: whether the target's numbers are others than those of the file, through a unit or a transform.
        notes: what else should be known, one sentence each.
    """

    structure: str
    target: str | None = None
    name: str | None = None
    unit: str = ""
    relation_column: str | None = None
    unit_column: str | None = None
    type_column: str | None = None
    type: str = ""
    decimal: str = "point"
    transform: str = "none"
    changed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Structure, target and unit in one line."""
        if self.target is None:
            return f"structure {self.structure!r}, no target"
        kind = f" ({self.type})" if self.type else ""
        read = f" as {self.name}" if self.name != self.target else ""
        unit = f"in {self.unit}" if self.unit else "unit not known"
        return f"structure {self.structure!r}, target {self.target!r}{kind}{read}, {unit}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; ``notes`` as a list."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_provenance(cls, provenance: dict[str, Any]) -> Reading | None:
        """The description that a table of molecules carries; None for one of an earlier version."""
        values = provenance.get("reading")
        return None if values is None else cls(**{**values, "notes": tuple(values["notes"])})


@dataclass(frozen=True)
class Measurements:
    """The numbers of a target.

    Attributes:
        values: float64, shape (n,), in the unit of the reading; NaN where there is no usable number.
        reasons: position → why it has none, for rows that are no plain empty or unreadable cell.
        bounds: position → relation and value of a row that gives a bound, in the unit of the reading.
        reading: how it was read.
    """

    values: np.ndarray
    reasons: dict[int, str]
    bounds: dict[int, tuple[str, float]]
    reading: Reading


class _Target:
    """The rows of a target column while they are read; each step narrows what is left."""

    def __init__(self, frame: pd.DataFrame, target: str, beside: Companions) -> None:
        self.frame, self.name, self.beside = frame, target, beside
        self.cells = frame[target].tolist()
        self.parts = [split_cell(cell) for cell in self.cells]
        self.values = np.full(len(self.cells), np.nan)
        self.reasons: dict[int, str] = {}
        self.notes: list[str] = []

    def used(self) -> list[int]:
        """Positions that have a number, and no reason against it."""
        return [i for i in np.flatnonzero(~np.isnan(self.values)).tolist() if i not in self.reasons]

    def beside_texts(self, column: str | None) -> list[str]:
        """Cells of a column beside the target as plain text; "" where it has none."""
        if column is None:
            return [""] * len(self.cells)
        return ["" if is_empty(cell) else plain(str(cell)) for cell in self.frame[column]]

    def read_numbers(self, wanted: str) -> Decimal:
        """Fill ``values``; too large for float32 is no number."""
        mark = decimal_mark(self.parts, self.name, wanted)
        values = np.array([math.nan if part is None else part.value(mark) for part in self.parts], dtype=np.float64)
        self.values = np.where(np.abs(values) <= _LARGEST, values, np.nan)
        texts = [part for part in self.parts if part is not None and isinstance(part.number, str)]
        comma = next((part for part in texts if mark == "comma" and "," in str(part.number)), None)
        thousands = next(
            (part for part in texts if has_thousands(part, mark) and not math.isnan(part.value(mark))), None
        )
        for what, example in (("decimal comma", comma), ("thousands separator", thousands)):
            if example is not None:
                self.notes.append(f"Numbers with a {what}: {example.number!r} is read as {example.value(mark):.15g}.")
        return mark

    def choose_type(self, wanted: str | None) -> str:
        """Leave one type of measurement; its name, "" without a column of types.

        Raises:
            DataError: there are several and none is chosen, or not the one that is.
        """
        types = self.beside_texts(self.beside.type)
        counts = Counter(types[i] for i in self.used() if types[i])
        listed = ", ".join(f"{name} ({count} rows)" for name, count in counts.most_common(20))
        if wanted is None:
            if len(counts) > 1:
                raise DataError(
                    f"Column {self.name!r} holds several types of measurement ({self.beside.type!r}): {listed}. "
                    "Choose one with --type (data.type)."
                )
            return next(iter(counts), "")
        name = next((name for name in counts if name.casefold() == plain(wanted).casefold()), None)
        if name is None:
            found = f"{self.beside.type!r} names {listed or 'none'}" if self.beside.type else "no column names types"
            raise DataError(f"Column {self.name!r} has no measurement of type {wanted!r}: {found}.")
        self.reasons.update(
            {i: f"another type of measurement: {types[i] or 'none'}" for i in self.used() if types[i] != name}
        )
        return name

    def relations(self) -> list[str]:
        """Relation of each row, "=" where none is written; contradictions and unknown ones are reasons."""
        result = []
        beside = [""] * len(self.cells) if self.beside.relation is None else self.frame[self.beside.relation].tolist()
        used = set(self.used())
        for i, (part, cell) in enumerate(zip(self.parts, beside, strict=True)):
            own, other = part.relation if part else "", relation_of(cell)
            if i in used and other is None:
                self.reasons[i] = f"the relation is not known: {str(cell)!r}"
            elif i in used and own and other and own != other:
                self.reasons[i] = f"two relations that differ: {own} in the cell, {other} in {self.beside.relation!r}"
            result.append(own or other or "=")
        blank = sum(i in used and relation_of(cell) == "" for i, cell in enumerate(beside))
        if self.beside.relation is not None and blank:
            self.notes.append(
                f"{blank} rows have nothing in {self.beside.relation!r}; their values are taken as exact."
            )
        return result

    def units(self, known: str, wanted: str | None) -> list[str]:
        """Unit of each row, from its cell, the column beside, the header or the source; "" where there is none."""
        header = NEG_LOG if is_neg_log(self.name) else split_header(self.name)[1] or known
        result = []
        beside = [text.strip("'\"") for text in self.beside_texts(self.beside.unit)]
        used = set(self.used())
        for i, (part, column) in enumerate(zip(self.parts, beside, strict=True)):
            own = part.unit if part else ""
            other = column or header
            if i in used and own and other and as_unit(own) != as_unit(other):
                self.reasons[i] = f"two units that differ: {own!r} in the cell, {other!r} in its column"
            result.append(as_unit(own or other).name)
        missing = [i for i in self.used() if not result[i]]
        if missing and wanted:
            self.notes.append(f"{len(missing)} rows have no unit; their values are taken to be in {wanted}.")
            result = [unit or as_unit(wanted).name for unit in result]
        elif len(missing) < len(self.used()):
            self.reasons.update(dict.fromkeys(missing, "the unit is missing, while other rows have one"))
        return result

    def bring_to(self, unit: Unit, units: list[str], weights: Weights) -> bool:
        """Convert the rows of other units, or leave them out; whether any value changed."""
        others: dict[str, list[int]] = {}
        for i in self.used():
            if units[i] != unit.name:
                others.setdefault(units[i], []).append(i)
        changed = False
        for name, rows in others.items():
            source = as_unit(name)
            if not can_convert(source, unit):
                reason = f"the unit cannot be converted to {unit.name}: {name!r}"
                self.reasons.update(dict.fromkeys(rows, reason))
                self.notes.append(f"{len(rows)} rows left out: {reason}.")
                continue
            heavy = source.dimension != unit.dimension
            self.values[rows] = convert(self.values[rows], source, unit, weights(rows) if heavy else None)
            through = " through the molecular weight of the structure as given" if heavy else ""
            self.notes.append(f"{len(rows)} rows converted from {name} to {unit.name}{through}.")
            changed = changed or source != unit
        return changed

    def take_bounds(self, relations: list[str], flip: bool) -> dict[int, tuple[str, float]]:
        """Move rows that are no exact value to the reasons; relation and value of those that are bounds."""
        bounds: dict[int, tuple[str, float]] = {}
        for i in self.used():
            relation, part = relations[i], self.parts[i]
            if relation == "=":
                continue
            written = str(self.cells[i]).strip()
            written = written if part is not None and part.relation else f"{relation} {written}"
            self.reasons[i] = f"the target is a bound, not a number: {written!r}"
            if relation != "~":
                bounds[i] = (_FLIPPED[relation] if flip else relation, float(self.values[i]))
        return bounds

    def take_logarithm(self, sign: float) -> None:
        """Replace values by their decadic logarithm times ``sign``; those that have none are left out."""
        for i in self.used():
            if self.values[i] <= 0:
                self.reasons[i] = f"the target has no logarithm: {self.values[i]:g}"
            else:
                self.values[i] = sign * math.log10(self.values[i])


def read_measurements(
    frame: pd.DataFrame,
    structure: str,
    target: str | None,
    settings: CleanSettings,
    table: TableSettings,
    *,
    weights: Weights,
    unit: str = "",
    strict: bool = True,
) -> Measurements:
    """Read the target of a table.

    Args:
        frame: the rows.
        structure: column of the structure.
        target: column of the target; None: there is none.
        settings: unit and transform.
        table: decimal mark and type of measurement.
        weights: molecular weights, for units of mass.
        unit: of the target, where the source knows it.
        strict: False: a column that cannot be read as one gives no numbers, and the reason as a note.

    Raises:
        DataError: decimal marks cannot be told, there are several types of measurement, or the unit is no
            concentration although the transform needs one.
    """
    reading = Reading(structure, target, target)
    if target is None:
        return Measurements(np.full(len(frame), np.nan), {}, {}, reading)
    beside = find_companions(frame, target, structure)
    reading = replace(reading, relation_column=beside.relation, unit_column=beside.unit, type_column=beside.type)
    rows = _Target(frame, target, beside)
    try:
        mark = rows.read_numbers(table.decimal)
        kind = rows.choose_type(table.type)
        relations = rows.relations()
        units = rows.units(unit, settings.unit)
        common = _common_unit(rows, units, settings)
    except DataError as error:
        if strict:
            raise
        return Measurements(np.full(len(frame), np.nan), {}, {}, replace(reading, notes=(str(error),)))
    done = _is_done(common, settings.transform)
    changed = rows.bring_to(common, units, weights)
    negative = settings.transform == _NEG_LOG10_MOLAR
    if settings.transform != "none" and not done:
        rows.take_logarithm(-1.0 if negative else 1.0)
        changed = True
    bounds = rows.take_bounds(relations, flip=negative and not done)
    if plain_name(target) == "standardvalue":
        better = next((str(name) for name in frame.columns if plain_name(str(name)) == "pchemblvalue"), None)
        if better is not None:
            count = sum(not is_empty(cell) for cell in frame[better])
            rows.notes.append(f"{count} rows also have a {better!r} (-log10 M), which is easier to learn: consider it.")
    values = np.where(np.isin(np.arange(len(rows.values)), list(rows.reasons)), np.nan, rows.values)
    if done:
        rows.notes.append(f"{target!r} holds logarithms already ({common.name}); none is taken again.")
    name, final = _name(rows, common, "none" if done else settings.transform)
    return Measurements(
        values,
        rows.reasons,
        bounds,
        replace(
            reading,
            name=name,
            unit=final,
            type=kind,
            decimal=mark,
            transform=settings.transform,
            changed=changed,
            notes=tuple(rows.notes),
        ),
    )


def _common_unit(rows: _Target, units: list[str], settings: CleanSettings) -> Unit:
    """The unit that all rows are brought to: the one that is asked for, the transform's, or the most frequent.

    Raises:
        DataError: the transform needs a concentration, and the target is none.
    """
    frequent = Counter(units[i] for i in rows.used()).most_common(1)
    usual = as_unit(frequent[0][0] if frequent else "")
    if _is_done(usual, settings.transform):
        return usual
    if settings.transform == _NEG_LOG10_MOLAR:
        if frequent and usual.dimension not in (MOLAR, MASS):
            found = f"its unit is {usual.name!r}" if usual.name else "its unit is not known; name it with --unit"
            raise DataError(f"neg-log10-molar needs concentrations, and column {rows.name!r} has none: {found}.")
        return as_unit("M")
    return as_unit(settings.unit) if settings.unit else usual


def _is_done(unit: Unit, transform: str) -> bool:
    """Whether values in this unit went through the transform before, as those of our own tables did."""
    return transform != "none" and unit.name.startswith(NEG_LOG if transform == _NEG_LOG10_MOLAR else _LOG)


def _name(rows: _Target, unit: Unit, transform: str) -> tuple[str, str]:
    """Name and unit of the target after conversion and transform; the name says what no column beside it can."""
    stem, header = split_header(rows.name)
    from_cells = rows.beside.unit is None and any(part is not None and part.unit for part in rows.parts)
    if transform == _NEG_LOG10_MOLAR:
        return f"-log10 {stem} (M)", NEG_LOG
    if transform == "log10":
        return (f"log10 {stem} ({unit.name})", f"log {unit.name}") if unit.name else (f"log10 {stem}", _LOG)
    if unit.name and unit.name != header and (header or from_cells):
        return f"{stem} ({unit.name})", unit.name
    return rows.name, unit.name
