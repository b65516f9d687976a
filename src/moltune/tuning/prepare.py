"""From settings to the molecules of a run: loaded, checked against the model, split, with what is added to training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import DataSettings, FinetuneConfig, ModelSettings
from moltune.data.load import in_unit, load_molecules, reason_counts
from moltune.data.molecules import Molecules
from moltune.data.overlap import exclude_held_out, shared_molecules
from moltune.data.properties import split_together
from moltune.data.reading.measurements import Reading
from moltune.data.splitting.bounds import Bounds, training_bounds
from moltune.data.splitting.leakage import Leakage, check_leakage
from moltune.data.splitting.split import Parts, Split, make_split, parts_of
from moltune.errors import DataError
from moltune.models.coverage import unfit_molecules
from moltune.tuning.train import reads_tokens

logger = logging.getLogger(__name__)

ADDED = "added"


@dataclass(frozen=True)
class Prepared:
    """The molecules of a run.

    Attributes:
        molecules: those that the model can read.
        split: their parts.
        leakage: what the parts share.
        added: provenance of molecules added to the training part; None: there are none.
        bounds: censored measurements that join the training part; None: bounds are rejected.
        beside: properties that are tuned together with this one.
    """

    molecules: Molecules
    split: Split
    leakage: Leakage
    added: dict[str, Any] | None = None
    bounds: Bounds | None = None
    beside: tuple[str, ...] = ()

    @property
    def parts(self) -> Parts:
        """SMILES and targets of each part that has molecules."""
        return parts_of(self.molecules, self.split)

    @property
    def target_name(self) -> str:
        """Column of the target."""
        return str(self.molecules.provenance.get("target_column") or "target")

    @property
    def unit(self) -> str:
        """Unit of the target, where the source knows it."""
        return str(self.molecules.provenance.get("unit") or "")

    @property
    def classes(self) -> tuple[str, str] | None:
        """Names of the two classes of the target; None: it holds numbers."""
        return self.molecules.classes

    @property
    def provenance(self) -> dict[str, Any]:
        """What ``config.yaml`` keeps of the data."""
        molecules = self.molecules
        return {
            "data": molecules.provenance,
            "rows": {"in": molecules.rows_in, "kept": len(molecules), "rejected": len(molecules.rejected)},
            "split": self.split.settings,
            "leakage": self.leakage.to_dict(),
            **({} if self.added is None else {ADDED: self.added}),
            **({} if self.bounds is None else {"bounds": self.bounds.to_dict()}),
            **({"together_with": list(self.beside)} if self.beside else {}),
        }

    @property
    def notes(self) -> list[str]:
        """What the reader of a report should know about the data, one sentence each."""
        notes = [f"{count} rows left out: {reason}" for reason, count in reason_counts(self.molecules).items()]
        if self.bounds is not None:
            counts = self.bounds.to_dict()
            notes.append(
                f"{counts['used']} bounds ({counts['above']} 'more than', {counts['below']} 'less than') are in the "
                "training loss as censored measurements; every error of this report is on exact measurements"
            )
        if self.classes is not None:
            target = self.molecules.target
            notes.append(
                f"the target holds two classes, {self.classes[1]} ({int(target.sum())} molecules) and "
                f"{self.classes[0]} ({int((1 - target).sum())}); predictions are probabilities of {self.classes[1]}"
            )
        if self.beside:
            notes.append(
                f"this was learned together with {', '.join(self.beside)}: a molecule lies in the same part for "
                "each; an encoder that was tuned is one for all, as are the losses by epoch, the time and the memory"
            )
        conflicts = len(self.molecules.conflicts)
        if conflicts:
            notes.append(f"{conflicts} molecules were measured more than once with labels that disagree")
        if self.added is not None:
            source = self.added["source"]
            notes.append(f"{self.added[ADDED]} molecules of {source} were added to the training part")
            if self.added["excluded"]:
                notes.append(
                    f"{self.added['excluded']} molecules of {source} were excluded, "
                    "because the validation or test part holds them too"
                )
            if self.added["in_training_already"]:
                notes.append(f"{self.added['in_training_already']} added molecules were in the training part already")
            notes += [f"of the added molecules: {note.removesuffix('.')}" for note in self.added["notes"]]
        return notes + self.leakage.words

    def splits_table(self) -> pd.DataFrame:
        """Row, SMILES, InChIKey and part of each molecule, and whether it was added, where any was."""
        return self.mark_added(self.split.to_frame(self.molecules))

    def mark_added(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Put the column ``added`` beside a table of the molecules; where nothing was added, the table as it is."""
        if ADDED not in self.molecules.table:
            return frame
        return frame.assign(**{ADDED: self.molecules.table[ADDED].to_numpy(dtype=bool)})


