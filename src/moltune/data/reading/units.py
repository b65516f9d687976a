"""Units of measurements: which ones are known, in which header they stand, and how one becomes another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

MOLAR, MASS = "amount per volume", "mass per volume"
NEG_LOG = "-log10 M"
"""Unit of a negative decadic logarithm of a molar concentration, such as pIC50."""

_PREFIXES = {"": 0, "k": 3, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
_WORDS = {"milli": "m", "micro": "u", "nano": "n", "pico": "p", "femto": "f", "": ""}
_PER_VOLUME = re.compile(r"([kmunpf]?)(mol|g)(?:/([dcmu]?)[lL]|[ .·*]?([dcmu]?)[lL](?:-1|\^-1|⁻¹))")
_OTHERS: dict[str, tuple[str, Fraction, Fraction]] = {
    "kcal/mol": ("energy", Fraction("4184"), Fraction(0)),
    "cal/mol": ("energy", Fraction("4.184"), Fraction(0)),
    "kJ/mol": ("energy", Fraction(1000), Fraction(0)),
    "J/mol": ("energy", Fraction(1), Fraction(0)),
    "K": ("temperature", Fraction(1), Fraction(0)),
    "°C": ("temperature", Fraction(1), Fraction("273.15")),
    "°F": ("temperature", Fraction(5, 9), Fraction("459.67") * Fraction(5, 9)),
    "s": ("time", Fraction(1), Fraction(0)),
    "ms": ("time", Fraction(1, 1000), Fraction(0)),
    "min": ("time", Fraction(60), Fraction(0)),
    "h": ("time", Fraction(3600), Fraction(0)),
    "%": ("share", Fraction(1, 100), Fraction(0)),
    NEG_LOG: ("negative logarithm of molar", Fraction(1), Fraction(0)),
}
_SAME = {"hr": "h", "hrs": "h", "hours": "h", "C": "°C", "degC": "°C", "deg C": "°C", "F": "°F", "degF": "°F"}
_SAME |= {"percent": "%", "-log10(M)": NEG_LOG, "-log M": NEG_LOG, "-log(M)": NEG_LOG, "sec": "s", "minutes": "min"}


@dataclass(frozen=True)
class Unit:
    """A unit; a value of it times ``factor`` plus ``offset`` is in the base unit of its dimension."""

    name: str
    dimension: str
    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)


def known_unit(text: str) -> Unit | None:
    """The unit that a text names; None where it names none that we know. Upper and lower case differ (mM, MM)."""
    text = re.sub(r"\s+", " ", text.replace("µ", "u").replace("μ", "u").strip())
    text = _SAME.get(text, text)
    if word := re.fullmatch(r"(milli|micro|nano|pico|femto|)molar", text.lower()):
        text = f"{_WORDS[word[1]]}M"
    if found := re.fullmatch(r"([munpf]?)M", text):
        return Unit(text, MOLAR, _power(found[1]))
    if found := _PER_VOLUME.fullmatch(text):
        dimension, below = MOLAR if found[2] == "mol" else MASS, found[3] or found[4] or ""
        return Unit(f"{found[1]}{found[2]}/{below}L", dimension, _power(found[1]) / _power(below))
    per_mol = re.sub(r"[ .·*]mol(-1|\^-1|⁻¹)$", "/mol", text)
    return Unit(per_mol, *_OTHERS[per_mol]) if per_mol in _OTHERS else None


def as_unit(text: str) -> Unit:
    """The unit that a text names; one that is not known can be converted into itself alone."""
    return known_unit(text) or Unit(text.strip(), f"? {text.strip()}")


def split_header(name: str) -> tuple[str, str]:
    """A column's name without its unit, and the unit, as in ``IC50 (nM)`` or ``IC50_nM``; "" where there is none.

    The unit of a logarithm is that of its argument, so ``logS (mol/L)`` is in ``log mol/L``.
    """
    stem, unit = name, None
    if found := re.fullmatch(r"(.*\S)\s*[(\[]([^()\[\]]+)[)\]]\s*", name):
        stem, unit = found[1], known_unit(found[2])
    else:
        for gap in re.finditer(r"[\s_,/]+", name):
            tail = name[gap.end() :]
            if len(tail) > 1 and (one := known_unit(tail)) and one.dimension in (MOLAR, MASS, "energy"):
                stem, unit = name[: gap.start()], one
                break
    if unit is None or not stem:
        return name, ""
    if re.match(r"-log10\b", stem) and unit.name == "M":
        return stem, NEG_LOG
    if unit.name != NEG_LOG and re.search(r"log|ln\b|^p(?=[A-Z])", stem):
        return stem, f"log {unit.name}"
    return stem, unit.name


def is_neg_log(name: str) -> bool:
    """Whether a column is called as negative logarithms of molar concentrations are: pIC50, pKi, pChEMBL Value."""
    return re.match(r"p(([A-Z]{2}50)|K[idb]\b|Potency|ChEMBL|chembl)", name) is not None


def can_convert(source: Unit, target: Unit) -> bool:
    """Whether values can be converted; between mass and amount that takes the molecular weight."""
    return source.dimension == target.dimension or {source.dimension, target.dimension} == {MOLAR, MASS}


def convert(values: np.ndarray, source: Unit, target: Unit, weights: np.ndarray | None = None) -> np.ndarray:
    """Convert n values; ``weights`` in g/mol, shape (n,), where one unit is a mass and the other an amount."""
    if source == target:
        return values
    if source.offset or target.offset:
        return (values * float(source.factor) + float(source.offset - target.offset)) / float(target.factor)
    ratio = source.factor / target.factor
    # Powers of ten below one are no floats, their inverses are.
    result = values * float(ratio) if ratio >= 1 else values / float(1 / ratio)
    if source.dimension == target.dimension:
        return result
    assert weights is not None
    return result / weights if source.dimension == MASS else result * weights


def _power(prefix: str) -> Fraction:
    return Fraction(10) ** _PREFIXES[prefix]
