"""From raw rows to clean, unique molecules; every row that is left out is listed with its reason."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import rdkit
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.MolStandardize import rdMolStandardize

from moltune.config import CleanSettings, TableSettings
from moltune.data.chemistry import parse_smiles, rdkit_log
from moltune.data.cleaning.duplicates import CONFLICT_COLUMNS, merge_duplicates
from moltune.data.molecules import BOUND_COLUMNS, KEPT_COLUMNS, REJECT_COLUMNS, Molecules, rename_taken
from moltune.data.reading.columns import find_columns, is_empty, numeric_columns
from moltune.data.reading.measurements import read_measurements
from moltune.data.reading.numbers import split_cell
from moltune.data.reading.table import RawTable
from moltune.errors import DataError, TargetNotFoundError, one_line

_DEFAULT = CleanSettings()
_LARGEST = float(np.finfo(np.float32).max)
_INVISIBLE = "\u200b\u2060\ufeff"
# The InChI library has a key for every molecule of these elements, of this size at most.
_ORDINARY, _ORDINARY_ATOMS = re.compile(r"(?:(?:Br|Cl|Si|[HBCNOFPSI])\d*)+(?:[+-]\d*)?"), 500


@dataclass(frozen=True)
class CleanedSmiles:
    """One molecule after cleaning.

    Attributes:
        smiles: the SMILES to use.
        inchikey: standard InChIKey of the cleaned molecule; empty where it was not asked for.
        steps: what changed it, in order: "largest fragment", "neutralised", "canonical".
        mol: what reading ``smiles`` would give again; None where that is not certain.
    """

    smiles: str
    inchikey: str
    steps: tuple[str, ...]
    mol: Chem.Mol | None = field(default=None, compare=False, repr=False)


def clean_smiles(
    smiles: str | Chem.Mol, settings: CleanSettings = _DEFAULT, formulas: Collection[str] | None = None
) -> CleanedSmiles:
    """Parse, sanitise, optionally strip and neutralise, and name one molecule: a SMILES, an InChI or an RDKit molecule.

    With ``settings.canonical`` off the SMILES stays as given (without blanks around it or a ChemAxon extension after
    it), unless stripping or neutralising changed the molecule.

    The InChIKey takes more time than all the rest. Where it only serves to find molecules again, it can be left out for
    those that have not even the formula of one of them.

    Args:
        smiles: of the molecule.
        settings: the cleaning steps.
        formulas: those of which the InChIKey is asked for; unset: of every molecule.

    Raises:
        DataError: the reason why there is no usable molecule.
    """
    smiles = _text(smiles) if isinstance(smiles, Chem.Mol) else smiles
    if not isinstance(smiles, str):
        raise DataError("the SMILES is empty" if is_empty(smiles) else "the SMILES is not text")
    text = smiles.strip().strip(_INVISIBLE).strip()
    core, _, extension = text.partition(" ")
    if not text:
        raise DataError("the SMILES is empty")
    if len(core.split()) > 1 or (extension and not extension.strip().startswith("|")):
        raise DataError("the SMILES has a blank inside; put names into a column of their own")
    mol = parse_smiles(text)
    core = Chem.MolToSmiles(mol) if text.startswith("InChI=") else core
    try:
        with rdkit_log():
            mol, steps = _standardize(mol, settings)
            canonical = Chem.MolToSmiles(mol)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"RDKit cannot clean the molecule: {one_line(error)}") from None
    inchikey = _inchikey(mol) if formulas is None or _needs_key(mol, formulas) else ""
    used = canonical if settings.canonical or steps else core
    # Hydrogen atoms, changed molecules and those of an InChI may look another way when they are read again.
    same = not steps and text == core and mol.GetNumAtoms() == mol.GetNumHeavyAtoms()
    if used != core and not steps:
        steps = ["canonical"]
    return CleanedSmiles(used, inchikey, tuple(steps), mol if same else None)


def _needs_key(mol: Chem.Mol, formulas: Collection[str]) -> bool:
    """Whether a molecule of these formulas may have its InChIKey, or whether it may have none at all."""
    formula = rdMolDescriptors.CalcMolFormula(mol)
    return formula in formulas or not _ORDINARY.fullmatch(formula) or mol.GetNumAtoms() > _ORDINARY_ATOMS


def _standardize(mol: Chem.Mol, settings: CleanSettings) -> tuple[Chem.Mol, list[str]]:
    steps = []
    if settings.largest_fragment and len(Chem.GetMolFrags(mol)) > 1:
        mol = rdMolStandardize.LargestFragmentChooser().choose(mol)
        steps.append("largest fragment")
    if settings.neutralize and any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        before = Chem.MolToSmiles(mol)
        mol = rdMolStandardize.Uncharger().uncharge(mol)
        Chem.SanitizeMol(mol)
        if Chem.MolToSmiles(mol) != before:
            steps.append("neutralised")
    return mol, steps


def _inchikey(mol: Chem.Mol) -> str:
    with rdkit_log():
        try:
            key = str(Chem.MolToInchiKey(mol))
        except (RuntimeError, ValueError):
            key = ""
    if key:
        return key
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise DataError("no InChIKey: the molecule has an open position or wildcard (*)")
    if mol.GetNumAtoms() > 1000:
        raise DataError(f"no InChIKey: the molecule is too large ({mol.GetNumAtoms()} atoms; InChI takes up to 1023)")
    raise DataError("no InChIKey: the InChI library refuses the molecule")


def clean(
    raw: RawTable,
    settings: CleanSettings,
    *,
    smiles: str | None = None,
    target: str | None = None,
    table: TableSettings | None = None,
    need_target: bool = True,
    merge: bool | None = None,
    formulas: Collection[str] | None = None,
    alike: bool = False,
    known: dict[str, CleanedSmiles] | None = None,
) -> Molecules:
    """Clean every row of a raw table.

    Each row is kept, or listed in ``rejected`` with its number, SMILES, target cell and reason, so that
    ``rows_in == len(table) + len(rejected)`` always. Further source columns stay in both; one whose name is
    taken by a column of moltune is called ``source_<name>``. A unit column beside the target names its present unit.

    Without ``need_target`` (for predictions) duplicates are not merged, a target that is given may have gaps (NaN),
    and a table of which nothing can be used is no error.

    Args:
        raw: the table as read.
        settings: the cleaning steps.
        smiles: SMILES column; None: found by name.
        target: target column; None: found when obvious, if it is needed.
        table: decimal mark and type of measurement; unset: the defaults.
        need_target: whether each kept row must have a finite target.
        merge: whether duplicates are treated as ``settings.duplicates`` says; None: as ``need_target``.
        formulas: those of which InChIKeys are asked for, see :func:`clean_smiles`; unset: of every molecule.
        alike: whether the targets may all be the same, as of molecules that join others.
        known: SMILES that were cleaned before with these settings; those of this table are put there, too.

    Raises:
        DataError: a column is missing or not obvious, the target can be read in two ways, no row is usable, no target
            is a number, the target is constant, or there are duplicates under the policy "error".
    """
    smiles_column, target_column = find_columns(raw.frame, smiles, target, need_target=need_target)
    structures = raw.frame[smiles_column].tolist()
    cells = [None] * len(raw.frame) if target_column is None else raw.frame[target_column].tolist()
    measured = read_measurements(
        raw.frame,
        smiles_column,
        target_column,
        settings,
        table or TableSettings(),
        weights=lambda positions: np.array([_weight(structures[position]) for position in positions]),
        unit=str(raw.provenance.get("unit") or ""),
        strict=need_target,
    )
    values, reading = measured.values, measured.reading
    if need_target and cells and np.isnan(values).all() and not measured.reasons:
        raise DataError(_no_number(raw.frame, str(target_column), smiles_column))
    rows: list[tuple[Any, ...]] = []
    mols: list[Chem.Mol | None] = []
    positions: list[int] = []
    rejects: list[tuple[Any, ...]] = []
    steps: Counter[str] = Counter()
    left: list[int] = []
    bounds: dict[int, tuple[Any, ...]] = {}
    given = zip(raw.rows.tolist(), structures, cells, values.tolist(), strict=True)
    for position, (row, text, cell, value) in enumerate(given):
        try:
            found = _clean_once(text, settings, formulas, known)
            if position in measured.bounds:
                bounds[position] = (row, _text(text), found.smiles, found.inchikey, *measured.bounds[position])
            if need_target and math.isnan(value):
                raise DataError(measured.reasons.get(position) or _why_no_target(cell))
        except DataError as error:
            left.append(position)
            rejects.append((row, _text(text), _text(cell), str(error)))
            continue
        steps.update(found.steps)
        positions.append(position)
        mols.append(None if need_target else found.mol)
        rows.append((row, _text(text), found.smiles, found.inchikey, value))
    others = raw.frame.drop(columns=[smiles_column, *([] if target_column is None else [target_column])])
    further = rename_taken(others.iloc[left].reset_index(drop=True), REJECT_COLUMNS)
    rejected = pd.concat([raw.bad_rows, pd.concat([pd.DataFrame(rejects, columns=REJECT_COLUMNS), further], axis=1)])
    if not rows and need_target:
        raise DataError(_nothing_left(raw, rejected, smiles_column))
    kept = pd.DataFrame(rows, columns=KEPT_COLUMNS).astype({"row": np.int64, "target": np.float64})
    if reading.unit_column is not None and reading.changed:
        others = others.assign(**{reading.unit_column: reading.unit})
    molecules = Molecules(
        table=pd.concat([kept, rename_taken(others.iloc[positions].reset_index(drop=True), KEPT_COLUMNS)], axis=1),
        rejected=rejected.astype({"row": np.int64}).sort_values("row", kind="stable").reset_index(drop=True),
        conflicts=pd.DataFrame(columns=CONFLICT_COLUMNS),
        rows_in=raw.rows_in,
        provenance={
            **{name: value for name, value in raw.provenance.items() if name != "notes"},
            "smiles_column": smiles_column,
            "target_column": reading.name,
            **({"unit": reading.unit} if reading.unit else {}),
            "reading": replace(reading, notes=(*raw.provenance.get("notes", ()), *reading.notes)).to_dict(),
            "cleaning": settings.model_dump(),
            "steps": dict(steps),
            "rdkit": rdkit.__version__,
        },
        mols=None if need_target else mols,
        bounds=pd.concat(
            [
                pd.DataFrame(list(bounds.values()), columns=BOUND_COLUMNS),
                rename_taken(others.iloc[list(bounds)].reset_index(drop=True), {*BOUND_COLUMNS, *KEPT_COLUMNS}),
            ],
            axis=1,
        ),
    )
    if need_target if merge is None else merge:
        molecules = merge_duplicates(molecules, settings)
    labels = molecules.target
    if need_target and not alike and len(labels) and labels.min() == labels.max():
        raise TargetNotFoundError(
            f"Target column {target_column!r} has the same value ({labels[0]:g}) for all {len(labels)} kept molecules; "
            "there is nothing to learn from it. Name another column, or check which rows were rejected."
        )
    return molecules


def _clean_once(
    text: Any, settings: CleanSettings, formulas: Collection[str] | None, known: dict[str, CleanedSmiles] | None
) -> CleanedSmiles:
    if known is None or not isinstance(text, str):
        return clean_smiles(text, settings, formulas)
    if text not in known:
        known[text] = clean_smiles(text, settings, formulas)
    return known[text]


def _weight(structure: Any) -> float:
    """Molecular weight of a structure as given, salts and all; NaN where it cannot be read."""
    try:
        return float(rdMolDescriptors._CalcMolWt(parse_smiles(_text(structure).strip())))
    except DataError:
        return math.nan


def _no_number(frame: pd.DataFrame, column: str, smiles: str) -> str:
    others = numeric_columns(frame, without=[smiles, column])
    hint = f"numeric columns are {', '.join(map(repr, others))}" if others else "no other column is numeric"
    example = _text(next((value for value in frame[column] if not is_empty(value)), None))
    return f"Column {column!r} has no finite number in any row (it holds {example!r}, for example); {hint}."


def _why_no_target(cell: Any) -> str:
    text = _text(cell)
    if not text:
        return "the target is empty"
    parts = split_cell(cell)
    if parts is None:
        return f"the target is not a number: {text!r}"
    numbers = [value for mark in ("point", "comma") if not math.isnan(value := parts.value(mark))]
    if numbers and abs(numbers[0]) > _LARGEST:
        return f"the target is not finite: {text!r}"
    return f"the target has another decimal mark than the column: {text!r}"


def _nothing_left(raw: RawTable, rejected: pd.DataFrame, column: str) -> str:
    reasons = Counter(str(reason).partition(":")[0] for reason in rejected["reason"]).most_common(3)
    listed = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
    first = rejected.sort_values("row").iloc[0]
    return (
        f"None of the {raw.rows_in} rows of {raw.provenance.get('source', 'the table')} can be used ({listed}). "
        f"The first, row {first['row']}, has {str(first['input'])[:80]!r} in SMILES column {column!r}: "
        f"{first['reason']}."
    )


def _text(value: Any) -> str:
    if isinstance(value, Chem.Mol):
        return str(Chem.MolToSmiles(value))
    # Lone surrogates (possible in JSON) would make every later write of the table fail.
    return "" if is_empty(value) else str(value).encode("utf-8", "backslashreplace").decode("utf-8")
