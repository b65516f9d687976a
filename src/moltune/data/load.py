"""From a source to clean molecules in one call."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rdkit import Chem

from moltune.config import CleanSettings, DataSettings
from moltune.data.classes import CLASSES, column_of_classes, find_classes
from moltune.data.cleaning.clean import CleanedSmiles, clean
from moltune.data.molecules import Molecules
from moltune.data.reading.measurements import Reading
from moltune.data.reading.read import read_table
from moltune.data.reading.table import RawTable
from moltune.errors import DataError, TargetNotFoundError

logger = logging.getLogger(__name__)


def load_molecules(
    source: str | Path | pd.DataFrame | None = None,
    settings: DataSettings | None = None,
    *,
    need_target: bool = True,
    classes: tuple[str, str] | None = None,
) -> Molecules:
    """Read a source, find its columns, clean it, and log one line with columns and counts.

    Args:
        source: anything that :func:`moltune.data.reading.read.read_table` takes; None: ``settings.source``.
        settings: columns and cleaning steps; None: the defaults.
        need_target: False for predictions; see :func:`moltune.data.cleaning.clean.clean`.
        classes: of a model that the labels are compared with; unset: those of the table, where the task is
            classification. Molecules whose labels disagree about the class are left out. Where no target is named, a
            column that holds these classes is one.

    Raises:
        TargetNotFoundError: no target is named, and none is obvious.
        DataError: see ``read_table``, ``clean`` and :func:`moltune.data.classes.find_classes`.
    """
    settings = settings or DataSettings()
    source = settings.source if source is None else source
    if source is None:
        raise DataError("No source of molecules is given; name a file, a bundled dataset or a Hugging Face dataset.")
    return clean_table(read_table(source, settings), settings, need_target=need_target, classes=classes)


def clean_table(
    raw: RawTable,
    settings: DataSettings,
    *,
    need_target: bool = True,
    classes: tuple[str, str] | None = None,
    known: dict[str, CleanedSmiles] | None = None,
) -> Molecules:
    """The same from a table that was read; ``known`` as of :func:`moltune.data.cleaning.clean.clean`."""
    cleaning = settings.clean
    if need_target and classes is not None and settings.target is None:
        settings = settings.model_copy(update={"target": column_of_classes(raw.frame, classes)})
    if need_target:
        raw = find_classes(raw, settings, classes)
    if CLASSES in raw.provenance and cleaning.duplicates in ("mean", "median"):
        # Half a class is none.
        cleaning = cleaning.model_copy(update={"duplicates": "drop-conflicting", "conflict_tolerance": 0.0})
    molecules = clean(
        raw,
        cleaning,
        smiles=settings.smiles,
        target=settings.target,
        table=settings,
        need_target=need_target,
        alike=classes is not None,
        known=known,
    )
    announce(molecules)
    return molecules


def announce(molecules: Molecules) -> None:
    """Log one line with the structure, the target, its unit and the counts, and one for whatever else was decided."""
    reading = Reading.from_provenance(molecules.provenance)
    words = "" if reading is None else f"{reading.words}; "
    logger.info("%s: %s%s", molecules.provenance.get("source"), words, summary(molecules))
    for note in () if reading is None else reading.notes:
        logger.info("%s", note)


def in_unit(settings: CleanSettings, unit: str) -> CleanSettings:
    """Cleaning that brings further molecules to the unit of others ("" where it is not known)."""
    if settings.transform == "log10":
        unit = unit.removeprefix("log").strip()
    return (
        settings if not unit or settings.transform == "neg-log10-molar" else settings.model_copy(update={"unit": unit})
    )


def load_molecules_labelled_or_not(
    source: str | Path | pd.DataFrame, settings: DataSettings, classes: tuple[str, str] | None = None
) -> Molecules:
    """Load molecules with labels, or without where no target column is named and none is found.

    With ``classes`` of a model, only a column that is named or holds them is a target.

    Raises:
        DataError: see :func:`load_molecules`.
    """
    try:
        return load_molecules(source, settings, classes=classes)
    except TargetNotFoundError as error:
        if settings.target is not None:
            raise
        molecules = load_molecules(source, settings, need_target=False)
        logger.info("Without a target: %s", error)
        return molecules


def summary(molecules: Molecules) -> str:
    """One line: rows in, kept, and rejected by reason."""
    text = f"{molecules.rows_in} rows, {len(molecules)} kept, {len(molecules.rejected)} left out"
    if len(molecules.rejected):
        text += " (" + "; ".join(f"{count} {reason}" for reason, count in reason_counts(molecules).items()) + ")"
    if len(molecules.conflicts):
        text += f"; {len(molecules.conflicts)} molecules have labels that conflict"
    return text


def reason_counts(molecules: Molecules) -> dict[str, int]:
    """Number of rejected rows by kind of reason, most frequent first; details such as row numbers are left out."""
    kinds = [re.sub(r" of row \d+", "", str(reason)).partition(":")[0] for reason in molecules.rejected["reason"]]
    return dict(Counter(kinds).most_common())


def molecules_from_lists(
    smiles: Sequence[str | Chem.Mol], target: Sequence[float] | None, settings: CleanSettings | None = None
) -> Molecules:
    """Clean molecules that are in memory: SMILES, InChI or RDKit molecules.

    Row ``i`` of the result's ``row`` column is position ``i - 1`` here. Without ``settings`` nothing is merged and the
    order stays: only molecules (and, if there is a target, labels) that cannot be used are missing. With ``settings``
    and a target, duplicates are treated as they say.

    Raises:
        DataError: lengths differ, there are no molecules, or see :func:`moltune.data.cleaning.clean.clean`.
    """
    columns: dict[str, list[object]] = {"smiles": list(smiles)}
    if not columns["smiles"]:
        raise DataError("There are no molecules: the list of SMILES is empty.")
    if target is not None:
        columns["y"] = list(target)
        if len(columns["y"]) != len(columns["smiles"]):
            raise DataError(f"There are {len(columns['smiles'])} SMILES but {len(columns['y'])} targets.")
    raw = read_table(pd.DataFrame(columns, dtype=object))
    return clean(
        dataclasses.replace(raw, provenance={**raw.provenance, "source": "lists", "format": "lists"}),
        settings or CleanSettings(),
        smiles="smiles",
        target=None if target is None else "y",
        need_target=target is not None,
        merge=settings is not None and target is not None,
    )
