"""Tuned models in, predictions out: for files, lists and single SMILES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import CleanSettings, DataSettings, ModelSettings, PredictionSettings, make_settings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.errors import DataError, RunFolderError
from moltune.evaluation.metrics import evaluate
from moltune.predictors.base import TunedModel
from moltune.predictors.blend import Blend
from moltune.run import ADAPTED, BLENDED, CONFIG, Run
from moltune.tuning.fit import load_tuned

PREDICTION_COLUMNS = ["row", "input", "smiles", "predicted", "note"]
SPREAD, BLEND_COLUMN = "spread", "predicted_blend"


@dataclass(frozen=True)
class Predictor:
    """A tuned model with the cleaning that its training data went through.

    Attributes:
        model: ready to predict.
        cleaning: steps that each molecule goes through first.
        policy: what happens to unknown tokens and over-long SMILES.
        unit: of the target; empty when not known.
        tta: SMILES of each molecule that a prediction averages over, its own included.
        blend: with classical baselines; None where the run has none.
    """

    model: TunedModel
    cleaning: CleanSettings
    policy: ModelSettings
    unit: str = ""
    tta: int = 1
    blend: Blend | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        base: str | Path | None = None,
        *,
        tta: int | None = None,
        blend: bool | None = None,
    ) -> Predictor:
        """Load a run folder, or the ``model`` folder of one (then with the default cleaning).

        Args:
            path: of the run or model.
            base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
            tta: SMILES of each molecule to average over; unset: as in the run.
            blend: also give the run's blend with classical baselines; unset: where the run has one.

        Raises:
            RunFolderError: the run is unfinished, or has no blend although one was asked for.
            CheckpointError: there is no tuned model.
            ConfigError: ``tta`` is below one, or above it for a probe.
        """
        cleaning, policy, unit, as_run, blended = CleanSettings(), ModelSettings(), "", 1, None
        if (Path(path) / CONFIG).is_file():
            run = Run.load(path)
            cleaning, policy = run.config.data.clean, run.config.model
            unit = str(run.provenance.get("data", {}).get("unit") or "")
            as_run = run.config.prediction.tta
            if base is None and (run.path / ADAPTED).is_dir():
                base = run.path / ADAPTED
            if blend is not False and (run.path / BLENDED).is_dir():
                blended = Blend.load(run.path / BLENDED, base)
        if blend and blended is None:
            raise RunFolderError(f"{path} has no blend; fine-tune with --blend, or leave --blend out here")
        k = make_settings(PredictionSettings, {"tta": as_run if tta is None else tta}).tta
        model = load_tuned(path, base, truncate=policy.too_long == "truncate")
        model.check_spellings(k)
        return cls(model, cleaning, policy, unit, k, blended)

    @property
    def columns(self) -> list[str]:
        """Columns of a table of predictions."""
        extra = [SPREAD] * (self.tta > 1) + [BLEND_COLUMN] * (self.blend is not None)
        return [*PREDICTION_COLUMNS[:-1], *extra, PREDICTION_COLUMNS[-1]]

    @property
    def target_name(self) -> str:
        """Name of the predicted property."""
        return self.model.target_name

    def predict(
        self, smiles: Sequence[str], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Predict a list of SMILES; see :meth:`predict_molecules`. ``row`` counts from one."""
        if not len(smiles):
            raise DataError("there are no molecules to predict")
        return self.predict_molecules(molecules_from_lists(smiles, None, self.cleaning), batch_size, progress)

    def predict_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        """Predict a file, bundled set or data frame; see :meth:`predict_molecules`."""
        settings = DataSettings(smiles=smiles, clean=self.cleaning)
        return self.predict_molecules(
            load_molecules(source, settings, need_target=False), batch_size=batch_size, progress=progress
        )

    def predict_molecules(
        self, molecules: Molecules, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> pd.DataFrame:
        """Predict cleaned molecules.

        Returns:
            One line per input row, in input order, with the columns of :attr:`columns`: ``predicted`` is the language
            model's, ``spread`` its standard deviation over several SMILES of the molecule, ``predicted_blend`` the
            blend's. Where no prediction can be made they are NaN and ``note`` says why; a note beside a number is a
            warning.
        """
        table = molecules.table[["row", "input", "smiles"]].copy()
        smiles = molecules.smiles
        blocking, warnings = self._issues(smiles)
        good = [position for position in range(len(table)) if position not in blocking]
        readable = [smiles[position] for position in good]
        averaged = self.model.predict_spellings(readable, self.tta, batch_size, progress)
        found = {"predicted": averaged.mean, SPREAD: averaged.spread}
        if self.blend is not None:
            found[BLEND_COLUMN] = self.blend.predict(readable, averaged.mean)
        for column, values in found.items():
            if column in self.columns:
                table[column] = np.nan
                table.loc[table.index[good], column] = values
        table["note"] = [blocking.get(position) or warnings.get(position, "") for position in range(len(table))]
        rejected = pd.DataFrame(
            {
                "row": molecules.rejected["row"],
                "input": molecules.rejected["input"],
                "smiles": "",
                "predicted": np.nan,
                "note": molecules.rejected["reason"],
            }
        )
        both = pd.concat([table, rejected], ignore_index=True) if len(rejected) else table
        return both.sort_values("row", kind="stable").reset_index(drop=True)[self.columns]

    def evaluate_source(
        self,
        source: str | Path | pd.DataFrame,
        *,
        smiles: str | None = None,
        target: str | None = None,
        bootstrap: int = 1000,
        confidence: float = 0.95,
        batch_size: int = 32,
    ) -> dict[str, Any]:
        """Compare predictions with the measurements of a labelled file.

        Returns:
            The metrics of :func:`moltune.evaluation.metrics.evaluate`, with ``rows`` in, evaluated and left out; with
            a blend, ``blend`` holds its metrics.

        Raises:
            DataError: the file has no usable label, or the model can read none of its molecules.
        """
        settings = DataSettings(smiles=smiles, target=target, clean=self.cleaning)
        molecules = load_molecules(source, settings)
        predicted = self.predict_molecules(molecules.reject(self._issues(molecules.smiles)[0]), batch_size)
        values = predicted.dropna(subset="predicted").set_index("row")
        true = molecules.table.set_index("row")["target"].loc[values.index].to_numpy()
        if not len(values):
            raise DataError("the model can read none of the molecules")
        options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence}
        metrics = evaluate(true, values["predicted"].to_numpy(), **options)
        if self.blend is not None:
            metrics["blend"] = evaluate(true, values[BLEND_COLUMN].to_numpy(), **options)
        left_out = molecules.rows_in - len(values)
        return {**metrics, "rows": {"in": molecules.rows_in, "evaluated": len(values), "left_out": left_out}}

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
