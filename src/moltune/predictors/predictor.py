"""Tuned models in, predictions out: for files, lists and single SMILES."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from moltune.baselines.classical import Baseline
from moltune.calibration import LEVEL
from moltune.calibration.conformal import check_level
from moltune.calibration.sets import in_words
from moltune.config import CleanSettings, DataSettings, ModelSettings
from moltune.data.chemistry import parse_all
from moltune.data.cleaning.clean import clean_smiles
from moltune.data.load import in_unit, load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.data.reading.table import RawTable
from moltune.errors import DataError, RunFolderError
from moltune.evaluation.metrics import evaluate, task_of
from moltune.features.registry import ionisation_ph
from moltune.files import unpacked
from moltune.predictors.base import BLEND, MODEL, Progress, TunedModel
from moltune.predictors.confidence import Confidence
from moltune.predictors.load import load_model
from moltune.predictors.names import IONISATION, NOTE, is_logd
from moltune.ready.catalogue import path_of
from moltune.reports.summary import CROSS_VALIDATION
from moltune.run import ADAPTED, BLENDED, CONFIG, INTERVALS, Run

if TYPE_CHECKING:
    from moltune.predictors.blend import Blend

PREDICTED = "predicted"
PREDICTION_COLUMNS = ["row", "input", "smiles", PREDICTED, NOTE]
ALONE = "_model_alone"
"""Suffix of the language model's own predictions, where the prediction is a blend."""
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
        blend: with classical baselines, which then is the prediction; None where the run has none.
        error: RMSE on the run's test part, or else cross-validated, or on its validation part; None: not known.
        known: the run's molecules: InChIKey → their part, and their measured value; None where there is no run.
        known_smiles: of the same molecules.
        confidence: intervals, domain and nearest training molecules; None where the run has none.
        level: share of measurements that an interval should hold.
    """

    model: TunedModel
    cleaning: CleanSettings
    policy: ModelSettings
    unit: str = ""
    blend: Blend | None = None
    error: float | None = None
    known: dict[str, tuple[str, float]] | None = None
    confidence: Confidence | None = None
    level: float = LEVEL
    known_smiles: Sequence[str] = ()

    @classmethod
    def load(
        cls, path: str | Path, base: str | Path | None = None, *, blend: bool | None = None, level: float = LEVEL
    ) -> Predictor:
        """Load a run folder, the ``model`` folder of one (then with the default cleaning), or a ready-made model.

        Args:
            path: of the run or model, or the ready-made model's name.
            base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
            blend: predict with the run's blend with classical baselines; unset: where the run has one.
            level: share of measurements that an interval should hold.

        Raises:
            ConfigError: the level is not between 0 and 1.
            RunFolderError: the run is unfinished, or has no blend although one was asked for.
            CheckpointError: there is no tuned model.
        """
        check_level(level)
        if not Path(path).exists():
            path = path_of(str(path)) or path
        path = unpacked(path)
        cleaning, policy, unit, error, known = CleanSettings(), ModelSettings(), "", None, None
        known_smiles: Sequence[str] = ()
        blended, confidence = None, None
        if (Path(path) / CONFIG).is_file():
            run = Run.load(path)
            cleaning, policy = run.config.data.clean, run.config.model
            unit = str(run.provenance.get("data", {}).get("unit") or "")
            known = _known_of(run)
            known_smiles = () if known is None else run.splits["smiles"].tolist()
            if base is None and (run.path / ADAPTED).is_dir():
                base = run.path / ADAPTED
            if blend is not False and (run.path / BLENDED).is_dir():
                from moltune.predictors.blend import Blend

                blended = Blend.load(run.path / BLENDED, base)
            error = _error_of(run.metrics if blended is None else run.metrics["blend"])
            if (run.path / INTERVALS).is_file():
                confidence = Confidence.load(run.path / INTERVALS)
        if blend and blended is None:
            raise RunFolderError(
                f"{path} has no blend: it was tuned with --no-blend, or without enough validation molecules; "
                "leave --blend out here"
            )
        model = load_model(path, base, truncate=policy.too_long == "truncate")
        return cls(model, cleaning, policy, unit, blended, error, known, confidence, level, known_smiles)

    @property
    def target_name(self) -> str:
        """Name of the predicted property."""
        return self.model.target_name

    def formulas(self, rows: int) -> frozenset[str] | None:
        """Formulas of the known molecules: no other molecule needs an InChIKey to be found among them.

        None where they would take more time than the InChIKeys of so many rows.
        """
        return None if 4 * rows < len(self.known_smiles) else self._formulas

    @cached_property
    def _formulas(self) -> frozenset[str]:
        return frozenset(map(rdMolDescriptors.CalcMolFormula, parse_all(list(self.known_smiles))))

    def predict(self, smiles: Sequence[str], *, batch_size: int = 32, progress: Progress | None = None) -> pd.DataFrame:
        """Predict a list of SMILES; see :meth:`predict_molecules`. ``row`` counts from one."""
        if not len(smiles):
            raise DataError("there are no molecules to predict")
        return self.predict_molecules(molecules_from_lists(smiles, None, self.cleaning), batch_size, progress)

    def predict_rows(
        self, raw: RawTable, molecules: Molecules, batch_size: int = 32, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Predict the rows of a table that was read, and cleaned as :attr:`cleaning` says.

        Returns:
            One line per row, indexed by its number: a column per suffix as :meth:`estimate` names them, and ``note``.
        """
        found = self.predict_molecules(molecules, batch_size, progress).set_index("row")
        unread = raw.bad_rows["row"].tolist()
        found.loc[unread, NOTE] += ": " + found.loc[unread, "input"].map(repr)
        found = found.drop(columns=["input", "smiles"])
        return found.rename(columns={name: name.removeprefix(PREDICTED) for name in found.columns})

    def estimate(
        self,
        smiles: Sequence[str],
        batch_size: int = 32,
        progress: Progress | None = None,
        mols: Sequence[Chem.Mol | None] | None = None,
    ) -> dict[str, np.ndarray]:
        """All that the model says of n cleaned molecules that it can read.

        ``mols`` may hold what RDKit read of each SMILES, which spares reading it again.

        Returns:
            Suffix of a column's name → values, shape (n,): "" is the prediction (of two classes the probability of the
            positive one, beside ``_class`` and the prediction set ``_set``), ``_model_alone`` that of the tuned model
            where the prediction is a blend, and the others are those of
            :meth:`moltune.predictors.confidence.Confidence.describe`. Beside a logD that rests on ionisation also
            ``_acid_pka`` and ``_base_pka`` (of the strongest sites, as MolGpKa estimates them), ``_charge`` (net, as
            expected at pH 7.4) and ``_main_form`` (SMILES at pH 7.4). Texts are an object array; every table of
            predictions gets these columns.
        """
        alone, spread = self.model.predict_with_spread(smiles, batch_size, progress)
        found, source = {"": alone}, MODEL
        if self.blend is not None:
            found, source = {"": self.blend.predict(smiles, alone), ALONE: alone}, BLEND
        classes = self.model.class_names
        if classes is not None:
            found["_class"] = np.array([classes[int(one >= 0.5)] for one in found[""]], dtype=object)
        if self.confidence is not None:
            if classes is not None and source in self.confidence.sets:
                found["_set"] = in_words(self.confidence.sets[source].predict(found[""], self.level), classes)
            read = smiles if mols is None else [mol or text for mol, text in zip(mols, smiles, strict=True)]
            found |= self.confidence.describe(read, found[""], source, self.level, spread)
        return found | self._why(smiles)

    def predict_molecules(
        self, molecules: Molecules, batch_size: int = 32, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Predict cleaned molecules.

        Returns:
            One line per input row, in input order: ``row``, ``input``, ``smiles`` (as used), ``predicted`` with the
            suffixes of :meth:`estimate`, ``predicted_measured`` (of molecules in the run's data, where there is a run),
            and ``note``. Where no prediction can be made they are empty and ``note`` says why; a note beside a number
            is a warning.
        """
        table = molecules.table[["row", "input", "smiles"]].copy()
        smiles = molecules.smiles
        blocking, warnings = self._issues(smiles)
        good = [position for position in range(len(table)) if position not in blocking]
        mols = None if molecules.mols is None else [molecules.mols[position] for position in good]
        found = self.estimate([smiles[position] for position in good], batch_size, progress, mols)
        for suffix, values in found.items():
            column = np.full(len(table), np.nan) if values.dtype.kind == "f" else np.full(len(table), "", dtype=object)
            column[good] = values
            table[f"{PREDICTED}{suffix}"] = column
        if self.known is not None:
            known = molecules.table["inchikey"].map(self.known)
            table[f"{PREDICTED}_measured"] = [one[1] if isinstance(one, tuple) else np.nan for one in known]
        changed = self._changed(molecules)
        notes = [blocking.get(at) or warnings.get(at, "") for at in range(len(table))]
        table[NOTE] = ["; ".join(filter(None, pair)) for pair in zip(notes, changed, strict=True)]
        if len(molecules.rejected):
            rejected = molecules.rejected[["row", "input"]].assign(smiles="", **{NOTE: molecules.rejected["reason"]})
            empty = {name: "" for name in table.columns if not _is_number(table[name]) and name not in rejected}
            table = pd.concat([table, rejected.assign(**empty)], ignore_index=True)
        columns = [name for name in table.columns if name != NOTE]
        return table.sort_values("row", kind="stable").reset_index(drop=True)[[*columns, NOTE]]

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
            a blend, ``model_alone`` holds those of the tuned model. ``seen`` is the number of molecules that the model
            was trained on (``train``) or chosen on (``validation``), by InChIKey, None where no run says it; where
            there are such, and two others at least, ``unseen`` holds the metrics of the others.

        Raises:
            DataError: the file has no usable label, or the model can read none of its molecules.
        """
        chosen = {name: value for name, value in reading.items() if value is not None}
        clean_as = in_unit(self.cleaning, self.unit)
        classes = self.model.class_names
        chosen["task"] = "regression" if classes is None else "classification"
        columns = DataSettings(smiles=smiles, target=target, clean=clean_as, **chosen)
        molecules = load_molecules(source, columns, classes=classes)
        predicted = self.predict_molecules(molecules.reject(self._issues(molecules.smiles)[0]), batch_size)
        values = predicted.dropna(subset=PREDICTED).set_index("row")
        if not len(values):
            raise DataError("the model can read none of the molecules")
        labelled = molecules.table.set_index("row").loc[values.index]
        true = labelled["target"].to_numpy()

        def metrics_of(rows: np.ndarray) -> dict[str, Any]:
            options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence, "task": task_of(classes)}
            metrics = evaluate(true[rows], values[PREDICTED].to_numpy()[rows], **options)
            if self.blend is not None:
                alone = values[f"{PREDICTED}{ALONE}"].to_numpy()
                metrics[ALONE.removeprefix("_")] = evaluate(true[rows], alone[rows], **options)
            return metrics

        result = metrics_of(np.ones(len(values), dtype=bool))
        left_out = molecules.rows_in - len(values)
        result["rows"] = {"in": molecules.rows_in, "evaluated": len(values), "left_out": left_out}
        result["seen"] = None
        if self.known is not None:
            parts = labelled["inchikey"].map({key: part for key, (part, _) in self.known.items()})
            result["seen"] = {part: int((parts == part).sum()) for part in SEEN}
            unseen = ~parts.isin(SEEN).to_numpy()
            if 2 <= unseen.sum() < len(values):
                result["unseen"] = metrics_of(unseen)
        return result

    @property
    def ionisation_ph(self) -> float | None:
        """The pH at which the model or a member of its blend looks at ionisation; None: neither does."""
        blended = () if self.blend is None else self.blend.baselines.values()
        found = (ionisation_ph(one.columns) for one in (self.model, *blended) if isinstance(one, Baseline))
        return next((ph for ph in found if ph is not None), None)

    def _why(self, smiles: Sequence[str]) -> dict[str, np.ndarray]:
        """What is ionised, for a logD by a model that looks at it."""
        ph = self.ionisation_ph
        if ph is None or not is_logd(self.target_name):
            return {}
        from moltune.features.ionisation import ionise

        found = ionise(list(smiles), ph)
        columns: list[list[Any]] = [
            [math.nan if one is None else one.strongest("acid") for one in found],
            [math.nan if one is None else one.strongest("base") for one in found],
            [math.nan if one is None else one.net for one in found],
            ["" if one is None else one.main_form for one in found],
        ]
        kinds = (np.float64, np.float64, np.float64, object)
        return {name: np.array(own, kind) for name, own, kind in zip(IONISATION, columns, kinds, strict=True)}

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
    for part in ("test", CROSS_VALIDATION, "validation"):
        value = metrics.get(part, {}).get("rmse", {}).get("value")
        if value is not None and math.isfinite(value):
            return float(value)
    return None


def _known_of(run: Run) -> dict[str, tuple[str, float]] | None:
    try:
        splits, true = run.splits, run.predictions["true"]
    except (OSError, KeyError):
        return None
    return {
        key: (str(part), float(value))
        for key, part, value in zip(splits["inchikey"], splits["split"], true, strict=True)
    }