def prepare(config: FinetuneConfig, molecules: Molecules | None = None) -> Prepared:
    """Load and clean unless that is done, check against the model, and split.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the model cannot be loaded.
    """
    molecules = _readable(load_molecules(None, config.data) if molecules is None else molecules, config)
    split = make_split(molecules, config.split, config.split_seed)
    added, bounds = None, None
    if config.data.bounds == "use":
        unreadable = unfit_molecules(molecules.bounds["smiles"].tolist(), config.model)
        molecules, bounds = training_bounds(molecules, split, config.split, unreadable)
        logger.info("%d bounds join the training part as censored measurements", len(bounds))
    if config.data.add is not None:
        molecules, split, added = _add(molecules, split, config.data.add, config.data, config.model)
    leakage = check_leakage(molecules, split)
    for words in leakage.words:
        logger.warning(words)
    return Prepared(molecules, split, leakage, added, bounds)


def prepare_properties(config: FinetuneConfig, properties: Mapping[str, Molecules]) -> list[Prepared]:
    """Check the molecules of several properties against the model, and split them together.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the model cannot be loaded.
    """
    read = [_readable(one, config) for one in properties.values()]
    splits = split_together(read, config.split, config.split_seed)
    found = []
    for name, one, split in zip(properties, read, splits, strict=True):
        if not len(split.train):
            raise DataError(f"The training part of the split has no molecule with a value of {name!r}; leave it out.")
        leakage = check_leakage(one, split)
        for words in leakage.words:
            logger.warning("%s: %s", name, words)
        found.append(Prepared(one, split, leakage, beside=tuple(other for other in properties if other != name)))
    return found


def _readable(molecules: Molecules, config: FinetuneConfig) -> Molecules:
    """The molecules that the model can read; the others are rejected, aloud."""
    if config.data.task == "regression" and molecules.classes is not None:
        raise DataError("these molecules were loaded as two classes; load them with data.task=regression")
    unfit = unfit_molecules(molecules.smiles, config.model) if reads_tokens(config.method) else {}
    if unfit:
        logger.warning("%d molecules left out that %s cannot read; see rejects.csv", len(unfit), config.model.name)
    return molecules.reject(unfit)


def _add(
    molecules: Molecules, split: Split, source: str, data: DataSettings, model: ModelSettings
) -> tuple[Molecules, Split, dict[str, Any]]:
    """Append the molecules of another file to the table and to the training part; also return their provenance.

    They go through the same cleaning, and their measurements are brought to the unit of the others. A molecule whose
    connectivity block is in the validation or test part is left out, with a warning: training on it would make their
    errors too small. One that the training part has already is added, with a notice.
    """
    kind = "regression" if molecules.classes is None else "classification"
    columns = DataSettings(clean=in_unit(data.clean, molecules.unit), task=kind)
    further = load_molecules(source, columns, classes=molecules.classes)
    further = further.reject(unfit_molecules(further.smiles, model))
    parts = split.to_frame(molecules)["split"].to_numpy(dtype=object)
    kept, excluded = exclude_held_out(further, molecules, parts)
    again = int(shared_molecules(kept, molecules)["position"].nunique())
    if again:
        logger.warning("%d added molecules are in the training part already, with labels of their own", again)
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
    train = np.concatenate([split.train, np.arange(len(molecules), len(molecules) + len(kept), dtype=np.int64)])
    reading = Reading.from_provenance(kept.provenance)
    provenance = {
        "source": str(kept.provenance.get("source") or ""),
        "sha256": kept.provenance.get("sha256"),
        "rows": kept.rows_in,
        ADDED: len(kept),
        "excluded": len(excluded),
        "in_training_already": again,
        "rejected": reason_counts(kept),
        "notes": [] if reading is None else list(reading.notes),
    }
    logger.info("%d molecules of %s added to the training part", len(kept), provenance["source"])
    settings = {**split.settings, ADDED: len(kept)}
    return joined, Split(train, split.validation, split.test, split.method, split.seed, settings), provenance
