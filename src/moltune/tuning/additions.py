"""Molecules from another file, added to the training part of a split."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import DataSettings, ModelSettings
from moltune.data.load import load_molecules, reason_counts
from moltune.data.molecules import Molecules
from moltune.data.overlap import exclude_held_out, shared_molecules
from moltune.data.splitting.split import Split
from moltune.tuning.train import unfit_molecules

logger = logging.getLogger(__name__)

ADDED = "added"


def add_molecules(
    molecules: Molecules, split: Split, data: DataSettings, model: ModelSettings
) -> tuple[Molecules, Split, dict[str, Any] | None]:
    """Append the molecules of ``data.add`` to the table and to the training part.

    They go through the same cleaning. A molecule whose connectivity block is in the validation or test part is left
    out, with a warning: training on it would make their errors too small. One that the training part has already is
    added, with a notice.

    Returns:
        Molecules (with a column ``added``), split, and provenance: source, checksum and counts. Without ``data.add``
        the first two as they came, and None.

    Raises:
        DataError: the file cannot be read or has no usable label.
    """
    if data.add is None:
        return molecules, split, None
    further = load_molecules(data.add, DataSettings(clean=data.clean))
    further = further.reject(unfit_molecules(further.smiles, model))
    parts = split.to_frame(molecules)["split"].to_numpy(dtype=object)
    kept, excluded = exclude_held_out(further, molecules, parts)
    again = shared_molecules(kept, molecules)["position"].nunique()
    if again:
        logger.warning("%d added molecules are in the training part already, with labels of their own", again)
    start = len(molecules)
    base = molecules.table.assign(**{ADDED: False})
    extra = kept.table.reindex(columns=base.columns).assign(**{ADDED: True})
    rejected = kept.rejected.assign(reason="added file: " + kept.rejected["reason"].astype(str))
    tables = [frame for frame in (molecules.rejected, rejected) if len(frame)]
    joined = Molecules(
        # An empty selection is a legitimate one: it is the arm that adds nothing.
        table=pd.concat([base, extra], ignore_index=True) if len(extra) else base,
        rejected=pd.concat(tables, ignore_index=True) if tables else molecules.rejected,
        conflicts=molecules.conflicts,
        rows_in=molecules.rows_in + kept.rows_in,
        provenance=molecules.provenance,
    )
    train = np.concatenate([split.train, np.arange(start, start + len(kept), dtype=np.int64)])
    settings = {**split.settings, ADDED: len(kept)}
    provenance = {
        "source": str(kept.provenance.get("source") or ""),
        "sha256": kept.provenance.get("sha256"),
        "rows": kept.rows_in,
        ADDED: len(kept),
        "excluded": len(excluded),
        "in_training_already": int(again),
        "rejected": reason_counts(kept),
    }
    logger.info("%d molecules of %s added to the training part", len(kept), provenance["source"])
    return joined, Split(train, split.validation, split.test, split.method, split.seed, settings), provenance


def mark_added(frame: pd.DataFrame, molecules: Molecules) -> pd.DataFrame:
    """Put the column ``added`` beside a table of the molecules; where nothing was added, the table as it is."""
    if ADDED not in molecules.table:
        return frame
    return frame.assign(**{ADDED: molecules.table[ADDED].to_numpy(dtype=bool)})


def added_words(added: dict[str, Any] | None) -> list[str]:
    """For the reader of the report."""
    if added is None:
        return []
    words = [f"{added[ADDED]} molecules of {added['source']} were added to the training part"]
    if added["excluded"]:
        words.append(f"{added['excluded']} of that file were excluded: the validation or test part holds them, too")
    if added["in_training_already"]:
        words.append(f"{added['in_training_already']} added molecules were in the training part already")
    return words
