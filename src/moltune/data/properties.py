"""Several properties in one table: the molecules of each, and one split for all of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from moltune.config import DataSettings, SplitSettings
from moltune.data.cleaning.clean import CleanedSmiles
from moltune.data.load import clean_table
from moltune.data.molecules import Molecules
from moltune.data.reading.columns import is_empty, target_columns
from moltune.data.reading.read import read_table
from moltune.data.splitting.given import PARTS
from moltune.data.splitting.split import Split, make_split
from moltune.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

GAPS = "gaps"
"""Entry of a property's provenance: number of rows that have a value of another property alone."""


def load_properties(settings: DataSettings) -> dict[str, Molecules]:
    """Read a table once, and clean it for each column that ``settings.target`` names.

    A gap is no bad row: one that has a value of another property is not among the rows of this one. Everything else is
    as of :func:`moltune.data.load.load_molecules`, for each property by itself: its unit, its classes, its duplicates.

    Returns:
        Column → its molecules, in the order of the text.

    Raises:
        DataError: see ``load_molecules`` and :func:`moltune.data.reading.columns.target_columns`.
        ConfigError: a setting that belongs to one property is given for several.
    """
    if settings.source is None or settings.target is None:
        raise DataError("Properties need data.source and data.target, such as logD,logS.")
    raw = read_table(settings.source, settings)
    names = target_columns(raw.frame.columns, settings.target)
    if len(names) > 1:
        _check_settings(settings)
    filled = np.array([[not is_empty(cell) for cell in raw.frame[name]] for name in names], dtype=bool)
    empty, known, found = ~filled.any(axis=0), dict[str, CleanedSmiles](), {}
    for name, here in zip(names, filled, strict=True):
        kept = here | empty
        gaps = int((~kept).sum())
        if gaps:
            logger.info("%d of %d rows have no value of %r, and one of another property", gaps, raw.rows_in, name)
        own = dataclasses.replace(
            raw,
            frame=raw.frame[kept].reset_index(drop=True),
            rows=raw.rows[kept],
            provenance={**raw.provenance, **({GAPS: gaps} if gaps else {})},
        )
        found[name] = clean_table(own, settings.model_copy(update={"target": name}), known=known)
    return found


def _check_settings(settings: DataSettings) -> None:
    wrong = {
        "data.clean.unit": (settings.clean.unit, "write the unit into the header of its column, as in 'IC50 (nM)'"),
        "data.add": (settings.add, "put these molecules into the table"),
        "data.bounds=use": (settings.bounds == "use" or None, "tune the property that has bounds by itself"),
    }
    for name, (value, cure) in wrong.items():
        if value is not None:
            raise ConfigError(f"{name} is for one property, and {settings.target!r} names several: {cure}")


def split_together(properties: Sequence[Molecules], settings: SplitSettings, seed: int) -> list[Split]:
    """One split of all molecules: whatever was measured of a molecule lies in the same part.

    As :func:`moltune.data.splitting.split.make_split` for one property. A stratified split goes by which properties a
    molecule has, and among molecules that have the same ones by the value of the rarest of these.

    Returns:
        The split of each property, of its own molecules.

    Raises:
        DataError: see ``make_split``.
    """
    if len(properties) == 1:
        return [make_split(properties[0], settings, seed)]
    union, patterns = _union(properties)
    # Quantiles of each pattern.
    fine = settings.model_copy(update={"bins": settings.bins * patterns})
    whole = make_split(union, fine, seed)
    part_of = dict(zip(union.table["inchikey"], whole.to_frame(union)["split"], strict=True))
    splits = []
    for one in properties:
        parts = one.table["inchikey"].map(part_of).to_numpy(dtype=object)
        own = {name: np.flatnonzero(parts == name).astype(np.int64) for name in PARTS}
        record = {**whole.settings, "bins": settings.bins, "sizes": {name: len(at) for name, at in own.items()}}
        splits.append(Split(**own, method=whole.method, seed=whole.seed, settings={**record, "together": len(union)}))
    return splits


def _union(properties: Sequence[Molecules]) -> tuple[Molecules, int]:
    """All molecules, each once, with a number to sort them by as a target; and how many patterns of gaps there are."""
    tables = [one.table for one in properties]
    everything = pd.concat(tables, ignore_index=True).sort_values("row", kind="stable")
    table = everything.drop_duplicates("inchikey").reset_index(drop=True)
    first_row = dict(zip(table["inchikey"], table["row"].tolist(), strict=True))
    pairs = [(row, first_row[key]) for key, row in zip(everything["inchikey"], everything["row"].tolist(), strict=True)]
    place = {key: at for at, key in enumerate(table["inchikey"])}
    ranks = np.full((len(table), len(properties)), np.nan)
    for at, one in enumerate(properties):
        ranks[[place[key] for key in one.table["inchikey"]], at] = rankdata(one.target) / (len(one) + 1)
    has = ~np.isnan(ranks)
    kinds, pattern = np.unique(has, axis=0, return_inverse=True)
    rarest = np.argmin(np.where(has, [len(one) for one in properties], np.inf), axis=1)
    order = pattern.reshape(-1) + ranks[np.arange(len(table)), rarest]
    own = [one.provenance.get("merged_rows", {}) for one in properties]
    merged = {row: into for rows in own for row, into in rows.items()}
    merged |= {row: kept for row, kept in pairs if row != kept}
    first = properties[0]
    whole = Molecules(
        table=table.assign(target=order),
        rejected=first.rejected,
        conflicts=first.conflicts,
        rows_in=first.rows_in + first.provenance.get(GAPS, 0),
        provenance={"source": first.provenance.get("source"), "merged_rows": merged},
    )
    return whole, len(kinds)
