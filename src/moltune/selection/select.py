"""From a table of scored molecules to the file that ``finetune --add`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import DataSettings, SelectSettings
from moltune.data.classes import with_classes
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.overlap import exclude_held_out
from moltune.errors import ConfigError
from moltune.evaluation.metrics import task_of
from moltune.models.checkpoints import load_regression, load_tokenizer
from moltune.models.inference import embed_smiles
from moltune.run import Run
from moltune.selection.strategies import EMBEDDING, candidates_from, choose


@dataclass(frozen=True)
class Selection:
    """Selected molecules.

    Attributes:
        table: ``smiles``, ``label``, ``inchikey``, ``row`` (in the source) and the source's further columns, the best
            first.
        facts: JSON-ready: strategy, amounts, what was excluded.
    """

    table: pd.DataFrame
    facts: dict[str, Any]


def select(
    source: str | Path | pd.DataFrame | Molecules,
    settings: SelectSettings,
    *,
    run: str | Path | None = None,
    data: DataSettings | None = None,
    classes: tuple[str, str] | None = None,
) -> Selection:
    """Select molecules of a table.

    Args:
        source: ``scores.csv``, ``uncertainty.csv``, or any labelled molecules for strategies that need no scores.
        settings: strategy and amount.
        run: the run that the molecules would be added to: those that its validation or test part holds are excluded
            first, and similarity is to its validation part. An influence table names its convention itself.
        data: columns of the source.
        classes: negative and positive class of the labels; unset: those of the run, or what the source shows.

    Raises:
        DataError: the source cannot be read, or lacks what the strategy needs.
        ConfigError: settings that do not go together.
    """
    columns, opened = data or DataSettings(), None if run is None else Run.load(run)
    if opened is not None:
        own, parts = opened.molecules()
        classes = own.classes
        columns = columns.model_copy(update={"task": task_of(classes).name})
    molecules = source if isinstance(source, Molecules) else load_molecules(source, columns, classes=classes)
    offered = len(molecules)
    excluded: list[str] = []
    known: dict[str, Any] = {}
    if opened is not None:
        molecules = with_classes(molecules, classes)
        molecules, excluded = exclude_held_out(molecules, own, parts)
        validation = [own.smiles[i] for i in np.flatnonzero(parts == "validation")]
        known["reference"] = validation
        if settings.space == EMBEDDING and settings.strategy in ("similarity", "cluster"):
            model, tokenizer = load_regression(opened.path), load_tokenizer(opened.path)
            known["embeddings"] = embed_smiles(model, tokenizer, molecules.smiles)
            known["reference_embeddings"] = embed_smiles(model, tokenizer, validation)
    elif settings.space == EMBEDDING:
        raise ConfigError("the embedding space needs a run: name one with --run")
    order = choose(candidates_from(molecules.table, **known), settings)
    kept = molecules.table
    table = pd.DataFrame(
        {"smiles": kept["smiles"], **molecules.labels(), "inchikey": kept["inchikey"], "row": kept["row"]}
    )
    chosen = pd.concat([table, molecules.further(*table.columns)], axis=1).iloc[order]
    facts = {
        "offered": offered,
        "excluded": len(excluded),
        "excluded_smiles": excluded,
        "selected": len(chosen),
        "settings": settings.model_dump(mode="json"),
    }
    return Selection(chosen.reset_index(drop=True), facts)
