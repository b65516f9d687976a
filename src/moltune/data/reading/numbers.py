"""Numbers as people write them: other signs and blanks, either decimal mark, thousands separators, a bound, a unit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moltune.data.reading.units import known_unit
from moltune.errors import DataError

Decimal = Literal["point", "comma"]

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
# Minus, hyphen, non-breaking hyphen, figure dash, en dash, small and full-width hyphen; modifier and right apostrophe.
_SIGNS = {**dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"), "-"), 0x2019: "'", 0x02BC: "'"}

RELATIONS = {
    **{sign: sign for sign in (">", "<", ">=", "<=")},
    **{"=": "=", "==": "=", "~": "~", "≈": "~", "≥": ">=", "≤": "<=", ">>": ">", "<<": "<", "=>": ">=", "=<": "<="},
}
"""Relation of a measurement to the value beside it, as written → as we write it."""

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)
_CELL = re.compile(
    r"(?P<relation>[<>=~≈≥≤]{1,2})?\s*"
    r"(?P<number>[+-]?\s?(?:\d(?:[\d.,' ]*[\d.,])?|[.,]\d+)(?:[eE][+-]?\d+)?)"
    r"(?P<blank>\s*)(?P<unit>[^\d\s.,'+-].*)?",
    re.ASCII,
)


def _pattern(mark: str, comma: str) -> re.Pattern[str]:
    groups = "|".join(rf"[1-9]\d{{0,2}}(?:{re.escape(separator)}\d{{3}})+" for separator in (comma, " ", "'"))
    exponent = r"(?:[eE][+-]?\d+)?"
    return re.compile(rf"[+-]?(?:(?:\d+|{groups})(?:{re.escape(mark)}\d*)?|{re.escape(mark)}\d+){exponent}", re.ASCII)


_WRITTEN: dict[Decimal, re.Pattern[str]] = {"point": _pattern(".", ","), "comma": _pattern(",", ".")}


@dataclass(frozen=True)
class Cell:
    """A cell of a target column in its parts.

    Attributes:
        relation: a value of ``RELATIONS``; empty where none is written.
        number: the number as written, its blanks and signs made plain; a float where the cell holds one.
        unit: as written; empty where there is none.
    """

    relation: str
    number: str | float
    unit: str

    def value(self, mark: Decimal) -> float:
        """The number with this decimal mark; NaN where it cannot be read so."""
        return self.number if isinstance(self.number, float) else _read(self.number, mark)


def plain(text: str) -> str:
    """A text with plain blanks, signs and apostrophes, and none of them around it."""
    return re.sub(r"\s", " ", text.translate(_INVISIBLE)).translate(_SIGNS).strip()


def to_number(value: Any) -> float:
    """A cell that is one number with a decimal point; NaN where it is not. Underscores and other digits are none."""
    if value is None or isinstance(value, bool | np.bool_):
        return math.nan
    if isinstance(value, str) and not _PLAIN.fullmatch(value := plain(value)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf if isinstance(value, int) else math.nan


def split_cell(value: Any) -> Cell | None:
    """Relation, number and unit of a cell; None where it holds no number, or more than these.

    What stands behind a number and is no unit that we know may be anything: an error bar, a remark. A unit of one
    letter needs a blank before it, since "5M" may be five million.
    """
    if not isinstance(value, str):
        number = to_number(value)
        return None if math.isnan(number) else Cell("", number, "")
    text = plain(value)
    if "inf" in text.lower() and not math.isnan(number := to_number(text)):
        return Cell("", number, "")
    found = _CELL.fullmatch(text)
    if found is None or (found["relation"] or "=") not in RELATIONS:
        return None
    unit = (found["unit"] or "").strip()
    number_text = re.sub(r"^([+-])\s", r"\1", found["number"])
    if unit and (known_unit(unit) is None or (len(unit) == 1 and unit != "%" and not found["blank"])):
        return None
    if not any(pattern.fullmatch(number_text) for pattern in _WRITTEN.values()):
        return None
    return Cell(RELATIONS.get(found["relation"] or "", ""), number_text, unit)


def decimal_mark(cells: Iterable[Cell | None], column: str, wanted: str = "auto") -> Decimal:
    """The decimal mark of a column, from the cells that can be read in one way only.

    Args:
        cells: of the column; None and floats say nothing.
        column: its name, for the message.
        wanted: ``point`` or ``comma`` decides; ``auto`` looks.

    Raises:
        DataError: each cell that has a mark can be read in two ways, or some need a point and others a comma.
    """
    if wanted != "auto":
        return "point" if wanted == "point" else "comma"
    only: dict[str, str] = {}
    unclear: dict[str, tuple[float, float]] = {}
    for text in dict.fromkeys(cell.number for cell in cells if cell is not None and isinstance(cell.number, str)):
        point, comma = (_read(text, mark) for mark in ("point", "comma"))
        if math.isnan(comma):
            only.setdefault("point", text)
        elif math.isnan(point):
            only.setdefault("comma", text)
        elif point != comma:
            unclear.setdefault(text, (point, comma))
    option = "say which with --decimal point or --decimal comma (data.decimal)"
    if len(only) == 2:
        raise DataError(
            f"Column {column!r} mixes decimal marks: {only['point']!r} needs a point, {only['comma']!r} a comma. "
            f"{option[:1].upper()}{option[1:]}; rows that cannot be read so are then left out."
        )
    if not only and unclear:
        text, (point, comma) = next(iter(unclear.items()))
        raise DataError(
            f"The numbers of column {column!r} can be read in two ways: {text!r} is {point!r} with a decimal point and "
            f"{comma!r} with a decimal comma, and no other row decides; {option}."
        )
    return "comma" if "comma" in only else "point"


def has_thousands(cell: Cell, mark: Decimal) -> bool:
    """Whether the number is written with a thousands separator."""
    others = " '" + ("," if mark == "point" else ".")
    return isinstance(cell.number, str) and any(sign in cell.number for sign in others)


def _read(text: str, mark: Decimal) -> float:
    if not _WRITTEN[mark].fullmatch(text):
        return math.nan
    point, comma = (".", ",") if mark == "point" else (",", ".")
    return float(re.sub(rf"[ '{re.escape(comma)}]", "", text).replace(point, "."))
