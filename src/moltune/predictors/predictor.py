"""Tuned models in, predictions out: for files, lists and single SMILES."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moltune.config import CleanSettings, DataSettings, ModelSettings, TableSettings
from moltune.data.cleaning.clean import clean, clean_smiles
from moltune.data.load import announce, in_unit, load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.data.reading.read import read_table
from moltune.data.reading.table import RawTable
from moltune.errors import DataError, RunFolderError
from moltune.evaluation.metrics import evaluate
from moltune.predictors.base import Progress, TunedModel
from moltune.predictors.load import load_model
from moltune.predictors.names import NOTE, joined, property_names
from moltune.run import ADAPTED, BLENDED, CONFIG, Run

if TYPE_CHECKING:
    from moltune.predictors.blend import Blend

PREDICTED = "predicted"
PREDICTION_COLUMNS = ["row", "input", "smiles", PREDICTED, NOTE]
BLEND_COLUMN = "predicted_blend"
SEEN = ("train", "validation")
"""Parts of a run that say nothing about its error: the model was fitted on one, and chosen on the other."""


@dataclass(frozen=True)
class Predictor:
    """A tuned model with the cleaning that its training data went through.

    Attributes:
        model: ready to predict.
        cleaning: steps that each molecule goes through first.
        policy: what happens to unknown tokens and over-long SMILES.
        unit: of the target; empty when not known.
        blend: with classical baselines; None where the run has none.
        error: RMSE on the run's test part, or on its validation part where it has no other; None: not known.
        parts: InChIKey → part of the run, of all its molecules; None where there is no run.
    """

    model: TunedModel
    cleaning: CleanSettings
    policy: ModelSettings
    unit: str = ""
    blend: Blend | None = None
    error: float | None = None
    parts: dict[str, str] | None = None

    @classmethod
    def load(cls, path: str | Path, base: str | Path | None = None, *, blend: bool | None = None) -> Predictor:
        """Load a run folder, or the ``model`` folder of one (then with the default cleaning).

        Args:
            path: of the run or model.
            base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
            blend: also give the run's blend with classical baselines; unset: where the run has one.

        Raises:
            RunFolderError: the run is unfinished, or has no blend although one was asked for.
            CheckpointError: there is no tuned model.
        """
        cleaning, policy, unit, blended, error, parts = CleanSettings(), ModelSettings(), "", None, None, None
        if (Path(path) / CONFIG).is_file():
            run = Run.load(path)
            cleaning, policy = run.config.data.clean, run.config.model
            unit = str(run.provenance.get("data", {}).get("unit") or "")
            error, parts = _error_of(run.metrics), _parts_of(run)
            if base is None and (run.path / ADAPTED).is_dir():
                base = run.path / ADAPTED
            if blend is not False and (run.path / BLENDED).is_dir():
                from moltune.predictors.blend import Blend

                blended = Blend.load(run.path / BLENDED, base)
        if blend and blended is None:
            raise RunFolderError(f"{path} has no blend; fine-tune with --blend, or leave --blend out here")
        model = load_model(path, base, truncate=policy.too_long == "truncate")
        return cls(model, cleaning, policy, unit, blended, error, parts)

    @property
    def target_name(self) -> str:
        """Name of the predicted property."""
        return self.model.target_name

    def predict(self, smiles: Sequence[str], *, batch_size: int = 32, progress: Progress | None = None) -> pd.DataFrame:
        """Predict a list of SMILES; see :meth:`predict_molecules`. ``row`` counts from one."""
        if not len(smiles):
            raise DataError("there are no molecules to predict")
        return self.predict_molecules(molecules_from_lists(smiles, None, self.cleaning), batch_size, progress)

    def predict_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        sheet: str | None = None,
        header: bool | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Predict a file, bundled set or data frame; large ones are for :func:`moltune.bulk.predict.predict_file`.

        Args:
            source: anything that :func:`moltune.data.reading.read.read_table` takes.
            smiles: column; unset: found by its name.
            sheet: of a workbook; unset: the only one that is not empty.
            header: whether the first line names the columns; unset: it does unless it holds a molecule.
            batch_size: of a language model.
            progress: called with how many more molecules are done.

        Returns:
            The table that went in, every column and row in order, with columns added: the property (see
            :func:`moltune.predictors.names.property_names`), with a suffix whatever else the model says of it, and a
            note. Where no prediction can be made they are empty and the note says why; a note beside a number is a
            warning.
        """
        raw = read_table(source, TableSettings(sheet=sheet, header=header))
        molecules = clean(raw, self.cleaning, smiles=smiles, need_target=False)
        announce(molecules)
        found = self.predict_rows(raw, str(molecules.provenance["smiles_column"]), batch_size, progress, molecules)
        table = raw.all_rows
        suffixes = {name: _is_number(found[name]) for name in found.columns if name != NOTE}
        names = property_names(self.target_name, self.unit, suffixes, table.columns)
        return joined(table, found, names, self.error).reset_index(drop=True)

    def predict_rows(
        self,
        raw: RawTable,
        smiles: str,
        batch_size: int = 32,
        progress: Progress | None = None,
        molecules: Molecules | None = None,
    ) -> pd.DataFrame:
        """Predict the rows of a table that was read.

        Args:
            raw: the rows.
            smiles: their column of structures.
            batch_size: of a language model.
            progress: called with how many more molecules are done.
            molecules: cleaned before; unset: they are cleaned here.

        Returns:
            One line per row, indexed by its number: a column per suffix as :meth:`estimate` names them, and ``note``.
        """
        if molecules is None:
            molecules = clean(raw, self.cleaning, smiles=smiles, need_target=False)
        found = self.predict_molecules(molecules, batch_size, progress).set_index("row")
        unread = raw.bad_rows["row"].tolist()
        found.loc[unread, NOTE] += ": " + found.loc[unread, "input"].map(repr)
        found = found.drop(columns=["input", "smiles"])
        return found.rename(columns={name: name.removeprefix(PREDICTED) for name in found.columns})

    def estimate(
        self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None
    ) -> dict[str, np.ndarray]:
        """All that the model says of n cleaned molecules that it can read.

        Returns:
            Suffix of a column's name → values, shape (n,): "" is the prediction, ``_blend`` that of the blend. Numbers
            are in the property's unit, and texts are an object array; every table of predictions gets these columns.
        """
        found = {"": self.model.predict(smiles, batch_size, progress)}
        if self.blend is not None:
            found["_blend"] = self.blend.predict(smiles, found[""]) if len(smiles) else np.empty(0)
        return found

    def predict_molecules(
        self, molecules: Molecules, batch_size: int = 32, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Predict cleaned molecules.

        Returns:
            One line per input row, in input order: ``row``, ``input``, ``smiles`` (as used), ``predicted`` with the
            suffixes of :meth:`estimate`, and ``note``. Where no prediction can be made they are empty and ``note`` says
            why; a note beside a number is a warning.
        """
        table = molecules.table[["row", "input", "smiles"]].copy()
        blocking, warnings = self._issues(molecules.smiles)
        good = [position for position in range(len(table)) if position not in blocking]
        found = self.estimate([molecules.smiles[position] for position in good], batch_size, progress)
        for suffix, values in found.items():
            column = np.full(len(table), np.nan) if values.dtype.kind == "f" else np.full(len(table), "", dtype=object)
            column[good] = values
            table[f"{PREDICTED}{suffix}"] = column
        changed = self._changed(molecules)
        notes = [blocking.get(at) or warnings.get(at, "") for at in range(len(table))]
        table[NOTE] = ["; ".join(filter(None, pair)) for pair in zip(notes, changed, strict=True)]
        if len(molecules.rejected):
            rejected = molecules.rejected[["row", "input"]].assign(smiles="", **{NOTE: molecules.rejected["reason"]})
            empty = {name: "" for name in table.columns if not _is_number(table[name]) and name not in rejected}
            table = pd.concat([table, rejected.assign(**empty)], ignore_index=True)
        columns = [*PREDICTION_COLUMNS[:3], *(f"{PREDICTED}{suffix}" for suffix in found), NOTE]
        return table.sort_values("row", kind="stable").reset_index(drop=True)[columns]

    def evaluate_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        target: str | None = None,
        bootstrap: int = 1000,
        confidence: float = 0.95,
        batch_size: int = 32,
        **reading: Any,
    ) -> dict[str, Any]:
        """Compare predictions with the measurements of a labelled file, which are brought to the model's unit.

        Args:
            source: anything that :func:`moltune.data.reading.read.read_table` takes.
            smiles: column; unset: found by its name.
            target: column; unset: found when obvious.
            bootstrap: resamples behind the intervals.
            confidence: of the intervals.
            batch_size: of a language model.
            reading: further fields of :class:`moltune.config.TableSettings`: sheet, header, decimal, type.

        Returns:
            The metrics of :func:`moltune.evaluation.metrics.evaluate`, with ``rows`` in, evaluated and left out; with
            a blend, ``blend`` holds its metrics. ``seen`` is the number of molecules that the model was trained on
            (``train``) or chosen on (``validation``), by InChIKey, None where no run says it; where there are such, and
            two others at least, ``unseen`` holds the metrics of the others.

        Raises:
            DataError: the file has no usable label, or the model can read none of its molecules.
        """
        chosen = {name: value for name, value in reading.items() if value is not None}
        clean_as = in_unit(self.cleaning, self.unit)
        molecules = load_molecules(source, DataSettings(smiles=smiles, target=target, clean=clean_as, **chosen))
        predicted = self.predict_molecules(molecules.reject(self._issues(molecules.smiles)[0]), batch_size)
        values = predicted.dropna(subset=PREDICTED).set_index("row")
        if not len(values):
            raise DataError("the model can read none of the molecules")
        labelled = molecules.table.set_index("row").loc[values.index]
        true = labelled["target"].to_numpy()

        def metrics_of(rows: np.ndarray) -> dict[str, Any]:
            options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence}
            metrics = evaluate(true[rows], values[PREDICTED].to_numpy()[rows], **options)
            if self.blend is not None:
                metrics["blend"] = evaluate(true[rows], values[BLEND_COLUMN].to_numpy()[rows], **options)
            return metrics

        result = metrics_of(np.ones(len(values), dtype=bool))
        left_out = molecules.rows_in - len(values)
        result["rows"] = {"in": molecules.rows_in, "evaluated": len(values), "left_out": left_out}
        result["seen"] = None
        if self.parts is not None:
            parts = labelled["inchikey"].map(self.parts)
            result["seen"] = {part: int((parts == part).sum()) for part in SEEN}
            unseen = ~parts.isin(SEEN).to_numpy()
            if 2 <= unseen.sum() < len(values):
                result["unseen"] = metrics_of(unseen)
        return result

    def _changed(self, molecules: Molecules) -> list[str]:
        """What to say where salts or charges were removed: the prediction is then of another molecule."""
        if not (self.cleaning.largest_fragment or self.cleaning.neutralize):
            return [""] * len(molecules)
        as_given = self.cleaning.model_copy(update={"largest_fragment": False, "neutralize": False})
        pairs = zip(molecules.table["input"], molecules.smiles, strict=True)
        return ["" if clean_smiles(one, as_given).smiles == used else f"predicted as {used}" for one, used in pairs]

    def _issues(self, smiles: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
        """Molecules that cannot be predicted, and those that can with a warning."""
        blocking: dict[int, str] = {}
        warnings: dict[int, str] = {}
        for position, issue in self.model.issues(smiles).items():
            tolerated = (issue.kind == "unknown" and self.policy.unknown_tokens == "warn") or (
                issue.kind == "too long" and self.policy.too_long == "truncate"
            )
            (warnings if tolerated else blocking)[position] = issue.message
        return blocking, warnings


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_float_dtype(column))


def _error_of(metrics: dict[str, Any]) -> float | None:
    for part in ("test", "validation"):
        value = metrics.get(part, {}).get("rmse", {}).get("value")
        if value is not None and math.isfinite(value):
            return float(value)
    return None


def _parts_of(run: Run) -> dict[str, str] | None:
    try:
        splits = run.splits
    except OSError:
        return None
    return dict(zip(splits["inchikey"], splits["split"], strict=True))
